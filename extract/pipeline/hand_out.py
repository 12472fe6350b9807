"""`HandOut`: a dask client hands out units to workers as the workers become idle."""

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from toptune.errors import InterruptedRunError, StoreError, ToptuneError
from toptune.extract.pipeline.accounts import ModelDone, UnitsDone
from toptune.extract.pipeline.image_pass import Report
from toptune.extract.pipeline.model_work import ModelWork, length
from toptune.machine.dask_cluster import first_finished, killed_worker
from toptune.store.features.feature_cache import CONTENT_ARRAY

logger = logging.getLogger(__name__)

# Small units are handed out together, so that a worker reads ahead from one to the next; towards the end
# fewer units travel together, so that no worker waits long for the last one.
ROWS_AT_ONCE = 8192
SHARES = 4
# The client wakes at least this often to notice new workers, lost workers and a wish to stop.
WAIT_SECONDS = 1.0
# Some network file systems show a new file to other machines only after a minute.
SEEN_SECONDS = 90.0
LONELY_SECONDS = 10.0


class HandOut:
    """Units of one pass that are handed out to workers, and the results that come back.

    Parameters
    ----------
    client : distributed.Client
        The client of the cluster.
    works : sequence of ModelWork
        Models whose caches have the same units and batches.
    order : distributed.Future
        The first argument of `compute`, a `UnitOrder` that the cluster holds.
    compute : callable
        Called on a worker with the order and the numbers of some units; returns a `UnitsDone`.
    """

    def __init__(
        self,
        client: Any,
        works: Sequence[ModelWork],
        order: Any,
        compute: Callable[..., UnitsDone],
    ) -> None:
        self._client, self._works, self._order, self._compute = client, works, order, compute
        self._cache, self._watch = works[0].cache, works[0].request.watch
        self._left: deque[int] = deque()
        # Maps each future to its units and to the address of the worker that was asked first.
        self._running: dict[Any, tuple[list[int], str]] = {}
        self._lost: set[str] = set()
        self._vigil = _Vigil()

    def run(self, units: Sequence[int], report: Report) -> UnitsDone:
        """Hand out units until all of them are committed, and return what they took.

        Raises
        ------
        ToptuneError
            An error that a worker raised; or a unit took several workers down.
        InterruptedRunError
            After Ctrl-C, at the end of the time, or if the scheduler is gone.
        """
        self._left.extend(units)
        done = UnitsDone(seconds_read=0.0, models=(ModelDone(),) * len(self._works))
        rows = 0
        try:
            while self._running or (self._left and self._watch.may_hand_out()):
                self._hand_out()
                for future in first_finished(list(self._running), seconds=WAIT_SECONDS):
                    finished, _ = self._running.pop(future)
                    done += _result(future, self._works, finished)
                    rows += sum(length(self._cache.unit_slice(unit)) for unit in finished)
                    _require_seen(self._works, finished)
                    report(rows, max(model.n_failed for model in done.models))
            if self._left:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            n_running = sum(len(numbers) for numbers, _ in self._running.values())
            n_done = len(units) - len(self._left) - n_running
            raise InterruptedRunError(
                f"{self._watch.reason or 'stopped'} with {n_done} of {len(units)} missing units stored; the "
                "same command resumes"
            ) from None
        finally:
            self._client.cancel([self._order, *self._running])
        return done

    def _hand_out(self) -> None:
        """Submit the next units to each idle worker."""
        addresses = list(self._client.nthreads())
        self._vigil.look(addresses)
        busy = {address for _, address in self._running.values()}
        for address in busy - {*addresses} - self._lost:
            logger.warning("dask worker %s is gone; others do its units [TT110]", address)
        self._lost |= busy - {*addresses}
        idle = [each for each in addresses if each not in busy] if self._watch.may_hand_out() else []
        for address in idle[: len(self._left)]:
            size = units_at_once(len(self._left), len(addresses), self._cache.unit_rows)
            numbers = [self._left.popleft() for _ in range(min(size, len(self._left)))]
            # One task per worker at a time: units that wait in a worker's queue could not go to another
            # worker that is idle. Other workers are allowed, so that units of a worker that died are computed
            # elsewhere. The key is random, because dask takes an equal key for a result that it has already.
            future = self._client.submit(
                self._compute,
                self._order,
                numbers,
                workers=[address],
                allow_other_workers=True,
                pure=False,
                key=f"units-{numbers[0]}-{uuid.uuid4().hex}",
            )
            self._running[future] = numbers, address


def units_at_once(n_left: int, n_workers: int, unit_rows: int) -> int:
    """Return how many units are handed out together: whole units, of at most some thousand images."""
    most = max(1, ROWS_AT_ONCE // unit_rows)
    return max(1, min(most, n_left // (SHARES * max(1, n_workers))))


class _Vigil:
    """Warns, once each time, if the cluster has had no workers for `LONELY_SECONDS`."""

    def __init__(self) -> None:
        self._last, self._said = time.monotonic(), False

    def look(self, addresses: Sequence[str]) -> None:
        if addresses:
            self._last, self._said = time.monotonic(), False
        elif not self._said and time.monotonic() - self._last > LONELY_SECONDS:
            logger.warning("the dask cluster has no workers; waiting for some to join [TT111]")
            self._said = True


def _result(future: Any, works: Sequence[ModelWork], units: Sequence[int]) -> UnitsDone:
    try:
        found: UnitsDone = future.result()
    except killed_worker() as error:
        # Units are committed in order, so that the first one that is not committed killed the workers.
        unit = next((unit for unit in units if not _is_seen(works, unit)), units[0])
        rows = works[0].cache.unit_slice(unit)
        image = works[0].request.manifest.image_id
        raise ToptuneError(
            f"unit {unit} took several dask workers down one after the other ({error}): rows {rows.start} to "
            f"{rows.stop - 1}, images {image(rows.start)} to {image(rows.stop - 1)}; the workers may "
            "be short of memory, or one of the images crashes a decoder; what is committed stays"
        ) from error
    return found


def _require_seen(works: Sequence[ModelWork], units: Sequence[int]) -> None:
    """Wait until this machine sees what a worker committed: shared file systems may take some seconds.

    Raises
    ------
    StoreError
        If the commits do not appear within `SEEN_SECONDS`.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    while hidden := [unit for unit in units if not _is_seen(works, unit)]:
        if time.monotonic() > deadline:
            raise StoreError(
                f"a dask worker committed unit {hidden[0]}, but it is not in {works[0].request.root} as this "
                "machine sees it; workers must share the store under the same path"
            )
        time.sleep(WAIT_SECONDS)


def _is_seen(works: Sequence[ModelWork], unit: int) -> bool:
    return all(
        work.cache.entry(name, unit) is not None
        for work in works
        if unit in work.wanted
        for name in [*(array.name for array in work.arrays), CONTENT_ARRAY]
    )
