"""What all parts of `gpu.py` share: findings that are saved one by one, images, clocks, nvidia-smi."""

import json
import os
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from toptune.machine.memory import MemoryLimits
from toptune.store import FeatureStore
from toptune.train.rows.block_reading import block_rows_for

GIB = 2**30
CORES = len(os.sched_getaffinity(0))
_N_DIFFERENT = 512


class OutOfTimeError(Exception):
    """A measurement took longer than it may."""


@dataclass
class Findings:
    """The findings of a part, written to its file after every measurement."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:
        """Save and print a measurement."""
        self.values[name] = value
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.values, default=str))
        temporary.replace(self.path)
        print(f"  {name}: {json.dumps(value, default=str)[:220]}", flush=True)


@dataclass(frozen=True)
class Part:
    """What a part is given: a device, a folder, and the seconds that it may take."""

    device: str
    is_tiny: bool
    repo: Path
    work: Path
    deadline: float
    found: Findings

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.startswith("cuda")

    @property
    def seconds_left(self) -> float:
        """Seconds until the part must have ended."""
        return self.deadline - time.perf_counter()

    def block_rows(self, *, d: int, rank: int) -> int:
        """Return the rows of a block that a fit on the device would take now."""
        limits = MemoryLimits.on(torch.device(self.device), None)
        return block_rows_for(d=d, rank=rank, limit_bytes=limits.bytes, on_cuda=self.is_cuda)

    def has_time(self, name: str, seconds: float) -> bool:
        """Tell whether so many seconds are left; if not, note it under `name`."""
        if self.seconds_left < seconds:
            self.found.put(
                f"{name}!", {"error": f"needs {seconds:.0f} s, {self.seconds_left:.0f} s are left"}
            )
        return self.seconds_left >= seconds

    @contextmanager
    def attempt(self, name: str, seconds: float | None = None) -> Iterator[None]:
        """Note an error of the enclosed block under `name` and go on; interrupt the block after `seconds`."""
        start = time.perf_counter()
        try:
            # A rehearsal is not interrupted: its cores may be few and busy.
            with _at_most(None if self.is_tiny else seconds):
                yield
        except Exception as error:  # noqa: BLE001 (a figure that fails must not cost the others)
            self.found.put(
                f"{name}!",
                {
                    "error": f"{type(error).__name__}: {error}"[:600],
                    "at": traceback.format_exc().splitlines()[-12:],
                    "seconds": round(time.perf_counter() - start, 2),
                },
            )

    def synchronize(self) -> None:
        """Wait until the device has done all work that is queued."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Return cached memory to the device, and restart the measurement of its peak."""
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Return the peak of the device's memory in GiB; None without a GPU."""
        return round(torch.cuda.max_memory_allocated() / GIB, 2) if self.is_cuda else None

    def folder(self, name: str) -> Path:
        """Return the path of a folder that does not exist (any more)."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        return path


@contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTimeError in the enclosed block after so many seconds."""
    if seconds is None:
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def clock(work: Callable[[], Any], part: Part, *, seconds: float, warm: int = 3) -> float:
    """Return the seconds of a call, averaged over calls for about `seconds`, with no wait between them."""
    for _ in range(warm):
        work()
    part.synchronize()
    start = time.perf_counter()
    work()
    part.synchronize()
    n_calls = max(2, min(2000, int(seconds / max(time.perf_counter() - start, 1e-5))))
    start = time.perf_counter()
    for _ in range(n_calls):
        work()
    part.synchronize()
    return (time.perf_counter() - start) / n_calls


def _save_image(path: Path, seed: int, size: tuple[int, int]) -> None:
    """Save a JPEG of smooth shapes and noise, which takes about as long to decode as a photograph."""
    if path.exists():
        return
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[1] // 12, size[0] // 12, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = pixels + rng.integers(-14, 15, pixels.shape, dtype=np.int16)
    temporary = path.with_suffix(f".{os.getpid()}")
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(temporary, "JPEG", quality=90)
    temporary.replace(path)


def save_images(part: Part, n: int, *, classes: int = 4) -> Path:
    """Make a folder of n JPEGs of ImageNet's usual size, of which few are different, by hard links."""
    originals, n_different = part.work / "jpegs", min(n, 48 if part.is_tiny else _N_DIFFERENT)
    originals.mkdir(parents=True, exist_ok=True)
    paths = [originals / f"{i:05}.jpg" for i in range(n_different)]
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(lambda i: _save_image(paths[i], i, (500, 375)), range(n_different)))
    folder = part.work / f"images-{n}-{classes}"
    if folder.exists():
        return folder
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
    for i in range(n):
        place = temporary / f"class{i % classes}" / f"{i:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(paths[i % n_different])
    try:
        temporary.rename(folder)
    except OSError:  # another part has made it meanwhile
        shutil.rmtree(temporary)
    return folder


def relative_error(found: Any, expected: Any) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    norm = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / norm if norm else float(np.abs(a).max(initial=0.0))


def stored_features(store: Path, dataset: str) -> dict[str, npt.NDArray[Any]]:
    """Read all feature arrays of the only cache of a data set."""
    (cache,) = FeatureStore.open(store).caches(dataset=dataset)
    names = [array.name for array in cache.arrays() if array.name != "content.sha256"]
    return {name: cache.blocks([name]).take(np.arange(cache.n_rows)) for name in names}


@contextmanager
def watch_gpu(part: Part) -> Iterator[dict[str, float]]:
    """Run nvidia-smi beside the enclosed block; the yielded dict is filled when the block ends."""
    figures: dict[str, float] = {}
    if not part.is_cuda or not shutil.which("nvidia-smi"):
        yield figures
        return
    query = "--query-gpu=utilization.gpu,memory.used,power.draw,clocks.sm"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield figures
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=5)
        rows = [
            [_number(text) for text in line.split(",")] for line in out.splitlines() if line.count(",") == 3
        ]
        if rows:
            busy, memory, watts, mhz = (list(column) for column in zip(*rows, strict=True))
            figures["busy_percent"] = round(float(np.mean(busy)), 1)
            figures["memory_mib"] = max(memory)
            figures["watts"] = round(float(np.mean(watts)), 1)
            figures["sm_mhz"] = round(float(np.mean(mhz)), 1)


def _number(text: str) -> float:
    """Read a number of nvidia-smi; 0 where it says that it does not know."""
    try:
        return float(text)
    except ValueError:
        return 0.0  # a figure that the GPU does not tell: "[N/A]"
