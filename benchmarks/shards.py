"""Twenty jobs on one data set, five of them killed and restarted, against one undisturbed run.

    python benchmarks/shards.py DATA MODEL [FOLDER]

Every data file, the recipe and the manifest are compared byte for byte; the exit code is 1 if a byte differs.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from toptune.store import FeatureCache, FeatureStore, verify

JOBS, KILLS, SEED = 20, 5, 0


def main() -> None:
    """Run the one job, then the twenty, and compare their stores."""
    data, model = sys.argv[1:3]
    work = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.mkdtemp())
    os.environ["OMP_NUM_THREADS"] = "1"
    start = time.perf_counter()
    run(data, model, work / "one").wait()
    print(f"one job: {time.perf_counter() - start:.0f} s")
    rng = random.Random(SEED)
    start = time.perf_counter()
    jobs = {shard: run(data, model, work / "many", f"{shard}/{JOBS}") for shard in range(JOBS)}
    while not any((work / "many").glob("features/*/*/ledger/*/0*.json")):
        time.sleep(0.1)  # until the first unit is done, so that kills fall into the work
    killed: list[int] = []
    for shard in rng.sample(range(JOBS), JOBS):
        time.sleep(rng.uniform(0, 1))
        if len(killed) < KILLS and jobs[shard].poll() is None:
            jobs[shard].kill()
            jobs[shard].wait()
            killed.append(shard)
    print(f"killed while running: shards {killed}")
    for shard in killed:
        jobs[shard] = run(data, model, work / "many", f"{shard}/{JOBS}")
    codes = [job.wait() for job in jobs.values()]
    print(f"{JOBS} jobs: {time.perf_counter() - start:.0f} s, exit codes {sorted(set(codes))}")
    one, many = (the_cache(work / name) for name in ("one", "many"))
    report = verify(many, deep=True)
    print(f"verify --deep: exit code {report.exit_code}, {len(report.leftovers)} leftovers of killed jobs")
    differing = compare(one, many)
    print(f"{len(data_files(one))} data files, recipe and manifest: {len(differing)} differ {differing[:5]}")
    raise SystemExit(1 if differing or report.exit_code or any(codes) else 0)


def run(data: str, model: str, store: Path, shard: str | None = None) -> subprocess.Popen[bytes]:
    """Start an extraction in a process of its own."""
    command = [sys.executable, "-m", "toptune.cli", "extract", data, "--model", model, "--layers", "all"]
    command += ["--store", str(store), "--workers", "1", "--max-failures", "1000000"]
    command += [] if shard is None else ["--shard", shard]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def the_cache(root: Path) -> FeatureCache:
    """Open the only cache of a store."""
    (cache,) = FeatureStore.open(root).caches()
    return cache


def data_files(cache: FeatureCache) -> dict[str, bytes]:
    """Read every file of the arrays, but for those that a killed job left behind."""
    return {
        str(path.relative_to(cache.path)): path.read_bytes()
        for spec in cache.all_arrays()
        for path in (cache.path / spec.name).rglob("*")
        if path.is_file() and not path.name.startswith(".tmp-")
    }


def compare(one: FeatureCache, many: FeatureCache) -> list[str]:
    """Return the names of the files that differ."""
    ours, theirs = data_files(one), data_files(many)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if (one.path / "recipe.json").read_bytes() != (many.path / "recipe.json").read_bytes():
        differing.append("recipe.json")
    if one.manifest.differences(many.manifest) or one.digest != many.digest:
        differing.append("manifest")
    return differing


if __name__ == "__main__":
    main()
