"""Ridge regression of labels of which some are unknown: such a row has no part in the loss of its label.

Every label then has a system of its own, over the rows of which it is known. None is formed: the systems
differ little from the one of all rows, whose factor preconditions a conjugate gradient iteration. All labels,
and the fits that leave out a fold, share each product, which is a pass over the rows. Width and penalty are
chosen before, from sums in which the mean of a label stands for what is unknown of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import NumericalError
from toptune.train.kernels.maps import Maps
from toptune.train.numerics.cholesky import cholesky_with_jitter, solve_factored
from toptune.train.numerics.conjugate_gradient import conjugate_gradient
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.passes.training_rows import TrainingRows, batches
from toptune.train.rows.block_reading import sent_ahead
from toptune.train.solvers.one_pass import Solution

Numbers = npt.NDArray[np.int64]

TOLERANCE = 1e-9
MAX_ITERATIONS = 200
# Columns, of labels and folds, that share a pass; a block of rows has a weight for each of them.
_COLUMNS = 512
_NO_FOLD = -1


@dataclass(frozen=True, kw_only=True)
class _Systems:
    """The systems of some columns, each of a label and a fold that its fit leaves out.

    Attributes
    ----------
    rows : TrainingRows
    maps : Maps
    index : int
        Number of the map.
    labels, folds : Tensor of int64, shape (k,)
        Label and fold of each column; fold -1 leaves nothing out.
    penalty : float
    factor : Tensor of float64, shape (r + 1, r + 1)
        Lower factor of the system of all rows.
    shift : Tensor of float64, shape (k,)
        What is added to the diagonal of each column's system, the intercept's place excepted.
    block_rows : int
    device : torch.device
    """

    rows: TrainingRows
    maps: Maps
    index: int
    labels: Tensor
    folds: Tensor
    penalty: float
    factor: Tensor
    shift: Tensor
    block_rows: int
    device: torch.device

    def product(self, v: Tensor, numbers: Tensor) -> Tensor:
        """Multiply columns (r + 1, k) by their systems, in one pass."""
        result = v * self.shift[numbers]
        result[-1] = 0.0
        for phi, weights, _ in self.blocks(numbers):
            scores = torch.addmm(v[-1], phi, v[:-1]).mul_(weights)
            result[:-1].addmm_(phi.T, scores)
            result[-1] += scores.sum(dim=0)
        return result

    def right(self) -> Tensor:
        """Return the right-hand sides (r + 1, k) of all columns."""
        everything = torch.arange(len(self.labels), device=self.device)
        result = self.factor.new_zeros((len(self.factor), len(self.labels)))
        for phi, weights, targets in self.blocks(everything):
            weighted = weights.mul_(targets)
            result[:-1].addmm_(phi.T, weighted)
            result[-1] += weighted.sum(dim=0)
        return result

    def precondition(self, v: Tensor, _numbers: Tensor) -> Tensor:
        """Solve the system of all rows for columns (r + 1, k)."""
        return solve_factored(self.factor, v)

    def blocks(self, numbers: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield features (b, r), weights (b, k) and targets (b, k) of blocks for some of the columns."""
        labels, folds = self.labels[numbers], self.folds[numbers]
        of_rows = torch.from_numpy(self.rows.weights)
        for where, values in batches(
            self.rows, block_rows=self.block_rows, dtype=self.maps.dtype, device=self.device
        ):
            (phi,) = self.maps.features(values, [self.index])
            targets = sent_ahead(self.rows.known_targets(where), self.device)[:, labels]
            own = sent_ahead(torch.from_numpy(self.rows.folds[where]), self.device)
            is_used = torch.isfinite(targets) & (own[:, None] != folds)
            weights = sent_ahead(of_rows[where], self.device)[:, None] * is_used
            yield phi, weights, targets.nan_to_num_(0.0)


