"""Dask workers that toptune starts on this machine, and only these, load this script first."""

import signal


def dask_setup(worker: object) -> None:  # noqa: ARG001
    """Leave Ctrl-C to the client: a terminal signals every process, and the client stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
