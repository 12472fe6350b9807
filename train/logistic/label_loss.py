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
            block = values.double()
            scores = torch.addmm(offset, block, dual).view(-1, n_fits, k)
            losses, of_left_out, weighted = self._added_up(scores, where, left)
            figures[0] += (losses / totals).sum(dim=1)
            figures[1:] += of_left_out
            products.addmm_(block.T, weighted)
            residuals += weighted.sum(dim=0)
            # The scores must not lie beside those of the next block.
            del block, scores, weighted
        # The loss of a label is a mean over the rows of which it is known.
        products /= totals.view(-1)
        residuals /= totals.view(-1)
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

    def _added_up(self, scores: Tensor, where: slice, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum up the losses of a block, and turn its scores into the products of weights and residuals.

        The scores of many labels by all fits are the largest array of a pass: they are overwritten, and there
        is one more array of their size.

        Parameters
        ----------
        scores : Tensor of float64, shape (b, n_fits, n_labels)
        where : slice
            Rows of the block.
        left : Tensor of int64, shape (n_fits,)
            Fold that each fit leaves out.

        Returns
        -------
        losses : Tensor, shape (n_fits, n_labels)
            Weighted sums over the rows that each fit sees.
        of_left_out : Tensor, shape (3, n_fits)
            Weighted sums over left-out rows: log-loss, squared error, share of labels that are right.
        weighted : Tensor, shape (b, n_fits * n_labels)
            Weight times probability less truth, 0 for rows that a fit does not see.
        """
        w = self._weights[where, None]
        is_left = self._folds[where, None] == left
        is_out = is_left | (self._is_aside[where, None] & (left != NO_FOLD))
        w_fit, w_left = torch.where(is_out, 0.0, w)[:, :, None], torch.where(is_left, w, 0.0)
        y, known = self._truth[where, None, :].double(), self._known[where, None, :]
        is_right = (scores > 0).eq_(y > 0.5).logical_and_(known)
        # softplus(s) - y s, exact where the exponential would overflow.
        work = torch.nn.functional.softplus(scores).addcmul_(y, scores, value=-1).mul_(known)
        of_left_out = work.new_empty((3, len(left)))
        of_left_out[0] = (w_left * work.sum(dim=2)).sum(dim=0)
        losses = work.mul_(w_fit).sum(dim=0)
        of_left_out[2] = (w_left * work.copy_(is_right).mean(dim=2)).sum(dim=0)
        misses = scores.sigmoid_().sub_(y).mul_(known)
        of_left_out[1] = (w_left * torch.mul(misses, misses, out=work).sum(dim=2)).sum(dim=0)
        return losses, of_left_out, misses.mul_(w_fit).view(len(scores), -1)


def logistic_rows(kernel_rows: KernelRows | FeatureRows, factor: Tensor | None) -> LogisticRows:
    """Return the rows for the loss that their targets have: of one class a row, or of several labels."""
    return (LabelRows if kernel_rows.rows.have_labels else LogisticRows)(kernel_rows, factor)
