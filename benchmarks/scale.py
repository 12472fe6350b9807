"""A hundred million images x 12 layers, without pixels: the plan, and real code on a ledger of that size.

    python benchmarks/scale.py --folder EMPTY_FOLDER

The ledger is made in its full size: as many units as the plan has, over as many arrays, with shards that are
holes in files. Manifests are real, of two smaller sizes, each in a process of its own; times and memory are
then scaled by their rows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from toptune.store import (
    CONTENT_ARRAY,
    FeatureCache,
    FeatureStore,
    LedgerEntry,
    Manifest,
    Recipe,
    choose_unit_rows,
    shard_units,
    summarize,
)
from toptune.store.arrays.units import count_units
from toptune.store.arrays.zarr_shards import shard_bytes

ROWS = 100_000_000
LAYERS, DIM = 12, 768
BATCH = 32
NAMES = [*(f"blocks.{i}.cls" for i in range(LAYERS)), CONTENT_ARRAY]
FAKE_UNIT_ROWS = 64


def main() -> None:
    """Print the plan, then measure manifests and, with a folder, the ledger."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="empty or new; takes about 1.5 GB and is left for a look")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="of manifests")
    parser.add_argument("--one-manifest", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_manifest:
        print(json.dumps(measure_manifest(given.one_manifest)))
        return
    n_units = print_plan()
    print_manifests(given.rows)
    if given.folder is not None:
        print_ledger(given.folder, n_units)


def print_plan() -> int:
    """Print the sizes of the planned extraction and return its number of units."""
    bytes_per_image = LAYERS * DIM * 2
    unit_rows = choose_unit_rows(ROWS, bytes_per_image, BATCH)
    n_units = count_units(ROWS, unit_rows)
    n_files = n_units * len(NAMES)
    entry = sum(len(an_entry(name, n_units - 1, unit_rows).to_bytes()) for name in NAMES)
    table(
        f"Plan: {ROWS:,} images x {LAYERS} layers of {DIM} float16, batches of {BATCH}",
        {
            "rows a unit": f"{unit_rows:,}",
            "units": f"{n_units:,}",
            "features": f"{ROWS * bytes_per_image / 1e12:.2f} TB, {bytes_per_image:,} bytes an image",
            "digests of images": f"{ROWS * 32 / 1e9:.1f} GB",
            "shards": f"{n_files:,} files, each in its own folder, {unit_rows * DIM * 2 / 2**20:.1f} MiB",
            "ledger while it is written": f"{n_files:,} files, {n_units * entry / 1e6:.0f} MB",
            "ledger when packed": f"{len(NAMES)} files",
            "largest folder": f"{n_units:,} files or folders",
            **{
                f"jobs of 24 h at {rate} images/s": f"{-(-ROWS // (rate * 86_400)):,}"
                for rate in (50, 100, 1000)
            },
            "most jobs that have work": f"{n_units:,}",
        },
    )
    return n_units


def print_manifests(sizes: list[int]) -> None:
    """Measure manifests of some sizes, each in a process of its own, and print the table."""
    found = []
    for n in sizes:
        command = [sys.executable, __file__, "--one-manifest", str(n)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    scale = ROWS / sizes[-1]
    print("\n### Manifest (ids of 29 characters, 1000 labels)\n")
    print(f"| | {' | '.join(f'{n:,} rows' for n in sizes)} | scaled to {ROWS:,} |")
    print("|---|" + "---|" * (len(sizes) + 1))
    for key in found[0]:
        values = [each[key] for each in found]
        print(f"| {key} | {' | '.join(f'{v:.3g}' for v in values)} | {values[-1] * scale:.3g} |")


def measure_manifest(n: int) -> dict[str, float]:
    """Measure seconds and GB of making, writing and reading a manifest of n rows."""
    found: dict[str, float] = {}
    columns: dict[str, Any] = {
        "ids": [f"class-{row % 1000:04}/{row:012}.jpeg" for row in range(n)],
        "labels": [f"class-{row % 1000:04}" for row in range(n)],
        "sizes": np.arange(n, dtype=np.int64) % 100_000,
    }
    found["Python lists of ids and labels, GB"] = peak()
    manifest = timed(
        found,
        "make, s",
        lambda: Manifest.from_columns(**columns),
    )
    found["peak while it is made, GB"] = peak()
    columns.clear()
    found["Arrow table, GB"] = manifest.table.nbytes / 1e9
    timed(found, "digest of ids and sizes, s", lambda: manifest.pictures_digest)
    data = timed(found, "write Parquet, s", manifest.to_parquet)
    found["manifest.parquet, GB"] = len(data) / 1e9
    again = timed(found, "read Parquet, s", lambda: Manifest.from_parquet(data))
    timed(found, "compare with itself, s", lambda: manifest.differences(again))
    timed(found, "one row's id of 1000, s", lambda: [again.image_id(row) for row in range(0, n, n // 1000)])
    timed(found, "list of all ids, s", lambda: again.ids)
    return found


def print_ledger(folder: Path, n_units: int) -> None:
    """Measure what commands do with a ledger of so many units, and print the table."""
    found: dict[str, float] = {}
    cache = timed(found, "make the fabricated ledger", lambda: fabricate(folder, n_units))
    root = cache.root

    def fresh() -> FeatureCache:
        (one,) = FeatureStore.open(root).caches()
        return one

    last = [cache.entry_path(name, n_units - 1) for name in NAMES]
    kept = [path.read_bytes() for path in last]
    for path in last:
        path.unlink()
    timed(found, "`store ls`, one unit missing", lambda: summarize(FeatureStore.open(root)))
    missing = timed(
        found, "resume: what is missing, all units, one job", lambda: look(fresh(), range(n_units))
    )
    assert missing == [n_units - 1]
    mine = shard_units(n_units, 17, 500)
    timed(found, "resume: what is missing, job 17 of 500", lambda: look(fresh(), mine))
    timed(found, "end of job 17 of 500: its failures", lambda: fresh().failed_rows(NAMES, units=mine))
    timed(found, "  where it read all entries", lambda: fresh().failed_rows(NAMES))
    timed(found, "end of a job: pack, refused", lambda: fresh().pack_ledgers(NAMES))
    timed(found, "  where it read all entries first", lambda: [fresh().entries(name) for name in NAMES])
    for path, data in zip(last, kept, strict=True):
        path.write_bytes(data)
    timed(found, "end of the last job: pack", lambda: fresh().pack_ledgers(NAMES))
    timed(found, "`store ls`, packed", lambda: summarize(FeatureStore.open(root)))
    timed(found, "nothing to do: what is missing, packed", lambda: look(fresh(), range(n_units)))
    timed(found, "all failures, packed", lambda: fresh().failed_rows(NAMES))
    packed = sum(path.stat().st_size for path in cache.path.glob("ledger/*/packed.jsonl"))
    table(
        f"Ledger: {n_units:,} units x {len(NAMES)} arrays, seconds (local disk, page cache warm)",
        {key: f"{value:.2f}" for key, value in found.items()} | {"packed, MB": f"{packed / 1e6:.0f}"},
    )


def look(cache: FeatureCache, units: range) -> list[int]:
    """Ask what a job asks first: which of its units are not committed."""
    return sorted({unit for name in NAMES for unit in units if cache.entry(name, unit) is None})


def fabricate(folder: Path, n_units: int) -> FeatureCache:
    """Make a store whose ledger says that all units are done."""
    n = n_units * FAKE_UNIT_ROWS
    store = FeatureStore.create(folder)
    store.register("many", Manifest.from_columns(ids=[f"{row:08}" for row in range(n)], sizes=[1] * n))
    recipe = Recipe(
        architecture="vit_base_patch16_224", model_kwargs={}, weights="0" * 64, transform={},
        decode="none", precision="fp32",
    )  # fmt: skip
    cache = store.create_cache(
        "vit_base_patch16_224.fake", "many", recipe,
        unit_rows=FAKE_UNIT_ROWS, batch_size=BATCH, backbone={"name": "none"},
    )  # fmt: skip
    for name in NAMES:
        content = name == CONTENT_ARRAY
        spec = cache.ensure_array(name, dim=32 if content else 8, dtype="uint8" if content else "float16")
        for unit in range(n_units):
            entry = an_entry(name, unit, FAKE_UNIT_ROWS, n_bytes=shard_bytes(spec))
            shard = cache.shard_path(name, unit)
            shard.parent.mkdir(parents=True)
            with shard.open("wb") as file:
                file.truncate(entry.n_bytes)
            cache.entry_path(name, unit).write_bytes(entry.to_bytes())
    os.sync()  # else the first fsync that is measured would write all of this
    return cache


def an_entry(name: str, unit: int, unit_rows: int, *, n_bytes: int = 12_582_912) -> LedgerEntry:
    """Make a ledger entry of usual length; every hundredth unit has a failed image."""
    return LedgerEntry(
        array=name, unit=unit, start=unit * unit_rows, stop=(unit + 1) * unit_rows, n_bytes=n_bytes,
        sha256="0123456789abcdef" * 4, non_finite=0,
        failed={unit * unit_rows: "is cut short: image file is truncated"} if unit % 100 == 0 else {},
        seconds=81.92, host="node-0123", when="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def timed(found: dict[str, float], key: str, work: Callable[[], Any]) -> Any:
    """Do some work and note its seconds under a name."""
    start = time.perf_counter()
    result = work()
    found[key] = time.perf_counter() - start
    return result


def peak() -> float:
    """Return the largest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def table(title: str, rows: dict[str, str]) -> None:
    """Print a table of two columns."""
    print(f"\n### {title}\n\n| | |\n|---|---|")
    for line in lines(rows):
        print(line)


def lines(rows: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a table of two columns."""
    yield from (f"| {key} | {value} |" for key, value in rows.items())


if __name__ == "__main__":
    main()
