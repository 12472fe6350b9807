"""The log-loss of several softmax fits and its gradients: each pass over the rows serves all fits.

A fit has scores ``s_c = <phi - m, v_c> + b_c`` for features phi with mean m, and loses ``-log softmax(s)_y``
on a row of class y. With probabilities p, the gradient is ``sum w (phi - m) (p - y)^T`` for the coefficients
and ``sum w (p - y)`` for the intercepts, y being the one-hot target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.passes.feature_rows import FeatureRows
from toptune.train.passes.kernel_rows import KernelRows

# A class without rows gets this share, so that its intercept starts, and stays, far below the others.
_NO_SHARE = 1e-12
# The number of no fold: a fit with it leaves no row out.
NO_FOLD = -1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss and gradient of one fit at one point, and what the point says of left-out rows.

    Attributes
    ----------
    loss : float
        Weighted mean log-loss, in nats, of the rows fitted to, without the penalty.
    gradient : Tensor of float64, shape (r + 1, n_classes)
        Gradient of that loss.
    left_out_loss, left_out_squares, left_out_correct : float
        Weighted sums over the left-out rows: of the log-loss, of the squared error of the probabilities, and
        of the rows classified correctly.
    """

    loss: float
    gradient: Tensor
    left_out_loss: float
    left_out_squares: float
    left_out_correct: float


