"""The two passes of the one-pass solver over blocks of training rows.

The first pass sums products of features and targets per fold; every penalty and every fold is then solved
from these sums. The second pass scores each row by the finalists' fits that left its fold out. No other code
of the solver touches data.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.kernels.maps import Maps
from toptune.train.passes.fold_parts import FoldPart, fold_parts
from toptune.train.passes.peak_memory import SCORED_COLUMNS, scoring_rows
from toptune.train.passes.sums import FoldSums, PassTargets, SumsBuilder
from toptune.train.passes.training_rows import OutOfFold, TrainingRows, batches
from toptune.train.rows.block_reading import sent_ahead


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
    """Sum, in one pass over the rows, ``w z z^T`` and ``w z y^T`` of each wanted map in each fold.

    z is ``(phi, 1)``: the features and a 1 for the intercept; y is the target and w the weight of a
    row.

    Parameters
    ----------
    rows : TrainingRows
        Rows with classes, weights and folds. If they name a cluster, its workers do the pass.
    maps : Maps
    wanted : sequence of int
        Numbers of the maps to sum for.
    block_rows : int
        Rows of a block.
    device : torch.device
        Where features are computed and summed; of a cluster's worker, see `toptune.train.passes.dask_passes`.
    keep_raw : bool
        Whether sums that were taken over kernel values stay as they are; by default they are whitened.
    seconds : dict, optional
        Takes up the seconds of each phase: reading (waiting for it), kernel, whitening, products. On CUDA,
        where work is only queued, only their total means anything.
    progress : callable, optional
        Called with the number of rows of each block that is done.

    Returns
    -------
    list of FoldSums
        In the order of `wanted`.

    Raises
    ------
    InputError
        If a value of the rows is not finite.

    Examples
    --------
    The sums of two rows in two folds; the last row of a Gram matrix has the sum of the features and the
    weight.

    >>> import numpy as np
    >>> from toptune.store.features.blocks import ArrayBlocks
    >>> from toptune.train.kernels.maps import IdentityMap
    >>> rows = TrainingRows(
    ...     blocks=ArrayBlocks(np.array([[2.0], [3.0]])),
    ...     codes=np.array([0, 1]),
    ...     weights=np.ones(2),
    ...     folds=np.array([0, 1]),
    ...     n_classes=2,
    ...     n_folds=2,
    ... )
    >>> (sums,) = accumulate(rows, IdentityMap(1), [0], block_rows=1, device=torch.device("cpu"))
    >>> sums.gram.tolist()
    [[[4.0, 2.0], [2.0, 1.0]], [[9.0, 3.0], [3.0, 1.0]]]
    """
    # Maps with a factor are summed over kernel values, which costs no whitening of rows; the sums are
    # whitened at the end.
    factors = [maps.raw_factor(index, n=rows.n) for index in wanted]
    is_raw = [factor is not None for factor in factors]
    if rows.cluster is not None:
        found = rows.cluster.accumulate(
            rows, maps, wanted, is_raw=is_raw, block_rows=block_rows, device=device, progress=progress
        )
    else:
        found = take_sums(
            rows, maps, wanted, is_raw=is_raw, block_rows=block_rows, device=device, seconds=seconds,
            progress=progress,
        )  # fmt: skip
    sums = [
        replace(
            each.to(device),
            factor=factor,
            product=None if factor is None else maps.take_metric(index),
            has_aside=rows.has_aside,
        )
        for each, factor, index in zip(found, factors, wanted, strict=True)
    ]
    if keep_raw:
        return sums
    with PhaseWatch(seconds).phase("whitening"):
        return [each.whitened() for each in sums]


def take_sums(
    rows: TrainingRows,
    maps: Maps,
    wanted: Sequence[int],
    *,
    is_raw: Sequence[bool],
    block_rows: int,
    device: torch.device,
    seconds: dict[str, float] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[FoldSums]:
    """Read the rows once and sum, for `accumulate`; parameters beside `is_raw` are those of `accumulate`.

    Parameters
    ----------
    is_raw : sequence of bool
        Whether the sums of each wanted map are over its basis in place of its features.
    """
    targets = PassTargets.of(
        rows.codes, rows.weights, rows.folds, n_folds=rows.n_places, n_classes=rows.n_classes, device=device,
        targets=rows.targets,
    )  # fmt: skip
    builders = [SumsBuilder(targets, rank=maps.ranks[index]) for index in wanted]
    watch = PhaseWatch(seconds)
    for where, values in watch.each("reading", batches(
        rows, block_rows=block_rows, dtype=maps.dtype, device=device
    )):  # fmt: skip
        bases, parts = maps.basis(values, wanted), fold_parts(rows.folds[where], device)
        for builder, index, is_basis in zip(builders, wanted, is_raw, strict=True):
            with watch.phase("kernel"):
                phi = next(bases)
            if not is_basis:
                with watch.phase("whitening"):
                    phi = maps.whitened(index, phi)
            with watch.phase("products"):
                builder.add(phi, where, parts)
            # Release these features before the next map's are made, so that only one set is in memory.
            del phi
        if progress is not None:
            progress(where.stop - where.start)
    with watch.phase("products"):
        return [builder.result() for builder in builders]


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
    """Score, in a second pass, every validated row by the fit that left its fold out.

    Parameters
    ----------
    rows : TrainingRows
    maps : Maps
    finalists : sequence of (int, Tensor)
        Number of the map and coefficients (n_folds, r + 1, n_classes) of its basis, the intercept last.
    block_rows : int
        Rows of a block.
    device : torch.device
    kept : ndarray of int64, optional
        Rows whose scores are kept, ascending; by default `TrainingRows.calibration_rows`.
    progress : callable, optional
        Called with the number of rows of each block that is done.

    Returns
    -------
    list of OutOfFold
        One per finalist.
    ndarray of int64
        The rows whose scores are kept.
    """
    if rows.cluster is not None:
        return rows.cluster.predict_left_out(
            rows, maps, finalists, block_rows=block_rows, device=device, progress=progress
        )
    kept = rows.calibration_rows() if kept is None else kept
    # What is found of the finalists stays on the device until the end, so that no block is waited for.
    found = [_Found.nothing(len(kept), rows.n_classes, device) for _ in finalists]
    weights = torch.from_numpy(rows.validated_weights).to(device)
    codes = None if rows.targets is not None else torch.from_numpy(rows.codes).to(device)
    wanted = sorted({index for index, _ in finalists})
    of_map = {index: [at for at, (its, _) in enumerate(finalists) if its == index] for index in wanted}
    # Narrow finalists of one map stand side by side, so that one product with its basis scores them all.
    abreast = max(1, SCORED_COLUMNS // rows.n_classes)
    beside = {
        index: [
            (some, _side_by_side([finalists[at][1] for at in some]))
            for some in (members[at : at + abreast] for at in range(0, len(members), abreast))
        ]
        for index, members in of_map.items()
    }
    for where, values in batches(rows, block_rows=block_rows, dtype=maps.dtype, device=device):
        for index, basis in zip(wanted, maps.basis(values, wanted), strict=True):
            step = scoring_rows(n_classes=rows.n_classes, n_fits=min(abreast, len(of_map[index])))
            for start in range(where.start, where.stop, step):
                some = slice(start, min(start + step, where.stop))
                # Only the scores of rows kept for calibration are kept; the others end in two sums.
                first, last = np.searchsorted(kept, [some.start, some.stop])
                local = sent_ahead(torch.from_numpy(kept[first:last] - some.start), device)
                w = weights[some]
                if codes is None:
                    targets = sent_ahead(rows.known_targets(some), device)
                else:
                    targets = torch.nn.functional.one_hot(codes[some], rows.n_classes).double()
                part = basis[some.start - where.start : some.stop - where.start]
                of_folds = fold_parts(rows.folds[some], device)
                for members, beta in beside[index]:
                    scores = _scores_left_out(part, of_folds, beta)
                    for at, mine in zip(members, torch.split(scores, rows.n_classes, dim=1), strict=True):
                        if codes is not None:
                            found[at].correct += w @ (mine.argmax(dim=1) == codes[some]).double()
                        elif rows.have_labels:
                            found[at].correct += w @ share_right(mine, targets)
                        # No score is wrong where a label is unknown, NaN.
                        found[at].squared_error += w @ (targets - mine).square_().nansum(dim=1)
                        found[at].scores[first:last] = mine[local]
        if progress is not None:
            progress(where.stop - where.start)
    return [each.fetched() for each in found], kept


@dataclass(kw_only=True)
class _Found:
    """An `OutOfFold` that still lies on the device."""

    correct: Tensor
    squared_error: Tensor
    scores: Tensor

    @classmethod
    def nothing(cls, n_kept: int, n_classes: int, device: torch.device) -> "_Found":
        correct, squared_error = torch.zeros((2, 1), dtype=torch.float64, device=device)
        scores = torch.empty((n_kept, n_classes), dtype=torch.float32, device=device)
        return cls(correct=correct, squared_error=squared_error, scores=scores)

    def fetched(self) -> OutOfFold:
        return OutOfFold(
            correct=float(self.correct),
            squared_error=float(self.squared_error),
            scores=self.scores.cpu().numpy(),
        )


def share_right(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the share (b,) of the known labels of each row that scores (b, n_labels) above a half decide."""
    is_known = torch.isfinite(targets)
    is_right = ((scores > 0.5) == (targets > 0.5)) & is_known
    return is_right.double().sum(dim=1) / is_known.double().sum(dim=1).clamp_(min=1.0)


