"""Solve many symmetric systems at once by preconditioned conjugate gradient.

The recurrence is that of Hestenes & Stiefel (1952), preconditioned as in Saad (2003, "Iterative methods for
sparse linear systems", alg. 9.1). This differs from a textbook loop in four points. 1. All right-hand sides
share each product, because here a product is a pass over all training rows. 2. A column that has converged
drops out. 3. The residual is recomputed from the solution at the end, and columns whose recurrence had only
drifted to the tolerance are restarted. 4. A cheaper product (float32) may serve the recurrence until it
brings no further progress; residuals always use the exact one.

Letters: A the matrix (r, r), P its preconditioner, b a right-hand side, x its solution, r the residual
``b - A x``, v any vector.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from toptune.errors import NumericalError

# A function of columns (r, k) and their numbers (k,) that multiplies each column by its own matrix: (r, k).
Product = Callable[[Tensor, Tensor], Tensor]
REASONS = ("converged", "stagnated", "iteration-limit")
# Columns end when the recurrence meets the tolerance; rounding makes the true residual a little larger, and
# up to this many times the tolerance it still counts as converged.
_SLACK = 2.0
# A restart that does not at least halve the true residual has reached the rounding level of the product.
_PROGRESS = 0.5


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What an iterative solve found and why it stopped.

    Attributes
    ----------
    value : Tensor of float64, shape (r, m)
        Solutions, a column each.
    reason : str
        ``"converged"``: every column's true residual is within the tolerance. ``"stagnated"``: restarting
        from the true residual brought no further progress (rounding level). ``"iteration-limit"``: stopped
        before either.
    residuals : Tensor of float64, shape (m,)
        True relative residual of each column, in the preconditioner's norm; computed from `value`, never
        taken from the recurrence.
    history : tuple of float
        Largest relative residual over the columns after each product.
    n_iterations : int
        Products with the matrix, including those that check the residual.
    """

    value: Tensor
    reason: str
    residuals: Tensor
    history: tuple[float, ...]
    n_iterations: int


