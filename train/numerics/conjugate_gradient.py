"""Preconditioned conjugate gradient for many right-hand sides that share each product."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from toptune.errors import NumericalError

# (columns (r, k), their numbers (k,)) -> (r, k): a product with each column's own matrix.
Product = Callable[[Tensor, Tensor], Tensor]
REASONS = ("converged", "stagnated", "iteration-limit")
# A true residual this many times the tolerance still counts: the recurrence drifts by rounding.
_SLACK = 2.0
# A restart must shrink the true residual by this factor, or rounding has the last word.
_PROGRESS = 0.5


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What an iterative solve found and why it stopped.

    Attributes
    ----------
    value : Tensor of float64, shape (r, m)
    reason : str
        ``"converged"``: every column's true residual is within the tolerance. ``"stagnated"``:
        restarting from the true residual brought no further progress (rounding level).
        ``"iteration-limit"``: stopped before either.
    residuals : Tensor of float64, shape (m,)
        True relative residual of each column, in the preconditioner's norm; taken afresh from the
        value, never from the recurrence.
    history : tuple of float
        Largest relative residual over the columns after each product.
    n_iterations : int
        Products with the matrix, those that check the residual included.
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
    """Solve ``A_j x_j = b_j`` for symmetric positive definite A_j, one product for all j at a time.

    Every column has its own recurrence (Hestenes & Stiefel 1952; Saad 2003, alg. 9.1) and drops out
    once its residual r satisfies ``sqrt(r' P^-1 r) <= tolerance sqrt(b' P^-1 b)``: where the
    preconditioner P is near A this is the relative error in A's own norm. At the end the residual is
    taken from the solution itself; columns that had only drifted there are restarted.

    Parameters
    ----------
    product, precondition : callable
        Columns (r, k) and their numbers (k,) to ``A_j v_j`` and to ``P_j^-1 v_j``.
    right : Tensor of float64, shape (r, m)
    start : Tensor of float64, shape (r, m), optional
        First guess; 0 by default.
    fast_product : callable, optional
        A less exact product for the recurrences, until it brings no progress any more. Residuals are taken
        by `product`, so the solution is as exact as without.
    tolerance : float
        Relative residual to reach.
    max_iterations : int
        Products allowed.

    Raises
    ------
    NumericalError
        If a residual is not finite.
    """
    value = torch.zeros_like(right) if start is None else start.clone()
    everything = torch.arange(right.shape[1], device=right.device)
    scale = _norm(right, precondition(right, everything))
    residuals = torch.zeros_like(scale)
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
                "conjugate gradient met a residual that is not finite; raise the penalty or standardise"
            )
        history.append(float(residuals.max()))
        wanting = relative > tolerance * (1.0 if len(history) == 1 else _SLACK)
        if fast_product is not None and bool((wanting & (relative > _PROGRESS * previous[active])).any()):
            fast_product = None
            previous[active] = float("inf")
        # Out of products is not out of digits.
        stuck = wanting & (relative > _PROGRESS * previous[active]) & (left > 1)
        stagnated = stagnated or bool(stuck.any())
        previous[active] = relative
        kept = wanting & ~stuck
        active, residual, preconditioned = active[kept], residual[:, kept], preconditioned[:, kept]
        if len(active) == 0 or left <= 1:
            break
        used = _descend(
            value, residual, preconditioned, active, scale, fast_product or product, precondition,
            tolerance=tolerance, max_iterations=left - 1, history=history,
        )  # fmt: skip
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


def _descend(
    value: Tensor,
    residual: Tensor,
    preconditioned: Tensor,
    active: Tensor,
    scale: Tensor,
    product: Product,
    precondition: Product,
    *,
    tolerance: float,
    max_iterations: int,
    history: list[float],
) -> int:
    """Run the recurrences of the active columns on `value` in place; return the products taken."""
    direction = preconditioned
    energy = (residual * preconditioned).sum(dim=0)
    for iteration in range(max_iterations):
        image = product(direction, active)
        curvature = (direction * image).sum(dim=0)
        # Curvature lost to rounding: the column is as far as it gets, its true residual will say so.
        step = torch.where(curvature > 0, energy / curvature, 0.0)
        value[:, active] += step * direction
        residual = residual - step * image
        preconditioned = precondition(residual, active)
        new_energy = (residual * preconditioned).sum(dim=0).clamp_(min=0)
        relative = new_energy.sqrt() / scale[active]
        history.append(float(relative.max()))
        kept = (relative > tolerance) & (curvature > 0)
        if not bool(kept.any()):
            return iteration + 1
        direction = preconditioned + (new_energy / energy) * direction
        energy = new_energy
        if not bool(kept.all()):
            active, residual, energy = active[kept], residual[:, kept], energy[kept]
            direction = direction[:, kept]
    return max_iterations


def _norm(residual: Tensor, preconditioned: Tensor) -> Tensor:
    return (residual * preconditioned).sum(dim=0).clamp_(min=0).sqrt_()
