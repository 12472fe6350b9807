"""Softmax group lasso, as Head2Toe fits it: cross-entropy without intercept, on passes over the rows."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from toptune.train.numerics.group_lasso import PathPoint, ProximalDescent, group_norms
from toptune.train.passes.training_rows import TrainingRows

TOLERANCE = 1e-2
# Passes for each penalty, at most.
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
    """Minimise ``mean cross-entropy(X W) + c sum_j ||W_j||`` without each fold, and on all rows.

    The objective of Evci et al. 2022, equation 3; minimized to its optimum in place of their few hundred
    steps of Adam. All folds share every pass, and penalties fall, each solution starting from the one before.

    Parameters
    ----------
    rows : TrainingRows
    read : iterable of (slice, Tensor)
        Blocks of the rows, the same each time it is gone through.
    shares : sequence of float
        Descending: c as a share of the smallest penalty at which no column has a weight, which each fold has
        its own of.

    Returns
    -------
    list of list of PathPoint
        For each fold left out and, last, for all rows: the solution at each of the shares.
    """
    weights = _problem_weights(rows)
    losses, gradients = _pass(rows, read, weights, None)
    largest = [float(group_norms(gradient).max()) for gradient in gradients]
    starts = [torch.zeros_like(gradient) for gradient in gradients]
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
    """Weight of every row in each problem, (n, n_folds + 1), each summing to 1."""
    weights = torch.from_numpy(rows.weights)[:, None].repeat(1, rows.n_folds + 1)
    weights[torch.arange(rows.n), torch.from_numpy(rows.folds)] = 0
    return weights / weights.sum(dim=0)


def _pass(
    rows: TrainingRows, read: Iterable[Batch], weights: Tensor, at: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Losses (p,) and gradients (p, d, n_classes) of p problems at weights `at` (None: all 0)."""
    n_problems, n_classes = weights.shape[1], rows.n_classes
    losses = torch.zeros(n_problems, dtype=torch.float64)
    gradients = None
    flat = None if at is None else at.permute(1, 0, 2).reshape(at.shape[1], -1)
    for where, values in read:
        if gradients is None:
            gradients = values.new_zeros((values.shape[1], n_problems * n_classes))
            weights, codes = weights.to(values), torch.from_numpy(rows.codes).to(values.device)
        logits = values.new_zeros((len(values), n_problems * n_classes)) if flat is None else values @ flat
        logs = logits.view(len(values), n_problems, n_classes).log_softmax(dim=2)
        truth = codes[where, None, None].expand(-1, n_problems, 1)
        share = weights[where, :, None]
        losses -= (logs.gather(2, truth) * share)[..., 0].double().sum(dim=0).cpu()
        errors = logs.exp_().scatter_add_(2, truth, values.new_full((1, 1, 1), -1.0).expand_as(truth))
        gradients.addmm_(values.T, (errors * share).reshape(len(values), -1))
    assert gradients is not None
    return losses, gradients.view(-1, n_problems, n_classes).permute(1, 0, 2).contiguous()
