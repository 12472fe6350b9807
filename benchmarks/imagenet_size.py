"""A kernel head on as many rows as ImageNet has, streamed from a store, within a few GiB and on a few cores.

Usage::

    python benchmarks/imagenet_size.py --folder FOLDER [--rows 1280000 --columns 2048 --classes 1000]

The store is drawn row by row and imported once; a call after an interruption goes on. `toptune train` then
fits in a process of its own, and once more with ``--dask``. Peaks are those of each process by the kernel's
count, beyond what an idle process with the same imports takes. Work is counted by arithmetic over sizes, and
set against products of matrices that are timed before, between and after the fits. Every finished part is
written to FOLDER/results.json at once; a part that is there already is not done again.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toptune.store import FeatureStore, import_features
from toptune.train import Run

DATASET, MODEL = "synthetic", "drawn"
# Rows are drawn in chunks, each from a seed of its own, so that any slice can be drawn again.
CHUNK = 4096
# Directions in which rows differ beyond independent noise.
LATENT = 128
# Every so many training rows there is one test row.
PER_TEST_ROW = 128
FINALISTS = 3
BENCHMARK_SECONDS = 3.0
# Looking at the processes takes a few milliseconds of the time that is measured.
WATCH_SECONDS = 1.0
# What a training and a worker of a cluster import, whatever the number of rows.
IMPORTS = {
    "local": "import toptune.cli, toptune.train.runs.training, toptune.train.estimators.falkon",
    "worker": "import distributed.nanny, toptune.train.passes.dask_passes, toptune.train.kernels.maps, zarr",
}


class DrawnRows:
    """Rows (n, d) of float16 around the means of their classes, drawn when they are read.

    A row is ``z B + e``: a vector z of `LATENT` numbers around the mean of its class, times a matrix B that
    all rows share, plus noise e.
    """

    def __init__(self, n: int, d: int, classes: int) -> None:
        self.shape, self.dtype = (n, d), np.dtype(np.float16)
        rng = np.random.default_rng(0)
        self.codes = rng.integers(0, classes, n)
        scale = np.arange(1, LATENT + 1, dtype=np.float32) ** -0.25
        self.means = rng.standard_normal((classes, LATENT), dtype=np.float32) * scale * 0.45
        self.scale = scale
        self.basis = rng.standard_normal((LATENT, d), dtype=np.float32) / np.sqrt(np.float32(LATENT))

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float16]:
        """Return a slice of the rows; the same values each time."""
        start, stop, _ = rows.indices(self.shape[0])
        values = np.empty((stop - start, self.shape[1]), np.float16)
        for chunk in range(start // CHUNK, -(-stop // CHUNK)):
            first = chunk * CHUNK
            here = slice(max(start, first), min(stop, first + CHUNK))
            drawn = self._chunk(chunk)
            values[here.start - start : here.stop - start] = drawn[here.start - first : here.stop - first]
        return values

    def _chunk(self, number: int) -> npt.NDArray[np.float32]:
        codes = self.codes[number * CHUNK : (number + 1) * CHUNK]
        rng = np.random.default_rng([1, number])
        latent = self.means[codes] + self.scale * rng.standard_normal((len(codes), LATENT), dtype=np.float32)
        noise = rng.standard_normal((len(codes), self.shape[1]), dtype=np.float32)
        noise *= 0.3
        noise += latent @ self.basis
        return noise


@dataclass(frozen=True)
class Size:
    """Sizes of a fit: training rows, columns, classes, centers, folds, penalties."""

    rows: int
    columns: int
    classes: int
    centers: int
    folds: int
    penalties: int = 8

    def flops(self) -> dict[str, float]:
        """Count the operations of a fit by phase; a multiply-add is two. Kernel values are float32."""
        n, d, c, m = self.rows, self.columns, self.classes, self.centers
        systems = self.penalties + FINALISTS * (self.folds - 1) + 1
        return {
            "kernel values, twice": 2 * 2 * n * m * d,
            "Gram matrices, half of each": n * m * m,
            "left-out scores": 2 * FINALISTS * n * m * c,
            "systems": systems * (m**3 / 3 + 2 * m * m * c) + 2 * m**3 / 3,
        }

    def least_seconds(self, rates: dict[str, float]) -> float:
        """Return the seconds that the operations take at given rates of each type."""
        return sum(
            count / rates["float32" if name.startswith("kernel") else "float64"]
            for name, count in self.flops().items()
        )


@dataclass(frozen=True)
class Job:
    """What is asked for on the command line, and the parts that are done."""

    folder: Path
    size: Size
    memory: int
    dask: str
    threads: int

    @cached_property
    def done(self) -> dict[str, Any]:
        """The parts that an earlier call has finished, by name."""
        path = self.folder / "results.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def part(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a part, measuring it and writing it down if it is not done yet."""
        if name not in self.done:
            print(f"{time.strftime('%F %T')} {name} ...", flush=True)
            self.done[name] = {**measure(), "ended": time.strftime("%F %T"), "load": os.getloadavg()}
            temporary = self.folder / "results.tmp"
            temporary.write_text(json.dumps(self.done, indent=1))
            temporary.replace(self.folder / "results.json")
        found: dict[str, Any] = self.done[name]
        print(f"{name}: {json.dumps(found)}", flush=True)
        return found


