"""Softmax regression along a path of decreasing penalties, for several folds at once.

The problem at each penalty is ``min_v mean log-loss(v) + penalty ||v[:-1]||^2`` (see `log_loss`). Following
the papers on generalized self-concordant losses (Marteau-Ferey, Bach & Rudi 2019) and LogisticFALKON (Meanti
et al. 2020), the penalty decreases by steps and each solution starts the next; here the softmax stands in
place of the sigmoid. The papers take approximate Newton steps, each by preconditioned conjugate gradient.
Here L-BFGS runs on the same kind of preconditioner: a Newton step costs a pass for every product and throws
away the curvature that it has seen. Over seven penalties a decade apart, Newton steps took 1.8 to 2.4 times
as many passes to the same losses (digits, 26 and 50 classes of images, a synthetic set; two widths each).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from toptune.train.logistic.log_loss import Evaluation, LogisticRows
from toptune.train.numerics.cholesky import cholesky_with_jitter, solve_factored
from toptune.train.numerics.quasi_newton import Descent, Precondition

# Penalties further apart than this factor are joined by others in between, solved to a coarse tolerance.
STEP = 10.0
COARSE_TOLERANCE = 1e-3
# Passes between factorizations of the preconditioner, whose curvatures follow the points.
REFRESH = 5
# A path begins at this share of the features' total variance. A repeated step is stretched by at most this
# factor.
_BEGIN, _FARTHEST = 0.1, 2.0
# Least curvature of a row: keeps the preconditioner definite where every row is classified with certainty.
_LEAST_CURVATURE = 1e-7


@dataclass(frozen=True)
class RowSample:
    """Rows that stand for all rows in the preconditioner.

    Attributes
    ----------
    features : Tensor of float64, shape (s, r)
        Features of the rows, less the mean of all rows.
    weights : Tensor of float64, shape (s,)
        Weights of the rows in the loss.
    have_labels : bool
        Whether the columns of scores are labels, each with a sigmoid of its own.
    """

    features: Tensor
    weights: Tensor
    have_labels: bool = False

    def curvature(self, point: Tensor) -> Tensor:
        """Return the mean curvature (s,) of the loss at a point (r + 1, n_classes), over its columns."""
        scores = torch.addmm(point[-1], self.features, point[:-1])
        p = scores.sigmoid_() if self.have_labels else torch.softmax(scores, dim=1)
        # p - p^2 in place: the sample's probabilities of many columns are among the largest arrays of a fit.
        return p.addcmul_(p, p, value=-1).mean(dim=1)

    @property
    def total_variance(self) -> float:
        """Mean squared length of the features, the unit of relative penalties."""
        return float(self.features.square().sum(dim=1).mean())


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The solutions at one penalty of the path.

    Attributes
    ----------
    penalty : float
    points : list of Tensor of float64, shape (r + 1, n_classes)
        Solution of each fit.
    evaluations : list of Evaluation
        Loss, gradient and left-out rows at the points.
    reason : str
        The worst over the fits: ``"converged"``, ``"stagnated"`` or ``"iteration-limit"``.
    decrease : float
        Largest decrease of a fit's loss that its model still expects, in nats per row.
    gradient_norm : float
        Largest norm of a fit's gradient, relative to the penalty's part of the gradient.
    history : tuple of float
        `decrease` after each pass.
    jitter : float
        Largest jitter of a preconditioner; it slows the descent and changes no solution.
    """

    penalty: float
    points: list[Tensor]
    evaluations: list[Evaluation]
    reason: str
    decrease: float
    gradient_norm: float
    history: tuple[float, ...]
    jitter: float


