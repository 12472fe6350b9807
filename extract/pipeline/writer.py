"""`UnitWriter`: a thread commits units while the model computes the next ones."""

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.costs.stages import PipelineProfile, timed
from toptune.extract.pipeline.model_work import length
from toptune.store.features.feature_cache import FeatureCache

# Units that wait for the commit of the unit before. A unit may hold hundreds of megabytes, and more units
# that wait would not make a disk faster.
UNITS_BEHIND = 1


@dataclass(frozen=True)
class UnitValues:
    """The values of a whole unit.

    Attributes
    ----------
    unit : int
        Number of the unit.
    values : mapping of str to array (rows, dim)
        Values by the name of the array.
    failed : mapping of int to str
        Row number to reason, for each image that could not be used.
    seconds : float
        Seconds that the unit took.
    seconds_compute : float
        Seconds of the unit's forward passes.
    seconds_device : float
        Seconds that a CUDA device took for them.
    costs : mapping, optional
        CPU seconds, energy and memory that the unit took; see `LedgerEntry`.
    """

    unit: int
    values: Mapping[str, npt.NDArray[np.number]]
    failed: Mapping[int, str]
    seconds: float
    seconds_compute: float
    seconds_device: float = 0.0
    costs: Mapping[str, Any] | None = None


class UnitWriter:
    """One thread that commits units in order; at most one waits, so that memory stays bounded.

    Leaving the ``with`` block without an exception commits all units that were handed over. An exception
    lets the thread finish the unit that is being written and drops the unit that waits. An error of the
    thread is raised by the next call, or on leaving.
    """

    def __init__(self, cache: FeatureCache, profile: PipelineProfile | None = None) -> None:
        self._cache = cache
        self._profile = profile
        self._queue: queue.Queue[UnitValues | None] = queue.Queue(UNITS_BEHIND)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.seconds = 0.0
        self.units_written = 0
        self._thread = threading.Thread(target=self._run, name="toptune-write", daemon=True)

    def __enter__(self) -> "UnitWriter":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stop.set()
        self._put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def write(self, values: UnitValues) -> None:
        """Hand over a unit; waits while another one is waiting already."""
        self._put(values)
        self._check()

    def _put(self, item: UnitValues | None) -> None:
        # The wait has a time limit, so that a thread that died cannot block the caller for ever.
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _next(self) -> UnitValues | None:
        if self._profile is not None:
            self._profile.ask("write", is_ready=not self._queue.empty())
        return self._queue.get()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                if self._stop.is_set():
                    continue
                start = time.perf_counter()
                with timed(self._profile, "write", length(self._cache.unit_slice(item.unit))):
                    self._cache.commit_unit(
                        item.unit, item.values, failed=item.failed, seconds=item.seconds, costs=item.costs
                    )
                self.seconds += time.perf_counter() - start
                self.units_written += 1
        except BaseException as error:  # noqa: BLE001  (raised again where the caller sees it)
            self._error = error
