"""Fit a logistic kernel head on given centers: first the width, then penalty and temperature, then the fit.

Multinomial logistic regression on whitened Nystrom features (see `path` for the method and its papers). The
choices are made on some of the centers, because each costs many fits; only the last fit uses all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toptune.train.kernels.kernels import Linear, Radial
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.whitening import Whitening
from toptune.train.logistic.label_loss import logistic_rows
from toptune.train.logistic.log_loss import NO_FOLD, LogisticRows
from toptune.train.logistic.path import RowSample, Stop, follow
from toptune.train.logistic.plan import LogisticPlan, cached_rows_for, logistic_block_rows, sample_rows_for
from toptune.train.logistic.selection import Chosen, choose_penalty
from toptune.train.passes.kernel_rows import KernelRows
from toptune.train.passes.passes import PhaseWatch
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import to_tensor
from toptune.train.solvers.one_pass import solve
from toptune.train.solvers.selection import Candidate

# Decrease of the log-loss, in nats per row, that may be left at the end: far below what left-out rows can
# tell.
TOLERANCE = 1e-8
MAX_ITERATIONS = 300


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A fitted logistic head: scores are ``k(x, centers) dual + intercept``.

    Attributes
    ----------
    centers : Tensor, shape (rank, d)
        Centers kept by the whitening.
    dual : Tensor of float64, shape (rank, n_classes)
    intercept : Tensor of float64, shape (n_classes,)
    sigma : float or None
        Width; None for a kernel without one.
    chosen : Chosen
        Penalty, temperature and what left-out rows say.
    widths : tuple of Candidate
        What the choice of the width compared, by squared loss; empty where there was one.
    whitening : Whitening
        Factor of the centers of the fit.
    warnings : tuple of str
        What a user should know.
    n_passes : int
        Times that the rows were read.
    jitter : float
        Largest jitter that a preconditioner needed.
    iteration : dict
        How the last descent ended, for the report.
    seconds : dict
        Seconds of the choice of the width, of the path, of the fit, and their total.
    """

    centers: Tensor
    dual: Tensor
    intercept: Tensor
    sigma: float | None
    chosen: Chosen
    widths: tuple[Candidate, ...]
    whitening: Whitening
    warnings: tuple[str, ...]
    n_passes: int
    jitter: float
    iteration: dict[str, Any]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One kernel on given centers with its training rows, ready for `follow`.

    Attributes
    ----------
    maps : NystromMaps
        One map.
    rows : LogisticRows
    sample : RowSample
        Rows of which the preconditioner is made.
    """

    maps: NystromMaps
    rows: LogisticRows
    sample: RowSample

    @classmethod
    def of(
        cls,
        rows: TrainingRows,
        maps: NystromMaps,
        *,
        n_fits: int,
        is_cached: bool,
        seed: int,
        cuda_bytes: int | None = None,
    ) -> "Problem":
        """Compute the features' mean and the preconditioner's sample of rows.

        Parameters
        ----------
        rows : TrainingRows
        maps : NystromMaps
            One map.
        n_fits : int
            Fits that share each pass; they decide how many rows a block has.
        is_cached : bool
            Whether kernel values are kept.
        seed : int
            Seed of the sample.
        cuda_bytes : int, optional
            See `logistic_block_rows`.
        """
        whitening, device, dtype = maps.whitenings[0], maps.centers.device, maps.dtype
        n, d = rows.blocks.shape
        kept = torch.from_numpy(whitening.kept).to(device)
        n_columns = n_fits * rows.n_classes
        block_rows = logistic_block_rows(d=d, rank=len(kept), n_columns=n_columns, cuda_bytes=cuda_bytes)
        kernel_rows = KernelRows(
            rows, maps.kernels[0], maps.centers[kept], block_rows=block_rows, is_cached=is_cached,
            cached_rows=cached_rows_for(block_rows=block_rows, n_columns=n_columns),
        )  # fmt: skip
        problem_rows = logistic_rows(kernel_rows, whitening.factor)
        # Drawn uniformly, however the centers were chosen, because the sample stands for all rows.
        drawn = np.random.default_rng(seed).permutation(n)[: sample_rows_for(n=n, rank=len(maps.centers))]
        drawn.sort()
        sample = torch.empty((len(drawn), len(kept)), dtype=torch.float64, device=device)
        for first in range(0, len(drawn), block_rows):
            values = to_tensor(
                rows.blocks.take(drawn[first : first + block_rows]), dtype=dtype, device=device
            )
            (phi,) = maps.features(values, [0])
            torch.sub(phi, problem_rows.feature_mean, out=sample[first : first + block_rows])
        return cls(
            maps=maps,
            rows=problem_rows,
            sample=RowSample(
                sample, torch.from_numpy(rows.weights[drawn]).to(device), have_labels=rows.have_labels
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _Width:
    """The kernel that is chosen, with its map on the centers of the selection.

    Attributes
    ----------
    kernel : Radial or Linear
    maps : NystromMaps
    table : tuple of Candidate
        What was compared; empty where there was one kernel.
    warnings : tuple of str
    n_passes : int
        Passes over the rows that the choice took.
    """

    kernel: Radial | Linear
    maps: NystromMaps
    table: tuple[Candidate, ...] = ()
    warnings: tuple[str, ...] = ()
    n_passes: int = 0


def fit_logistic(
    rows: TrainingRows,
    kernels: Sequence[Radial | Linear],
    centers: Tensor,
    *,
    penalties: Sequence[float] | None,
    plan: LogisticPlan,
    seed: int,
) -> LogisticFit:
    """Choose width, penalty and temperature on some of the centers, then fit on all of them.

    The width is the one of least squared loss by the rules of `solve`, which sees every width in one pass.
    The penalty, whose scale depends on the loss, is chosen by the logistic fits themselves.

    Parameters
    ----------
    rows : TrainingRows
    kernels : sequence of kernels
        One per width.
    centers : Tensor, shape (M, d)
        Their type is that of the kernel values.
    penalties : sequence of float or None
        As for `choose_penalty`.
    plan : LogisticPlan
    seed : int
        Seed of the draws of centers for the selection and of rows for the preconditioner.

    Raises
    ------
    InputError
        If a value of the rows is not finite.
    NumericalError
        If a system is not positive definite even with jitter, or a loss is not finite.
    """
    seconds: dict[str, float] = {}
    watch = PhaseWatch(seconds)
    few = plan.selection_centers
    cuda_bytes = plan.limit_bytes if centers.is_cuda else None
    with watch.phase("width"):
        drawn = np.sort(np.random.default_rng(seed).permutation(len(centers))[:few])
        width = _choose_width(rows, kernels, centers[torch.from_numpy(drawn).to(centers.device)], cuda_bytes)
    with watch.phase("path"):
        problem = Problem.of(
            rows, width.maps, n_fits=rows.n_folds, is_cached=plan.is_selection_cached, seed=seed,
            cuda_bytes=cuda_bytes,
        )  # fmt: skip
        chosen = choose_penalty(problem.rows, penalties, problem.sample)
    n_passes, n_selection = width.n_passes, problem.rows.n_evaluations
    with watch.phase("fit"):
        # The mean over the folds is close to the solution on all rows.
        point = problem.rows.start_of(chosen.points)
        if few < len(centers):
            n_passes += problem.rows.kernel_rows.n_passes
            old_centers, dual, constant = _dual(problem, point)
            # Free the kernel values of the selection before those on all centers are made.
            del problem
            maps = NystromMaps.on([width.kernel], centers)
            problem = Problem.of(
                rows, maps, n_fits=1, is_cached=plan.is_cached, seed=seed, cuda_bytes=cuda_bytes
            )
            point = _projected(problem, old_centers, dual, constant)
        before = problem.rows.n_evaluations
        (found,) = follow(
            problem.rows,
            [chosen.penalty],
            folds=[NO_FOLD],
            starts=[point],
            sample=problem.sample,
            tolerance=TOLERANCE,
            max_iterations=MAX_ITERATIONS,
        )
        kept, dual, intercept = _dual(problem, found.points[0])
    seconds["total"] = sum(seconds.values())
    jitter = max(found.jitter, chosen.jitter)
    return LogisticFit(
        centers=kept,
        dual=dual,
        intercept=intercept,
        sigma=width.kernel.sigma,
        chosen=chosen,
        widths=width.table,
        whitening=problem.maps.whitenings[0],
        warnings=(*width.warnings, *chosen.warnings, *convergence_notes(found)),
        n_passes=n_passes + problem.rows.kernel_rows.n_passes,
        jitter=jitter,
        iteration={
            "reason": found.reason,
            "n_iterations": problem.rows.n_evaluations - before,
            "decrease": found.decrease,
            "tolerance": TOLERANCE,
            "gradient_norm": found.gradient_norm,
            "history": list(found.history),
            "preconditioner_jitter": jitter,
            "is_kernel_cached": plan.is_cached,
            "selected_on_centers": few,
            "selection_iterations": n_selection,
            "selection_reasons": [row.reason for row in chosen.tried],
        },
        seconds=seconds,
    )


def _choose_width(
    rows: TrainingRows, kernels: Sequence[Radial | Linear], centers: Tensor, cuda_bytes: int | None
) -> _Width:
    """Choose among kernels on the centers (m, d) of the selection by ridge regression on the same targets."""
    maps = NystromMaps.on(kernels, centers)
    if len(kernels) == 1:
        return _Width(kernel=kernels[0], maps=maps)
    selection = solve(
        rows, maps, [kernel.sigma for kernel in kernels], penalties=None,
        block_rows=logistic_block_rows(
            d=centers.shape[1], rank=len(centers), n_columns=0, cuda_bytes=cuda_bytes
        ),
        device=centers.device,
    )  # fmt: skip
    kernel = kernels[selection.map_index]
    return _Width(
        kernel=kernel,
        maps=NystromMaps.on([kernel], centers),
        table=selection.table,
        # Notes about the penalty of the squared loss say nothing about this fit, which chooses its own.
        warnings=tuple(note for note in selection.warnings if "width" in note),
        n_passes=selection.n_passes,
    )


def _dual(problem: Problem, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centers kept, the weights of their kernel values, and the intercepts."""
    kept, _ = problem.maps.coefficients(0, point[:-1])
    dual, intercept = problem.rows.dual_of([point])
    return kept, dual, intercept


def _projected(problem: Problem, centers: Tensor, dual: Tensor, constant: Tensor) -> Tensor:
    """Project the function ``k(x, centers) dual + constant`` orthogonally onto the span of more centers.

    In the kernel's space the coefficients of the projection are ``phi(centers)^T dual``, phi being the new
    features.
    """
    (phi,) = problem.maps.features(centers, [0])
    beta = phi.double().T @ dual
    return torch.cat([beta, (constant + problem.rows.feature_mean @ beta)[None]])


def convergence_notes(found: Stop) -> list[str]:
    """Say what a user should know about how the last fit ended."""
    notes = []
    if found.jitter > 0:
        notes.append(f"the preconditioner needed jitter, {found.jitter:.1e} of its mean diagonal [TT402]")
    if found.reason != "converged":
        notes.append(
            f"the logistic fit has not converged: {found.reason} after {len(found.history) - 1} passes with "
            f"{found.decrease:.1e} nats still to gain (tolerance {TOLERANCE:.0e}); raise the penalty [TT405]"
        )
    return notes
