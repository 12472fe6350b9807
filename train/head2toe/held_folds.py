"""Moments without each fold, and ridge errors on it, from rows that are held in memory.

For fewer rows than columns this takes less than sums: n d numbers instead of d^2 per fold. Ridge regressions
then use whichever system is smaller, the Gram matrix of the columns or, in the dual form, the linear kernel
of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.head2toe.columns import Columns
from toptune.train.head2toe.fold_moments import Finalist, Fit, SubsetSums, Trials
from toptune.train.head2toe.moments import Moments, RowMoments, solve_shifted
from toptune.train.passes.passes import share_right
from toptune.train.passes.sums import FoldSums
from toptune.train.passes.training_rows import OutOfFold, TrainingRows, batches


class SelectedKernel:
    """The linear kernel of rows on selected columns, updated from one selection to the next.

    Selections without different folds and at neighboring penalties differ in few columns: only these are
    multiplied, to be added or taken away.

    Parameters
    ----------
    values : Tensor of float64, shape (d, n)
        The data, transposed: one column of the data per row.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._kernel = values.new_zeros((values.shape[1], values.shape[1]))
        self._columns: Columns = np.empty(0, np.int64)

    def of(self, columns: Columns) -> Tensor:
        """Return ``X_A X_A^T`` (n, n) for the columns A; the result is overwritten by the next call."""
        # X_B X_B^T = X_A X_A^T + the products of columns that join - those of columns that leave.
        joining = np.setdiff1d(columns, self._columns, assume_unique=True)
        leaving = np.setdiff1d(self._columns, columns, assume_unique=True)
        # More changes than columns: starting anew is cheaper, and drops the rounding gathered so far.
        if len(joining) + len(leaving) >= len(columns):
            self._kernel.zero_()
            joining, leaving = columns, leaving[:0]
        for changing, sign in ((joining, 1), (leaving, -1)):
            if len(changing):
                some = self.values[torch.from_numpy(changing).to(self.values.device)]
                self._kernel.addmm_(some.T, some, alpha=sign)
        self._columns = columns
        return self._kernel


# Sums over every fold, of the columns selected without any of them, may take this many times the memory of
# the rows.
SHARED_SUMS = 2


