"""Log-loss of several fits and its gradients: each pass over the kernel's values serves them all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.passes.feature_rows import FeatureRows
from toptune.train.passes.kernel_rows import KernelRows

# Share of a class that no row of a fit belongs to: its intercept starts, and stays, far down.
_NO_SHARE = 1e-12
# All rows are fitted to, none is left out.
NO_FOLD = -1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One fit's figures at one point.

    Attributes
    ----------
    loss : float
        Weighted mean log-loss (natural) of the rows fitted to, without penalty.
    gradient : Tensor of float64, shape (r + 1, n_classes)
    left_out_loss, left_out_squares, left_out_correct : float
        Weighted sums over the rows left out whose class the fit has seen: log-loss, squared error of
        the probabilities, and rows right.
    """

    loss: float
    gradient: Tensor
    left_out_loss: float
    left_out_squares: float
    left_out_correct: float


class LogisticRows:
    """Rows for softmax regression on whitened, centered features, as products only.

    A point is (r + 1, n_classes): coefficients of ``phi - mean``, where ``phi = k(x, C) L^-T`` as in
    `CentredRows`, and last the intercepts. The centering is by all rows for every fit, which changes
    no minimum (the intercept is free) and takes the coupling of coefficients and intercept away.

    Attributes
    ----------
    kernel_rows : KernelRows
    factor : Tensor of float64, shape (r, r), or None
        L, lower triangular; None where the rows' values are features.
    kernel_mean : Tensor of float64, shape (r,)
        Weighted mean of k(x, C).
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
        # (n_folds + 1, n_classes): the weight of each class in each fold; last, in none.
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
        """Weight of each class (n_classes,) among the rows that a fit without `fold` sees."""
        return self._by_fold.sum(dim=0) - self._by_fold[fold]

    def constant(self, fold: int) -> Tensor:
        """Best point (r + 1, n_classes) without features: where descents begin."""
        shares = self.class_weights(fold)
        logs = (shares / shares.sum()).clamp_(min=_NO_SHARE).log_()
        point = logs.new_zeros((len(self.kernel_mean) + 1, self.n_classes))
        point[-1] = logs - logs.mean()
        return point

    def evaluate(self, points: Sequence[Tensor], folds: Sequence[int]) -> list[Evaluation]:
        """Figures of each point, fitted to all rows but those of its fold: one pass.

        Parameters
        ----------
        points : sequence of Tensor of float64, shape (r + 1, n_classes)
        folds : sequence of int
            `NO_FOLD` where nothing is left out.
        """
        self.n_evaluations += 1
        dual, offset = self.dual_of(points)
        n_fits, k = len(points), self.n_classes
        left = torch.tensor(list(folds), device=dual.device)
        totals = torch.stack([self.class_weights(fold).sum() for fold in folds])
        seen = torch.stack([self.class_weights(fold) > 0 for fold in folds])
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
            logs = scores.sub_(torch.logsumexp(scores, dim=2, keepdim=True))
            loss = -logs.gather(2, at)[:, :, 0]
            probabilities = logs.exp_()
            of_truth = probabilities.gather(2, at)[:, :, 0]
            squares = probabilities.square().sum(dim=2) - 2 * of_truth + 1
            w_fit = torch.where(is_left, 0.0, w / totals)
            w_left = torch.where(is_left & seen.T[y], w, 0.0)
            figures[0] += (w_fit * loss).sum(dim=0)
            figures[1] += (w_left * loss).sum(dim=0)
            figures[2] += (w_left * squares).sum(dim=0)
            figures[3] += (w_left * (best == y[:, None])).sum(dim=0)
            probabilities.scatter_add_(2, at, torch.full_like(at, -1.0, dtype=torch.float64))
            weighted = probabilities.mul_(w_fit[:, :, None]).view(len(y), -1)
            products.addmm_(block.T, weighted)
            residuals += weighted.sum(dim=0)
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
        """Weights (r, n_fits * n_classes) of the kernel's values and the constants that go with them."""
        together = torch.cat(list(points), dim=1)
        dual = together[:-1]
        if self.factor is not None:
            dual = torch.linalg.solve_triangular(self.factor.T, dual, upper=True)
        return dual, together[-1] - self.kernel_mean @ dual

    def _whitened(self, columns: Tensor) -> Tensor:
        """L^-1 times columns (r, m)."""
        if self.factor is None:
            return columns
        whitened: Tensor = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        return whitened

    def left_out_scores(
        self, points: Sequence[Tensor], folds: Sequence[int], kept: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Scores (n_kept, n_classes) of rows `kept`, sorted, each by the fit that left its fold out."""
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
