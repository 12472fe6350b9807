"""A head that is not part of the package, added in the way that docs/develop/add-a-head.md shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from toptune.errors import InputError
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.estimators.settings_comparison import compare, score_left_out
from toptune.train.heads.kind import HeadKind, NativeForm
from toptune.train.heads.problem_size import ProblemSize
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import check_finite
from toptune.train.rows.grids import values_of
from toptune.train.rows.inputs import predict_inputs

Matrix = npt.NDArray[np.float64]
SHARES = (0.0, 0.3, 0.6)


class ToyClassifier(ScoredClassifier):
    """Score a row by its nearness to the mean of each class, where means are drawn toward that of all rows.

    Parameters
    ----------
    share : float, sequence of float or None
        How far means are drawn, from 0 (not at all) to below 1. A sequence is compared; None is `SHARES`.
    cv : int or "leave-one-group-out"
        Folds of the comparison.
    random_state : int, RandomState or None
        Seed of the folds.
    memory_limit_bytes : int or None
        Refuse a fit whose projected peak is above; None is half of the machine's memory.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    means_ : ndarray of float64, shape (n_classes, d)
    share_, temperature_ : float
    report_ : HeadReport
    """

    def __init__(
        self,
        share: float | Sequence[float] | None = None,
        cv: int | str = 5,
        random_state: Any = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.share = share
        self.cv = cv
        self.random_state = random_state
        self.memory_limit_bytes = memory_limit_bytes

    def _check(self) -> None:
        for share in values_of(self.share, SHARES, "share"):
            if not 0 <= share < 1:
                raise InputError(f"share is {share!r}; it must be from 0 to below 1")

    def _fit(self, given: FitInputs) -> None:
        rows, d = given.rows, given.rows.blocks.shape[1]
        shares = values_of(self.share, SHARES, "share")
        peak_bytes = 8 * d * rows.n_classes * (rows.n_places + 4) * len(shares) + 8 * rows.n * d
        what = f"toy on {rows.n} rows of {d} features"
        given.check_memory(peak_bytes, what=what, instead="take fewer layers")
        # One place more than folds, for rows that only the final fit sees.
        counts = np.zeros((rows.n_places, rows.n_classes))
        sums = np.zeros((*counts.shape, d))
        for where, values in rows.blocks.iterate():
            check_finite(values, start=where.start)
            np.add.at(sums, (rows.folds[where], rows.codes[where]), values)
            np.add.at(counts, (rows.folds[where], rows.codes[where]), 1)
        left = score_left_out(left_out_scores(rows, sums, counts, shares), rows, n_settings=len(shares))
        settings = [{"share": share} for share in shares]
        compared = compare(settings, left, rows)
        self.share_, self.temperature_ = compared.chosen["share"], compared.temperature
        self.means_ = means_of(sums.sum(axis=0), counts.sum(axis=0), self.share_)
        self.report_ = compared.report(
            rows,
            solver="means of the classes, drawn toward the mean of all rows",
            calibration="softmax of scores with one temperature fitted out of fold",
            peak_bytes=peak_bytes,
            seconds={"total": given.seconds},
        )

    def scores(self, X: Any) -> Matrix:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        check_is_fitted(self)
        blocks = predict_inputs(self, X)
        result = np.empty((blocks.shape[0], len(self.means_)))
        for where, values in blocks.iterate():
            check_finite(values, start=where.start)
            result[where] = nearness(values.astype(np.float64), self.means_)
        return result


def means_of(sums: Matrix, counts: Matrix, share: float) -> Matrix:
    """Return the means (n_classes, d) of the classes, drawn toward the mean of all rows."""
    means: Matrix = sums / np.maximum(counts, 1)[:, None]
    drawn: Matrix = (1 - share) * means + share * sums.sum(axis=0) / counts.sum()
    return drawn


def nearness(values: Matrix, means: Matrix) -> Matrix:
    """Return minus half the squared distances (b, n_classes), but for the part that all classes share."""
    near: Matrix = values @ means.T - np.square(means).sum(axis=1) / 2
    return near


def left_out_scores(
    rows: TrainingRows, sums: Matrix, counts: Matrix, shares: Sequence[float]
) -> Iterator[tuple[slice, list[Matrix]]]:
    """Yield the scores of each block's rows for each share, by the means without the rows' own fold."""
    total, number = sums[: rows.n_folds].sum(axis=0), counts[: rows.n_folds].sum(axis=0)
    for where, values in rows.blocks.iterate():
        block, folds = values.astype(np.float64), rows.folds[where]
        scores = [np.zeros((len(block), rows.n_classes)) for _ in shares]
        for fold in np.unique(folds[folds < rows.n_folds]):
            mine = folds == fold
            for result, share in zip(scores, shares, strict=True):
                means = means_of(total - sums[fold], number - counts[fold], share)
                result[mine] = nearness(block[mine], means)
                # A class of which no fit without a fold knows a row comes last.
                result[np.ix_(mine, number == 0)] = result[mine].min(axis=1, keepdims=True) - 1
        yield where, scores


def toy_work(size: ProblemSize) -> float:
    return 8 * size.n * size.d * size.n_classes


class ToyScores(nn.Module):
    """The scores of `ToyClassifier`, as tensor operations."""

    means: Tensor

    def __init__(self, estimator: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("means", torch.from_numpy(np.array(estimator.means_)).to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        return rows.to(self.means.dtype) @ self.means.T - self.means.square().sum(dim=1) / 2


TOY = HeadKind(
    name="toy",
    form=NativeForm(
        estimator="toy_head:ToyClassifier",
        arrays=("means",),
        values=("share",),
        takes_device=False,
    ),
    parameters=("share",),
    takes_class_weight=False,
    place=0,
    work=toy_work,
    scores_module="toy_head:ToyScores",
)
