"""L-BFGS that is told losses and gradients, so that many minimizations can share each pass over rows."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from toptune.errors import NumericalError

Precondition = Callable[[Tensor], Tensor]
# Pairs of steps and gradient differences that are kept.
MEMORY = 8
_ARMIJO = 1e-4
# A loss that rises by less than this share of itself may have fallen: sums over rows round.
_ROUNDING = 1e-13
_SMALLEST_STEP = 1e-8


class Descent:
    """One minimization of ``loss(v) + penalty ||v[:-1]||^2`` over v (r + 1, k), as a state machine.

    `trial` is where it wants loss and gradient next; `tell` takes them. The direction is that of
    L-BFGS (Nocedal & Wright 2006, alg. 7.4) on top of a preconditioner in place of the multiple of
    the identity; steps are halved until the loss falls enough (Armijo). As the loss is convex,
    every pair has positive curvature and no further condition is needed.

    When the penalty changes nothing is lost: what it adds to loss, gradient and every kept pair is
    known exactly, so that `relax` begins on the next penalty without a pass.

    Attributes
    ----------
    value, gradient : Tensor of float64, shape (r + 1, k)
        The best point, and the gradient of loss and penalty there.
    loss : float
        Penalty included.
    decrease : float
        By how much the quadratic model at `value` expects the loss still to fall: half of the
        squared gradient norm in the model's inverse Hessian. What was really left has been up to twenty
        times as much.
    reason : str or None
        ``"converged"``: the decrease is within the tolerance; ``"stagnated"``: no step makes the loss
        fall beyond rounding; None while it goes on.
    """

    def __init__(self, start: Tensor, *, penalty: float) -> None:
        self.penalty = penalty
        self.value = self.trial = start
        self.gradient = torch.zeros_like(start)
        self.loss = self.decrease = float("inf")
        self.reason: str | None = None
        self._pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
        self._direction: Tensor | None = None
        self._is_guess = False
        self._slope = 0.0
        self._step = 1.0

    def tell(self, loss: float, gradient: Tensor) -> bool:
        """Take the loss and its gradient at `trial`, without the penalty; True if the step is taken.

        Unless `is_aimed` is true after it (a shorter step), `aim` sets the next trial.

        Raises
        ------
        NumericalError
            If the very first loss is not finite.
        """
        loss = loss + self.penalty * float(self.trial[:-1].square().sum())
        gradient = gradient.clone()
        gradient[:-1].add_(self.trial[:-1], alpha=2 * self.penalty)
        is_finite = loss < float("inf") and bool(torch.isfinite(gradient).all())
        if self._direction is None:
            if not is_finite:
                raise NumericalError("the log-loss is not finite: the features overflow; standardise them")
            self.loss, self.gradient = loss, gradient
            return True
        allowed = _ARMIJO * self._step * self._slope + _ROUNDING * max(1.0, abs(self.loss))
        if is_finite and loss <= self.loss + allowed:
            self._remember(self.trial - self.value, gradient - self.gradient)
            self.value, self.loss, self.gradient = self.trial, loss, gradient
            self._direction = None
            return True
        if self._is_guess:
            self._direction = None
            return False
        # Least of the parabola through both losses and the slope, kept within a tenth and a half.
        bend = 2 * (loss - self.loss - self._step * self._slope) if is_finite else float("inf")
        share = -self._slope * self._step / bend if bend > 0 else 0.5
        self._step *= min(0.5, max(0.1, share))
        self.trial = self.value + self._step * self._direction
        if self._step < _SMALLEST_STEP:
            self.reason = "stagnated"
        return False

    def aim(self, precondition: Precondition, *, tolerance: float) -> None:
        """Set the next trial, or a `reason` to stop."""
        direction = -self._times_inverse(self.gradient, precondition)
        self._begin(direction, is_guess=False)
        self.decrease = -0.5 * self._slope
        if self.decrease <= tolerance:
            self.reason = "converged"
        elif self.decrease <= 0.1 * _ROUNDING * abs(self.loss):
            self.reason = "stagnated"

    def relax(self, penalty: float, towards: Tensor | None = None) -> None:
        """Go on with another penalty from the present value, first trying the step `towards`."""
        change = penalty - self.penalty
        self.penalty = penalty
        self.loss += change * float(self.value[:-1].square().sum())
        self.gradient = self.gradient.clone()
        self.gradient[:-1].add_(self.value[:-1], alpha=2 * change)
        for step, difference in self._pairs:
            difference[:-1].add_(step[:-1], alpha=2 * change)
        kept = [pair for pair in self._pairs if float((pair[0] * pair[1]).sum()) > 0]
        self._pairs = deque(kept, maxlen=MEMORY)
        self.reason = None
        if towards is not None and float((towards * self.gradient).sum()) < 0:
            self._begin(towards, is_guess=True)
        else:
            self._direction = None

    @property
    def is_aimed(self) -> bool:
        """Whether `trial` is a step to try: a shorter one, or that of `relax`."""
        return self._direction is not None

    def _begin(self, direction: Tensor, *, is_guess: bool) -> None:
        self._direction, self._is_guess = direction, is_guess
        self._slope = float((direction * self.gradient).sum())
        self._step = 1.0
        self.trial = self.value + direction

    def _remember(self, step: Tensor, difference: Tensor) -> None:
        curvature = float((step * difference).sum())
        if curvature > 1e-12 * float(step.norm() * difference.norm()):
            self._pairs.append((step, difference))

    def _times_inverse(self, gradient: Tensor, precondition: Precondition) -> Tensor:
        """Two-loop recursion; the preconditioner is scaled by the newest pair."""
        rest = gradient.clone()
        shares = []
        for step, difference in reversed(self._pairs):
            curvature = (step * difference).sum()
            share = (step * rest).sum() / curvature
            rest -= share * difference
            shares.append((step, difference, share, curvature))
        result = precondition(rest)
        if shares:
            _, difference, _, curvature = shares[0]
            result = result * (curvature / (difference * precondition(difference)).sum())
        for step, difference, share, curvature in reversed(shares):
            result += (share - (difference * result).sum() / curvature) * step
        return result
