"""Tables and images of the ready-made studies, from their tidy results.

Usage::

    python scripts/study_summary.py docs/studies/results docs/pictures > docs/studies/results/summary.md

Seconds are processor seconds of one thread: of fine-tuning all its learning rates; of a frozen head its fit
with its whole selection, and ``extraction`` is that of all layers of all images. ``top-tuning`` is the
kernel head on the last layer, on all or on those that a search found, as left-out training rows favor.
"""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow.csv
from matplotlib.figure import Figure

Row = dict[str, Any]
TOP_TUNING = "top-tuning"
TUNED = "fine-tuned"
KERNEL = "falkon"
_PLACE = ("dataset", "model", "size", "seed")


def main(results: Path, images: Path) -> None:
    """Print tables and draw images of the studies that have results."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    images.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[list[Row], Path], None]] = {
        "top-tuning": top_tuning,
        "head2toe": head2toe,
        "when-and-how": when_and_how,
        "forest": forest,
    }
    for name, tell in parts.items():
        table = results / name / "results.csv"
        if table.exists():
            print(f"### {name}\n")
            tell(pyarrow.csv.read_csv(table).to_pylist(), images / f"{name}.png")


def top_tuning(rows: list[Row], image: Path) -> None:
    """Print kernel heads beside fine-tuning, pair by pair, and all backbones frozen."""
    chosen = [*rows, *choose_kernel(rows)]
    pairs = paired(chosen, TOP_TUNING)
    if pairs:
        columns = ("data set", "fine-tuned", TOP_TUNING, "difference", "fine-tuning, s", "head, s",
                   "extraction, s", "times faster", "with cached features")  # fmt: skip
        by_set = grouped(pairs, lambda pair: pair[0]["dataset"])
        print_table(columns, [_pair_line(name, members) for name, members in by_set.items()])
        print_table(columns, [_pair_line(f"mean of {len(by_set)} data sets", pairs, by_set=by_set)])
        draw_costs(pairs, image)
    methods = methods_of(row for row in chosen if row["kind"] == "train")
    lines = []
    for (dataset, model), members in grouped(chosen, lambda row: (row["dataset"], row["model"])).items():
        lines.append((dataset, model, *(spread(members, method) for method in methods)))
    print_table(("data set", "backbone", *methods), lines)


def head2toe(rows: list[Row], image: Path) -> None:
    """Print linear, all layers, Head2Toe and fine-tuning beside each other."""
    methods = methods_of(rows)
    groups = grouped(rows, lambda row: (row["dataset"], row["model"]))
    lines = [(*key, *(spread(members, method) for method in methods)) for key, members in groups.items()]
    means = {method: [mean_of(each, method) for each in groups.values()] for method in methods}
    overall = {method: statistics.mean(found) for method, found in means.items() if None not in found}
    lines.append(("mean", "", *(figure(overall.get(m), "{:.2%}").rstrip("%") for m in methods)))
    print_table(("data set", "backbone", *methods), lines)
    first = methods[0]
    for method in [name for name in methods[1:] if name != TUNED]:
        beside = [(mean_of(each, method), mean_of(each, first)) for each in groups.values()]
        gains = [100 * (mean - base) for mean, base in beside if mean is not None and base is not None]
        above = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        print(
            f"- {method} against {first}: {statistics.mean(gains):+.2f} points on average, "
            f"{min(gains):+.1f} to {max(gains):+.1f}, above it in {above}"
        )
    print()
    draw_bars({f"{d}\n{m}": members for (d, m), members in groups.items()}, methods, image)


def when_and_how(rows: list[Row], image: Path) -> None:
    """Print accuracy and joules by images a class."""
    methods = methods_of(rows)
    lines = []
    for (dataset, size), members in grouped(rows, lambda row: (row["dataset"], row["size"])).items():
        joules = " / ".join(figure(mean_of(members, method, "energy_joules"), "{:.0f}") for method in methods)
        lines.append((dataset, size, *(spread(members, method) for method in methods), joules))
    print_table(("data set", "pictures", *methods, "joules (estimated)"), lines)
    draw_shots(rows, methods, image)


def forest(rows: list[Row], image: Path) -> None:
    """Print heads on pooled features of the last layer."""
    methods = methods_of(rows)
    groups = grouped(rows, lambda row: row["dataset"])
    print_table(
        ("data set", *methods),
        [(key, *(spread(members, method) for method in methods)) for key, members in groups.items()],
    )
    draw_bars(groups, methods, image)


def choose_kernel(rows: Iterable[Row]) -> list[Row]:
    """Take the kernel head that left-out training rows favor, of each data set, backbone, size and seed."""
    kernels = [row for row in rows if row["method"].startswith(KERNEL)]
    return [
        max(members, key=lambda row: row["left_out_accuracy"]) | {"method": TOP_TUNING, "layers": ""}
        for members in grouped(kernels, lambda row: tuple(row[name] for name in _PLACE)).values()
    ]


def paired(rows: Iterable[Row], method: str) -> list[tuple[Row, Row]]:
    """Pair fine-tuned networks with a frozen head of the same images, backbone and seed."""
    frozen = {tuple(row[name] for name in _PLACE): row for row in rows if row["method"] == method}
    tuned = [row for row in rows if row["kind"] == "finetune"]
    keys = [tuple(row[name] for name in _PLACE) for row in tuned]
    return [(row, frozen[key]) for row, key in zip(tuned, keys, strict=True) if key in frozen]


def _pair_line(
    name: str, pairs: Sequence[tuple[Row, Row]], by_set: dict[Any, list[tuple[Row, Row]]] | None = None
) -> tuple[str, ...]:
    """Average pairs; of several data sets each counts the same, ratios by their geometric mean."""
    members = [pairs] if by_set is None else list(by_set.values())

    def mean(value: Callable[[Row, Row], float]) -> float:
        return statistics.mean(statistics.mean(value(*pair) for pair in each) for each in members)

    def ratio(value: Callable[[Row, Row], float]) -> float:
        return statistics.geometric_mean(
            statistics.geometric_mean(value(*pair) for pair in each) for each in members
        )

    return (
        name,
        f"{100 * mean(lambda t, _f: t['accuracy']):.1f}",
        f"{100 * mean(lambda _t, f: f['accuracy']):.1f}",
        f"{100 * mean(lambda t, f: f['accuracy'] - t['accuracy']):+.1f}",
        f"{mean(lambda t, _f: t['cpu_seconds']):.0f}",
        f"{mean(lambda _t, f: f['cpu_seconds']):.1f}",
        f"{mean(lambda _t, f: f['extract_seconds']):.1f}",
        f"{ratio(lambda t, f: t['cpu_seconds'] / (f['cpu_seconds'] + f['extract_seconds'])):.0f}",
        f"{ratio(lambda t, f: t['cpu_seconds'] / f['cpu_seconds']):.0f}",
    )


def draw_costs(pairs: Sequence[tuple[Row, Row]], path: Path) -> None:
    """Draw accuracy against processor seconds: a line from the frozen head to the fine-tuned network."""
    image = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = image.subplots()
    groups = grouped(pairs, lambda pair: pair[0]["dataset"])
    for number, (dataset, members) in enumerate(groups.items()):
        accuracy = [100 * statistics.mean(pair[at]["accuracy"] for pair in members) for at in (1, 1, 0)]
        cached = statistics.mean(frozen["cpu_seconds"] for _, frozen in members)
        extraction = statistics.mean(frozen["extract_seconds"] for _, frozen in members)
        tuned = statistics.mean(tuned["cpu_seconds"] for tuned, _ in members)
        seconds = [cached, cached + extraction, tuned]
        axes.plot(seconds, accuracy, color=f"C{number}", linewidth=1, label=dataset)
        for value, height, marker in zip(seconds, accuracy, "osD", strict=True):
            axes.plot(value, height, marker, color=f"C{number}")
    axes.set(xscale="log", xlabel="processor seconds of training", ylabel="test accuracy, %")
    axes.set_title(
        "circle: head on stored features; square: with extraction; diamond: fine-tuning", fontsize=9
    )
    axes.legend(frameon=False)
    image.savefig(path, dpi=110)


def draw_bars(groups: dict[Any, list[Row]], methods: Sequence[str], path: Path) -> None:
    """Draw a group of bars a data set, a bar a method."""
    image = Figure(figsize=(max(7.2, 1.1 * len(groups)), 3.4), layout="constrained")
    axes = image.subplots()
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        means = [mean_of(rows, method) for rows in groups.values()]
        places = [at + (number - (len(methods) - 1) / 2) * width for at in range(len(groups))]
        axes.bar(places, [0.0 if mean is None else 100 * mean for mean in means], width, label=method)
    lowest = min(100 * row["accuracy"] for rows in groups.values() for row in rows)
    axes.set(ylabel="test accuracy, %", ylim=(max(0, lowest - 5), 100))
    axes.set_xticks(range(len(groups)), [str(name) for name in groups], fontsize=7)
    axes.legend(frameon=False, ncols=3, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    image.savefig(path, dpi=110)


def draw_shots(rows: list[Row], methods: Sequence[str], path: Path) -> None:
    """Draw accuracy against images a class, a panel a data set."""
    groups = grouped(rows, lambda row: row["dataset"])
    image = Figure(figsize=(7.2, 3.0), layout="constrained")
    panels = image.subplots(1, len(groups), squeeze=False)[0]
    for axes, (dataset, members) in zip(panels, groups.items(), strict=True):
        for method in methods:
            sizes = grouped((row for row in members if _method(row) == method), lambda row: row["size"])
            shots = [int(size.split()[0]) for size in sizes]
            means = [100 * statistics.mean(row["accuracy"] for row in each) for each in sizes.values()]
            axes.plot(shots, means, "o-", label=method)
        axes.set_title(dataset, fontsize=9)
        axes.set(xlabel="images a class", xticks=shots)
    image.axes[0].set_ylabel("test accuracy, %")
    lines, names = image.axes[0].get_legend_handles_labels()
    image.legend(lines, names, frameon=False, fontsize=8, ncols=len(names), loc="outside upper center")
    image.savefig(path, dpi=110)


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Collect items by a key, in the order in which keys are met."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _method(row: Row) -> str:
    if row["kind"] == "finetune":
        return TUNED
    shown = {"last", "all"} & {row["layers"]}
    return f"{row['method']}, {row['layers']}" if shown and "layers" not in row["method"] else row["method"]


def methods_of(rows: Iterable[Row]) -> list[str]:
    """List methods, with their layers, in the order in which they are met."""
    return list(dict.fromkeys(_method(row) for row in rows))


def mean_of(rows: Iterable[Row], method: str, figure_name: str = "accuracy") -> Any:
    """Average a figure of a method; None where it was not run."""
    found = [row[figure_name] for row in rows if _method(row) == method]
    return statistics.mean(found) if found else None


def spread(rows: Iterable[Row], method: str) -> str:
    """Give mean and standard deviation over seeds, in percent."""
    found = [100 * row["accuracy"] for row in rows if _method(row) == method]
    if not found:
        return ""
    deviation = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{deviation}"


def figure(value: float | None, form: str) -> str:
    """Format a number that may be missing."""
    return "" if value is None else form.format(value)


def print_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
