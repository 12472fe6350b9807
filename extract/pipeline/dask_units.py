"""Units of an extraction mapped over dask workers: on a cluster, or one a device of this machine.

The client makes the plan, the cache and its arrays; a worker computes whole units and commits them itself,
as any process may. What a worker had that died is handed out again, and what it had committed stays.
"""

import contextlib
import hashlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from toptune.errors import InputError, InterruptedRunError, StoreError, ToptuneError, UnreadableImageError
from toptune.extract.pipeline.accounts import ModelDone, UnitsDone
from toptune.extract.pipeline.lane import Lane, length
from toptune.extract.request.request import ExtractRequest
from toptune.extract.sources.reopened import to_be_reopened
from toptune.machine.dask_cluster import (
    first_finished,
    has_distributed,
    killed_worker,
    local_workers,
    open_client,
    usable_cores,
)
from toptune.machine.devices import list_devices
from toptune.machine.watch import Watch
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_cache import CONTENT_ARRAY

logger = logging.getLogger(__name__)

# Small units are handed out together, so that a worker reads ahead from one to the next; and fewer of them
# towards the end, so that none waits long for the last one.
ROWS_AT_ONCE = 8192
SHARES = 4
PROBES = 4
WAIT_SECONDS = 1.0
SEEN_SECONDS = 90.0

Report = Callable[[int, int], None]


def planning_device(request: ExtractRequest) -> str:
    """Choose where the client looks at the sample: on the first device of those that compute.

    Raises
    ------
    InputError
        If there is no such device, and what it would decide cannot be decided without it.
    """
    if request.dask is None or local_workers(request.dask) is not None:
        return list_devices(request.device)[0]
    if "," in request.device:
        raise InputError(
            f"device {request.device!r}: a list is for workers on this machine; with --dask {request.dask} "
            "each worker takes one, cpu or cuda"
        )
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        if "auto" in (request.options["precision"], request.batch_size):
            raise InputError(
                f"device {request.device!r} is not on this machine, which only the workers have: what auto "
                "means cannot be found out here; give --precision and --batch-size themselves"
            )
        logger.warning("the plan is made on the cpu; workers compute on %s", request.device)
        return "cpu"
    return request.device


@dataclass(frozen=True)
class Workers:
    """Where units are computed.

    Attributes
    ----------
    client : distributed.Client
    devices : tuple of str
        Worker i of this machine takes the i-th; one alone is everybody's.
    threads : int or None
        Of torch in each, and at most of reading; None for what a worker was given.
    """

    client: Any
    devices: tuple[str, ...]
    threads: int | None

    def compute(self, lanes: Sequence[Lane], units: Sequence[int], report: Report) -> UnitsDone:
        """Have units computed and committed; `report` is told rows done and failures as they come.

        Parameters
        ----------
        lanes : sequence of Lane
            Of one data set and one cut.
        units : sequence of int
            What any of them lacks.

        Raises
        ------
        ToptuneError
            What a worker raised; or a unit took several workers down.
        InterruptedRunError
            After Ctrl-C, or if the scheduler is gone.
        """
        # Late: it imports the module that imports this one.
        from toptune.extract.pipeline.dask_worker import compute_units

        cache = lanes[0].cache
        done = UnitsDone(seconds_read=0.0, models=(ModelDone(),) * len(lanes))
        rows, left, running = 0, deque(units), dict[Any, tuple[list[int], str]]()
        lost: set[str] = set()
        # A task, and no data of the client's: the scheduler can have it made again wherever it is lost.
        try:
            order = self.client.submit(_same, self._order(lanes), pure=False)
        except (TypeError, AttributeError) as error:
            raise InputError(
                f"the source of images cannot be sent to dask workers ({error}); give its path as DATA"
            ) from error
        hope, watch = _Hope(), lanes[0].request.watch
        try:
            while running or (left and watch.may_hand_out()):
                addresses = list(self.client.nthreads())
                hope.look(addresses)
                busy = {address for _, address in running.values()}
                for address in busy - {*addresses} - lost:
                    logger.warning("dask worker %s is gone; others do its units", address)
                lost |= busy - {*addresses}
                idle = [each for each in addresses if each not in busy] if watch.may_hand_out() else []
                for address in idle[: len(left)]:
                    size = units_at_once(len(left), len(addresses), cache.unit_rows)
                    mine = [left.popleft() for _ in range(min(size, len(left)))]
                    future = self.client.submit(
                        compute_units,
                        order,
                        mine,
                        workers=[address],
                        allow_other_workers=True,
                        pure=False,
                        key=f"units-{mine[0]}-{uuid.uuid4().hex}",
                    )
                    running[future] = mine, address
                for future in first_finished(list(running), seconds=WAIT_SECONDS):
                    mine, _ = running.pop(future)
                    done += _result(future, lanes, mine)
                    rows += sum(length(cache.unit_slice(unit)) for unit in mine)
                    _require_seen(lanes, mine)
                    report(rows, max(model.n_failed for model in done.models))
            if left:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            n_done = len(units) - len(left) - sum(len(mine) for mine, _ in running.values())
            raise InterruptedRunError(
                f"{watch.reason or 'stopped'} with {n_done} of {len(units)} missing units stored; the same "
                "command resumes"
            ) from None
        finally:
            self.client.cancel([order, *running])
        return done

    def _order(self, lanes: Sequence[Lane]) -> Any:
        from toptune.extract.pipeline.dask_worker import ModelOrder, UnitOrder

        request = lanes[0].request
        source = request.source
        if request.opened is not None:
            source = to_be_reopened(source, *request.opened)
        return UnitOrder(
            key=uuid.uuid4().hex,
            request=replace(
                request,
                source=source,
                # Of the images as the worker opens them: here there may be very many.
                manifest=Manifest(request.manifest.table.schema.empty_table()),
                existing=None,
                progress=None,
                watch=Watch(),
                workers=min(request.workers, self.threads or request.workers),
            ),
            root=str(request.root),
            models=tuple(
                ModelOrder(
                    spec=lane.backbone.spec,
                    digest=lane.cache.digest,
                    created=dict(lane.cache.created),
                    names=tuple(array.name for array in lane.arrays),
                )
                for lane in lanes
            ),
            devices=self.devices,
            threads=self.threads,
            probes=_probes(request),
        )


