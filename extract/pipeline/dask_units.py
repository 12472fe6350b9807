"""Units of an extraction are computed by dask workers: on a cluster, or one worker a device of this machine.

The client makes the plan, the cache and its arrays; a worker computes whole units and commits them itself,
as any process may. The units of a worker that died are handed out again; units that it had committed stay.
"""

import contextlib
import hashlib
import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.images.source import read_bytes
from toptune.extract.pipeline.accounts import UnitsDone
from toptune.extract.pipeline.dask_worker import ModelOrder, UnitOrder, compute_units
from toptune.extract.pipeline.hand_out import HandOut
from toptune.extract.pipeline.image_pass import Report
from toptune.extract.pipeline.model_work import ModelWork
from toptune.extract.request.request import ExtractRequest
from toptune.extract.sources.reopened import to_be_reopened
from toptune.machine.cores import usable_cores
from toptune.machine.dask_cluster import check_installed, has_distributed, local_workers, open_client
from toptune.machine.devices import list_devices
from toptune.machine.watch import Watch
from toptune.store.datasets.manifest import Manifest

logger = logging.getLogger(__name__)

# Every worker reads the probes before the first unit, so that images under a path that means another folder
# on the worker's machine are noticed before features of them are committed.
PROBES = 4


def usable_device(request: ExtractRequest) -> str:
    """Refuse devices and clusters for which a package is missing, before a model is loaded.

    Returns
    -------
    str
        The device as it was asked for; or the first CUDA device, if ``cuda`` is several of them and
        dask.distributed, which shares the units out to all, is not installed.

    Raises
    ------
    InputError
        If a package or program is missing that the request cannot do without, or a device is not there.
    """
    asked = request.options
    if asked.dask is not None:
        check_installed(asked.dask)
        return asked.device
    devices = list_devices(asked.device)
    if len(devices) == 1 or has_distributed():
        return asked.device
    missing = "dask.distributed, which shares the images out to several, is not installed"
    if "," in asked.device:
        raise InputError(
            f"device {asked.device!r} is {len(devices)} devices, and {missing}; pip install 'toptune[dask]', "
            f"or name one device, such as {devices[0]}",
            option="device",
        )
    logger.warning(
        "computing on %s alone of %d CUDA devices: %s (pip install 'toptune[dask]') [TT106]",
        devices[0], len(devices), missing,
    )  # fmt: skip
    return devices[0]


def planning_device(request: ExtractRequest) -> str:
    """Choose the device on which the client computes the sample: the first of those that compute units.

    Raises
    ------
    InputError
        If the client lacks the device and an option is ``auto``, which only that device can settle.
    """
    asked = request.options
    if asked.dask is None or local_workers(asked.dask) is not None:
        devices = list_devices(asked.device)
        if asked.profile is not None and len(devices) > 1:
            raise InputError(
                f"--profile measures the stages of one process, and device {asked.device!r} is "
                f"{len(devices)} devices with a process each; name one, such as {devices[0]}",
                option="profile",
            )
        return devices[0]
    if "," in asked.device:
        raise InputError(
            f"device {asked.device!r}: a list is for workers on this machine; with --dask {asked.dask} "
            "each worker takes one, cpu or cuda"
        )
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        if "auto" in (asked.backbone.precision, asked.batch_size):
            raise InputError(
                f"device {asked.device!r} is not on this machine, which only the workers have: what auto "
                "means cannot be found out here; give --precision and --batch-size themselves"
            )
        logger.warning("the plan is made on the cpu; workers compute on %s [TT107]", asked.device)
        return "cpu"
    return asked.device