def make_store(job: Job) -> dict[str, Any]:
    """Draw and import all rows; units that are there already are not written again."""
    size = job.size
    n_test = max(size.classes, size.rows // PER_TEST_ROW)
    drawn = DrawnRows(size.rows + n_test, size.columns, size.classes)
    start, said = time.perf_counter(), 0.0

    def report(done: int, total: int) -> None:
        nonlocal said
        if time.perf_counter() - said > 10 or done == total:
            said = time.perf_counter()
            print(f"  {done / total:.0%} of two readings, {said - start:.0f} s", flush=True)

    # The last rows test, so that the training rows are one range.
    splits = ["train"] * size.rows + ["test"] * n_test
    import_features(
        FeatureStore.create(job.folder / "store"),
        {"last": drawn},
        dataset=DATASET,
        model=MODEL,
        labels=[f"class {code:04d}" for code in drawn.codes.tolist()],
        splits=splits,
        progress=report,
    )
    n_bytes = sum(path.stat().st_size for path in (job.folder / "store").rglob("*") if path.is_file())
    return {"seconds": time.perf_counter() - start, "bytes": n_bytes, "test_rows": n_test}


def product_rates(threads: int) -> dict[str, float]:
    """Return operations per second of products of square matrices, the best of some seconds, by type."""
    torch.set_num_threads(threads)
    rates = {}
    for dtype in (torch.float32, torch.float64):
        left, right = torch.randn(2, 3000, 3000, dtype=dtype)
        best, until = float("inf"), time.perf_counter() + BENCHMARK_SECONDS
        while time.perf_counter() < until:
            start = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - start)
        rates[str(dtype).removeprefix("torch.")] = 2 * 3000**3 / best
    return rates


def status_bytes(process: int, name: str) -> int:
    """Read a figure of /proc/PID/status; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def read_bytes(process: int) -> int:
    """Return how much a process has read, which tells how far its passes are; 0 if the process is gone."""
    try:
        return int(Path(f"/proc/{process}/io").read_text().split()[1])
    except OSError:
        return 0


def idle_bytes(imports: str, threads: int) -> int:
    """Return the memory of a process that has imported what a fit imports, and has multiplied once."""
    multiply = "import torch; torch.ones(64, 64) @ torch.ones(64, 64)"
    code = f"{imports}\n{multiply}\nprint(open('/proc/self/status').read())"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    text = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS:"))


def offspring(process: int) -> list[int]:
    """Return a process and all that it has started, and these, and so on."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [process]
    for each in found:
        found += parents.get(each, [])
    return found


def train_once(job: Job, name: str, extra: list[str]) -> dict[str, Any]:
    """Fit in a process of its own by the command that a user would type, and watch its memory."""
    size, out = job.size, job.folder / name
    log = job.folder / f"{name}.log"
    words = [
        "train", "--store", job.folder / "store", "--dataset", DATASET, "--model", MODEL, "--out", out,
        "--solver", "direct", "--centers", size.centers, "--cv", size.folds,
        # Standardized rows are about this far from each other.
        "--sigma", round((2 * size.columns) ** 0.5, 3), "--device", "cpu", "-v", *extra,
    ]  # fmt: skip
    command = [str(word) for word in words]
    print(f"  toptune {shlex.join(command)}", flush=True)
    start = time.perf_counter()
    peaks: dict[int, int] = {}
    environment = os.environ | {"OMP_NUM_THREADS": str(job.threads)}
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "toptune.cli", *command], stdout=stream, stderr=stream, env=environment
        )
        said = start
        while process.poll() is None:
            for each in offspring(process.pid):
                # The kernel keeps the peak of each process, so that nothing between two looks is missed.
                peaks[each] = max(peaks.get(each, 0), status_bytes(each, "VmHWM"))
            if time.perf_counter() - said > 60:
                said = time.perf_counter()
                tops = ", ".join(f"{peak / 2**20:.0f}" for peak in sorted(peaks.values(), reverse=True)[:3])
                read = sum(read_bytes(each) for each in peaks) / 1e9
                print(f"  {said - start:.0f} s, peaks {tops} MiB, {read:.1f} GB read", flush=True)
            time.sleep(WATCH_SECONDS)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}; {log} says:\n{log.read_text()[-2000:]}")
    return {"command": f"toptune {shlex.join(command)}", "seconds": seconds} | found_in(
        out, process.pid, peaks
    )


