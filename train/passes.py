"""Passes over blocks of training rows: the only places where the one-pass solver touches data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.store.features.blocks import Blocks
from toptune.train.calibration import CALIBRATION_ROWS
from toptune.train.maps import Maps
from toptune.train.phase_watch import PhaseWatch
from toptune.train.reading import read_ahead
from toptune.train.sums import FoldSums, SumsBuilder


class Cluster(Protocol):
    """Workers among which the passes are divided."""

    def accumulate(
        self,
        rows: "TrainingRows",
        maps: Maps,
        wanted: Sequence[int],
        *,
        block_rows: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[FoldSums]:
        """Do what `accumulate` does."""
        ...

    def predict_left_out(
        self,
        rows: "TrainingRows",
        maps: Maps,
        finalists: Sequence[tuple[int, Tensor]],
        *,
        block_rows: int,
        progress: Callable[[int], None] | None = None,
    ) -> "tuple[list[OutOfFold], npt.NDArray[np.int64]]":
        """Do what `predict_left_out` does."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Rows to train on and what is known of each: class, weight and fold.

    Attributes
    ----------
    blocks : Blocks
        Features, shape (n, d).
    codes : ndarray of int64, shape (n,)
        Class of each row, 0 to n_classes - 1.
    weights : ndarray of float64, shape (n,)
        Weight in the loss, mean 1.
    folds : ndarray of int64, shape (n,)
        Fold of each row, 0 to n_folds - 1.
    offset : int
        Number of the first row, for messages.
    cluster : Cluster, optional
        Workers that do the passes in place of this process.
    """

    blocks: Blocks
    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    folds: npt.NDArray[np.int64]
    n_classes: int
    n_folds: int
    offset: int = 0
    cluster: "Cluster | None" = None

    @property
    def n(self) -> int:
        return len(self.codes)


def batches(
    rows: TrainingRows, *, block_rows: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Do what `read_ahead` does with training rows."""
    return read_ahead(rows.blocks, block_rows=block_rows, dtype=dtype, device=device, offset=rows.offset)