@dataclass(frozen=True, kw_only=True)
class HeldFolds:
    """`FoldMoments` from rows in memory, in float64; `Trials.fits` are the scores of the rows of a fold.

    Attributes
    ----------
    rows : TrainingRows
    values : Tensor, shape (d, n)
        The data, transposed and centered: one column of the data per row; data rows are ordered by fold.
    targets : Tensor, shape (n, n_classes)
        One-hot targets; of several labels 0 and 1, with the label's mean for what is unknown.
    weights : Tensor, shape (n,)
    bounds : list of (int, int)
        First row of each fold, and the row after its last. Rows that take no part in cross-validation come
        after all folds.
    order : ndarray of int64, shape (n,)
        Number of each row in the data.
    moments : list of RowMoments
        Moments without each fold and, last, of all rows.
    kernel : SelectedKernel
    """

    rows: TrainingRows
    values: Tensor
    targets: Tensor
    weights: Tensor
    bounds: list[tuple[int, int]]
    order: npt.NDArray[np.int64]
    moments: list[RowMoments]
    kernel: SelectedKernel

    @classmethod
    def over(cls, rows: TrainingRows, *, block_rows: int, device: torch.device) -> "HeldFolds":
        """Read the rows in one pass."""
        # With rows ordered by fold, a fold is a slice and needs no copy.
        order = np.argsort(rows.folds, kind="stable")
        place = torch.from_numpy(np.argsort(order)).to(device)
        read = torch.empty(rows.blocks.shape, dtype=torch.float64, device=device)
        for where, block in batches(rows, block_rows=block_rows, dtype=torch.float64, device=device):
            read[place[where]] = block
        targets = rows.targets_of(order).to(device)
        weights = torch.from_numpy(rows.weights[order]).to(device)
        center = (weights / weights.sum()) @ read
        values = (read - center).T.contiguous()
        ends = np.cumsum(np.bincount(rows.folds, minlength=rows.n_folds))[: rows.n_folds]
        bounds = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
        return cls(
            rows=rows,
            values=values,
            targets=targets,
            weights=weights,
            bounds=bounds,
            order=order,
            moments=_moments(values, center, targets, weights, bounds),
            kernel=SelectedKernel(values),
        )

    def without(self, fold: int | None) -> Moments:
        return self.moments[-1 if fold is None else fold]

    def ridge(self, columns: Sequence[Columns], *, is_relative: bool) -> Fit:
        if max(map(len, columns)) > len(self.weights) - max(stop - start for start, stop in self.bounds):
            # More columns than rows in a fit: the dual system is the smaller one.
            return lambda fold, penalties: self._by_kernel(fold, columns[fold], penalties, is_relative)
        # Selections without different folds have most columns in common, so their sums over every fold are
        # shared.
        among = np.unique(np.concatenate(columns))
        if (len(self.bounds) + 1) * len(among) ** 2 > SHARED_SUMS * self.values.numel():
            return lambda fold, penalties: self._by_gram(fold, columns[fold], penalties, is_relative)
        some = self.values[self._positions(among)]
        subsets = SubsetSums(sums=self._sums(some))

        def fit(fold: int, penalties: Sequence[float]) -> Trials:
            of = self._positions(np.searchsorted(among, columns[fold]))
            found = subsets.coefficients(fold, of, penalties, is_relative=is_relative)
            return self._trials(fold, some[of, slice(*self.bounds[fold])].T @ found[:, :-1] + found[:, -1:])

        return fit

    def _by_gram(self, fold: int, columns: Columns, penalties: Sequence[float], is_relative: bool) -> Trials:
        """Solve the ridge regression of one fold from the Gram matrix of the columns."""
        moments, of = self.moments[fold], self._positions(columns)
        unit = (float(moments.variances[of].sum()) or 1.0) if is_relative else 1.0
        found = moments.ridge(of, [unit * penalty for penalty in penalties])
        mine = self.values[of, slice(*self.bounds[fold])] - moments.offset[of, None]
        return self._trials(fold, mine.T @ found + moments.target_means)

    def _positions(self, columns: Columns) -> Tensor:
        """Return columns as a tensor on the device of the values."""
        return torch.from_numpy(columns).to(self.values.device)

    def _sums(self, some: Tensor) -> FoldSums:
        """Sum ``z = (x, 1)`` over every fold, for some columns x, given as (k, n)."""
        k, n_folds = len(some), len(self.bounds)
        gram = some.new_empty((n_folds, k + 1, k + 1))
        cross = some.new_empty((n_folds, k + 1, self.targets.shape[1]))
        square = some.new_empty(n_folds)
        for fold, (start, stop) in enumerate(self.bounds):
            part, weights = some[:, start:stop], self.weights[start:stop]
            scaled = part * weights
            gram[fold, :-1, :-1] = scaled @ part.T
            gram[fold, -1, :-1] = gram[fold, :-1, -1] = scaled.sum(dim=1)
            gram[fold, -1, -1] = weights.sum()
            cross[fold, :-1] = scaled @ self.targets[start:stop]
            cross[fold, -1] = weights @ self.targets[start:stop]
            square[fold] = weights @ self.targets[start:stop].square().sum(dim=1)
        return FoldSums(gram=gram, cross=cross, square=square)

    def _by_kernel(
        self, fold: int, columns: Columns, penalties: Sequence[float], is_relative: bool
    ) -> Trials:
        """Solve the ridge regression of one fold in its dual form, with a coefficient per row outside it."""
        start, stop = self.bounds[fold]
        kernel, moments = self.kernel.of(columns), self.moments[fold]
        others = torch.cat([kernel[:start], kernel[stop:]])
        inner = torch.cat([others[:, :start], others[:, stop:]], dim=1)
        across = others[:, start:stop]
        shares = torch.cat([moments.shares[:start], moments.shares[stop:]])
        targets = torch.cat([moments.targets[:start], moments.targets[stop:]])
        # Centering: <x - m, y - m> = <x, y> - <x, m> - <y, m> + <m, m>. The weighted dual coefficients sum to
        # 0, so that the last two terms, which are equal for all training rows, change no score.
        of_mean = inner @ shares
        half = of_mean - 0.5 * (shares @ of_mean)
        roots = shares.sqrt()
        inner.sub_(half[:, None]).sub_(half).mul_(roots[:, None]).mul_(roots)
        unit = (float(inner.diagonal().sum()) or 1.0) if is_relative else 1.0
        dual = solve_shifted(inner, roots[:, None] * targets, [unit * penalty for penalty in penalties])
        scores = (across - of_mean[:, None]).T @ (roots[:, None] * dual)
        return self._trials(fold, scores + moments.target_means)

    def _trials(self, fold: int, scores: Tensor) -> Trials:
        """Measure scores (n_penalties, b, n_classes) of the rows of a fold by their squared error."""
        mine = slice(*self.bounds[fold])
        errors = (self.targets[mine] - scores).square_().sum(dim=2) @ self.weights[mine]
        return Trials(errors=errors, fits=scores)

    def left_out(self, finalists: Sequence[Finalist]) -> tuple[list[OutOfFold], npt.NDArray[np.int64]]:
        kept = self.rows.calibration_rows()
        n = self.bounds[-1][1]
        targets = self.rows.known_targets(self.order[:n]).to(self.targets.device)
        weights = self.weights[:n]
        results = []
        for finalist in finalists:
            scores = torch.cat([finalist.fits[fold] for fold in sorted(finalist.fits)])
            if self.rows.have_labels:
                hits = share_right(scores, targets)
            else:
                hits = (scores.argmax(dim=1) == targets.argmax(dim=1)).double()
            in_order = np.empty((self.rows.n, scores.shape[1]), np.float32)
            in_order[self.order[:n]] = scores.cpu().numpy()
            results.append(
                OutOfFold(
                    correct=float(weights @ hits),
                    # No score is wrong where a label is unknown, NaN.
                    squared_error=float(weights @ (targets - scores).square_().nansum(dim=1)),
                    scores=in_order[kept],
                )
            )
        return results, kept


