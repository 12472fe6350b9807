"""The log-loss of several labels a row: a logistic regression for each, and each pass serves all of them.

A fit has scores ``s_c = <phi - m, v_c> + b_c``, as in `toptune.train.logistic.log_loss`, and loses
``log(1 + exp(s_c)) - y_c s_c`` on label c of a row. The loss of a label is the mean over the rows of which
the label is known, so that the penalty means the same for each; the loss of a fit is the sum over the labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from toptune.train.logistic.log_loss import NO_FOLD, Evaluation, LogisticRows
from toptune.train.passes.feature_rows import FeatureRows
from toptune.train.passes.kernel_rows import KernelRows

# A label that no row has, or that all have, gets this share, so that its log-odds are finite.
_LEAST_SHARE = 1e-6


class LabelRows(LogisticRows):
    """Rows of several labels for logistic regression; parameters and points are those of `LogisticRows`."""

    def __init__(self, kernel_rows: KernelRows | FeatureRows, factor: Tensor | None) -> None:
        super().__init__(kernel_rows, factor)
        rows, device = kernel_rows.rows, kernel_rows.device
        assert rows.targets is not None, "rows of several labels have targets"
        values = torch.from_numpy(rows.targets.values)
        # A byte a label each: of many labels these are as large as all else of the fit.
        self._known, self._truth = torch.isfinite(values).to(device), (values == 1).to(device)
        known, with_label = torch.zeros(
            (2, rows.n_folds + 1, rows.n_classes), dtype=torch.float64, device=device
        )
        for some in rows.targets.parts_of_rows():
            folds, w = self._folds[some], self._weights[some, None]
            known.index_add_(0, folds, self._known[some] * w)
            with_label.index_add_(0, folds, self._truth[some] * w)
        self._known_by_fold, self._with_by_fold = known, with_label

    def known_weights(self, fold: int) -> Tensor:
        """Return the weight (n_labels,) of the rows of which a fit without `fold` knows each label."""
        return self._without(self._known_by_fold, fold).clamp(min=torch.finfo(torch.float64).tiny)

    def class_weights(self, fold: int) -> Tensor:
        return self._without(self._with_by_fold, fold)

    def constant(self, fold: int) -> Tensor:
        share = (self.class_weights(fold) / self.known_weights(fold)).clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)
        point = share.new_zeros((len(self.kernel_mean) + 1, self.n_classes))
        point[-1] = torch.logit(share)
        return point

    def start_of(self, points: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(points)).mean(dim=0)

    def _without(self, by_fold: Tensor, fold: int) -> Tensor:
        return by_fold.sum(dim=0) if fold == NO_FOLD else by_fold[:-1].sum(dim=0) - by_fold[fold]

    def evaluate(self, points: Sequence[Tensor], folds: Sequence[int]) -> list[Evaluation]:
        self.n_evaluations += 1
        dual, offset = self.dual_of(points)
        n_fits, k = len(points), self.n_classes
        left = torch.tensor(list(folds), device=dual.device)
        totals = torch.stack([self.known_weights(fold) for fold in folds])
        products, residuals = torch.zeros_like(dual), torch.zeros_like(offset)
        figures = dual.new_zeros((4, n_fits))
        for where, values in self.kernel_rows.blocks():
            block, w = values.double(), self._weights[where, None]
            is_left = self._folds[where, None] == left
            is_out = is_left | (self._is_aside[where, None] & (left != NO_FOLD))
            y, known = self._truth[where, None, :].double(), self._known[where, None, :]
            scores = torch.addmm(offset, block, dual).view(-1, n_fits, k)
            # softplus(s) - y s, exact where the exponential would overflow.
            loss = torch.nn.functional.softplus(scores).sub_(y * scores).mul_(known)
            probabilities = torch.sigmoid(scores)
            w_fit = torch.where(is_out, 0.0, w)[:, :, None] / totals * known
            w_left = torch.where(is_left, w, 0.0)
            figures[0] += (w_fit * loss).sum(dim=(0, 2))
            figures[1] += (w_left * loss.sum(dim=2)).sum(dim=0)
            misses = (probabilities - y).mul_(known)
            figures[2] += (w_left * misses.square().sum(dim=2)).sum(dim=0)
            is_right = ((scores > 0) == (y > 0.5)) & known
            figures[3] += (w_left * is_right.double().mean(dim=2)).sum(dim=0)
            weighted = misses.mul_(w_fit).view(len(block), -1)
            products.addmm_(block.T, weighted)
            residuals += weighted.sum(dim=0)
        products.addr_(self.kernel_mean, residuals, alpha=-1)
        gradients = torch.split(torch.cat([self._whitened(products), residuals[None]]), k, dim=1)
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


def logistic_rows(kernel_rows: KernelRows | FeatureRows, factor: Tensor | None) -> LogisticRows:
    """Return the rows for the loss that their targets have: of one class a row, or of several labels."""
    return (LabelRows if kernel_rows.rows.have_labels else LogisticRows)(kernel_rows, factor)
