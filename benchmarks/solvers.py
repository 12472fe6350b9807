"""Solvers of kernel heads: FalkonML, scikit-learn and toptune's own, on the same problems.

Usage::

    python benchmarks/solvers.py [fit selection sklearn scale] [--out FILE.jsonl] [--threads N] ...

``fit`` is one fit of a given width and penalty; ``selection`` is a grid of both with five folds; ``sklearn``
is whole classifiers, on real features too if a store is named; ``scale`` is rows beyond memory. Contestants
of a problem run one after the other in random order in this process; their memory is measured in processes of
their own. Rows are appended to FILE as they are done, so that a stopped run resumes. FalkonML takes part
where it is installed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from solver_fits import (
    N_TEST,
    WARM_UP,
    Problem,
    Size,
    contestants,
    has_falkonml,
    memory_of,
    reference_scores,
    reset_peak,
)
from solver_sections import scale_child, scale_rows, selection_rows, sklearn_rows

from toptune.train.kernels.maps import RAW_PIVOT

SECTIONS = ("fit", "selection", "sklearn", "scale")
GRID = [
    *(Size(n, d, m, 100) for n in (5000, 20_000, 50_000) for d in (512, 2048) for m in (1000, 2000, 5000)),
    Size(20_000, 512, 2000, 10),
    Size(20_000, 512, 2000, 1000),
    Size(20_000, 512, 10_000, 100),
]
# A contestant whose accuracy is this far below the reference has not solved the problem, and its time does
# not count.
TOLERATED = 0.01


def fit_row(size: Size, repeats: int) -> dict[str, Any]:
    """Time, check and measure every contestant on one problem."""
    problem = Problem(size)
    named = contestants()
    truth = reference_scores(problem)
    row: dict[str, Any] = {"section": "fit", "size": str(size), "repeats": repeats}
    row["reference_accuracy"] = problem.accuracy(truth["toptune"])
    seconds: dict[str, list[float]] = {name: [] for name in named}
    row |= {"accuracy": {}, "distance": {}, "report": {}}
    for fit in named.values():
        fit(Problem(WARM_UP))
    rng = np.random.default_rng(size.n + size.d + size.m + size.c)
    for _ in range(repeats):
        for name in rng.permutation(list(named)):
            start = time.perf_counter()
            scores, report = named[name](problem)
            seconds[name].append(time.perf_counter() - start)
            if seconds[name][-1] == min(seconds[name]):
                row["report"][name] = {
                    key: report.get(key)
                    for key in ("seconds", "precision", "rank", "smallest_pivot", "iteration", "warnings")
                }
            if name not in row["accuracy"]:
                values, exact = scores(problem.X_test), truth[name.split()[0]]
                row["accuracy"][name] = problem.accuracy(values)
                row["distance"][name] = float(np.linalg.norm(values - exact) / np.linalg.norm(exact))
    row["seconds"] = seconds
    row["peak_bytes"] = {name: child(["--peak-of", name, "--rows", str(size)]) for name in named}
    return row


def child(arguments: list[str]) -> Any:
    """Run this file in a process of its own and read the JSON that it prints last."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(name: str, size: Size) -> int | None:
    """Return the bytes that one fit takes beyond what the process held before it."""
    fit = contestants()[name]
    fit(Problem(WARM_UP))
    problem = Problem(size)
    before = memory_of("VmRSS")
    reset_peak()
    fit(problem)
    peak = memory_of("VmHWM")
    return None if before is None or peak is None else peak - before


def matrix_product_rates(known: dict[str, float] | None = None) -> dict[str, float]:
    """Return multiply-adds per second: the best of a few products and of the rates known so far."""
    rates = dict(known or {})
    for dtype in (torch.float32, torch.float64):
        left, right = torch.randn(4000, 2000, dtype=dtype), torch.randn(2000, 2000, dtype=dtype)
        best = float("inf")
        for _ in range(6):
            start = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - start)
        name = str(dtype).removeprefix("torch.")
        rates[name] = max(4000 * 2000 * 2000 / best, rates.get(name, 0.0))
    return rates


def shares_of_peak(row: dict[str, Any], rates: dict[str, float]) -> dict[str, float]:
    """Return, for the phases of the direct solver that are only products, least time over time taken.

    The least time is that at the peak rate of the phase's own precision: of kernel values their type, else
    float64. Rows are whitened only where their sums may not be taken first.
    """
    size, report = Size.read(row["size"]), row["report"]["toptune direct"]
    single, double = rates[report["precision"]], rates["float64"]
    is_raw = (
        report["precision"] == "float32"
        and report["smallest_pivot"] > RAW_PIVOT
        and size.n > 2 * report["rank"]
    )
    half = size.n * size.m**2 / 2 / double
    least = {"kernel": size.n * size.m * size.d / single, "products": half}
    if not is_raw:
        least["whitening"] = half
    least["pass"] = sum(least.values())
    return {name: least[name] / taken for name, taken in report["seconds"].items() if name in least and taken}