def _side_by_side(betas: Sequence[Tensor]) -> Tensor:
    """Put coefficients (n_folds, r + 1, n_classes) side by side; those of one fit are not copied."""
    return betas[0] if len(betas) == 1 else torch.cat(list(betas), dim=2)


def _scores_left_out(basis: Tensor, parts: Sequence[FoldPart], beta: Tensor) -> Tensor:
    """Score a block: each row by the coefficients that were fitted without its fold.

    Parameters
    ----------
    basis : Tensor, shape (b, r)
    parts : sequence of FoldPart
        The rows of each fold within the block.
    beta : Tensor, shape (n_folds, r + 1, k)
        Coefficients, the intercept last; k is n_classes times the number of finalists.

    Returns
    -------
    Tensor, shape (b, k)
        Scores; 0 for rows of no fold, which take no part in cross-validation.
    """
    # One product per fold, because the coefficients differ by fold.
    scores = basis.new_zeros((len(basis), beta.shape[2]))
    for part in parts:
        if part.fold < len(beta):
            scores[part.there] = basis[part.there] @ beta[part.fold, :-1] + beta[part.fold, -1]
    return scores


Item = TypeVar("Item")


class PhaseWatch:
    """Adds the wall-clock seconds of named phases to a mapping, if there is one."""

    def __init__(self, seconds: dict[str, float] | None) -> None:
        self.seconds = {} if seconds is None else seconds

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of the enclosed block under a name."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items and count the seconds spent on producing the items, without the work of the caller."""
        source = iter(items)
        while True:
            with self.phase(name):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item
