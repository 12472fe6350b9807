"""A preload script, loaded only by the dask workers that toptune starts on this machine."""

import signal
from typing import Any


def dask_setup(worker: Any) -> None:  # noqa: ARG001
    """Leave Ctrl-C to the client: a terminal signals every process, and the client stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
