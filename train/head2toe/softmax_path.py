"""Softmax group lasso, as Head2Toe ranks columns: cross-entropy without intercept, in passes over the rows.

``min_W mean cross-entropy(X W) + c sum_j ||W_j||_2`` (Evci et al. 2022, §3). Their official code takes a few
hundred steps of Adam; here the objective is minimized to its optimum, so that the ranking depends on no
learning rate.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from toptune.train.numerics.group_lasso import PathPoint, ProximalDescent, group_norms
from toptune.train.passes.training_rows import TrainingRows

TOLERANCE = 1e-2
# Most passes for each penalty.
MAX_PASSES = 500

Batch = tuple[slice, Tensor]


def softmax_path(
    rows: TrainingRows,
    read: Iterable[Batch],
    shares: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    max_passes: int = MAX_PASSES,
) -> list[list[PathPoint]]:
    """Minimize ``mean cross-entropy(X W) + c sum_j ||W_j||`` without each fold and on all rows.

    All folds share every pass, and each solution starts the next.

    Parameters
    ----------
    rows : TrainingRows
    read : iterable of (slice, Tensor)
        Blocks of the rows; iterating again must yield the same blocks.
    shares : sequence of float
        c, descending, as a share of the smallest penalty at which no column has a weight. That penalty is
        determined without each fold separately.
    tolerance : float
        `stationarity` to reach.
    max_passes : int
        Passes for each penalty.

    Returns
    -------
    list of list of PathPoint
        For each fold left out and, last, for all rows: the solution at each of the shares.
    """
    weights = _problem_weights(rows)
    losses, gradients = _pass(rows, read, weights, None)
    largest = [float(group_norms(gradient).max()) for gradient in gradients]
    # At c = `largest` W is 0, so the path begins there.
    starts = [torch.zeros_like(gradient) for gradient in gradients]
    # The Hessian of a softmax is at most 1/2 (Boehning 1992), so that of the loss is at most half the mean
    # ||x||^2.
    curvature = 0.5 * sum(float(values.square().sum()) for _, values in read) / rows.n
    paths: list[list[PathPoint]] = [[] for _ in starts]
    for share in shares:
        descents = [
            ProximalDescent(
                start, group_penalty=share * most or 1.0, tolerance=tolerance, curvature=curvature or 1.0
            )
            for start, most in zip(starts, largest, strict=True)
        ]
        n_passes = [0] * len(descents)
        # Folds that are done drop out of the pass; the others share it.
        while going := [
            at for at, each in enumerate(descents) if not each.is_done and n_passes[at] < max_passes
        ]:
            trials = torch.stack([descents[at].trial for at in going])
            losses, gradients = _pass(rows, read, weights[:, going], trials)
            for at, loss, gradient in zip(going, losses.tolist(), gradients, strict=True):
                descents[at].tell(loss, gradient)
                n_passes[at] += 1
        starts = [each.value for each in descents]
        for path, each, count in zip(paths, descents, n_passes, strict=True):
            path.append(
                PathPoint.of(each.value, each.gradient, group_penalty=each.group_penalty, n_steps=count)
            )
    return paths


def _problem_weights(rows: TrainingRows) -> Tensor:
    """Return the weight of every row in each problem (n, n_folds + 1), each column summing to 1."""
    weights = torch.from_numpy(rows.weights)[:, None].repeat(1, rows.n_folds + 1)
    validated = torch.from_numpy(np.flatnonzero(rows.is_validated))
    weights[validated, torch.from_numpy(rows.folds)[validated]] = 0
    # Rows that take no part in cross-validation are in the problem of all rows, the last one, only.
    weights[torch.from_numpy(~rows.is_validated), :-1] = 0
    return weights / weights.sum(dim=0)


def _pass(
    rows: TrainingRows, read: Iterable[Batch], weights: Tensor, at: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Evaluate p problems in one pass.

    Parameters
    ----------
    rows : TrainingRows
    read : iterable of (slice, Tensor)
    weights : Tensor, shape (n, p)
        Weight of every row in each problem.
    at : Tensor, shape (p, d, n_classes), or None
        W of each problem; None stands for 0.

    Returns
    -------
    Tensor of float64, shape (p,)
        Losses.
    Tensor, shape (p, d, n_classes)
        Gradients.
    """
    n_problems, n_classes = weights.shape[1], rows.n_classes
    losses: Tensor | None = None
    gradients: Tensor | None = None
    flat = None if at is None else at.permute(1, 0, 2).reshape(at.shape[1], -1)
    for where, values in read:
        if gradients is None or losses is None:
            gradients = values.new_zeros((values.shape[1], n_problems * n_classes))
            # On the device of the rows, so that no block is waited for.
            losses = values.new_zeros(n_problems, dtype=torch.float64)
            weights, codes = weights.to(values), torch.from_numpy(rows.codes).to(values.device)
        logits = values.new_zeros((len(values), n_problems * n_classes)) if flat is None else values @ flat
        logs = logits.view(len(values), n_problems, n_classes).log_softmax(dim=2)
        truth = codes[where, None, None].expand(-1, n_problems, 1)
        share = weights[where, :, None]
        losses -= (logs.gather(2, truth) * share)[..., 0].double().sum(dim=0)
        # p - y, in the memory of the log-probabilities.
        errors = logs.exp_().scatter_add_(2, truth, values.new_full((1, 1, 1), -1.0).expand_as(truth))
        gradients.addmm_(values.T, (errors * share).reshape(len(values), -1))
    assert losses is not None
    assert gradients is not None
    return losses, gradients.view(-1, n_problems, n_classes).permute(1, 0, 2).contiguous()
