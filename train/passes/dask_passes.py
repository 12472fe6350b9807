"""Do the passes over training rows on a dask.distributed cluster: parts are summed apart, then added up.

Block sums only add, so each worker sums a part of the rows and only the sums travel. Results equal those of
`toptune.train.passes.passes` up to the rounding of sums taken in another order.

What travels lies in main memory. A worker moves it to the device on which the worker computes: the one that
was named. Of several workers that were started here for ``cuda``, worker i takes device i, as in extraction.
"""

import contextlib
import copy
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
from toptune.machine.memory import shown_bytes
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.train.kernels.maps import Maps
from toptune.train.passes.passes import predict_left_out, take_sums
from toptune.train.passes.peak_memory import part_scores_bytes, part_sums_bytes
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
        self.blocks: Blocks | None = blocks
        self.start = start
        self.shape = (stop - start, blocks.shape[1])
        self.dtype = blocks.dtype

    def of(self, blocks: Blocks | None) -> "RowRange":
        """Return this range of the same rows elsewhere; None leaves the rows out, for a journey alone."""
        found = copy.copy(self)
        found.blocks = blocks
        return found

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        """Yield ``(rows, values)`` for consecutive rows, counted from the start of the range."""
        step = block_rows or 4096
        for start in range(0, self.shape[0], step):
            where = slice(start, min(start + step, self.shape[0]))
            yield where, self.take(np.arange(where.start, where.stop))

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        """Return the values of some rows, counted from the start of the range."""
        assert self.blocks is not None, "a range that travels alone reads no rows"
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
        is_raw: Sequence[bool],
        block_rows: int,
        device: torch.device,
        progress: Callable[[int], None] | None = None,
    ) -> list[FoldSums]:
        """Return the sums of each wanted map; parameters as of `toptune.train.passes.passes.take_sums`.

        Raises
        ------
        InputError
            If a worker may take less memory than the sums need.
        """
        devices = self._devices(device)
        parts, here = self._parts(rows, block_rows), maps.to(_HERE)
        sent = here.bare() if all(is_raw) else here
        self._check_memory(
            part_sums_bytes(
                n=max(part.n for part, _ in parts),
                d=rows.blocks.shape[1],
                ranks=[maps.ranks[index] for index in wanted],
                n_classes=rows.n_classes,
                n_folds=rows.n_places,
                block_rows=block_rows,
                has_factors=sent is not sent.bare() and not all(is_raw),
            ),
            what="to add up the sums",
        )
        # Every worker needs the maps: they are sent once to each instead of with every part.
        shared = self.client.scatter(sent, broadcast=True, hash=False)
        stored = self._send_stored(rows.blocks)
        # Each worker adds part after part to the sums of its parts before, so that the worker holds no sums
        # that are finished but these. Nothing that a worker holds is changed: the work may be done again.
        workers = self._workers()
        lanes: list[Any] = [None] * min(len(workers), len(parts))
        every = []
        for number, (part, _) in enumerate(parts):
            lane = number % len(lanes)
            lanes[lane] = self.client.submit(
                _sums_of, part, stored, shared, list(wanted), list(is_raw), block_rows, devices, lanes[lane],
                pure=False, workers=[workers[lane]], allow_other_workers=True,
            )  # fmt: skip
            every.append(lanes[lane])
        self._wait(every, rows, progress, kept=lanes)
        del every
        return self._added_up(lanes, n_places=rows.n_places)

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
        parts = self._parts(rows, block_rows)
        self._check_memory(
            part_scores_bytes(
                n=max(part.n for part, _ in parts),
                d=rows.blocks.shape[1],
                ranks=maps.ranks,
                n_classes=rows.n_classes,
                n_folds=rows.n_folds,
                block_rows=block_rows,
                n_finalists=len(finalists),
                n_kept=len(kept),
            ),
            what="to score the rows that were left out",
        )
        devices = self._devices(device)
        shared = self.client.scatter(maps.to(_HERE).bare(), broadcast=True, hash=False)
        # Coefficients go one fit after the other: what is under way is here once more, since the scheduler of
        # workers on this machine is a part of this process. Arrays travel without a copy of them being made;
        # tensors are copied several times.
        sent = [
            self.client.scatter((index, beta.cpu().numpy()), broadcast=True, hash=False)
            for index, beta in finalists
        ]
        stored, tasks = self._send_stored(rows.blocks), []
        for part, first in parts:
            mine = kept[(kept >= first) & (kept < first + part.n)] - first
            tasks.append(
                self.client.submit(
                    _left_out_of, part, stored, shared, sent, mine, block_rows, devices, pure=False
                )
            )
        self._wait(tasks, rows, progress, kept=tasks)
        by_part: list[list[OutOfFold]] = self._gather(tasks)
        return [
            OutOfFold(
                correct=sum(each.correct for each in of_one),
                squared_error=sum(each.squared_error for each in of_one),
                scores=np.concatenate([each.scores for each in of_one]),
            )
            for of_one in zip(*by_part, strict=True)
        ], kept

    def _added_up(self, lanes: list[Any], *, n_places: int) -> list[FoldSums]:
        """Fetch the sums of all lanes and add them up; the lanes are let go.

        One fold comes at a time, so that little is here beside the total.
        """
        total: list[FoldSums] = []
        while lanes:
            for place in range(n_places):
                task = self.client.submit(_sums_of_fold, lanes[0], place, pure=False)
                found = self._gather([task])[0]
                # The worker lets go of what is here.
                del task
                if not total:
                    total = [_no_sums(n_places, arrays) for arrays in found]
                for sums, (gram, cross, square) in zip(total, found, strict=True):
                    sums.gram[place] += _tensor(gram)
                    sums.cross[place] += _tensor(cross)
                    sums.square[place] += float(square)
            del lanes[0]
        return total

    def _send_stored(self, blocks: Blocks) -> Any:
        """Send what reads rows in a store to every worker, once for all parts; None for rows in memory.

        The numbers of a million rows would otherwise travel, and wait here, with each part.
        """
        if isinstance(blocks, ArrayBlocks):
            return None
        return self.client.scatter(blocks, broadcast=True, hash=False)

    def _devices(self, device: torch.device) -> list[str]:
        """Return the devices that workers share out by their numbers; of one device, all workers take it."""
        return list_devices(str(device)) if self.is_local else [str(device)]

    def _workers(self) -> list[str]:
        """Return the addresses of the workers, in an order that does not depend on who came first."""
        return sorted(self.client.scheduler_info(n_workers=-1)["workers"])

    def _parts(self, rows: TrainingRows, block_rows: int) -> list[tuple[TrainingRows, int]]:
        """Cut the rows into parts of about equal size; return each with the number of its first row."""
        count = PARTS_PER_WORKER * max(1, len(self._workers()))
        # Where there are many blocks, parts begin where blocks of a serial pass begin: products of blocks of
        # other sizes may differ in their last bits.
        step = block_rows if rows.n >= 4 * count * block_rows else 1
        steps = -(-rows.n // step)
        cuts = np.linspace(0, steps, min(steps, count) + 1).astype(int) * step
        cuts[-1] = rows.n
        return [(_part(rows, start, stop), start) for start, stop in pairwise(cuts.tolist())]

    def _check_memory(self, needed: int, *, what: str) -> None:
        """Refuse work that needs more memory than a worker may take beside what it takes already."""
        for address, worker in self.client.scheduler_info(n_workers=-1)["workers"].items():
            limit, taken = worker["memory_limit"], worker.get("metrics", {}).get("memory", 0)
            # A worker without a limit of dask's says 0 or None.
            if limit and taken + needed > limit:
                raise InputError(
                    f"dask worker {address} needs about {shown_bytes(needed)} of memory {what}, and takes "
                    f"{shown_bytes(taken)} already; its limit is {shown_bytes(limit)}: give it more (dask "
                    "worker --memory-limit), start fewer workers, or take fewer --centers (n_centers)"
                )

    def _wait(
        self,
        parts: Sequence[object],
        rows: TrainingRows,
        progress: Callable[[int], None] | None,
        *,
        kept: Sequence[object],
    ) -> None:
        """Wait for the parts to finish and report their rows to `progress`; results not kept are let go."""
        for number, _ in enumerate(each_finished(parts, kept=kept)):
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
        # read by the worker itself, see `_send_stored`.
        blocks=(
            ArrayBlocks(np.asarray(blocks.values[start:stop]))
            if isinstance(blocks, ArrayBlocks)
            else RowRange(blocks, start, stop).of(None)
        ),
        codes=rows.codes[start:stop],
        weights=rows.weights[start:stop],
        folds=rows.folds[start:stop],
        targets=None if rows.targets is None else rows.targets.part(start, stop),
        offset=rows.offset + start,
        cluster=None,
    )