class LogisticRows:
    """Rows for softmax regression on whitened, centered features, available as products only.

    A point is (r + 1, n_classes): coefficients of ``phi - mean``, with ``phi = k(x, C) L^-T`` as in
    `CenteredRows`, and the intercepts as the last row. Every fit centers by the mean of all rows, also of
    those it leaves out. This changes no minimum, because the intercept is free, and it removes the coupling
    of coefficients and intercept.

    Parameters
    ----------
    kernel_rows : KernelRows or FeatureRows
        Values of the rows, one block at a time.
    factor : Tensor of float64, shape (r, r), or None
        L, lower triangular; None where the values are features already.

    Attributes
    ----------
    kernel_mean : Tensor of float64, shape (r,)
        Weighted mean of the values.
    n_evaluations : int
        Passes that `evaluate` has made.
    """

    def __init__(self, kernel_rows: KernelRows | FeatureRows, factor: Tensor | None) -> None:
        rows, device = kernel_rows.rows, kernel_rows.device
        self.kernel_rows = kernel_rows
        self.factor = factor
        self.n_classes = rows.n_classes
        self.n_evaluations = 0
        self._weights = torch.from_numpy(rows.weights).to(device)
        self._codes = torch.from_numpy(rows.codes).to(device)
        self._folds = torch.from_numpy(rows.folds).to(device)
        self._is_aside = torch.from_numpy(~rows.is_validated).to(device)
        # Weight of each class in each fold, and of rows of no fold (n_folds + 1, n_classes).
        table = np.zeros((rows.n_folds + 1, rows.n_classes))
        np.add.at(table, (rows.folds, rows.codes), rows.weights)
        self._by_fold = torch.from_numpy(table).to(device)
        self.kernel_mean = torch.zeros(kernel_rows.rank, dtype=torch.float64, device=device)
        for where, block in kernel_rows.blocks():
            self.kernel_mean.addmv_(block.double().T, self._weights[where])
        self.kernel_mean /= float(self._weights.sum())

    @property
    def feature_mean(self) -> Tensor:
        """Weighted mean (r,) of the whitened features."""
        return self._whitened(self.kernel_mean[:, None])[:, 0]

    def class_weights(self, fold: int) -> Tensor:
        """Return the weight of each class (n_classes,) among the rows that a fit without `fold` sees."""
        if fold == NO_FOLD:
            return self._by_fold.sum(dim=0)
        return self._by_fold[:-1].sum(dim=0) - self._by_fold[fold]

    def constant(self, fold: int) -> Tensor:
        """Return the best point (r + 1, n_classes) without features, where descents begin.

        Its coefficients are 0 and its intercepts the logarithms of the classes' shares, less their mean.
        """
        shares = self.class_weights(fold)
        logs = (shares / shares.sum()).clamp_(min=_NO_SHARE).log_()
        point = logs.new_zeros((len(self.kernel_mean) + 1, self.n_classes))
        point[-1] = logs - logs.mean()
        return point

    def start_of(self, points: Sequence[Tensor]) -> Tensor:
        """Return the point (r + 1, n_classes) where a fit to all rows begins: the mean of fits without folds.

        A class that takes no part in cross-validation is in none of these fits. Its intercept begins at its
        share of the rows beside the other classes.
        """
        point = torch.stack(list(points)).mean(dim=0)
        is_aside = self._by_fold[:-1].sum(dim=0) == 0
        if bool(is_aside.any()):
            logs = self.class_weights(NO_FOLD).log()
            point[:, is_aside] = 0
            point[-1, is_aside] = logs[is_aside] + (point[-1] - logs)[~is_aside].mean()
        return point

    def evaluate(self, points: Sequence[Tensor], folds: Sequence[int]) -> list[Evaluation]:
        """Evaluate each point on all rows, fitted to those outside its fold, in one pass.

        Parameters
        ----------
        points : sequence of Tensor of float64, shape (r + 1, n_classes)
        folds : sequence of int
            Fold that each point's fit leaves out; `NO_FOLD` where it leaves nothing out.
        """
        self.n_evaluations += 1
        # All fits stand side by side, so that one product with a block scores every row by every fit.
        dual, offset = self.dual_of(points)
        n_fits, k = len(points), self.n_classes
        left = torch.tensor(list(folds), device=dual.device)
        is_fold = left != NO_FOLD
        totals = torch.stack([self.class_weights(fold).sum() for fold in folds])
        products = torch.zeros_like(dual)
        residuals = torch.zeros_like(offset)
        figures = dual.new_zeros((4, n_fits))
        for where, values in self.kernel_rows.blocks():
            block = values.double()
            y, w = self._codes[where], self._weights[where, None]
            is_left = self._folds[where, None] == left
            scores = torch.addmm(offset, block, dual).view(-1, n_fits, k)
            best = scores.argmax(dim=2)
            at = y[:, None, None].expand(-1, n_fits, 1)
            # Log-probabilities first: where a probability underflows to 0, its logarithm is still exact.
            logs = scores.sub_(torch.logsumexp(scores, dim=2, keepdim=True))
            loss = -logs.gather(2, at)[:, :, 0]
            probabilities = logs.exp_()
            of_truth = probabilities.gather(2, at)[:, :, 0]
            squares = probabilities.square().sum(dim=2) - 2 * of_truth + 1
            is_out = is_left | (self._is_aside[where, None] & is_fold)
            w_fit = torch.where(is_out, 0.0, w / totals)
            w_left = torch.where(is_left, w, 0.0)
            figures[0] += (w_fit * loss).sum(dim=0)
            figures[1] += (w_left * loss).sum(dim=0)
            figures[2] += (w_left * squares).sum(dim=0)
            figures[3] += (w_left * (best == y[:, None])).sum(dim=0)
            # p - y, without one-hot targets in memory.
            probabilities.scatter_add_(2, at, torch.full_like(at, -1.0, dtype=torch.float64))
            weighted = probabilities.mul_(w_fit[:, :, None]).view(len(y), -1)
            products.addmm_(block.T, weighted)
            residuals += weighted.sum(dim=0)
        # sum w (phi - m) (p - y)^T = sum w phi (p - y)^T - m (sum w (p - y))^T.
        products.addr_(self.kernel_mean, residuals, alpha=-1)
        gradient = self._whitened(products)
        gradients = torch.split(torch.cat([gradient, residuals[None]]), k, dim=1)
        return [
            Evaluation(
                loss=loss,
                gradient=each,
                left_out_loss=left_loss,
                left_out_squares=left_squares,
                left_out_correct=left_correct,
            )
            for each, (loss, left_loss, left_squares, left_correct) in zip(
                gradients, figures.T.tolist(), strict=True
            )
        ]

    def dual_of(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Turn points into weights (r, n_fits * n_classes) of kernel values and one constant per column.

        Scores are ``k(x, C) weights + constants``: whitening and centering are applied to the few points, not
        to the rows.
        """
        together = torch.cat(list(points), dim=1)
        dual = together[:-1]
        if self.factor is not None:
            dual = torch.linalg.solve_triangular(self.factor.T, dual, upper=True)
        return dual, together[-1] - self.kernel_mean @ dual

    def _whitened(self, columns: Tensor) -> Tensor:
        """Return ``L^-1`` times columns (r, m)."""
        if self.factor is None:
            return columns
        whitened: Tensor = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        return whitened

    def left_out_scores(
        self, points: Sequence[Tensor], folds: Sequence[int], kept: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Score some rows, each by the fit that left its fold out.

        Parameters
        ----------
        points : sequence of Tensor of float64, shape (r + 1, n_classes)
        folds : sequence of int
            Fold that each point's fit left out.
        kept : ndarray of int64, shape (n_kept,)
            Rows to score, ascending.

        Returns
        -------
        ndarray of float32, shape (n_kept, n_classes)
        """
        dual, offset = self.dual_of(points)
        column = {fold: at for at, fold in enumerate(folds)}
        result = np.zeros((len(kept), self.n_classes), dtype=np.float32)
        for where, block in self.kernel_rows.blocks():
            first, last = np.searchsorted(kept, [where.start, where.stop])
            if first == last:
                continue
            local = torch.from_numpy(kept[first:last] - where.start).to(block.device)
            scores = torch.addmm(offset, block[local].double(), dual).view(len(local), len(folds), -1)
            mine = [column[fold] for fold in self.kernel_rows.rows.folds[kept[first:last]].tolist()]
            result[first:last] = scores[torch.arange(len(local)), mine].float().cpu().numpy()
        return result