def conjugate_gradient(
    product: Product,
    precondition: Product,
    right: Tensor,
    *,
    start: Tensor | None = None,
    fast_product: Product | None = None,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Solve ``A_j x_j = b_j`` for symmetric positive definite A_j, with one shared product for all j.

    Every column has a recurrence of its own and drops out once its residual r satisfies
    ``sqrt(r' P^-1 r) <= tolerance sqrt(b' P^-1 b)``. Where the preconditioner P is close to A this is the
    relative error of x in the norm of A itself. Finally the residual is computed from the solution; columns
    that miss the tolerance there are restarted from it.

    Parameters
    ----------
    product : callable
        Takes columns v (r, k) and their numbers j (k,), returns ``A_j v_j`` (r, k).
    precondition : callable
        Takes the same, returns ``P_j^-1 v_j`` (r, k).
    right : Tensor of float64, shape (r, m)
        Right-hand sides b, a column each.
    start : Tensor of float64, shape (r, m), optional
        First guess of the solutions; 0 by default.
    fast_product : callable, optional
        A less exact product for the recurrences, used until a restart brings no progress. Residuals are
        computed by `product`, so the solution is as exact as without this.
    tolerance : float
        Relative residual to reach.
    max_iterations : int
        Products allowed.

    Raises
    ------
    NumericalError
        If a residual is not finite.

    Examples
    --------
    >>> import torch
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]]).double()
    >>> found = conjugate_gradient(
    ...     lambda v, j: A @ v,
    ...     lambda v, j: v / A.diagonal()[:, None],
    ...     torch.tensor([[1.0], [2.0]]).double(),
    ...     tolerance=1e-10,
    ...     max_iterations=20,
    ... )
    >>> found.reason, [round(x, 4) for x in found.value[:, 0].tolist()]
    ('converged', [0.0909, 0.6364])
    """
    value = torch.zeros_like(right) if start is None else start.clone()
    everything = torch.arange(right.shape[1], device=right.device)
    scale = _norm(right, precondition(right, everything))
    residuals = torch.zeros_like(scale)
    # The solution for b = 0 is 0, and its residual could not be measured relative to b.
    value[:, scale == 0] = 0.0
    active = everything[scale > 0]
    history: list[float] = []
    left = max_iterations
    stagnated = False
    residual = right[:, active].clone()
    if start is not None and len(active):
        residual -= product(value[:, active], active)
        left -= 1
    previous = torch.full_like(scale, float("inf"))
    while len(active):
        preconditioned = precondition(residual, active)
        residuals[active] = relative = _norm(residual, preconditioned) / scale[active]
        if not bool(torch.isfinite(relative).all()):
            raise NumericalError(
                "conjugate gradient met a residual that is not finite; raise the penalty or standardize"
            )
        history.append(float(residuals.max()))
        # The first residual is the start's own: no recurrence has drifted yet, so it gets no slack.
        wanting = relative > tolerance * (1.0 if len(history) == 1 else _SLACK)
        if fast_product is not None and bool((wanting & (relative > _PROGRESS * previous[active])).any()):
            # The fast product has reached its own rounding; go on with the exact one before giving up.
            fast_product = None
            previous[active] = float("inf")
        # Hitting the iteration limit must not be reported as stagnation.
        stuck = wanting & (relative > _PROGRESS * previous[active]) & (left > 1)
        stagnated = stagnated or bool(stuck.any())
        previous[active] = relative
        kept = wanting & ~stuck
        active, residual, preconditioned = active[kept], residual[:, kept], preconditioned[:, kept]
        if len(active) == 0 or left <= 1:
            break
        recurrence = _Recurrence(fast_product or product, precondition, scale, tolerance)
        used = recurrence.run(
            value, residual, preconditioned, active, max_iterations=left - 1, history=history
        )
        residual = right[:, active] - product(value[:, active], active)
        left -= used + 1
    reason = "iteration-limit" if len(active) else "stagnated" if stagnated else "converged"
    return Solution(
        value=value,
        reason=reason,
        residuals=residuals,
        history=tuple(history),
        n_iterations=max_iterations - left,
    )


@dataclass(frozen=True)
class _Recurrence:
    """What the recurrences of all columns share.

    Attributes
    ----------
    product, precondition : callable
        As in `conjugate_gradient`; the product may be the fast one.
    scale : Tensor, shape (m,)
        ``sqrt(b' P^-1 b)`` of every column, the unit of its residual.
    tolerance : float
        Relative residual at which a recurrence ends.
    """

    product: Product
    precondition: Product
    scale: Tensor
    tolerance: float

    def run(
        self,
        value: Tensor,
        residual: Tensor,
        preconditioned: Tensor,
        active: Tensor,
        *,
        max_iterations: int,
        history: list[float],
    ) -> int:
        """Run the recurrences of the `active` columns and return the number of products used.

        Parameters
        ----------
        value : Tensor, shape (r, m)
            Solutions so far; the active columns are updated in place.
        residual, preconditioned : Tensor, shape (r, k)
            True residuals r of the active columns, and ``P^-1 r``.
        active : Tensor of int64, shape (k,)
            Numbers of the columns that are not solved yet.
        max_iterations : int
            Products allowed.
        history : list of float
            Takes up the largest relative residual after each product.
        """
        direction = preconditioned
        energy = (residual * preconditioned).sum(dim=0)
        for iteration in range(max_iterations):
            image = self.product(direction, active)
            curvature = (direction * image).sum(dim=0)
            # Where v' A v <= 0 rounding has eaten all digits: the column stops here, and its true residual,
            # computed by the caller, says how far it came.
            step = torch.where(curvature > 0, energy / curvature, 0.0)
            value[:, active] += step * direction
            residual = residual - step * image
            preconditioned = self.precondition(residual, active)
            new_energy = (residual * preconditioned).sum(dim=0).clamp_(min=0)
            relative = new_energy.sqrt() / self.scale[active]
            history.append(float(relative.max()))
            kept = (relative > self.tolerance) & (curvature > 0)
            if not bool(kept.any()):
                return iteration + 1
            direction = preconditioned + (new_energy / energy) * direction
            energy = new_energy
            if not bool(kept.all()):
                active, residual, energy = active[kept], residual[:, kept], energy[kept]
                direction = direction[:, kept]
        return max_iterations


def _norm(residual: Tensor, preconditioned: Tensor) -> Tensor:
    """Return ``sqrt(r' P^-1 r)`` of every column, from r and ``P^-1 r``; rounding below 0 counts as 0."""
    return (residual * preconditioned).sum(dim=0).clamp_(min=0).sqrt_()
