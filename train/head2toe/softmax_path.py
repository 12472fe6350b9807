"""Softmax group lasso, as Head2Toe ranks columns: cross-entropy without intercept, in passes over the rows.

Of several labels a row, the cross-entropy is that of a sigmoid for each label; see `LabelLoss`.

``min_W mean cross-entropy(X W) + c sum_j ||W_j||_2`` (Evci et al. 2022, §3). Their official code takes a few
hundred steps of Adam; here the objective is minimized to its optimum, so that the ranking depends on no
learning rate.
"""

from collections.abc import Iterable, Sequence

import torch

from toptune.train.head2toe.cross_entropy import Batch, cross_entropy_of
from toptune.train.numerics.group_lasso import PathPoint, ProximalDescent, group_norms
from toptune.train.passes.training_rows import TrainingRows

TOLERANCE = 1e-2
# Most passes for each penalty.
MAX_PASSES = 500


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
    loss_of = cross_entropy_of(rows)
    losses, gradients = loss_of.evaluate(read, range(rows.n_folds + 1), None)
    largest = [float(group_norms(gradient).max()) for gradient in gradients]
    # At c = `largest` W is 0, so the path begins there.
    starts = [torch.zeros_like(gradient) for gradient in gradients]
    # The Hessian of a softmax is at most 1/2 (Boehning 1992), of a sigmoid 1/4, so that of the loss is
    # at most half the mean ||x||^2.
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
            losses, gradients = loss_of.evaluate(read, going, trials)
            for at, loss, gradient in zip(going, losses.tolist(), gradients, strict=True):
                descents[at].tell(loss, gradient)
                n_passes[at] += 1
        starts = [each.value for each in descents]
        for path, each, count in zip(paths, descents, n_passes, strict=True):
            path.append(
                PathPoint.of(each.value, each.gradient, group_penalty=each.group_penalty, n_steps=count)
            )
    return paths