def with_known_labels(
    solution: Solution, rows: TrainingRows, maps: Maps, *, block_rows: int, device: torch.device
) -> Solution:
    """Fit the labels of which some are unknown anew, each to the rows of which it is known.

    Parameters
    ----------
    solution : Solution
        A fit in which the mean of a label stood for what is unknown of it; its map and penalty stay.
    rows : TrainingRows
    maps : Maps
    block_rows : int
    device : torch.device

    Returns
    -------
    Solution
        With other coefficients, left-out scores and sigmoids. The penalty is per known row of each label, as
        it would be if the label were fitted alone.

    Raises
    ------
    NumericalError
        If the iteration does not converge.
    """
    assert rows.targets is not None
    assert solution.sums is not None
    # The least of values of which one is NaN is NaN.
    labels = np.flatnonzero(np.isnan(rows.targets.values.min(axis=0)))
    # With one fold nothing is left out.
    folds: list[int] = [_NO_FOLD, *(range(rows.n_folds) if rows.n_folds > 1 else ())]
    total = solution.sums.total().whitened()
    gram, penalty = total.gram[0].clone(), solution.chosen.penalty
    gram.diagonal()[:-1] += float(total.weights[0]) * penalty
    factor, _ = cholesky_with_jitter(gram, what="the system of all rows")
    betas = torch.stack([solution.beta] * len(folds))
    step = max(1, _COLUMNS // len(folds))
    for first in range(0, len(labels), step):
        some = labels[first : first + step]
        columns = np.repeat(some, len(folds)), np.tile(folds, len(some))
        systems = _Systems(
            rows=rows, maps=maps, index=solution.map_index, penalty=penalty, factor=factor,
            labels=torch.from_numpy(columns[0]).to(device), folds=torch.from_numpy(columns[1]).to(device),
            shift=_shifts(rows, *columns, penalty=penalty).to(device), block_rows=block_rows, device=device,
        )  # fmt: skip
        found = conjugate_gradient(
            systems.product, systems.precondition, systems.right(), tolerance=TOLERANCE,
            max_iterations=MAX_ITERATIONS,
        )  # fmt: skip
        if float(found.residuals.max()) > 1e-4:
            raise NumericalError(
                f"the fit of labels that are unknown in some rows has not converged ({found.reason} at a "
                f"relative residual of {float(found.residuals.max()):.1e}); raise the penalty"
            )
        betas[:, :, some] = found.value.view(len(betas[0]), len(some), len(folds)).permute(2, 0, 1)
    found_sigmoids, left = solution.sigmoids, solution.left_out
    if left is not None:
        left = _left_out(left, rows, maps, solution.map_index, betas[1:, :, labels], labels, device)
        fitted = rows.calibration(left, rows.calibration_rows())
        assert isinstance(fitted, Sigmoids)
        found_sigmoids = fitted
    return replace(
        solution,
        beta=betas[0],
        left_out=left,
        sigmoids=found_sigmoids,
        # Sums in which means stand for what is unknown would give another fit.
        sums=None,
    )


def _shifts(rows: TrainingRows, labels: Numbers, folds: Numbers, *, penalty: float) -> Tensor:
    """Return the penalty times the weight of the rows of each column's fit (k,)."""
    assert rows.targets is not None
    n_places = rows.n_folds
    by_fold = np.zeros((n_places, rows.n_classes))
    for some in rows.targets.parts_of_rows():
        known = rows.weights[some, None] * np.isfinite(rows.targets.values[some])
        np.add.at(by_fold, rows.folds[some], known)
    total = by_fold.sum(axis=0)[labels]
    out = np.where(folds == _NO_FOLD, 0.0, by_fold[np.maximum(folds, 0), labels])
    weights = total - out
    # A label of which nothing is known outside a fold has scores of 0 there.
    return torch.from_numpy(np.where(weights > 0, weights * penalty, 1.0))


def _left_out(
    scores: npt.NDArray[np.float32],
    rows: TrainingRows,
    maps: Maps,
    index: int,
    betas: Tensor,
    labels: Numbers,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Return left-out scores (n_kept, n_labels) in which those of some labels are by their own fits."""
    kept, scores = rows.calibration_rows(), scores.copy()
    values = torch.from_numpy(rows.blocks.take(kept)).to(device=device, dtype=maps.dtype)
    folds = rows.folds[kept]
    for fold in np.unique(folds).tolist():
        mine = np.flatnonzero(folds == fold)
        (phi,) = maps.features(values[torch.from_numpy(mine).to(device)], [index])
        found = torch.addmm(betas[fold, -1], phi, betas[fold, :-1])
        scores[np.ix_(mine, labels)] = found.float().cpu().numpy()
    return scores