def follow(
    rows: LogisticRows,
    penalties: Sequence[float],
    *,
    folds: Sequence[int],
    sample: RowSample,
    tolerance: float,
    max_iterations: int,
    starts: Sequence[Tensor] | None = None,
) -> Iterator[Stop]:
    """Yield the solutions at each penalty, from the largest down, working no further than the caller asks.

    Each next penalty first tries the step of the one before again. This is a secant in the logarithm of the
    penalty: where classes can be separated, coefficients grow evenly along it.

    Parameters
    ----------
    rows : LogisticRows
    penalties : sequence of float
    folds : sequence of int
        Fold that each fit leaves out, or `NO_FOLD`; all fits share every pass.
    sample : RowSample
        Rows of which the preconditioner is made.
    tolerance : float
        Decrease of the loss, in nats per row, that the model at hand may still expect when it stops.
    max_iterations : int
        Passes for each penalty.
    starts : sequence of Tensor of float64, shape (r + 1, n_classes), optional
        First guess of each fit. Without them the path begins at a large penalty and with the fit without
        features.

    Raises
    ------
    NumericalError
        If the first loss is not finite.
    """
    begin = None if starts else _BEGIN * sample.total_variance
    path = _joined(penalties, begin=begin)
    points = list(starts) if starts else [rows.constant(fold) for fold in folds]
    descents = [Descent(point, penalty=path[0][0]) for point in points]
    evaluations = rows.evaluate(points, folds)
    for descent, each in zip(descents, evaluations, strict=True):
        descent.tell(each.loss, each.gradient)
    # Solutions at the penalty before the last one, from which the secant step is taken.
    before: list[Tensor] = []
    for at, (penalty, is_wanted) in enumerate(path):
        now = [descent.value for descent in descents]
        if at == 1:
            for descent in descents:
                descent.relax(penalty)
        elif at:
            share = _log_ratio(path[at - 1], path[at]) / _log_ratio(path[at - 2], path[at - 1])
            for descent, earlier in zip(descents, before, strict=True):
                descent.relax(penalty, min(share, _FARTHEST) * (descent.value - earlier))
        before = now
        history: list[float] = []
        precondition, jitter = _preconditioner(descents, sample)
        while True:
            if history and len(history) % REFRESH == 0:
                precondition, added = _preconditioner(descents, sample)
                jitter = max(jitter, added)
            _aim(descents, precondition, tolerance if is_wanted else max(tolerance, COARSE_TOLERANCE))
            history.append(max(descent.decrease for descent in descents))
            active = [number for number, descent in enumerate(descents) if descent.reason is None]
            if not active or len(history) > max_iterations:
                break
            found = rows.evaluate(
                [descents[number].trial for number in active], [folds[number] for number in active]
            )
            for number, each in zip(active, found, strict=True):
                if descents[number].tell(each.loss, each.gradient):
                    evaluations[number] = each
        if is_wanted:
            yield Stop(
                penalty=penalty,
                points=[descent.value for descent in descents],
                evaluations=list(evaluations),
                reason=_worst(descent.reason for descent in descents),
                decrease=history[-1],
                gradient_norm=max(_imbalance(descent) for descent in descents),
                history=tuple(history),
                jitter=jitter,
            )


def _joined(penalties: Sequence[float], *, begin: float | None) -> list[tuple[float, bool]]:
    """Return the penalties, descending, each with whether it was asked for.

    Others are inserted where two are more than a factor `STEP` apart, or the first is that far below `begin`.
    """
    path: list[tuple[float, bool]] = []
    above = begin
    for penalty in sorted(penalties, reverse=True):
        if above is not None and above > penalty:
            n_steps = math.ceil(math.log(above / penalty) / math.log(STEP) - 1e-9)
            first = 0 if not path else 1
            path += [(above * (penalty / above) ** (step / n_steps), False) for step in range(first, n_steps)]
        path.append((penalty, True))
        above = penalty
    return path


def _log_ratio(larger: tuple[float, bool], smaller: tuple[float, bool]) -> float:
    return math.log(larger[0] / smaller[0])


def _aim(descents: Sequence[Descent], precondition: Precondition, tolerance: float) -> None:
    for descent in descents:
        if descent.reason is None and not descent.is_aimed:
            descent.aim(precondition, tolerance=tolerance)


def _preconditioner(descents: Sequence[Descent], sample: RowSample) -> tuple[Precondition, float]:
    """Return the preconditioner at the present points with the jitter that it needed.

    It takes a gradient (r + 1, n_classes) and applies the inverse (r + 1, r + 1) of one diagonal block of the
    Hessian on the sample. The block of class c weighs rows by the curvatures ``p_c (1 - p_c)``; their mean
    over classes and fits makes a single factor that serves all. Boehning's bound (1992) has curvature 1/2
    wherever the rows lie and took Newton steps 1.5 to 2 times as many passes on digits: rows that are
    classified with certainty hardly count. Of a sample with fewer rows than features only the diagonal is
    taken.
    """
    features, weights = sample.features, sample.weights
    curvature = torch.zeros_like(weights)
    for descent in descents:
        curvature += sample.curvature(descent.value) / len(descents)
    share = weights * curvature.clamp_(min=_LEAST_CURVATURE) / weights.sum()
    r = features.shape[1]
    if len(features) < r:
        diagonal = torch.cat([share @ features.square() + 2 * descents[0].penalty, share.sum()[None]])
        return lambda gradient: gradient / diagonal[:, None], 0.0
    weighted = features * share[:, None]
    system = features.new_empty((r + 1, r + 1))
    torch.mm(weighted.T, features, out=system[:r, :r])
    system[r, :r] = system[:r, r] = weighted.sum(dim=0)
    system[r, r] = share.sum()
    system[:r, :r].diagonal().add_(2 * descents[0].penalty)
    factor, jitter = cholesky_with_jitter(
        system, what=f"the preconditioner at penalty {descents[0].penalty:g}"
    )
    return partial(solve_factored, factor), jitter


def _imbalance(descent: Descent) -> float:
    """Return the norm of the gradient relative to the penalty's part; at a minimum the parts cancel."""
    part = 2 * descent.penalty * float(descent.value[:-1].norm())
    return float(descent.gradient.norm()) / part if part > 0 else 0.0


def _worst(reasons: Iterable[str | None]) -> str:
    """Return the worst of several reasons; a descent without a reason has hit the iteration limit."""
    found = {reason or "iteration-limit" for reason in reasons}
    return next(reason for reason in ("iteration-limit", "stagnated", "converged") if reason in found)