def found_in(out: Path, parent: int, peaks: dict[int, int]) -> dict[str, Any]:
    """Gather what a run says of itself with the peaks of its processes."""
    run = Run.load(out)
    report = dict(run.head.report)
    return {
        "peak_bytes": peaks.pop(parent),
        "worker_peak_bytes": sorted(peaks.values(), reverse=True),
        "projected_bytes": report["peak_bytes"],
        "penalty": report["penalty"],
        "left_out_accuracy": report["accuracy"],
        "accuracy": run.metrics["accuracy"],
        "phases": {key: value for key, value in report["seconds"].items() if isinstance(value, float)},
        "seconds_of_run": run.metrics["seconds"],
        "table": run.head.table,
        "warnings": report["warnings"],
    }


def compare(job: Job) -> dict[str, Any]:
    """Compare the heads and the tables of both runs, relative to the largest value of each."""
    one, other = (Run.load(job.folder / name) for name in ("local", "dask"))
    features = FeatureStore.open(job.folder / "store").features(MODEL, DATASET)
    rows = features.blocks([array.name for array in one.arrays], one.test_rows).take(
        np.arange(min(1000, len(one.test_rows)))
    )
    heads: list[Any] = [run.head for run in (one, other)]
    pairs = {
        "scores of test rows": [head.estimator.scores(one.preprocessing.apply(rows)) for head in heads],
        "coefficients": [head.estimator.dual_coef_ for head in heads],
        "left-out errors": [
            np.array([row["squared_error"] for row in job.done[name]["table"]]) for name in ("local", "dask")
        ],
    }
    return {
        name: float(np.abs(left - right).max() / np.abs(left).max()) for name, (left, right) in pairs.items()
    } | {"penalty": abs(job.done["dask"]["penalty"] / job.done["local"]["penalty"] - 1)}


def print_fit(job: Job, name: str, rates: list[dict[str, float]]) -> None:
    """Print time, memory and share of the products' rate of one fit."""
    found, idle = job.done[name], job.done["imports"]
    best = {kind: max(each[kind] for each in rates) for kind in ("float32", "float64")}
    least = job.size.least_seconds(best)
    passes = found["phases"]["total"]
    beyond = {"process": found["peak_bytes"] - idle["local"]}
    for number, peak in enumerate(found["worker_peak_bytes"], start=1):
        if peak > idle["worker"]:
            beyond[f"child {number}"] = peak - idle["worker"]
    print(
        f"\n{name}: {found['seconds']:.0f} s, of which the fit {passes:.0f} s; "
        f"{sum(job.size.flops().values()):.2e} operations take {least:.0f} s at the rate of products "
        f"({best['float64'] / 1e9:.0f} GFLOP/s float64, {best['float32'] / 1e9:.0f} float32): share "
        f"{least / passes:.0%}\n  peak beyond the imports: "
        + ", ".join(f"{key} {value / 2**20:.0f} MiB" for key, value in beyond.items())
        + f" (projected {found['projected_bytes'] / 2**20:.0f} MiB)\n  penalty {found['penalty']:.3g}, "
        f"left-out accuracy {found['left_out_accuracy']:.4f}, test accuracy {found['accuracy']:.4f}\n"
        f"  phases: " + ", ".join(f"{key} {value:.0f} s" for key, value in found["phases"].items()),
        flush=True,
    )


def parse() -> Job:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="store, runs and results; kept")
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--centers", type=int, default=5000)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=3 * 2**30, help="bytes beyond the imports")
    parser.add_argument("--dask", default="local:2", help="local:N, or none")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    size = Size(given.rows, given.columns, given.classes, given.centers, given.folds)
    return Job(given.folder, size, given.memory, given.dask, given.threads)


def main() -> None:
    """Make the store, fit, fit again on workers, compare, and print."""
    job = parse()
    job.folder.mkdir(parents=True, exist_ok=True)
    sizes = {key: getattr(job.size, key) for key in ("rows", "columns", "classes", "centers", "folds")}
    if job.part("sizes", lambda: dict(sizes)).items() < sizes.items():
        raise SystemExit(f"{job.folder} holds another size; give another folder")
    rates = [job.part("products before", lambda: product_rates(job.threads))]
    job.part("store", lambda: make_store(job))
    idle = job.part("imports", lambda: {key: idle_bytes(text, job.threads) for key, text in IMPORTS.items()})
    limit = ["--memory-limit", str(idle["local"] + job.memory)]
    job.part("local", lambda: train_once(job, "local", limit))
    rates.append(job.part("products between", lambda: product_rates(job.threads)))
    print_fit(job, "local", rates)
    if job.dask == "none":
        return
    job.part("dask", lambda: train_once(job, "dask", [*limit, "--dask", job.dask]))
    rates.append(job.part("products after", lambda: product_rates(job.threads)))
    print_fit(job, "dask", rates)
    job.part("comparison", lambda: compare(job))


if __name__ == "__main__":
    main()
