"""Do the passes over training rows on a dask.distributed cluster: parts are summed apart, then added up.

Block sums only add, so each worker sums a part of the rows and only the sums travel. Results equal those of
`toptune.train.passes.passes` up to the rounding of sums taken in another order.

What travels lies in main memory. A worker moves it to the device on which the worker computes: the one that
was named. Of several workers that were started here for ``cuda``, worker i takes device i, as in extraction.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import InputError, ToptuneError
from toptune.machine.dask_cluster import each_finished, killed_worker, local_workers, open_client, this_worker
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.devices import list_devices, resolve_device
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.train.kernels.maps import Maps
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.sums import FoldSums
from toptune.train.passes.training_rows import OutOfFold, TrainingRows

# Few parts per worker, because the sums of every part are M^2 numbers to move; but enough that workers do not
# wait long for the last parts, and that little is lost with a worker that dies.
PARTS_PER_WORKER = 4
_HERE = torch.device("cpu")


class RowRange:
    """A contiguous range of rows of other `Blocks`, read where those lie.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
    start, stop : int
        First row of the range, and the row after its last.
    """

    def __init__(self, blocks: Blocks, start: int, stop: int) -> None:
        self.blocks = blocks
        self.start = start
        self.shape = (stop - start, blocks.shape[1])
        self.dtype = blocks.dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        """Yield ``(rows, values)`` for consecutive rows, counted from the start of the range."""
        step = block_rows or 4096
        for start in range(0, self.shape[0], step):
            where = slice(start, min(start + step, self.shape[0]))
            yield where, self.take(np.arange(where.start, where.stop))

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        """Return the values of some rows, counted from the start of the range."""
        return self.blocks.take(np.asarray(rows) + self.start)


class DaskCluster:
    """Does the passes of `toptune.train.passes.passes` on a cluster.

    The rows are cut into `PARTS_PER_WORKER` parts per worker. The sums of a part depend on its rows alone, so
    that what a worker held when it died is computed again by the others.

    Parameters
    ----------
    client : distributed.Client
    is_local : bool
        Whether the workers were started on this machine for this work, so that they share its devices out.
    """

    def __init__(self, client: Any, *, is_local: bool = False) -> None:
        self.client = client
        self.is_local = is_local

    def accumulate(
        self,
        rows: TrainingRows,
        maps: Maps,
        wanted: Sequence[int],
        *,
        block_rows: int,
        device: torch.device,
        progress: Callable[[int], None] | None = None,
    ) -> list[FoldSums]:
        """Return the sums of each wanted map; parameters as of `toptune.train.passes.passes.accumulate`."""
        # Every worker needs the maps: they are sent once to each instead of with every part.
        devices = self._devices(device)
        shared = self.client.scatter(maps.to(_HERE), broadcast=True, hash=False)
        parts = [
            self.client.submit(_sums_of, part, shared, list(wanted), block_rows, devices, pure=False)
            for part, _ in self._parts(rows)
        ]
        self._wait(parts, rows, progress)
        # Pairs of parts are added on the workers that hold them, so that a single set of sums travels here.
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [self.client.submit(_added, *pair, pure=False) for pair in pairs] + (
                [parts[-1]] if len(parts) % 2 else []
            )
        result: list[FoldSums] = self._gather(parts)[0]
        return result

    def predict_left_out(
        self,
        rows: TrainingRows,
        maps: Maps,
        finalists: Sequence[tuple[int, Tensor]],
        *,
        block_rows: int,
        device: torch.device,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[list[OutOfFold], npt.NDArray[np.int64]]:
        """Score every row by the fit that left its fold out.

        Parameters and results are those of `toptune.train.passes.passes.predict_left_out`.
        """
        # The rows kept are spread over all parts, so they are chosen here and handed to their part.
        kept = rows.calibration_rows()
        sent = maps.to(_HERE), [(index, beta.to(_HERE)) for index, beta in finalists]
        devices = self._devices(device)
        shared = self.client.scatter(sent, broadcast=True, hash=False)
        parts = []
        for part, first in self._parts(rows):
            mine = kept[(kept >= first) & (kept < first + part.n)] - first
            parts.append(
                self.client.submit(_left_out_of, part, shared, mine, block_rows, devices, pure=False)
            )
        self._wait(parts, rows, progress)
        by_part: list[list[OutOfFold]] = self._gather(parts)
        return [
            OutOfFold(
                correct=sum(each.correct for each in of_one),
                squared_error=sum(each.squared_error for each in of_one),
                scores=np.concatenate([each.scores for each in of_one]),
            )
            for of_one in zip(*by_part, strict=True)
        ], kept

    def _devices(self, device: torch.device) -> list[str]:
        """Return the devices that workers share out by their numbers; of one device, all workers take it."""
        return list_devices(str(device)) if self.is_local else [str(device)]

    def _parts(self, rows: TrainingRows) -> list[tuple[TrainingRows, int]]:
        """Cut the rows into parts of about equal size; return each with the number of its first row."""
        n_workers = max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        cuts = np.linspace(0, rows.n, min(rows.n, PARTS_PER_WORKER * n_workers) + 1).astype(int).tolist()
        return [(_part(rows, start, stop), start) for start, stop in pairwise(cuts)]

    def _wait(
        self, parts: Sequence[object], rows: TrainingRows, progress: Callable[[int], None] | None
    ) -> None:
        """Wait for the parts to finish and report their rows to `progress` as they do."""
        for number, _ in enumerate(each_finished(parts)):
            if progress is not None:
                progress(rows.n * (number + 1) // len(parts) - rows.n * number // len(parts))

    def _gather(self, futures: Sequence[object]) -> list[Any]:
        """Fetch results; raise ToptuneError if the same part has killed several workers."""
        try:
            results: list[Any] = self.client.gather(futures)
        except killed_worker() as error:
            raise ToptuneError(
                f"the same part of the rows took several dask workers down ({error}); they may be short of "
                "memory: give them more, or take fewer centers"
            ) from error
        return results


@contextlib.contextmanager
def open_cluster(address: str | None) -> Iterator[DaskCluster | None]:
    """Yield the cluster at an address, or None where `address` is None.

    Raises
    ------
    ToptuneError
        As `open_client` does, if there is no scheduler at the address.
    """
    if address is None:
        yield None
        return
    with open_client(address) as client:
        yield DaskCluster(client, is_local=local_workers(address) is not None)


def _part(rows: TrainingRows, start: int, stop: int) -> TrainingRows:
    """Return the rows ``start .. stop - 1`` as training rows of their own, to be summed on a worker."""
    blocks = rows.blocks
    return replace(
        rows,
        # An array in memory is cut here, so that each worker is sent its own rows only. Rows in a store are
        # read by the worker itself.
        blocks=(
            ArrayBlocks(np.asarray(blocks.values[start:stop]))
            if isinstance(blocks, ArrayBlocks)
            else RowRange(blocks, start, stop)
        ),
        codes=rows.codes[start:stop],
        weights=rows.weights[start:stop],
        folds=rows.folds[start:stop],
        offset=rows.offset + start,
        cluster=None,
    )


@contextlib.contextmanager
def _own_device(devices: list[str]) -> Iterator[torch.device]:
    """Give the device on which this worker computes, and explain what goes wrong with it.

    Raises
    ------
    InputError
        If the worker has no such device.
    DeviceMemoryError
        If the device's memory is full.
    """
    worker = this_worker()
    try:
        device = resolve_device(devices[worker.number % len(devices)])
    except InputError as error:
        raise InputError(f"dask worker {worker.address} on {socket.gethostname()}: {error}") from error
    knobs = "start fewer workers a device, or take fewer --centers (n_centers)"
    with (
        full_precision(),
        explained_out_of_memory(f"dask worker {worker.address}", device=device, knobs=knobs),
    ):
        yield device


def _sums_of(
    part: TrainingRows, maps: Maps, wanted: list[int], block_rows: int, devices: list[str]
) -> list[FoldSums]:
    """Sum one part, on a worker."""
    with _own_device(devices) as device:
        sums = accumulate(part, maps.to(device), wanted, block_rows=block_rows, device=device)
        return [each.cpu() for each in sums]


def _added(first: list[FoldSums], second: list[FoldSums]) -> list[FoldSums]:
    """Add the sums of two parts map by map, on a worker that holds one of them."""
    return [one + other for one, other in zip(first, second, strict=True)]


def _left_out_of(
    part: TrainingRows,
    shared: tuple[Maps, list[tuple[int, Tensor]]],
    kept: npt.NDArray[np.int64],
    block_rows: int,
    devices: list[str],
) -> list[OutOfFold]:
    """Score one part by the fits that left its folds out, on a worker."""
    maps, finalists = shared
    with _own_device(devices) as device:
        there = [(index, beta.to(device)) for index, beta in finalists]
        return predict_left_out(
            part, maps.to(device), there, block_rows=block_rows, device=device, kept=kept
        )[0]