def _read_here(part: TrainingRows, stored: Blocks | None) -> TrainingRows:
    """Return a part whose rows are read by what was sent to this worker, if they lie in a store."""
    if stored is None:
        return part
    assert isinstance(part.blocks, RowRange)
    return replace(part, blocks=part.blocks.of(stored))


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


# Sums as they travel: arrays, of which dask makes no copies as it does of tensors.
Arrays = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _sums_of(
    part: TrainingRows,
    stored: Blocks | None,
    maps: Maps,
    wanted: list[int],
    is_raw: list[bool],
    block_rows: int,
    devices: list[str],
    earlier: list[Arrays] | None,
) -> list[Arrays]:
    """Sum one part, on a worker, and add the sums of earlier parts."""
    with _own_device(devices) as device:
        part = _read_here(part, stored)
        found = take_sums(part, maps.to(device), wanted, is_raw=is_raw, block_rows=block_rows, device=device)
        sums = _add_in_place([each.cpu() for each in found], [_sums_in(each) for each in earlier or []])
    return [(each.gram.numpy(), each.cross.numpy(), each.square.numpy()) for each in sums]


def _sums_of_fold(sums: list[Arrays], place: int) -> list[Arrays]:
    """Return the part of the sums of each map that belongs to one fold, on the worker that holds them."""
    return [(gram[place], cross[place], square[place]) for gram, cross, square in sums]


