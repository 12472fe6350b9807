"""A logistic kernel head on given centers: width, then penalty and temperature, then the fit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toptune.train.kernels.kernels import Linear, Radial
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.whitening import Whitening
from toptune.train.logistic.log_loss import NO_FOLD, LogisticRows
from toptune.train.logistic.path import Stop, follow
from toptune.train.logistic.plan import LogisticPlan, logistic_block_rows, sample_rows_for
from toptune.train.logistic.selection import Chosen, choose_penalty
from toptune.train.passes.kernel_rows import KernelRows
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_rows_for, to_tensor
from toptune.train.solvers.one_pass import solve
from toptune.train.solvers.selection import Candidate

# Decrease of the log-loss (nats a row) that may be left: far below what probabilities are known to.
TOLERANCE = 1e-8
MAX_ITERATIONS = 300


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A fitted logistic head: scores are ``k(x, centers) dual + intercept``.

    Attributes
    ----------
    centers : Tensor, shape (rank, d)
    dual : Tensor of float64, shape (rank, n_classes)
    intercept : Tensor of float64, shape (n_classes,)
    sigma : float or None
    chosen : Chosen
        Penalty, temperature and the figures of left-out rows.
    widths : tuple of Candidate
        What the choice of the width compared, by squared loss; empty where there was one.
    whitening : Whitening
        Of the centers of the fit.
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
    """One kernel on given centers with its training rows, ready for `follow`."""

    maps: NystromMaps
    rows: LogisticRows
    sample: Tensor
    sample_weights: Tensor

    @classmethod
    def of(
        cls, rows: TrainingRows, maps: NystromMaps, *, n_fits: int, is_cached: bool, seed: int
    ) -> "Problem":
        """Take the features' mean and the preconditioner's sample of rows."""
        whitening, device, dtype = maps.whitenings[0], maps.centers.device, maps.dtype
        n, d = rows.blocks.shape
        kept = torch.from_numpy(whitening.kept).to(device)
        factor = torch.from_numpy(whitening.factor).to(device)
        block_rows = logistic_block_rows(d=d, rank=len(kept), n_columns=n_fits * rows.n_classes)
        kernel_rows = KernelRows(
            rows, maps.kernels[0], maps.centers[kept], block_rows=block_rows, is_cached=is_cached
        )
        logistic_rows = LogisticRows(kernel_rows, factor)
        # Uniform, whichever way the centers were drawn: it stands for all rows.
        drawn = np.random.default_rng(seed).permutation(n)[: sample_rows_for(n=n, rank=len(maps.centers))]
        drawn.sort()
        sample = torch.empty((len(drawn), len(kept)), dtype=torch.float64, device=device)
        for first in range(0, len(drawn), block_rows):
            values = to_tensor(
                rows.blocks.take(drawn[first : first + block_rows]), dtype=dtype, device=device
            )
            (phi,) = maps.features(values, [0])
            torch.sub(phi, logistic_rows.feature_mean, out=sample[first : first + block_rows])
        return cls(
            maps=maps,
            rows=logistic_rows,
            sample=sample,
            sample_weights=torch.from_numpy(rows.weights[drawn]).to(device),
        )


def fit_logistic(
    rows: TrainingRows,
    kernels: Sequence[Radial | Linear],
    centers: Tensor,
    *,
    penalties: Sequence[float] | None,
    plan: LogisticPlan,
    seed: int,
) -> LogisticFit:
    """Choose width, penalty and temperature on some of the centers (M, d), then fit on all.

    The width is that of least squared loss by the rules of `solve`, which sees every width in one pass;
    the penalty, whose scale depends on the loss, is chosen by the logistic fits themselves.
    """
    start = time.perf_counter()
    seconds: dict[str, float] = {}
    few = plan.selection_centers
    drawn = np.sort(np.random.default_rng(seed).permutation(len(centers))[:few])
    some = centers[torch.from_numpy(drawn).to(centers.device)]
    maps = NystromMaps.on(kernels, some)
    widths: tuple[Candidate, ...] = ()
    notes: list[str] = []
    n_passes, index = 0, 0
    if len(kernels) > 1:
        selection = solve(
            rows, maps, [kernel.sigma for kernel in kernels], penalties=None,
            block_rows=block_rows_for(d=centers.shape[1], rank=few), device=centers.device,
        )  # fmt: skip
        index, widths, n_passes = selection.map_index, selection.table, selection.n_passes
        # The penalty of squared loss is not used.
        notes += [note for note in selection.warnings if "width" in note]
    kernel = kernels[index]
    seconds["width"] = time.perf_counter() - start
    start = time.perf_counter()
    problem = Problem.of(
        rows, maps if len(kernels) == 1 else NystromMaps.on([kernel], some), n_fits=rows.n_folds,
        is_cached=plan.is_selection_cached, seed=seed,
    )  # fmt: skip
    chosen = choose_penalty(problem.rows, penalties, problem.sample, problem.sample_weights)
    notes += chosen.warnings
    seconds["path"] = time.perf_counter() - start
    start = time.perf_counter()
    point = torch.stack(chosen.points).mean(dim=0)
    n_evaluations = problem.rows.n_evaluations
    if few < len(centers):
        n_passes += problem.rows.kernel_rows.n_passes
        old_centers, dual, constant = _dual(problem, point)
        del problem
        problem = Problem.of(
            rows, NystromMaps.on([kernel], centers), n_fits=1, is_cached=plan.is_cached, seed=seed
        )
        point = _projected(problem, old_centers, dual, constant)
    before = problem.rows.n_evaluations
    (found,) = follow(
        problem.rows, [chosen.penalty], folds=[NO_FOLD], starts=[point], sample=problem.sample,
        sample_weights=problem.sample_weights, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS,
    )  # fmt: skip
    kept, dual, intercept = _dual(problem, found.points[0])
    seconds["fit"] = time.perf_counter() - start
    seconds["total"] = sum(seconds.values())
    return LogisticFit(
        centers=kept,
        dual=dual,
        intercept=intercept,
        sigma=kernel.sigma,
        chosen=chosen,
        widths=widths,
        whitening=problem.maps.whitenings[0],
        warnings=(*notes, *convergence_notes(found)),
        n_passes=n_passes + problem.rows.kernel_rows.n_passes,
        jitter=max(found.jitter, chosen.jitter),
        iteration={
            "reason": found.reason,
            "n_iterations": problem.rows.n_evaluations - before,
            "decrease": found.decrease,
            "tolerance": TOLERANCE,
            "gradient_norm": found.gradient_norm,
            "history": list(found.history),
            "preconditioner_jitter": max(found.jitter, chosen.jitter),
            "is_kernel_cached": plan.is_cached,
            "selected_on_centers": few,
            "selection_iterations": n_evaluations,
            "selection_reasons": [row["reason"] for row in chosen.table],
        },
        seconds=seconds,
    )


def _dual(problem: Problem, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres kept, weights of their kernel values, and intercepts."""
    kept, _ = problem.maps.coefficients(0, point[:-1])
    dual, intercept = problem.rows.dual_of([point])
    return kept, dual, intercept


def _projected(problem: Problem, centers: Tensor, dual: Tensor, constant: Tensor) -> Tensor:
    """Point of the orthogonal projection of ``k(x, centers) dual + constant`` on the span of more centers."""
    (phi,) = problem.maps.features(centers, [0])
    beta = phi.double().T @ dual
    return torch.cat([beta, (constant + problem.rows.feature_mean @ beta)[None]])


def convergence_notes(found: Stop) -> list[str]:
    """Say what a user should know of how the last fit ended."""
    notes = []
    if found.jitter > 0:
        notes.append(f"the preconditioner needed jitter, {found.jitter:.1e} of its mean diagonal")
    if found.reason != "converged":
        notes.append(
            f"the logistic fit has not converged: {found.reason} after {len(found.history) - 1} passes with "
            f"{found.decrease:.1e} nats still to gain (tolerance {TOLERANCE:.0e}); raise the penalty"
        )
    return notes
