"""Speed of the feature store against plain files and its peers: ratios, measured in turns in one run.

    python benchmarks/store.py [FOLDER]        # about 3 GB there; default: a temporary folder

Peers are ``numpy.fromfile`` and plain writes with fsync; h5py; zarr's own reading, with and without the
``zarrs`` pipeline; and tensorstore (the last two where they are installed).
"""

import hashlib
import importlib.util
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from toptune.store import (
    CONTENT_ARRAY,
    FeatureCache,
    FeatureStore,
    LedgerEntry,
    Manifest,
    Recipe,
    choose_unit_rows,
    summarize,
    verify,
)
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.ledger_entry import render_packed

ROUNDS = 5
ROWS, DIM = 100_000, 2048
TAPS = [64, 256, 256, 256, 512, 512, 512, 512, 1024, 1024, 2048, 2048]
TAP_ROWS = 100_000
CACHES, UNITS, UNIT_ROWS = 1000, 10_000, 64
BATCH = 32

Candidate = tuple[str, Callable[[], Any]]


def main() -> None:
    """Measure reading, writing and opening in a folder that is removed at the end."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "toptune-benchmark"
    try:
        reading(work / "read")
        writing(work / "write")
        opening(work / "open")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure(candidates: list[Candidate], n_bytes: int, title: str, base: str) -> None:
    """Time the candidates in random order for several rounds; print medians and ratios to `base`."""
    times: dict[str, list[float]] = {name: [] for name, _ in candidates}
    for _ in range(ROUNDS):
        for name, run in random.sample(candidates, len(candidates)):
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n{title}\n\n| | ms | GB/s | speed, {base} = 1 |\n|---|---|---|---|")
    for name, seconds in medians.items():
        rate = f"{n_bytes / seconds / 1e9:.2f}"
        print(f"| {name} | {1000 * seconds:.0f} | {rate} | {medians[base] / seconds:.2f} |", flush=True)


def new_cache(
    root: Path,
    dims: list[int],
    rows: int,
    *,
    form: str = "zarr",
    unit_rows: int | None = None,
) -> FeatureCache:
    """Make a store with one cache of random images and an array per number of columns."""
    store = FeatureStore.create(root)
    manifest = Manifest.from_columns(
        ids=[f"{row}.jpg" for row in range(rows)],
        labels=[f"class {row % 10}" for row in range(rows)],
        sizes=np.ones(rows, np.int64),
    )
    store.register("pictures", manifest)
    recipe = Recipe(
        architecture="resnet50",
        model_kwargs={},
        weights="00" * 32,
        transform={},
        decode="none",
        precision="fp32",
    )
    cache = store.create_cache(
        "resnet50",
        "pictures",
        recipe,
        unit_rows=unit_rows or choose_unit_rows(rows, 2 * sum(dims), BATCH),
        batch_size=BATCH,
        backbone={},
        format=form,
    )
    for number, dim in enumerate(dims):
        cache.ensure_array(f"tap{number}.mean", dim=dim, dtype="float16")
    return cache


def fill(cache: FeatureCache, values: dict[str, np.ndarray]) -> None:
    """Commit all units of a cache and pack its ledgers."""
    for unit in range(cache.n_units):
        rows = cache.unit_slice(unit)
        cache.commit_unit(unit, {name: array[rows] for name, array in values.items()})
    cache.pack_ledgers(list(values))


@dataclass(frozen=True)
class Written:
    """The same values in every form that is read: the store's two formats, raw bytes, and h5py."""

    work: Path
    values: np.ndarray
    checked: dict[str, FeatureCache]

    @classmethod
    def to(cls, work: Path) -> "Written":
        """Write random values, and scan the store's once, so that later scans need not check them."""
        values = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32).astype(np.float16)
        for form in ("zarr", "hdf5"):
            fill(new_cache(work / form, [DIM], ROWS, form=form), {"tap0.mean": values})
        values.tofile(work / "raw.bin")
        with h5py.File(work / "plain.h5", "w") as file:
            file.create_dataset("features", data=values, chunks=(1024, DIM))
        written = cls(work, values, {form: fresh(work, form) for form in ("zarr", "hdf5")})
        for cache in written.checked.values():
            scan(cache, None)
        return written

    @property
    def array(self) -> Path:
        """Folder of the Zarr array."""
        return self.checked["zarr"].path / "tap0.mean"

    def first_scan(self, step: int | None) -> None:
        """Scan the Zarr array by a process that has not checked it."""
        scan(fresh(self.work, "zarr"), step)

    def from_file(self, step: int) -> None:
        """Read the raw bytes."""
        with (self.work / "raw.bin").open("rb") as file:
            for start in range(0, ROWS, step):
                np.fromfile(file, np.float16, min(step, ROWS - start) * DIM)

    def with_zarr(self, step: int) -> None:
        """Read the store's Zarr array by zarr itself."""
        in_steps(zarr.open_array(self.array, mode="r"), step)

    def with_h5py(self, step: int) -> None:
        """Read h5py's own file."""
        with h5py.File(self.work / "plain.h5", "r") as file:
            in_steps(file["features"], step)

    def h5py_rows(self, rows: np.ndarray) -> None:
        """Read some rows of h5py's own file, which wants them sorted."""
        with h5py.File(self.work / "plain.h5", "r") as file:
            file["features"][rows[np.argsort(rows)]]