def _no_sums(n_places: int, fold: Arrays) -> FoldSums:
    """Return sums of no rows, in which the sums of one fold have a place."""
    gram, cross, square = (torch.zeros((n_places, *each.shape), dtype=torch.float64) for each in fold)
    return FoldSums(gram=gram, cross=cross, square=square)


def _sums_in(arrays: Arrays) -> FoldSums:
    """Return the sums in arrays that have travelled, in the same memory."""
    gram, cross, square = (_tensor(each) for each in arrays)
    return FoldSums(gram=gram, cross=cross, square=square)


def _tensor(array: npt.NDArray[np.float64]) -> Tensor:
    # torch warns of memory that must not be written to, whoever writes.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _add_in_place(sums: list[FoldSums], others: list[FoldSums]) -> list[FoldSums]:
    """Add other sums, if there are any, map by map in the memory of the first."""
    for one, other in zip(sums, others, strict=bool(others)):
        one.gram.add_(other.gram)
        one.cross.add_(other.cross)
        one.square.add_(other.square)
    return sums


def _left_out_of(
    part: TrainingRows,
    stored: Blocks | None,
    maps: Maps,
    finalists: list[tuple[int, npt.NDArray[np.float64]]],
    kept: npt.NDArray[np.int64],
    block_rows: int,
    devices: list[str],
) -> list[OutOfFold]:
    """Score one part by the fits that left its folds out, on a worker."""
    with _own_device(devices) as device:
        there = [(index, _tensor(beta).to(device)) for index, beta in finalists]
        return predict_left_out(
            _read_here(part, stored), maps.to(device), there, block_rows=block_rows, device=device, kept=kept
        )[0]
