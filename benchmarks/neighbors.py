"""Neighbors and findings of `toptune inspect` against the bare blocked matrix product on the same rows.

    python benchmarks/neighbors.py FOLDER --rows 20000 --columns 768 --repeats 3

A store of made features is written into FOLDER once. Each repeat times, in turn: the product of all rows with
all rows, block by block, from memory and without looking at it; the exact search for 10 neighbors, read from
the store; and the groups, outliers and thresholds that follow. Minima are compared. The search runs once more
in a process of its own under --memory-limit, whose peak is held against the projected one.

With --share 0.05 only the first 5 % of the pairs are compared, of the search as of the product, and the
findings are those of made neighbors; the peak of --only-search is told after each tenth of them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from toptune.machine.memory import bytes_of, left_bytes, taken_bytes
from toptune.store import FeatureStore, import_features
from toptune.store.features.blocks import Blocks
from toptune.train import PreprocessedBlocks, fit_preprocessing
from toptune.train.rows.groups import components
from toptune.workflows.inspection.duplicates import Spacing, distances_of
from toptune.workflows.inspection.neighbors import NeighborPlan, Neighbors, nearest_neighbors, plan_neighbors

_NEIGHBORS, _BLOCK_ROWS, _TILE_ROWS = 10, 2048, 1024


class _EnoughError(Exception):
    """The share of the pairs that was asked for is compared."""


def main() -> None:
    """Make the store, time the steps, and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-limit", default="1GiB")
    parser.add_argument("--only-search", action="store_true", help="search once under the limit, and stop")
    parser.add_argument("--share", type=float, default=1.0, help="share of the pairs that is compared")
    options = parser.parse_args()
    name = f"made-{options.rows}x{options.columns}"
    store = FeatureStore.create(options.folder / "store")
    if name not in store.datasets():
        import_features(store, {"last": made_rows(options.rows, options.columns)}, dataset=name, model="made")
    if options.only_search:
        print(json.dumps(search_within(store, name, options.memory_limit, options.share)))
        return
    found = timed(store, name, options.repeats, options.share)
    # Rows are held as they come, so that a part of the search has no peak of the whole.
    print(json.dumps(found if options.share < 1 else found | measured_peak(options)))


def made_rows(n: int, d: int) -> np.ndarray:
    """Return rows (n, d) in 20 dimensions of a larger space, and every hundredth row nearly a copy."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 20)) @ rng.normal(size=(20, d)) + 0.1 * rng.normal(size=(n, d))
    rows[99::100] = rows[98::100] + 0.02 * rng.normal(size=rows[99::100].shape)
    return rows.astype(np.float32)


def reader(store: FeatureStore, name: str) -> tuple[Callable[[slice], Blocks], tuple[int, int]]:
    """Return how ranges of rows are read, of unit length, and the shape of all rows."""
    features = store.features("made", name)
    names = [array.name for array in features.arrays()]
    everything = features.blocks(names)
    preprocessing, _ = fit_preprocessing("l2", everything, (everything.shape[1],))

    def read(some: slice) -> Blocks:
        rows = np.arange(some.start, some.stop)
        blocks = features.blocks(names, None if len(rows) == features.n_rows else rows)
        return PreprocessedBlocks(blocks, preprocessing, names)

    return read, everything.shape


def searched(
    read: Callable[[slice], Blocks],
    plan: NeighborPlan,
    share: float,
    *,
    told: Callable[[int], None] | None = None,
) -> Neighbors:
    """Find neighbors, or compare a share of the pairs and return made neighbors of the same shape.

    `told` is called with the pairs that are compared so far.
    """

    def progress(done: int, pairs: int) -> None:
        if told is not None:
            told(done)
        if share < 1 and done >= share * pairs:
            raise _EnoughError

    try:
        return nearest_neighbors(read, plan, progress=progress)
    except _EnoughError:
        rng = np.random.default_rng(0)
        cosines = -np.sort(-rng.uniform(0.2, 0.9, (plan.n, plan.k)).astype(np.float32), axis=1)
        return Neighbors(cosines=cosines, rows=rng.integers(0, plan.n, (plan.n, plan.k)))


def timed(store: FeatureStore, name: str, repeats: int, share: float) -> dict[str, object]:
    """Time product, search and findings in turn."""
    read, (n, d) = reader(store, name)
    plan = plan_neighbors(n=n, d=d, k=_NEIGHBORS, limit_bytes=left_bytes(None))
    unit = torch.from_numpy(read(slice(0, n)).take(np.arange(n)))
    seconds: dict[str, list[float]] = {"product": [], "search": [], "findings": []}
    for _ in range(repeats):
        start = time.perf_counter()
        for low in range(0, max(1, int(share * n)), _TILE_ROWS):
            for first in range(0, n, _BLOCK_ROWS):
                _ = unit[low : low + _TILE_ROWS] @ unit[first : first + _BLOCK_ROWS].T
        seconds["product"].append(time.perf_counter() - start)
        start = time.perf_counter()
        found = searched(read, plan, share)
        seconds["search"].append(time.perf_counter() - start)
        start = time.perf_counter()
        spacing = Spacing.of(found, false_alarms=0.001)
        pairs = spacing.near_pairs(found)
        _ = components(pairs, n), np.quantile(distances_of(found)[:, -1], 0.99)
        seconds["findings"].append(time.perf_counter() - start)
    best = {step: min(values) for step, values in seconds.items()}
    planted = n // 100
    return {
        "rows": n, "columns": d, "share": share, "threads": torch.get_num_threads(), "seconds": seconds,
        "ratio_to_product": (best["search"] + best["findings"]) / best["product"],
        "near_pairs": len(pairs), "planted_pairs": planted,
        "planted_found": int((pairs[:, 1] % 100 == 99)[pairs[:, 0] == pairs[:, 1] - 1].sum()),
        "dimension": spacing.dimension, "sweeps": plan.n_sweeps,
    }  # fmt: skip


def search_within(store: FeatureStore, name: str, memory_limit: str, share: float) -> dict[str, object]:
    """Search once in this process, and return the projected and the measured peak."""
    read, (n, d) = reader(store, name)
    # Rows are multiplied once before, so that the library's own memory is no part of the work's.
    _ = torch.ones(64, 64) @ torch.ones(64, 64)
    before = taken_bytes()
    plan = plan_neighbors(n=n, d=d, k=_NEIGHBORS, limit_bytes=left_bytes(bytes_of(memory_limit)))
    start = time.perf_counter()
    peaks: list[int] = []

    def told(done: int) -> None:
        if done >= share * plan.n_pairs * (len(peaks) + 1) / 10:
            peaks.append(peak_of_process() - before)

    searched(read, plan, share, told=told)
    peak = peak_of_process()
    return {
        "limit": memory_limit, "sweeps": plan.n_sweeps, "projected_bytes": plan.peak_bytes,
        "share": share, "grown_by_tenths": peaks,
        "grown_bytes": peak - before, "process_peak_bytes": peak, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def peak_of_process() -> int:
    """Return the peak memory of this process in bytes: `getrusage` counts the process it was forked from."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def measured_peak(options: argparse.Namespace) -> dict[str, object]:
    """Run `search_within` in a process of its own, whose peak is the search's alone."""
    command = [
        sys.executable, __file__, str(options.folder), "--rows", str(options.rows), "--columns",
        str(options.columns), "--memory-limit", options.memory_limit, "--only-search",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"within_limit": json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    main()
