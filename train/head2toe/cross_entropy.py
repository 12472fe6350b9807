"""Cross-entropies by which columns are ranked, and their gradients: of classes, or of several labels a row.

Several problems, each with weights of the rows of its own, share a pass.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from toptune.train.passes.training_rows import TrainingRows

Batch = tuple[slice, Tensor]
# The offset of a label that no row of a problem has, or every row, would be infinite.
_LEAST_SHARE = 1e-3


class ClassLoss:
    """Cross-entropy of the softmax of ``X W``, without an intercept.

    Parameters
    ----------
    rows : TrainingRows
        Problem number f leaves fold f out, and the last one has all rows.
    """

    def __init__(self, rows: TrainingRows) -> None:
        self.rows = rows
        self.weights = _problem_weights(rows)

    def evaluate(
        self, read: Iterable[Batch], problems: Sequence[int], at: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Evaluate p problems in one pass.

        Parameters
        ----------
        read : iterable of (slice, Tensor)
            Blocks of the rows.
        problems : sequence of int
            Numbers of the problems.
        at : Tensor, shape (p, d, n_classes), or None
            W of each problem; None stands for 0.

        Returns
        -------
        Tensor of float64, shape (p,)
            Losses.
        Tensor, shape (p, d, n_classes)
            Gradients.
        """
        n_problems, n_classes = len(problems), self.rows.n_classes
        weights = self.weights[:, list(problems)]
        losses: Tensor | None = None
        gradients: Tensor | None = None
        flat = None if at is None else at.permute(1, 0, 2).reshape(at.shape[1], -1)
        for where, values in read:
            if gradients is None or losses is None:
                gradients = values.new_zeros((values.shape[1], n_problems * n_classes))
                # On the device of the rows, so that no block is waited for.
                losses = values.new_zeros(n_problems, dtype=torch.float64)
                weights = weights.to(values)
                self._move(values)
            shape = (len(values), n_problems, n_classes)
            logits = values.new_zeros(shape) if flat is None else (values @ flat).view(shape)
            found, errors = self._of_block(logits, where, weights[where, :, None], problems)
            losses += found
            gradients.addmm_(values.T, errors.reshape(len(values), -1))
        assert losses is not None
        assert gradients is not None
        return losses, gradients.view(-1, n_problems, n_classes).permute(1, 0, 2).contiguous()

    def _move(self, values: Tensor) -> None:
        """Bring what is known of the rows to the type and device of their values."""
        self._codes = torch.from_numpy(self.rows.codes).to(values.device)

    def _of_block(
        self, logits: Tensor, where: slice, share: Tensor, problems: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses (p,) of a block and the gradient (b, p, n_classes) by its logits.

        Parameters
        ----------
        logits : Tensor, shape (b, p, n_classes)
            Overwritten.
        where : slice
            Rows of the block.
        share : Tensor, shape (b, p, 1)
            Weights of the rows in each problem.
        problems : sequence of int
            Numbers of the problems.
        """
        del problems
        logs = logits.log_softmax(dim=2)
        truth = self._codes[where, None, None].expand(-1, logits.shape[1], 1)
        losses = -(logs.gather(2, truth) * share)[..., 0].double().sum(dim=0)
        # p - y, in the memory of the log-probabilities.
        errors = logs.exp_().scatter_add_(2, truth, logs.new_full((1, 1, 1), -1.0).expand_as(truth))
        return losses, errors.mul_(share)


class LabelLoss(ClassLoss):
    """Binary cross-entropy, summed over labels, each the mean over the rows of which the label is known.

    Each label has a fixed offset, the log-odds of its frequency: without one, what ranks the columns of a
    rare label is how well they say that the label is rare.
    """

    def __init__(self, rows: TrainingRows) -> None:
        super().__init__(rows)
        assert rows.targets is not None, "rows of several labels have targets"
        values = torch.from_numpy(rows.targets.values)
        self._known, self._truth = torch.isfinite(values), (values == 1).double()
        tiny = torch.finfo(torch.float64).tiny
        self._totals = (self.weights.T @ self._known.double()).clamp_(min=tiny)
        shares = (self.weights.T @ self._truth / self._totals).clamp_(_LEAST_SHARE, 1 - _LEAST_SHARE)
        self._offsets = torch.logit(shares)

    def _move(self, values: Tensor) -> None:
        self._known = self._known.to(values.device)
        self._truth, self._offsets, self._totals = (
            each.to(values) for each in (self._truth, self._offsets, self._totals)
        )

    def _of_block(
        self, logits: Tensor, where: slice, share: Tensor, problems: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        some = list(problems)
        y, known = self._truth[where, None, :], self._known[where, None, :]
        weights = share / self._totals[some] * known
        logits = logits + self._offsets[some]
        # softplus(s) - y s, exact where the exponential would overflow.
        losses = torch.nn.functional.softplus(logits).sub_(y * logits).mul_(weights).double().sum(dim=(0, 2))
        return losses, torch.sigmoid(logits).sub_(y).mul_(weights)


def cross_entropy_of(rows: TrainingRows) -> ClassLoss:
    """Return the loss that the targets of the rows have."""
    return (LabelLoss if rows.have_labels else ClassLoss)(rows)


def _problem_weights(rows: TrainingRows) -> Tensor:
    """Return the weight of every row in each problem (n, n_folds + 1), each column summing to 1."""
    weights = torch.from_numpy(rows.weights)[:, None].repeat(1, rows.n_folds + 1)
    validated = torch.from_numpy(np.flatnonzero(rows.is_validated))
    weights[validated, torch.from_numpy(rows.folds)[validated]] = 0
    # Rows that take no part in cross-validation are in the problem of all rows, the last one, only.
    weights[torch.from_numpy(~rows.is_validated), :-1] = 0
    return weights / weights.sum(dim=0)
