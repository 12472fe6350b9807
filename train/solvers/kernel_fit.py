"""Fits of a kernel head on given centers: directly, or by an iteration after a selection on fewer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.kernels.kernels import Linear, Radial
from toptune.train.kernels.maps import NystromMaps
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.solvers.falkon import TOLERANCE, FalkonSolution, solve_falkon
from toptune.train.solvers.falkon_lib import LIBRARY_ITERATIONS, LibrarySolution, solve_library
from toptune.train.solvers.one_pass import Solution, solve
from toptune.train.solvers.saved_sums import SavedSums
from toptune.train.solvers.single_fit import leave_one_out, once_solution, solve_once
from toptune.train.solvers.solver_choice import Choice

Kernels = Sequence[Radial | Linear]


@dataclass(frozen=True, kw_only=True)
class KernelFit:
    """A fitted kernel head: scores are ``k(x, centers) dual + intercept``.

    Attributes
    ----------
    centers : Tensor, shape (rank, d)
    dual : Tensor of float64, shape (rank, n_classes)
    intercept : Tensor of float64, shape (n_classes,)
    selection : Solution
        How width, penalty and temperature were chosen, with what a user should know.
    kept : ndarray of int64, shape (rank,)
        Which of the centers given they are.
    smallest_pivot : float
        Smallest pivot of their kernel matrix, relative to the largest.
    iteration : dict or None
        Account of the conjugate gradient; None for the direct solve.
    sums : SavedSums or None
        What a direct solve was made from.
    """

    centers: Tensor
    dual: Tensor
    intercept: Tensor
    selection: Solution
    kept: npt.NDArray[np.int64]
    smallest_pivot: float
    iteration: dict[str, Any] | None = None
    sums: SavedSums | None = None


def fit_kernel(
    rows: TrainingRows,
    kernels: Kernels,
    centers: Tensor,
    *,
    penalties: Sequence[float] | None,
    rule: str | None,
    choice: Choice,
    center_rows: npt.NDArray[np.int64] | None,
    seed: int,
) -> KernelFit:
    """Fit by the solver of the choice.

    Parameters
    ----------
    centers : Tensor, shape (M, d)
    rule : str or None
        See `choose`; None where there is nothing to select.
    center_rows : ndarray of int64, shape (M,), or None
        The training rows that the centers are, where they are rows.
    seed : int
        Of the centers on which an iterative solver selects.
    """
    if choice.solver == "direct":
        return fit_direct(rows, kernels, centers, penalties=penalties, rule=rule, choice=choice)
    fit = fit_library if choice.solver == "falkon-lib" else fit_iterative
    return fit(
        rows, kernels, centers,
        penalties=penalties, rule=rule, choice=choice, center_rows=center_rows, seed=seed,
    )  # fmt: skip


def fit_direct(
    rows: TrainingRows,
    kernels: Kernels,
    centers: Tensor,
    *,
    penalties: Sequence[float] | None,
    rule: str | None,
    choice: Choice,
) -> KernelFit:
    """Select by a rule (None: nothing to select) and fit on the same sums, all centers (M, d) throughout."""
    # A cluster's workers whiten their sums, and would be sent them in vain.
    maps = NystromMaps.on(kernels, centers, keep_grams=rows.cluster is None)
    selection = _select(rows, maps, penalties, rule, choice)
    kept, dual = maps.coefficients(selection.map_index, selection.beta[:-1])
    whitening = maps.whitenings[selection.map_index]
    return KernelFit(
        centers=kept,
        dual=dual,
        intercept=selection.beta[-1],
        selection=selection,
        kept=whitening.kept,
        smallest_pivot=whitening.smallest_pivot,
        sums=SavedSums.of(selection.sums, maps.factors[selection.map_index]),
    )


def fit_iterative(
    rows: TrainingRows,
    kernels: Kernels,
    centers: Tensor,
    *,
    penalties: Sequence[float] | None,
    rule: str | None,
    choice: Choice,
    center_rows: npt.NDArray[np.int64] | None,
    seed: int,
) -> KernelFit:
    """Select by the direct path on some of the centers, then fit on all of them by FALKON.

    Width and penalty keep their meaning on more centers of the same kernel: both belong to the full
    problem that the centers approximate. The temperature is that of the selection too.
    """
    few = choice.selection_centers
    selection: Solution | None = None
    index, penalty = 0, (penalties or [0.0])[0]
    if rule is not None:
        maps = _on_some(kernels, centers, few=few, seed=seed)
        # Its sums are of other centers: not to be kept, nor held meanwhile.
        selection = replace(_select(rows, maps, penalties, rule, choice), sums=None)
        index, penalty = selection.map_index, selection.chosen.penalty
    start = time.perf_counter()
    if few < len(centers):
        maps, index = NystromMaps.on([kernels[index]], centers), 0
    whitening = maps.whitenings[index]
    weights = None if center_rows is None else torch.from_numpy(rows.weights[center_rows]).to(centers.device)
    found = solve_falkon(
        rows,
        maps,
        index,
        [penalty],
        block_rows=block_rows_for(d=centers.shape[1], rank=len(centers), limit_bytes=choice.limit_bytes),
        is_cached=choice.is_cached,
        center_weights=weights,
    )
    beta = found.beta[0]
    kept, dual = maps.coefficients(index, beta[:-1])
    seconds = {"iteration": time.perf_counter() - start}
    if selection is None:
        # The preconditioner is near the system, and leverages taken from it are near those of the fit.
        left = leave_one_out(
            rows, maps, index, beta=beta, mean=found.feature_mean, factor=found.preconditioner
        )
        seconds["total"] = time.perf_counter() - start
        selection = once_solution(
            kernels[0].sigma, penalty, beta, left, seconds=seconds, n_passes=found.n_passes, sums=None
        )
    else:
        seconds = {**selection.seconds, "selection": selection.seconds["total"], **seconds}
        seconds["total"] = seconds["selection"] + seconds["iteration"]
        selection = replace(
            selection, beta=beta, n_passes=selection.n_passes + found.n_passes, seconds=seconds
        )
    return KernelFit(
        centers=kept,
        dual=dual,
        intercept=beta[-1],
        selection=replace(selection, warnings=(*selection.warnings, *_iteration_notes(found))),
        kept=whitening.kept,
        smallest_pivot=whitening.smallest_pivot,
        iteration={
            "reason": found.reason,
            "n_iterations": found.n_iterations,
            "residual": max(found.residuals),
            "tolerance": found.tolerance,
            "history": list(found.history),
            "preconditioner_jitter": found.jitter,
            "is_kernel_cached": choice.is_cached,
            "selected_on_centers": few,
        },
    )


def fit_library(
    rows: TrainingRows,
    kernels: Kernels,
    centers: Tensor,
    *,
    penalties: Sequence[float] | None,
    rule: str | None,
    choice: Choice,
    center_rows: npt.NDArray[np.int64] | None,
    seed: int,
) -> KernelFit:
    """Select by the direct path on some of the centers (M, d), then fit on all of them by FalkonML.

    With nothing to select, the temperature alone comes from there.
    """
    maps = _on_some(kernels, centers, few=choice.selection_centers, seed=seed)
    selection = replace(_select(rows, maps, penalties, rule, choice), sums=None)
    start = time.perf_counter()
    found = solve_library(
        rows,
        kernels[selection.map_index],
        centers,
        selection.chosen.penalty,
        center_rows=center_rows,
        is_stored=choice.is_cached,
    )
    seconds = {**selection.seconds, "selection": selection.seconds["total"]}
    seconds["iteration"] = time.perf_counter() - start
    seconds["total"] = seconds["selection"] + seconds["iteration"]
    return KernelFit(
        centers=centers,
        dual=found.dual,
        intercept=found.intercept,
        selection=replace(
            selection,
            beta=torch.cat([found.dual, found.intercept[None]]),
            warnings=(*selection.warnings, *_library_notes(found, TOLERANCE[centers.dtype])),
            n_passes=selection.n_passes + 1,
            seconds=seconds,
        ),
        kept=np.arange(len(centers)),
        smallest_pivot=found.smallest_pivot,
        iteration={
            "library": "falkon (FalkonML)",
            "version": found.version,
            "reason": "not reported by the library",
            "max_iterations": LIBRARY_ITERATIONS,
            "residual": found.residual,
            "residual_source": "taken from the solution by toptune; the library returns none",
            "tolerance": TOLERANCE[centers.dtype],
            "preconditioner_jitter": found.jitter,
            "is_kernel_cached": choice.is_cached,
            "selected_on_centers": choice.selection_centers,
        },
    )


def _on_some(kernels: Kernels, centers: Tensor, *, few: int, seed: int) -> NystromMaps:
    subset = np.sort(np.random.default_rng(seed).permutation(len(centers))[:few])
    return NystromMaps.on(kernels, centers[torch.from_numpy(subset).to(centers.device)])


def _select(
    rows: TrainingRows,
    maps: NystromMaps,
    penalties: Sequence[float] | None,
    rule: str | None,
    choice: Choice,
) -> Solution:
    m, d = maps.centers.shape
    block_rows = block_rows_for(d=d, rank=m, limit_bytes=choice.limit_bytes)
    device, sigmas = maps.centers.device, [kernel.sigma for kernel in maps.kernels]
    if rule is not None:
        return solve(
            rows, maps, sigmas, penalties=penalties, block_rows=block_rows, device=device, selection=rule
        )
    penalty = (penalties or [0.0])[0]
    return solve_once(rows, maps, sigmas[0], penalty=penalty, block_rows=block_rows, device=device)


def _iteration_notes(found: FalkonSolution) -> list[str]:
    notes = []
    if found.jitter > 0:
        notes.append(f"the preconditioner needed jitter, {found.jitter:.1e} of its mean diagonal")
    if found.reason != "converged":
        notes.append(
            f"conjugate gradient has not converged: {found.reason} after {found.n_iterations} products at a "
            f"relative residual of {max(found.residuals):.1e} (tolerance {found.tolerance:.0e}); raise the "
            "penalty, or use solver 'direct'"
        )
    return notes


def _library_notes(found: LibrarySolution, tolerance: float) -> list[str]:
    notes = [f"FalkonML warned: {message}" for message in found.messages]
    if found.residual > tolerance:
        notes.append(
            f"falkon {found.version} (FalkonML) stops after {LIBRARY_ITERATIONS} iterations and returns no "
            f"residual; that of its solution is {found.residual:.1e} (solver 'falkon' goes on to "
            f"{tolerance:.0e})"
        )
    return notes