def fresh(work: Path, form: str) -> FeatureCache:
    """Open a cache anew: none of its checksums has been verified."""
    return FeatureStore.open(work / form).cache("resnet50", "pictures")


def scan(cache: FeatureCache, step: int | None) -> None:
    """Read all rows in steps of so many, or in the cache's own steps."""
    total = 0
    for _, block in cache.blocks(["tap0.mean"]).iterate(step):
        total += len(block)
    assert total == ROWS


def take(cache: FeatureCache, rows: np.ndarray) -> None:
    """Read some rows."""
    cache.blocks(["tap0.mean"]).take(rows)


def in_steps(source: Any, step: int) -> None:
    """Read all rows of something that is indexed like an array."""
    for start in range(0, ROWS, step):
        np.asarray(source[start : min(start + step, ROWS)])


def reading(work: Path) -> None:
    """Measure sequential scans, random rows, layouts, and the verification of all bytes."""
    written = Written.to(work)
    n_bytes = written.values.nbytes
    unit_rows = written.checked["zarr"].unit_rows
    print(f"{ROWS} x {DIM} float16, {n_bytes / 1e6:.0f} MB, units of {unit_rows} rows, page cache warm")
    sequential_scans(written)
    random_rows(written)
    layouts(work, written.values)
    measure(
        [
            ("sha256 of the same files", lambda: digest_files(written.array)),
            ("toptune store verify --deep", lambda: verify(written.checked["zarr"], deep=True)),
        ],
        n_bytes,
        "Deep verification",
        "sha256 of the same files",
    )
    shutil.rmtree(work)


def sequential_scans(written: Written) -> None:
    """Measure scans of all rows in several steps."""
    n_bytes, checked = written.values.nbytes, written.checked
    for step in (1024, 4096, 16_384):
        candidates: list[Candidate] = [
            ("numpy.fromfile", partial(written.from_file, step)),
            ("toptune, Zarr, first scan: every checksum", partial(written.first_scan, step)),
            ("toptune, Zarr, later scans", partial(scan, checked["zarr"], step)),
            ("toptune, HDF5 (always checked)", partial(scan, checked["hdf5"], step)),
            ("h5py, (1024, d) chunks, no checksum", partial(written.with_h5py, step)),
            ("zarr, the same shards", partial(written.with_zarr, step)),
        ]
        candidates += zarrs_reader(written.array, partial(in_steps, step=step))
        candidates += tensorstore_reader(written.array, partial(in_steps, step=step))
        measure(candidates, n_bytes, f"Sequential scan in steps of {step} rows", "numpy.fromfile")
    measure(
        [
            ("numpy.fromfile", lambda: written.from_file(4096)),
            ("toptune, Zarr, first scan: every checksum", lambda: written.first_scan(None)),
            ("toptune, Zarr, later scans", lambda: scan(checked["zarr"], None)),
        ],
        n_bytes,
        "Sequential scan in toptune's own steps (numpy.fromfile: 4096 rows)",
        "numpy.fromfile",
    )


