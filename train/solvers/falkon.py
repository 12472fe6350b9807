"""FALKON: Nystrom kernel ridge regression by preconditioned conjugate gradient, out of core.

In the notation of Rudi, Carratino & Rosasco 2017 (Alg. 1), with ``K_MM = T'T``: the unknowns are
``beta = T alpha``, the preconditioner is ``A'A = (1/M) T T' + penalty I``. Here T' is the pivoted
factor L of `whiten`, so that dependent centers leave the basis exactly as they leave the direct
solve, and both answer the same system; features and targets are centered, which is the intercept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from toptune.train.kernels.maps import NystromMaps
from toptune.train.numerics.cholesky import factor_made, panels, solve_factored
from toptune.train.numerics.conjugate_gradient import REASONS, conjugate_gradient
from toptune.train.passes.kernel_rows import CenteredRows, KernelRows
from toptune.train.passes.training_rows import TrainingRows

# Relative error in the norm of the scores, by the type of the kernel's values. Labels are settled at far
# larger errors: 1e-5 lets scores be compared with the direct solve, and float32 values allow only 1e-4.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
MAX_ITERATIONS = 100
# Columns that share a product, at most. Further penalties go into another group, which starts from the last
# solution of the group before.
COLUMNS = 1000


@dataclass(frozen=True, kw_only=True)
class FalkonSolution:
    """Coefficients of every penalty, and how the iteration reached them.

    Attributes
    ----------
    penalties : tuple of float
        Descending, as they were solved.
    beta : Tensor of float64, shape (n_penalties, r + 1, n_targets)
        Coefficients of the whitened features, the intercept last, as in the direct solve.
    reason : str
        Why the iteration stopped, one of `REASONS`; the worst reason where there are several groups.
    residuals : tuple of float
        Largest true relative residual of each penalty's columns.
    history : tuple of float
        Largest relative residual after each product.
    tolerance : float
        Relative residual that was asked for.
    n_iterations, n_passes : int
        Products with the kernel's values, and times that the rows were read.
    feature_mean : Tensor of float64, shape (r,)
        Weighted mean of the whitened features.
    preconditioner : Tensor of float64, shape (r, r)
        Lower factor of the last penalty's preconditioner.
    jitter : float
        Largest share of its mean diagonal that a preconditioner took; jitter slows the iteration and does
        not change the solution.
    """

    penalties: tuple[float, ...]
    beta: Tensor
    reason: str
    residuals: tuple[float, ...]
    history: tuple[float, ...]
    tolerance: float
    n_iterations: int
    n_passes: int
    feature_mean: Tensor
    preconditioner: Tensor
    jitter: float


def solve_falkon(
    rows: TrainingRows,
    maps: NystromMaps,
    index: int,
    penalties: Sequence[float],
    *,
    block_rows: int,
    is_cached: bool,
    center_weights: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
    columns: int = COLUMNS,
) -> FalkonSolution:
    """Solve the ridge systems of one kernel for all targets and penalties.

    Penalties are taken from the largest down, in groups of at most `columns` columns that share each
    pass over the rows; a group starts from the last solution of the one before.

    Parameters
    ----------
    rows : TrainingRows
    maps : NystromMaps
    index : int
        Position of the kernel among the kernels of the maps.
    penalties : sequence of float
        In any order; they are solved from the largest down.
    block_rows : int
        Rows read at a time.
    is_cached : bool
        Keep the kernel's values, n x rank numbers, in memory.
    center_weights : Tensor of float64, shape (M,), optional
        Weights of the centers' rows in the loss; 1 by default. Only the speed depends on them.
    tolerance : float, optional
        Relative residual; see `conjugate_gradient`. By default the value in `TOLERANCE`.
    max_iterations : int
        Products for each group, at most.
    columns : int
        Columns of a group, at most.

    Raises
    ------
    NumericalError
        If values are not finite or no jitter makes a preconditioner positive definite.
    """
    limit = TOLERANCE[maps.dtype] if tolerance is None else tolerance
    kept, factor = maps.kept[index], maps.factors[index]
    kernel_rows = KernelRows(
        rows, maps.kernels[index], maps.centers[kept], block_rows=block_rows, is_cached=is_cached
    )
    system = CenteredRows.of(kernel_rows, factor)
    moments = center_moments(maps, index, center_weights)
    # A larger penalty makes a better conditioned system, whose solution is a good start for the next one.
    descending = tuple(sorted(penalties, reverse=True))
    size = max(1, columns // rows.n_classes)
    betas: list[Tensor] = []
    residuals: list[float] = []
    history: list[float] = []
    worst, n_iterations, jitter = 0, 0, 0.0
    for first in range(0, len(descending), size):
        group = _PenaltyGroup.of(system, moments, descending[first : first + size], n_targets=rows.n_classes)
        found = conjugate_gradient(
            group.product,
            group.precondition,
            system.cross.repeat(1, len(group.factors)),
            start=betas[-1].repeat(1, len(group.factors)) if betas else None,
            # Products in float32 serve until they bring no progress; the residuals that decide are float64.
            fast_product=None if maps.dtype == torch.float64 else group.fast_product,
            tolerance=limit,
            max_iterations=max_iterations,
        )
        betas += torch.split(found.value, rows.n_classes, dim=1)
        residuals += [float(part.max()) for part in torch.split(found.residuals, rows.n_classes)]
        history += found.history
        n_iterations += found.n_iterations
        worst, jitter = max(worst, REASONS.index(found.reason)), max(jitter, group.jitter)
    return FalkonSolution(
        penalties=descending,
        beta=torch.stack([torch.cat([beta, system.intercept(beta)[None]]) for beta in betas]),
        reason=REASONS[worst],
        residuals=tuple(residuals),
        history=tuple(history),
        tolerance=limit,
        n_iterations=n_iterations,
        n_passes=kernel_rows.n_passes,
        feature_mean=torch.linalg.solve_triangular(factor, system.kernel_mean[:, None], upper=False)[:, 0],
        preconditioner=group.factors[-1],
        jitter=jitter,
    )


@dataclass(frozen=True, kw_only=True)
class _PenaltyGroup:
    """The systems of several penalties, whose columns (one for each target and penalty) share each product.

    Attributes
    ----------
    system : CenteredRows
        Second moments S of all rows: the system of a penalty is ``S + penalty I``.
    penalties : Tensor of float64, shape (n_penalties n_targets,)
        Penalty of each column.
    factors : list of Tensor of float64, shape (r, r)
        Lower factor of each penalty's preconditioner.
    n_targets : int
    jitter : float
        Largest jitter that a preconditioner took.
    """

    system: CenteredRows
    penalties: Tensor
    factors: list[Tensor]
    n_targets: int
    jitter: float

    @classmethod
    def of(
        cls, system: CenteredRows, moments: Tensor, penalties: Sequence[float], *, n_targets: int
    ) -> "_PenaltyGroup":
        """Factor the preconditioner of each penalty, from the moments (r, r) of the centers."""
        made = [
            factor_made(
                partial(_shifted, moments, penalty), what=f"the preconditioner at penalty {penalty:g}"
            )
            for penalty in penalties
        ]
        of_column = torch.tensor(penalties, dtype=torch.float64, device=moments.device)
        return cls(
            system=system,
            penalties=of_column.repeat_interleave(n_targets),
            factors=[factor for factor, _ in made],
            n_targets=n_targets,
            jitter=max(jitter for _, jitter in made),
        )

    def product(self, v: Tensor, numbers: Tensor) -> Tensor:
        """Return the product of the systems with columns (r, k), where `numbers` (k,) says which they are."""
        return self.system.product(v) + self.penalties[numbers] * v

    def fast_product(self, v: Tensor, numbers: Tensor) -> Tensor:
        """Return the same product in the arithmetic of the kernel's values."""
        return self.system.product(v, is_exact=False) + self.penalties[numbers] * v

    def precondition(self, v: Tensor, numbers: Tensor) -> Tensor:
        """Return the solutions of the preconditioners' systems for columns (r, k)."""
        result = torch.empty_like(v)
        which = torch.div(numbers, self.n_targets, rounding_mode="floor")
        # Columns that have converged have dropped out, so a penalty may have any number of columns left.
        for at in torch.unique(which).tolist():
            mine = which == at
            result[:, mine] = solve_factored(self.factors[at], v[:, mine])
        return result