def print_fits(rows: list[dict[str, Any]]) -> None:
    """Print times with the ratio to FalkonML tuned, then accuracy, distance and memory of each contestant."""
    names = list(rows[0]["seconds"])
    print(
        "\nOne fit: median seconds (times as fast as FalkonML tuned) / accuracy / distance to float64 / MiB"
    )
    print("\n| n, d, M, classes | " + " | ".join(names) + " | accuracy in float64 |")
    print("|---" * (2 + len(names)) + "|")
    for row in rows:
        cells = []
        solved = {
            name: row["accuracy"][name] >= row["reference_accuracy"] - TOLERATED for name in row["seconds"]
        }
        medians = {name: float(np.median(values)) for name, values in row["seconds"].items()}
        peer = medians.get("FalkonML tuned") if solved.get("FalkonML tuned") else None
        for name in names:
            ratio = f" ({peer / medians[name]:.2f}x)" if peer and solved[name] else ""
            text = f"{medians[name]:.2f}{ratio}" if solved[name] else "wrong"
            peak = row["peak_bytes"][name]
            memory = "-" if peak is None else f"{peak / 2**20:.0f}"
            cells.append(f"{text} / {row['accuracy'][name]:.3f} / {row['distance'][name]:.0e} / {memory}")
        print(f"| {row['size']} | " + " | ".join(cells) + f" | {row['reference_accuracy']:.3f} |")
    print("\nShare of the matrix product's peak that phases of toptune direct reach, in its fastest fit:")
    rates = {name: max(row["products_per_second"][name] for row in rows) for name in ("float32", "float64")}
    for row in rows:
        shares = shares_of_peak(row, rates)
        seconds = row["report"]["toptune direct"]["seconds"]
        print(
            f"{row['size']}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
            {name: round(value, 2) for name, value in seconds.items() if isinstance(value, int | float)},
        )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", default=[], help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("solvers.jsonl"))
    parser.add_argument("--rows", nargs="+", type=Size.read, default=GRID, help="of fit: n,d,M,classes ...")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=Size.read, default=Size(20_000, 512, 2000, 100), help="n,d,M,classes")
    parser.add_argument("--scale-rows", nargs="+", type=int, default=[50_000, 100_000, 200_000, 500_000])
    parser.add_argument("--scale-size", type=Size.read, default=Size(500_000, 512, 1000, 100))
    parser.add_argument("--store", type=Path, help="of sklearn: real features, with --dataset and --model")
    parser.add_argument("--dataset")
    parser.add_argument("--model")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--scale-child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if strange := set(options.sections) - set(SECTIONS):
        parser.error(f"section {min(strange)!r} is unknown; choose of {', '.join(SECTIONS)}")
    return options


def main() -> None:
    """Run the sections asked for, and print what the file then holds."""
    options = parse()
    # Libraries read these variables when they are loaded; all contestants get the same.
    wanted = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "PASSIVE"} | {
        f"{library}_NUM_THREADS": str(options.threads) for library in ("OMP", "OPENBLAS", "MKL")
    }
    if not wanted.items() <= os.environ.items() and not (options.peak_of or options.scale_child):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    if options.peak_of:
        print(json.dumps(peak_of(options.peak_of, options.rows[0])))
        return
    if options.scale_child:
        print(
            json.dumps(scale_child(Path(options.scale_child[0]), int(options.scale_child[1]), options.size))
        )
        return
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    rates = matrix_product_rates()
    products = ", ".join(f"{2 * rate / 1e9:.0f} GFLOP/s {name}" for name, rate in rates.items())
    print(
        f"{options.threads} threads, torch {torch.__version__}, numpy {np.__version__}, "
        f"FalkonML {'yes' if has_falkonml() else 'no'}, {N_TEST} test rows; "
        f"matrix products: {products}",
        flush=True,
    )

    def keep(row: dict[str, Any]) -> None:
        # A shared machine reaches its peak only now and then, so that the rate is measured again and the best
        # counts.
        rates.update(matrix_product_rates(rates))
        row |= {"threads": options.threads, "products_per_second": dict(rates)}
        with options.out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        rows.append(row)
        print(json.dumps({key: value for key, value in row.items() if key != "report"}), flush=True)

    def is_done(section: str, size: str, name: str | None = None) -> bool:
        return any((row["section"], row["size"], row.get("name")) == (section, size, name) for row in rows)

    sections = options.sections or SECTIONS
    if "fit" in sections:
        for size in options.rows:
            if not is_done("fit", str(size)):
                keep(fit_row(size, options.repeats))
    if "selection" in sections:
        selection_rows(options.size, options.repeats, is_done, keep)
    if "sklearn" in sections:
        source = (options.store, options.dataset, options.model) if options.store else None
        sklearn_rows(options.size, source, options.threads, is_done, keep)
    if "scale" in sections:
        scale_rows(options.scale_size, options.scale_rows, is_done, keep, child)
    if fits := [row for row in rows if row["section"] == "fit"]:
        print_fits(fits)
    for section in SECTIONS[1:]:
        print_section(section, [row for row in rows if row["section"] == section])


def print_section(section: str, rows: list[dict[str, Any]]) -> None:
    """Print one line per contestant: seconds, accuracy, and notes."""
    if not rows:
        return
    print(f"\n{section}\n\n| size | fit | seconds | accuracy | peak MiB | note |\n|---|---|---|---|---|---|")
    for row in rows:
        peak = row.get("peak_bytes")
        print(
            f"| {row['size']} | {row['name']} | {row['seconds']:.1f} | {row['accuracy']:.4f} | "
            f"{'' if peak is None else f'{peak / 2**20:.0f}'} | {row.get('note', '')} |"
        )


if __name__ == "__main__":
    main()