def random_rows(written: Written) -> None:
    """Measure the reading of some random rows."""
    rows = np.random.default_rng(1).choice(ROWS, 4096, replace=False)
    opened = zarr.open_array(written.array, mode="r")
    checked = written.checked["zarr"]
    measure(
        [
            ("zarr, fancy indexing", lambda: opened.oindex[rows]),
            (
                "toptune, first time: checksums",
                lambda: take(fresh(written.work, "zarr"), rows),
            ),
            ("toptune, after a scan", lambda: take(checked, rows)),
            ("h5py, fancy indexing", lambda: written.h5py_rows(rows)),
            ("zarr, one read a row (256 of them, times 16)", lambda: [opened[row] for row in rows[:256]]),
        ],
        4096 * DIM * 2,
        "4096 random rows",
        "zarr, fancy indexing",
    )


def digest_files(folder: Path) -> None:
    """Compute the SHA-256 of every shard of an array."""
    for path in sorted(folder.glob("c/*/0")):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def layouts(work: Path, values: np.ndarray) -> None:
    """Compare chunk, shard and codec of Zarr with three readers, in steps of 4096 rows."""

    def read(source: Any) -> None:
        for start in range(0, ROWS, 4096):
            np.asarray(source[start : min(start + 4096, ROWS)])

    def read_layout(path: Path) -> None:
        read(zarr.open_array(path, mode="r"))

    made: list[Candidate] = []
    crc, zstd = zarr.codecs.Crc32cCodec(), zarr.codecs.ZstdCodec(level=1)
    kinds: dict[str, dict[str, Any]] = {
        "shard 1024 of one 1024-row chunk, crc32c": {"shards": 1024, "chunks": 1024, "compressors": [crc]},
        "shard 16384 of 1024-row chunks, crc32c": {"shards": 16_384, "chunks": 1024, "compressors": [crc]},
        "plain chunks of 4096 rows, crc32c": {"shards": None, "chunks": 4096, "compressors": [crc]},
        "plain chunks of 4096 rows, zstd 1": {"shards": None, "chunks": 4096, "compressors": [zstd]},
    }
    for number, (name, kind) in enumerate(kinds.items()):
        path = work / f"layout{number}"
        array = zarr.create_array(
            path,
            shape=values.shape,
            dtype=values.dtype,
            shards=None if kind["shards"] is None else (kind["shards"], DIM),
            chunks=(kind["chunks"], DIM),
            compressors=kind["compressors"],
            filters=None,
        )
        array[:] = values
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        label = f"{name} ({size / values.nbytes:.2f} of the raw bytes)"

        made.append((f"zarr: {label}", partial(read_layout, path)))
        made += [
            (f"{who}: {name}", run) for who, run in zarrs_reader(path, read) + tensorstore_reader(path, read)
        ]
    measure(made, values.nbytes, "Layouts, read in steps of 4096 rows", made[0][0])


def zarrs_reader(path: Path, read: Callable[[Any], None]) -> list[Candidate]:
    """Return a reader by the zarrs pipeline, if it is installed."""
    if importlib.util.find_spec("zarrs") is None:
        return []

    def run() -> None:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            read(zarr.open_array(path, mode="r"))

    return [("zarrs pipeline", run)]


def tensorstore_reader(path: Path, read: Callable[[Any], None]) -> list[Candidate]:
    """Return a reader by tensorstore, if it is installed."""
    if importlib.util.find_spec("tensorstore") is None:
        return []
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    return [("tensorstore", lambda: read(tensorstore.open(spec, read=True, write=False).result()))]