@dataclass(frozen=True)
class Workers:
    """The dask workers that compute units, and their devices.

    Attributes
    ----------
    client : distributed.Client
        The client of the cluster.
    devices : tuple of str
        Worker i of this machine takes device i; a single device serves every worker.
    threads : int or None
        Threads of torch in each worker, and at most as many that read; None for what a worker was given.
    """

    client: Any
    devices: tuple[str, ...]
    threads: int | None

    def compute(self, works: Sequence[ModelWork], units: Sequence[int], report: Report) -> UnitsDone:
        """Have units computed and committed by the workers.

        Parameters
        ----------
        works : sequence of ModelWork
            Models whose caches have the same units and batches.
        units : sequence of int
            Units that any of the models lacks.
        report : callable
            Called with the rows done and the images failed so far, as results come.

        Raises
        ------
        ToptuneError
            An error that a worker raised; or a unit took several workers down.
        InterruptedRunError
            After Ctrl-C, or if the scheduler is gone.
        """
        # The order is the result of a task. Data that a client scatters are lost with the worker that holds
        # them; the result of a task is computed again by the scheduler.
        try:
            order = self.client.submit(_same, self._order(works), pure=False)
        except (TypeError, AttributeError) as error:
            raise InputError(
                f"the source of images cannot be sent to dask workers ({error}); give its path as DATA"
            ) from error
        return HandOut(self.client, works, order, compute_units).run(units, report)

    def _order(self, works: Sequence[ModelWork]) -> UnitOrder:
        request = works[0].request
        source = request.source
        if request.opened is not None:
            source = to_be_reopened(source, request.opened)
        # Workers elsewhere have other cores than this machine, and decide for themselves.
        asked_for = request.options.workers
        readers = asked_for if self.threads is None else min(request.options.n_workers, self.threads)
        # Callbacks and clocks stay with the client: functions of the user's program cannot be pickled in
        # general, and progress is told from the results that come back.
        asked = request.with_options(workers=readers, progress=None, stop=None, clocks=None)
        return UnitOrder(
            key=uuid.uuid4().hex,
            request=replace(
                asked,
                source=source,
                # A worker opens the images itself: a manifest of millions of rows would travel too.
                manifest=Manifest(request.manifest.table.schema.empty_table()),
                existing=None,
                watch=Watch(),
            ),
            root=str(request.root),
            models=tuple(
                ModelOrder(
                    spec=work.backbone.spec,
                    digest=work.cache.digest,
                    created=dict(work.cache.created),
                    names=tuple(array.name for array in work.arrays),
                )
                for work in works
            ),
            devices=self.devices,
            threads=self.threads,
            probes=_probes(request),
        )


@contextlib.contextmanager
def open_workers(
    request: ExtractRequest, n_units: int, backbones: Iterable[Backbone]
) -> Iterator[Workers | None]:
    """Connect to the cluster that was asked for, or start a worker for each of several devices.

    Parameters
    ----------
    request : ExtractRequest
        A request with the device of `usable_device`.
    n_units : int
        Units that are to be computed.
    backbones : iterable of Backbone
        Networks that made the plan; they leave their device where workers compute.

    Yields
    ------
    Workers or None
        None where this process computes all units.
    """
    asked = request.options
    is_remote = asked.dask is not None and local_workers(asked.dask) is None
    devices = [asked.device] if is_remote else list_devices(asked.device)
    address = asked.dask
    if address is None and min(len(devices), n_units) > 1:
        address = f"local:{min(len(devices), n_units)}"
    if address is None or not n_units:
        yield None
        return
    for backbone in backbones:
        backbone.leave_device()
    count = local_workers(address)
    # A worker's memory is what the plan says; dask's limit would kill it for what the system caches.
    with open_client(address, options=asked.dask_options, memory_limit=0) as client:
        yield Workers(client, tuple(devices), None if count is None else max(1, usable_cores() // count))


def _probes(request: ExtractRequest) -> tuple[tuple[int, str], ...]:
    """Return row and SHA-256 of a few images whose bytes every worker must find."""
    found = []
    for row in request.sample_rows(PROBES):
        with contextlib.suppress(UnreadableImageError):
            found.append((row, hashlib.sha256(read_bytes(request.source, row)).hexdigest()))
    return tuple(found)


def _same(value: UnitOrder) -> UnitOrder:
    return value
