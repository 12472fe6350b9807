"""L-BFGS that is told losses and gradients, so that many minimizations share each pass over the rows.

The problem is ``min_v loss(v) + penalty ||v[:-1]||^2`` over v (r + 1, k): r coefficients and one intercept
for each of k classes; the intercept is not penalized. Directions follow the two-loop recursion (Nocedal &
Wright 2006, "Numerical optimization", alg. 7.4) with a preconditioner, which knows most of the Hessian, in
place of the usual multiple of the identity.
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from toptune.errors import NumericalError

Precondition = Callable[[Tensor], Tensor]
# Pairs of steps and gradient differences that are stored.
MEMORY = 8
# Share of the decrease promised by the slope that a step must achieve (Armijo).
_ARMIJO = 1e-4
# A rise by less than this share of the loss is rounding of the sum over the rows, not a rise.
_ROUNDING = 1e-13
# A line search that is shorter than this has stagnated.
_SMALLEST_STEP = 1e-8


class Descent:
    """One minimization of ``loss(v) + penalty ||v[:-1]||^2`` over v (r + 1, k), as a state machine.

    `trial` is the point at which loss and gradient are wanted next, and `tell` takes them. The direction is
    that of L-BFGS on a preconditioner; steps are shortened until the loss falls enough (Armijo's condition).
    The loss is convex, so every pair of step and gradient difference has positive curvature and Wolfe's
    second condition is not needed.

    A change of the penalty throws nothing away: its part of the loss, of the gradient and of every stored
    pair is known exactly, so that `relax` moves on to the next penalty without a pass.

    Parameters
    ----------
    start : Tensor of float64, shape (r + 1, k)
        First v.
    penalty : float
        Penalty of the coefficients.

    Attributes
    ----------
    value, gradient : Tensor of float64, shape (r + 1, k)
        The best point so far, and the gradient of loss and penalty there.
    loss : float
        Loss at `value`, including the penalty.
    decrease : float
        By how much the quadratic model at `value` expects the loss still to fall: ``g' H^-1 g / 2`` with the
        model's inverse Hessian. The true remaining decrease was measured at up to twenty times as much.
    reason : str or None
        ``"converged"``: the decrease is within the tolerance; ``"stagnated"``: no step makes the loss fall
        beyond rounding; None while the descent goes on.

    Examples
    --------
    The least of ``(v_0 - 3)^2 + v_0^2`` is at 1.5. The intercept, here unused, is not penalized.

    >>> import torch
    >>> descent = Descent(torch.zeros(2, 1).double(), penalty=1.0)
    >>> while descent.reason is None:
    ...     off = descent.trial[0, 0] - 3
    ...     descent.tell(float(off**2), torch.stack([2 * off, off.new_zeros(())])[:, None])
    ...     if not descent.is_aimed:
    ...         descent.aim(lambda gradient: gradient / 4, tolerance=1e-12)
    True
    True
    >>> round(float(descent.value[0, 0]), 6)
    1.5
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
        """Take the loss and its gradient at `trial`, both without the penalty; say if the step is accepted.

        After a rejected step `trial` holds a shorter one and `is_aimed` is true. Otherwise the caller must
        `aim` next.

        Parameters
        ----------
        loss : float
            Mean loss at `trial`.
        gradient : Tensor of float64, shape (r + 1, k)
            Gradient of that loss.

        Raises
        ------
        NumericalError
            If the first loss of all is not finite.
        """
        loss = loss + self.penalty * float(self.trial[:-1].square().sum())
        gradient = gradient.clone()
        gradient[:-1].add_(self.trial[:-1], alpha=2 * self.penalty)
        is_finite = loss < float("inf") and bool(torch.isfinite(gradient).all())
        if self._direction is None:
            if not is_finite:
                raise NumericalError("the log-loss is not finite: the features overflow; standardize them")
            self.loss, self.gradient = loss, gradient
            return True
        allowed = _ARMIJO * self._step * self._slope + _ROUNDING * max(1.0, abs(self.loss))
        if is_finite and loss <= self.loss + allowed:
            self._remember(self.trial - self.value, gradient - self.gradient)
            self.value, self.loss, self.gradient = self.trial, loss, gradient
            self._direction = None
            return True
        # A guess that fails is dropped rather than shortened: `aim` knows a better direction.
        if self._is_guess:
            self._direction = None
            return False
        # Step to the minimum of the parabola through both losses and the slope, within a tenth and a half of
        # the step that failed.
        bend = 2 * (loss - self.loss - self._step * self._slope) if is_finite else float("inf")
        share = -self._slope * self._step / bend if bend > 0 else 0.5
        self._step *= min(0.5, max(0.1, share))
        self.trial = self.value + self._step * self._direction
        if self._step < _SMALLEST_STEP:
            self.reason = "stagnated"
        return False

    def aim(self, precondition: Precondition, *, tolerance: float) -> None:
        """Set the next trial along the L-BFGS direction, or set a `reason` to stop.

        Parameters
        ----------
        precondition : callable
            Takes a gradient (r + 1, k) and returns an approximate inverse Hessian times that gradient.
        tolerance : float
            Expected decrease of the loss at which the descent has converged.
        """
        direction = -self._times_inverse(self.gradient, precondition)
        self._begin(direction, is_guess=False)
        self.decrease = -0.5 * self._slope
        if self.decrease <= tolerance:
            self.reason = "converged"
        elif self.decrease <= 0.1 * _ROUNDING * abs(self.loss):
            self.reason = "stagnated"

    def relax(self, penalty: float, towards: Tensor | None = None) -> None:
        """Move on to another penalty from the present value.

        Parameters
        ----------
        penalty : float
            The next penalty.
        towards : Tensor of float64, shape (r + 1, k), optional
            A guess of the step to the next solution; tried first if the loss falls along it.
        """
        change = penalty - self.penalty
        self.penalty = penalty
        self.loss += change * float(self.value[:-1].square().sum())
        self.gradient = self.gradient.clone()
        self.gradient[:-1].add_(self.value[:-1], alpha=2 * change)
        # The penalty's Hessian is 2 penalty I on the coefficients: each gradient difference moves by its
        # change.
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
        """Whether `trial` still has to be evaluated, after backtracking or after `relax` set it."""
        return self._direction is not None

    def _begin(self, direction: Tensor, *, is_guess: bool) -> None:
        """Start a line search along a direction with the full step."""
        self._direction, self._is_guess = direction, is_guess
        self._slope = float((direction * self.gradient).sum())
        self._step = 1.0
        self.trial = self.value + direction

    def _remember(self, step: Tensor, difference: Tensor) -> None:
        """Store a pair of step and gradient difference, unless rounding has eaten its curvature."""
        curvature = float((step * difference).sum())
        if curvature > 1e-12 * float(step.norm() * difference.norm()):
            self._pairs.append((step, difference))

    def _times_inverse(self, gradient: Tensor, precondition: Precondition) -> Tensor:
        """Multiply a gradient by the approximate inverse Hessian: the two-loop recursion of L-BFGS.

        The middle of the recursion, H_0, is the preconditioner, scaled so that it agrees with the newest
        pair.
        """
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