def accumulate(
    rows: TrainingRows,
    maps: Maps,
    wanted: Sequence[int],
    *,
    block_rows: int,
    device: torch.device,
    keep_raw: bool = False,
    seconds: dict[str, float] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[FoldSums]:
    """One pass: the sums of each wanted map.

    Parameters
    ----------
    keep_raw : bool
        Return sums over kernel values as they are where those were taken, not whitened.
    seconds : dict, optional
        Takes up what each phase cost: reading (waiting for it), kernel, whitening, products. On CUDA, where
        work is only queued, only their sum means anything.

    Returns
    -------
    list of FoldSums
        In the order of `wanted`.
    """
    if rows.cluster is not None:
        return rows.cluster.accumulate(rows, maps, wanted, block_rows=block_rows, progress=progress)
    factors = [maps.raw_factor(index, n=rows.n) for index in wanted]
    builders = [
        SumsBuilder(
            n_folds=rows.n_folds,
            rank=maps.ranks[index],
            n_classes=rows.n_classes,
            n_rows=rows.n,
            device=device,
        )
        for index in wanted
    ]
    codes, weights, folds = (
        torch.from_numpy(each).to(device) for each in (rows.codes, rows.weights, rows.folds)
    )
    watch = PhaseWatch(seconds)
    for where, values in watch.each("reading", batches(
        rows, block_rows=block_rows, dtype=maps.dtype, device=device
    )):  # fmt: skip
        bases = maps.basis(values, wanted)
        for builder, index, factor in zip(builders, wanted, factors, strict=True):
            with watch.phase("kernel"):
                phi = next(bases)
            if factor is None:
                with watch.phase("whitening"):
                    phi = maps.whitened(index, phi)
            with watch.phase("products"):
                builder.add(phi, codes[where], weights[where], folds[where])
            # Nothing holds them while the next are made.
            del phi
        if progress is not None:
            progress(where.stop - where.start)
    with watch.phase("products"):
        sums = [
            replace(
                builder.result(), factor=factor, product=None if factor is None else maps.take_metric(index)
            )
            for builder, factor, index in zip(builders, factors, wanted, strict=True)
        ]
    if keep_raw:
        return sums
    with watch.phase("whitening"):
        return [each.whitened() for each in sums]


@dataclass(kw_only=True)
class OutOfFold:
    """What one finalist's left-out predictions amount to.

    Attributes
    ----------
    correct, squared_error : float
        Weighted sums over all rows.
    scores : ndarray of float32, shape (n_kept, n_classes)
        Left-out scores of the rows kept for calibration.
    """

    correct: float
    squared_error: float
    scores: npt.NDArray[np.float32]


def predict_left_out(
    rows: TrainingRows,
    maps: Maps,
    finalists: Sequence[tuple[int, Tensor]],
    *,
    block_rows: int,
    device: torch.device,
    kept: npt.NDArray[np.int64] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[OutOfFold], npt.NDArray[np.int64]]:
    """Second pass: every row scored by the fit that left its fold out.

    Parameters
    ----------
    finalists : sequence of (int, Tensor)
        Index of the map and coefficients (n_folds, r + 1, n_classes) of its basis, intercept last.
    kept : ndarray of int64, optional
        Rows whose scores are kept, ascending; by default `calibration_rows`.

    Returns
    -------
    list of OutOfFold
        One a finalist.
    ndarray of int64
        The rows whose scores are kept.
    """
    if rows.cluster is not None:
        return rows.cluster.predict_left_out(rows, maps, finalists, block_rows=block_rows, progress=progress)
    kept = calibration_rows(rows.n) if kept is None else kept
    results = [
        OutOfFold(correct=0.0, squared_error=0.0, scores=np.empty((len(kept), rows.n_classes), np.float32))
        for _ in finalists
    ]
    codes, weights, folds = (
        torch.from_numpy(each).to(device) for each in (rows.codes, rows.weights, rows.folds)
    )
    wanted = sorted({index for index, _ in finalists})
    of_map = {index: [at for at, (its, _) in enumerate(finalists) if its == index] for index in wanted}
    # A map's finalists side by side: one product with its basis scores them all.
    beside = {
        index: torch.cat([finalists[at][1] for at in members], dim=2) for index, members in of_map.items()
    }
    for where, values in batches(rows, block_rows=block_rows, dtype=maps.dtype, device=device):
        first, last = np.searchsorted(kept, [where.start, where.stop])
        local = torch.from_numpy(kept[first:last] - where.start).to(device)
        y, w = codes[where], weights[where]
        targets = torch.nn.functional.one_hot(y, rows.n_classes).double()
        for index, basis in zip(wanted, maps.basis(values, wanted), strict=True):
            scores = _scores_left_out(basis, folds[where], beside[index])
            for at, mine in zip(of_map[index], torch.split(scores, rows.n_classes, dim=1), strict=True):
                results[at].correct += float(w @ (mine.argmax(dim=1) == y).double())
                results[at].squared_error += float(w @ (targets - mine).square_().sum(dim=1))
                results[at].scores[first:last] = mine[local].float().cpu().numpy()
        if progress is not None:
            progress(where.stop - where.start)
    return results, kept


def calibration_rows(n: int) -> npt.NDArray[np.int64]:
    """Rows whose left-out scores a temperature is fitted to: all, or an even spread of `CALIBRATION_ROWS`."""
    return np.unique(np.linspace(0, n - 1, min(n, CALIBRATION_ROWS)).astype(np.int64))


def _scores_left_out(basis: Tensor, folds: Tensor, beta: Tensor) -> Tensor:
    scores = basis.new_empty((len(basis), beta.shape[2]))
    for fold in torch.unique(folds).tolist():
        mine = torch.nonzero(folds == fold)[:, 0]
        scores[mine] = basis[mine] @ beta[fold, :-1] + beta[fold, -1]
    return scores