def center_moments(maps: NystromMaps, index: int, weights: Tensor | None = None) -> Tensor:
    """Return the centered second moments (r, r) of the centers' own whitened features.

    In the preconditioner these moments stand for the moments of all rows. Where no center was dropped, the
    features of the centers are the rows of the factor, and the moments are ``(1/M) T T'`` less the mean.
    Dropped centers count too: they are not in the basis, but they are rows like all others.
    """
    factor = maps.factors[index]
    is_whole = maps.whitenings[index].is_whole
    phi = factor if is_whole else next(maps.features(maps.centers, [index]))
    w = torch.ones_like(phi[:, 0]) if weights is None else weights
    share = (w / w.sum())[:, None]
    mean, weighted = (share * phi).sum(dim=0), share * phi
    moments = torch.empty_like(factor)
    for columns in panels(len(factor)):
        # Above its diagonal the factor is 0.
        rows = slice(columns.start if is_whole else 0, None)
        part = weighted[rows, columns].T @ phi[rows, : columns.stop]
        moments[columns, : columns.stop] = part
        moments[: columns.stop, columns] = part.T
    return moments.addr_(mean, mean, alpha=-1)


def _shifted(moments: Tensor, penalty: float) -> Tensor:
    system = moments.clone()
    system.diagonal().add_(penalty)
    return system