@contextlib.contextmanager
def open_workers(request: ExtractRequest, n_units: int) -> Iterator[Workers | None]:
    """Reach the cluster that was asked for, or start a worker for each of several devices.

    Yields
    ------
    Workers or None
        None where this process does it all.
    """
    is_remote = request.dask is not None and local_workers(request.dask) is None
    devices = [request.device] if is_remote else list_devices(request.device)
    address = request.dask
    if address is None and min(len(devices), n_units) > 1:
        address = f"local:{min(len(devices), n_units)}"
    if address is None or not n_units:
        yield None
        return
    if request.dask is None and not has_distributed():
        raise InputError(
            f"device {request.device!r} is {len(devices)} devices, which are shared out by dask, and dask."
            "distributed is not installed; pip install 'toptune[dask]', or name one device, such as "
            f"{devices[0]}"
        )
    count = local_workers(address)
    # A worker's memory is what the plan says; dask's limit would kill it for what the system caches.
    with open_client(address, options=request.dask_options, memory_limit=0) as client:
        yield Workers(client, tuple(devices), None if count is None else max(1, usable_cores() // count))


def units_at_once(n_left: int, n_workers: int, unit_rows: int) -> int:
    """Say how many units are handed out together: whole units, of at most some thousand images."""
    most = max(1, ROWS_AT_ONCE // unit_rows)
    return max(1, min(most, n_left // (SHARES * max(1, n_workers))))


class _Hope:
    """Says once that there are no workers, if there are none for a while."""

    def __init__(self) -> None:
        self._last, self._said = time.monotonic(), False

    def look(self, addresses: Sequence[str]) -> None:
        if addresses:
            self._last, self._said = time.monotonic(), False
        elif not self._said and time.monotonic() - self._last > 10:
            logger.warning("the dask cluster has no workers; waiting for some to join")
            self._said = True


def _result(future: Any, lanes: Sequence[Lane], units: Sequence[int]) -> UnitsDone:
    try:
        found: UnitsDone = future.result()
    except killed_worker() as error:
        # Units are committed in order, so that the first one that is not did it.
        unit = next((unit for unit in units if not _is_seen(lanes, unit)), units[0])
        rows = lanes[0].cache.unit_slice(unit)
        image = lanes[0].request.manifest.image_id
        raise ToptuneError(
            f"unit {unit} took several dask workers down one after the other ({error}): rows {rows.start} to "
            f"{rows.stop - 1}, images {image(rows.start)} to {image(rows.stop - 1)}; the workers may "
            "be short of memory, or one of the images crashes a decoder; what is committed stays"
        ) from error
    return found


def _require_seen(lanes: Sequence[Lane], units: Sequence[int]) -> None:
    """Wait until this machine sees what a worker committed: shared file systems may take some seconds.

    Raises
    ------
    StoreError
        If it never does.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    while hidden := [unit for unit in units if not _is_seen(lanes, unit)]:
        if time.monotonic() > deadline:
            raise StoreError(
                f"a dask worker committed unit {hidden[0]}, but it is not in {lanes[0].request.root} as this "
                "machine sees it; workers must share the store under the same path"
            )
        time.sleep(WAIT_SECONDS)


def _is_seen(lanes: Sequence[Lane], unit: int) -> bool:
    return all(
        lane.cache.entry(name, unit) is not None
        for lane in lanes
        if unit in lane.wanted
        for name in [*(array.name for array in lane.arrays), CONTENT_ARRAY]
    )


def _probes(request: ExtractRequest) -> tuple[tuple[int, str], ...]:
    """Read a few images whose bytes every worker must find."""
    n = request.manifest.n_rows
    there = np.arange(n) if request.needed is None else np.flatnonzero(request.needed)
    places = np.unique(np.linspace(0, len(there) - 1, min(len(there), PROBES)).round().astype(int))
    found = []
    for row in there[places].tolist():
        with contextlib.suppress(UnreadableImageError):
            found.append((row, hashlib.sha256(request.source.read(row)).hexdigest()))
    return tuple(found)


def _same(value: Any) -> Any:
    return value
