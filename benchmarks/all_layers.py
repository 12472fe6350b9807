"""Last layer, all layers, Head2Toe and kernels on them: every method on every data set and backbone.

Usage::

    python benchmarks/all_layers.py ASSETS [--store ROOT] [--seeds 5] [--datasets a,b] [--out FILE.jsonl]

ASSETS holds ``weights/<model>`` (timm local-dir folders) and ``datasets/<name>``. All layers are extracted
once. For each seed a new stratified split of all rows is drawn, with a fifth of them to test, the same for
every method. (The data sets have fewer than 1,000 images to train on, so all of these are used.) Seconds are
those of the fit with its whole selection; bytes are those stored per image for the layers that the head
needs. Test rows choose nothing: ``selection.csv`` of each run has the left-out metrics that the choice was
made by. Results are appended line by line, so that a stopped run resumes.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from heads import DATASETS, GROUPS, extract_all

from toptune.train import train

MODELS = (
    "deit_tiny_patch16_224.in1k",
    "mobilenetv2_100.tf2_in1k",
    "mobilenetv2_100.onnxzoo_in1k_nohead",
    "mobilenetv2_100.inat_insect",
)
LAST = {"layers": "last"}
ALL = {"layers": "all"}
METHODS: dict[str, dict[str, Any]] = {
    "linear, last": {"head": "logistic"} | LAST,
    "ridge, all, l2": {"head": "ridge", "preprocess": "l2"} | ALL,
    "head2toe, softmax": {"head": "head2toe", "params": {"solver": "softmax", "final": "logistic"}} | ALL,
    "head2toe, Gram": {"head": "head2toe", "params": {"solver": "gram", "final": "ridge"}} | ALL,
    "falkon, last": {"head": "falkon"} | LAST,
    "falkon, all": {"head": "falkon"} | ALL,
    "falkon on head2toe": {"head": "head2toe", "params": {"solver": "gram", "final": "falkon"}} | ALL,
    "forest, last": {"head": "forest"} | LAST,
    "knn, last": {"head": "knn"} | LAST,
    "ridge, last": {"head": "ridge"} | LAST,
    "lda, last": {"head": "lda"} | LAST,
    "ncm, last": {"head": "ncm"} | LAST,
    "svm, last": {"head": "svm"} | LAST,
    "auto, last": {"head": "auto"} | LAST,
    "falkon, layers auto": {"head": "falkon", "layers": "auto"},
}
LAST_LAYER = tuple(name for name, options in METHODS.items() if options["layers"] == "last")
SINGLE_HEADS = tuple(name for name in LAST_LAYER if METHODS[name]["head"] != "auto")
ALL_LAYERS = tuple(name for name in METHODS if name not in LAST_LAYER)
Rows = list[dict[str, Any]]


def runs(
    root: Path, setting: tuple[str, str, int], scratch: Path, methods: list[str]
) -> Iterator[dict[str, Any]]:
    """Train every method on one data set, backbone and seed."""
    name, model, seed = setting
    for method in methods:
        options = METHODS[method]
        start = time.perf_counter()
        run = train(
            root,
            dataset=name,
            model=model,
            out=scratch / f"{name}-{model}-{seed}-{method}",
            seed=seed,
            resplit=True,
            group_by=GROUPS.get(name),
            **options,
        )
        yield {
            "dataset": name,
            "model": model,
            "seed": seed,
            "method": method,
            "accuracy": run.metrics["accuracy"],
            "left_out": (run.config["report"]["left_out"] or {}).get("accuracy"),
            "n_train": run.metrics["n_train"],
            "seconds": time.perf_counter() - start,
            "fit_seconds": run.metrics["seconds"]["fit"],
            "bytes": run.config["saves"]["bytes_per_picture"],
            "arrays": run.config["saves"]["n_arrays"],
            "selected": run.config["selected"],
        }


def cell(rows: Rows, method: str, value: str = "accuracy", **where: Any) -> list[float]:
    """Return a method's values by seed, among rows whose other columns equal those given."""
    found = [row for row in rows if row["method"] == method and where.items() <= row.items()]
    return [
        float(row[value])
        for row in sorted(found, key=lambda row: (row["dataset"], row["model"], row["seed"]))
    ]


