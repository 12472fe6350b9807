"""Extraction by two dask workers against one, each with one thread on a core of its own.

    python benchmarks/extraction_dask.py --model local-dir:WEIGHTS --data IMAGES

Rates are marginal: the difference of two sizes in images over the difference of their times, so that start-up
does not count. Rounds run in random order with the workers already started and the model loaded; the ratio is
that of the medians. Sizes are even numbers of units (64 images, up to some hundreds), so that no worker waits
for the last one.
"""

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from toptune.extract import extract

SUFFIXES = (".jpg", ".jpeg", ".png")


def main() -> None:
    """Read the options, measure, and print rates and ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder with images somewhere below")
    parser.add_argument("--sizes", type=int, nargs=2, default=[128, 640], help="images of the two runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", default="last")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = {n: link(given.data, Path(folder) / f"data-{n}", n) for n in given.sizes}
        rates = measure(Path(folder), data, given.model, given.layers, given.rounds)
    print(f"load average at the end: {', '.join(f'{load:.2f}' for load in os.getloadavg())}\n")
    print("| dask workers | images/s, median | least | most |\n|---|---|---|---|")
    for n_workers, found in rates.items():
        print(f"| {n_workers} | {statistics.median(found):.1f} | {min(found):.1f} | {max(found):.1f} |")
    one, two = (statistics.median(found) for found in rates.values())
    print(f"\n2 workers against 1: {two / one:.2f} x (bar 1.8)")


def link(source: Path, target: Path, n: int) -> Path:
    """Make a folder of n images, which repeat if there are fewer."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    target.mkdir()
    for i in range(n):
        file = files[i % len(files)]
        (target / f"{i:06}{file.suffix.lower()}").symlink_to(file.resolve())
    return target


def measure(
    folder: Path, data: dict[int, Path], model: str, layers: str, rounds: int
) -> dict[int, list[float]]:
    """Measure the rates, in images per second, of clusters of one and two workers in every round."""
    from distributed import Client, LocalCluster

    small, large = sorted(data)
    rates: dict[int, list[float]] = {1: [], 2: []}
    clusters = {
        n: LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0", memory_limit=0)
        for n in rates
    }
    try:
        for cluster in clusters.values():
            with Client(cluster) as client:
                client.run(pin)
        for number in range(-1, rounds):  # the first is for warming up
            for n_workers in random.sample(list(rates), 2):
                seconds = {
                    n: run(data[n], folder / "store", model, layers, clusters[n_workers].scheduler_address)
                    for n in random.sample([small, large], 2)
                }
                if number >= 0:
                    rates[n_workers].append((large - small) / (seconds[large] - seconds[small]))
    finally:
        for cluster in clusters.values():
            cluster.close()
    return rates


def pin(dask_worker: object) -> None:
    """Pin a worker, with its reading threads, to one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(dask_worker.name) % len(cores)]})  # type: ignore[attr-defined]


def run(data: Path, store: Path, model: str, layers: str, address: str) -> float:
    """Extract into a new store and return the seconds that it took."""
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    summary = extract(data, model=model, store=store, layers=layers, dask=address, workers=1)
    assert not summary.failed
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
