"""A long extraction from tar shards that is preempted again and again, against one that nobody disturbs.

Usage::

    python benchmarks/preempted.py --folder EMPTY_FOLDER [--images 100000]

Images are drawn and packed into WebDataset shards. One extraction gets SIGTERM three times and SIGKILL once,
each after some new units, and is restarted every time; the other runs through. Then both stores are verified
in full, and every file of values is compared byte for byte.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = "resnet10t.toptune_glyphs"
SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)
PER_SHARD = 1000
N_CLASSES = 10


def write_shards(folder: Path, n: int) -> None:
    """Write n JPEGs of noise on a gradient, with their classes, into shards of `PER_SHARD` images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 64)[None, :, None]
    for first in range(0, n, PER_SHARD):
        with tarfile.open(folder / f"shard-{first // PER_SHARD:05}.tar", "w") as shard:
            for i in range(first, min(first + PER_SHARD, n)):
                label = i % N_CLASSES
                noise = rng.integers(0, 5 * (label + 1), (64, 64, 3))
                buffer = io.BytesIO()
                Image.fromarray((ramp + noise).astype(np.uint8)).save(buffer, "JPEG", quality=85)
                for suffix, data in (("jpg", buffer.getvalue()), ("cls", str(label).encode())):
                    entry = tarfile.TarInfo(f"{i:08}.{suffix}")
                    entry.size = len(data)
                    shard.addfile(entry, io.BytesIO(data))


def command(*words: object) -> list[str]:
    """Return the command line of toptune with these words."""
    return [sys.executable, "-m", "toptune.cli", *map(str, words)]


def extraction(shards: Path, store: Path) -> list[str]:
    """Return the command that is repeated."""
    return command("extract", shards, "--model", MODEL, "--layers", "all", "--store", store, "--grace", 5)


def n_entries(store: Path) -> int:
    """Count the ledger entries of units."""
    return sum(1 for _ in store.glob("features/*/*/ledger/*/0*.json"))


def disturbed(shards: Path, store: Path) -> list[str]:
    """Start and stop the extraction until it is done; say how each run ended."""
    said = []
    for number in SIGNALS:
        before = n_entries(store)
        process = subprocess.Popen(
            extraction(shards, store), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while n_entries(store) < before + 24 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate()
        last = errors.strip().splitlines()[-1] if errors.strip() else ""
        said.append(f"{number.name}: exit {process.returncode}, {n_entries(store)} entries; {last}")
    subprocess.run(
        extraction(shards, store), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return said


def values(store: Path) -> dict[str, bytes]:
    """Read every shard, and the metadata of the arrays."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.glob("features/**/*"))
        if path.is_file()
        and not {"ledger", "requests"} & set(path.parts)
        and path.name not in ("cache.json", "used.json")
    }


def main() -> None:
    """Make the images, run both extractions, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    shards = options.folder / "shards"
    if not shards.exists():
        write_shards(shards, options.images)
    start = time.perf_counter()
    for line in disturbed(shards, options.folder / "disturbed"):
        print(line)
    print(f"disturbed: {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    subprocess.run(extraction(shards, options.folder / "single"), check=True, stdout=subprocess.DEVNULL)
    print(f"undisturbed: {time.perf_counter() - start:.0f} s")
    for name in ("disturbed", "single"):
        done = subprocess.run(
            command("store", "verify", "--store", options.folder / name, "--deep"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(f"verify --deep {name}: exit {done.returncode}; {done.stdout.strip().splitlines()[-1]}")
    left, right = (values(options.folder / name) for name in ("disturbed", "single"))
    differ = [name for name in left.keys() | right.keys() if left.get(name) != right.get(name)]
    print(f"{len(left)} files of values, {len(differ)} differ")


if __name__ == "__main__":
    main()