def print_tables(rows: Rows, methods: list[str]) -> None:
    """Print mean accuracies, seconds and bytes, then the comparisons that have a target.

    Means are over the seeds for which all methods shown have been run.
    """
    rows = [row for row in rows if row["method"] in methods]
    whole = Counter((row["dataset"], row["model"], row["seed"]) for row in rows)
    rows = [row for row in rows if whole[row["dataset"], row["model"], row["seed"]] == len(methods)]
    settings = sorted({(row["dataset"], row["model"]) for row in rows})
    mean: dict[tuple[str, str, str], float] = {}
    print("| data set | backbone | " + " | ".join(methods) + " |\n" + "|---" * (2 + len(methods)) + "|")
    for name, model in settings:
        for method in methods:
            mean[name, model, method] = 100 * float(np.mean(cell(rows, method, dataset=name, model=model)))
        best = max(mean[name, model, method] for method in methods)
        shown = (f"{mean[name, model, method]:.1f}" for method in methods)
        marked = (f"**{each}**" if each == f"{best:.1f}" else each for each in shown)
        print(f"| {name} | {model} | " + " | ".join(marked) + " |")
    for what, value, average, scale in (
        ("mean accuracy", "accuracy", np.mean, 100),
        ("median seconds of the fit", "fit_seconds", np.median, 1),
        ("median bytes an image", "bytes", np.median, 1),
    ):
        averages = (f"{scale * average(cell(rows, method, value)):.4g}" for method in methods)
        print(f"| {what} | | " + " | ".join(averages) + " |")
    print(
        "\n| against `linear, last`, points | mean | least | most | settings above |\n|---|---|---|---|---|"
    )
    for method in methods[1:]:
        gains = [mean[*setting, method] - mean[*setting, methods[0]] for setting in settings]
        print(f"| {method} | {np.mean(gains):+.2f} | {min(gains):+.1f} | {max(gains):+.1f} "
              f"| {sum(gain > 0 for gain in gains)} of {len(gains)} |")  # fmt: skip
    above = [
        max(mean[*setting, method] for method in ALL_LAYERS if method in methods)
        > max(mean[*setting, method] for method in LAST_LAYER if method in methods)
        for setting in settings
    ]
    print(f"\nbest all-layer method above the best last-layer method: {sum(above)} of {len(above)} settings")
    if "auto, last" in methods:
        print_regret(rows, settings, mean, [method for method in SINGLE_HEADS if method in methods])


def print_regret(
    rows: Rows, settings: list[tuple[str, str]], mean: dict[tuple[str, str, str], float], single: list[str]
) -> None:
    """Print how far `auto` is below the best single head."""
    regrets = [
        max(
            cell(rows, method, dataset=row["dataset"], model=row["model"], seed=row["seed"])[0]
            for method in single
        )
        - row["accuracy"]
        for row in rows
        if row["method"] == "auto, last"
    ]
    of_means = [
        max(mean[*setting, method] for method in single) - mean[*setting, "auto, last"]
        for setting in settings
    ]
    print(
        f"regret of `auto, last`, points: {np.mean(of_means):.2f} against the head that is best on average "
        f"over seeds (largest {max(of_means):.2f}), {100 * np.mean(regrets):.2f} against the best of each "
        "seed on its test rows"
    )


def main() -> None:
    """Read the options, extract, fit, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--out", type=Path, default=Path("all_layers.jsonl"))
    options = parser.parse_args()
    datasets, models = tuple(options.datasets.split(",")), tuple(options.models.split(","))
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        root = options.store or Path(scratch) / "store"
        extract_all(options.assets, root, models, datasets)
        for seed in range(options.seeds):
            for setting in ((name, model, seed) for name in datasets for model in models):
                done = {
                    row["method"] for row in rows if (row["dataset"], row["model"], row["seed"]) == setting
                }
                missing = [method for method in options.methods if method not in done]
                for row in runs(root, setting, Path(scratch), missing):
                    rows.append(row)
                    with options.out.open("a") as stream:
                        stream.write(json.dumps(row) + "\n")
                here = [row for row in rows if (row["dataset"], row["model"], row["seed"]) == setting]
                print(*setting, {row["method"]: round(row["accuracy"], 3) for row in here}, flush=True)
    print_tables(rows, [method for method in METHODS if method in options.methods])


if __name__ == "__main__":
    main()