def writing(work: Path) -> None:
    """Measure the writing of several arrays by units: the store, raw files, and zarr."""
    rng = np.random.default_rng(0)
    values = {
        f"tap{number}.mean": rng.standard_normal((TAP_ROWS, dim), dtype=np.float32).astype(np.float16)
        for number, dim in enumerate(TAPS)
    }
    n_bytes = 2 * sum(array.size for array in values.values())
    unit_rows = choose_unit_rows(TAP_ROWS, 2 * sum(TAPS), 32)

    def ours() -> None:
        shutil.rmtree(work, ignore_errors=True)
        fill(new_cache(work, TAPS, TAP_ROWS), values)

    def raw() -> None:
        shutil.rmtree(work, ignore_errors=True)
        for number, start in enumerate(range(0, TAP_ROWS, unit_rows)):
            for name, array in values.items():
                path = work / name / str(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    file.write(array[start : start + unit_rows].data)
                    file.flush()
                    os.fsync(file.fileno())

    def with_zarr() -> None:
        shutil.rmtree(work, ignore_errors=True)
        for name, array in values.items():
            made = zarr.create_array(
                work / name,
                shape=array.shape,
                dtype=array.dtype,
                shards=(unit_rows, array.shape[1]),
                chunks=(unit_rows, array.shape[1]),
                compressors=[zarr.codecs.Crc32cCodec()],
                filters=None,
            )
            for start in range(0, TAP_ROWS, unit_rows):
                made[start : start + unit_rows] = array[start : start + unit_rows]

    measure(
        [("raw files, fsync each", raw), ("toptune", ours), ("zarr (no fsync, no ledger)", with_zarr)],
        n_bytes,
        f"Writing {len(TAPS)} taps of {TAP_ROWS} rows in units of {unit_rows}, {n_bytes / 1e6:.0f} MB",
        "raw files, fsync each",
    )
    shutil.rmtree(work, ignore_errors=True)


def whole_cache(work: Path, names: list[str]) -> FeatureCache:
    """Make a cache of `UNITS` units whose ledger is packed, with the same values in every unit."""
    cache = new_cache(work, [8], UNITS * UNIT_ROWS, unit_rows=UNIT_ROWS)
    cache.ensure_array(CONTENT_ARRAY, dim=32, dtype="uint8")
    for name in names:
        entries = []
        shard = np.zeros((UNIT_ROWS, cache.array(name).dim), cache.array(name).dtype)
        data = format_of("zarr").encode_unit(cache.array(name), shard)
        digest = hashlib.sha256(data).hexdigest()
        for unit in range(UNITS):
            path = cache.shard_path(name, unit)
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
            span = cache.unit_slice(unit)
            entries.append(
                LedgerEntry(
                    array=name,
                    unit=unit,
                    start=span.start,
                    stop=span.stop,
                    n_bytes=len(data),
                    sha256=digest,
                    non_finite=0,
                    failed={},
                    seconds=0.1,
                    host="node",
                    when="2026-11-21T00:00:00+00:00",
                )
            )
        (cache.path / "ledger" / name / "packed.jsonl").write_bytes(render_packed(name, entries))
    return cache


def share_ledger(work: Path, cache: FeatureCache, names: list[str]) -> None:
    """Make more caches whose packed ledgers are links to that of the first; they have no shards."""
    store = FeatureStore.open(work)
    for number in range(1, CACHES):
        other = store.create_cache(
            f"model {number}",
            "pictures",
            Recipe(
                architecture="resnet50",
                model_kwargs={"number": number},
                weights="00" * 32,
                transform={},
                decode="none",
                precision="fp32",
            ),
            unit_rows=UNIT_ROWS,
            batch_size=32,
            backbone={},
        )
        for name in names:
            other.ensure_array(name, dim=cache.array(name).dim, dtype=cache.array(name).dtype)
            os.link(cache.path / f"ledger/{name}/packed.jsonl", other.path / f"ledger/{name}/packed.jsonl")


def opening(work: Path) -> None:
    """Measure what must be opened before work begins, in a store of many caches with many units each."""
    rows, names = UNITS * UNIT_ROWS, ["tap0.mean", CONTENT_ARRAY]
    share_ledger(work, whole_cache(work, names), names)

    def ls() -> None:
        found = summarize(FeatureStore.open(work))
        assert len(found) == CACHES
        assert all(row.is_complete for row in found)

    def start() -> None:
        opened = FeatureStore.open(work).cache("resnet50", "pictures")
        assert opened.failed_rows(["tap0.mean"]) == {}
        assert len(opened.manifest.labels) == rows
        next(opened.blocks(["tap0.mean"], np.arange(0, rows, 2)).iterate())

    command = [sys.executable, "-m", "toptune.cli", "store", "ls", "--store", str(work)]

    def ls_command() -> None:
        subprocess.run(command, check=True, capture_output=True)

    help_command = [sys.executable, "-m", "toptune.cli", "--help"]
    measure(
        [
            ("toptune --help", lambda: subprocess.run(help_command, check=True, capture_output=True)),
            ("toptune store ls, the whole command", ls_command),
            ("ls in a running process", ls),
            ("train: open, read labels and ledger, first block", start),
        ],
        1,
        f"A store of {CACHES} caches of {UNITS} units",
        "ls in a running process",
    )


if __name__ == "__main__":
    main()