def _moments(
    values: Tensor, center: Tensor, targets: Tensor, weights: Tensor, bounds: Sequence[tuple[int, int]]
) -> list[RowMoments]:
    """Return the moments without each fold and, last, of all rows.

    Parameters
    ----------
    values : Tensor, shape (d, n)
        Data less `center`, transposed.
    center : Tensor, shape (d,)
        Means that were subtracted from the columns. Means without a fold are then small beside the
        deviations, so that subtracting them from products loses no digits.
    targets, weights : Tensor, shapes (n, n_classes) and (n,)
    bounds : sequence of (int, int)
        First row of each fold, and the row after its last.
    """
    # Rows behind the last fold, of which there may be none, are in the moments of all rows only.
    n_validated = bounds[-1][1]
    ranges = [*bounds, (n_validated, len(weights))]
    parts = [(weights[start:stop], values[:, start:stop]) for start, stop in ranges]
    sums = torch.stack([part @ weight for weight, part in parts])
    squares = torch.stack([part.square() @ weight for weight, part in parts])
    found = []
    for fold in [*range(len(bounds)), None]:
        shares = weights.clone()
        total, square = sums.sum(dim=0), squares.sum(dim=0)
        if fold is not None:
            shares[slice(*bounds[fold])] = 0
            shares[n_validated:] = 0
            total, square = total - sums[fold] - sums[-1], square - squares[fold] - squares[-1]
        weight = shares.sum()
        shares, offset = shares / weight, total / weight
        target_means = shares @ targets
        centered = targets - target_means
        found.append(
            RowMoments(
                values=values,
                center=center,
                shares=shares,
                offset=offset,
                targets=centered,
                cross=values @ (shares[:, None] * centered),
                variances=square / weight - offset.square(),
                target_means=target_means,
            )
        )
    return found
