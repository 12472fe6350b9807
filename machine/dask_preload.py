"""Loaded by the dask workers that toptune starts on this machine, and by nothing else."""

import signal
from typing import Any


def dask_setup(worker: Any) -> None:  # noqa: ARG001
    """Leave Ctrl-C to the client: a terminal sends it to every process, and the client stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
