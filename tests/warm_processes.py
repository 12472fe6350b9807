"""Processes that tests stop and kill, forked from a server that has loaded the libraries once.

Loading torch and timm takes seconds of the processor, which are no part of what such a test is about. The
server only imports and computes nothing, so that what is forked from it is as a new process is. What leaving
an interpreter does, or what a program must not load, needs a process of its own: `subprocess`.
"""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

# Modules that do not exist on a machine are left out by the server itself.
LOADED = (
    "torch",
    "torchvision.transforms.v2",
    "timm",
    "zarr",
    "h5py",
    "pyarrow.parquet",
    "sklearn.linear_model",
    "distributed",
    "toptune.cli",
    "toptune.extract.extraction",
    "toptune.extract.pipeline.dask_worker",
    "toptune.train.estimators.falkon",
    "toptune.workflows.finetuning.finetune",
)
_CONTEXT = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Start the server of this process, unless it runs."""
    from multiprocessing.forkserver import ensure_running

    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        _CONTEXT.set_forkserver_preload(list(LOADED))
        ensure_running()


@contextlib.contextmanager
def warm_workers() -> Iterator[None]:
    """Workers that dask starts on this machine meanwhile are forked from the server."""
    import dask

    start_server()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


class WarmProcess:
    """A Python program that runs as `python -c` would run it, forked from the server.

    Attributes
    ----------
    out, err : pathlib.Path
        Files with what it wrote.
    """

    def __init__(self, program: str, *arguments: object, folder: Path) -> None:
        start_server()
        self.out, self.err = (folder / f"{name}-{time.monotonic_ns()}.txt" for name in ("out", "err"))
        for path in (self.out, self.err):
            path.touch()
        self._process: BaseProcess = _CONTEXT.Process(
            target=_run,
            args=(program, [str(word) for word in arguments], dict(os.environ), self.out, self.err),
            daemon=True,
        )
        self._process.start()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def wait_for_lines(self, n: int, *, seconds: float = 60) -> None:
        """Wait until it has written n lines to its standard output, or has ended."""
        deadline = time.monotonic() + seconds
        while self.is_alive() and self.out.read_text().count("\n") < n:
            assert time.monotonic() < deadline, f"not {n} lines after {seconds} s"
            time.sleep(0.001)

    def wait(self, *, seconds: float = 60) -> int:
        """Wait for its end; return its exit code, or the number of the signal that killed it, negated."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"not over after {seconds} s"
        return code


def _run(program: str, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment, OMP_NUM_THREADS="1")
    for number, path in ((1, out), (2, err)):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
