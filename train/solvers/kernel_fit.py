"""Fits of a kernel head on given centers: directly, or by an iteration after a selection on fewer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from toptune.train.solvers.unknown_labels import with_known_labels

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
        Positions of the `centers` among the centers given.
    smallest_pivot : float
        Smallest pivot of the centers' kernel matrix, relative to the largest.
    iteration : dict or None
        Account of the conjugate gradient iteration; None for the direct solve.
    sums : SavedSums or None
        Sums from which a direct solve was made; None after an iteration.
    """

    centers: Tensor
    dual: Tensor
    intercept: Tensor
    selection: Solution
    kept: npt.NDArray[np.int64]
    smallest_pivot: float
    iteration: dict[str, object] | None = None
    sums: SavedSums | None = None


@dataclass(frozen=True, kw_only=True)
class FitProblem:
    """A kernel head to fit, in the terms that every solver takes.

    Attributes
    ----------
    rows : TrainingRows
    kernels : sequence of Radial or Linear
        One kernel of each width, ascending.
    centers : Tensor, shape (M, d)
    center_rows : ndarray of int64, shape (M,), or None
        The training rows that the centers are, where they are rows.
    penalties : sequence of float or None
        Grid, ascending; None for the default grid.
    rule : str or None
        Rule of `choose_candidate` for width and penalty; None where there is nothing to select.
    choice : Choice
        The solver, and the values that the solver may hold in memory.
    seed : int
        Seed of the draw of the centers on which an iterative solver selects.
    """

    rows: TrainingRows
    kernels: Kernels
    centers: Tensor
    center_rows: npt.NDArray[np.int64] | None
    penalties: Sequence[float] | None
    rule: str | None
    choice: Choice
    seed: int

    @property
    def first_penalty(self) -> float:
        """The penalty of a fit with nothing to select."""
        return (self.penalties or [0.0])[0]

    def on_some_centers(self) -> NystromMaps:
        """Draw the centers on which an iterative solver selects, and return the maps on them."""
        # The draw is uniform, so that the subset of class-balanced centers stays balanced on average.
        few, centers = self.choice.selection_centers, self.centers
        subset = np.sort(np.random.default_rng(self.seed).permutation(len(centers))[:few])
        return NystromMaps.on(self.kernels, centers[torch.from_numpy(subset).to(centers.device)])

    def block_rows(self, rank: int) -> int:
        """Return the rows of a block, of which `rank` kernel values each are computed."""
        d, on_cuda = self.centers.shape[1], self.centers.is_cuda
        return block_rows_for(d=d, rank=rank, limit_bytes=self.choice.limit_bytes, on_cuda=on_cuda)

    def select(self, maps: NystromMaps) -> Solution:
        """Choose width and penalty on given maps and fit them, in one pass and a second one."""
        device, sigmas = maps.centers.device, [kernel.sigma for kernel in maps.kernels]
        block_rows = self.block_rows(len(maps.centers))
        if self.rule is None:
            return solve_once(
                self.rows, maps, sigmas[0], penalty=self.first_penalty, block_rows=block_rows, device=device
            )
        return solve(
            self.rows, maps, sigmas, penalties=self.penalties, block_rows=block_rows, device=device,
            selection=self.rule,
        )  # fmt: skip


def fit_kernel(problem: FitProblem) -> KernelFit:
    """Fit by the solver that the choice names."""
    fits = {"direct": fit_direct, "falkon": fit_iterative, "falkon-lib": fit_library}
    return fits[problem.choice.solver](problem)


def fit_direct(problem: FitProblem) -> KernelFit:
    """Select and fit on the same sums, with all centers throughout."""
    maps = NystromMaps.on(problem.kernels, problem.centers, keep_grams=True)
    selection = problem.select(maps)
    rows = problem.rows
    if rows.targets is not None and rows.targets.are_partly_unknown:
        block_rows = problem.block_rows(len(problem.centers))
        selection = with_known_labels(
            selection, rows, maps, block_rows=block_rows, device=maps.centers.device
        )
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


def fit_iterative(problem: FitProblem) -> KernelFit:
    """Select by the direct path on some of the centers, then fit on all of them by FALKON.

    Width and penalty keep their meaning on more centers of the same kernel, because both belong to the full
    problem that the centers approximate. The temperature of the selection is kept too.
    """
    centers, choice = problem.centers, problem.choice
    selection: Solution | None = None
    index, penalty = 0, problem.first_penalty
    if problem.rule is not None:
        maps = problem.on_some_centers()
        # These sums are of other centers than the fit's: they are neither kept nor held meanwhile.
        selection = replace(problem.select(maps), sums=None)
        index, penalty = selection.map_index, selection.chosen.penalty
    start = time.perf_counter()
    # After a selection on all centers its maps serve the fit; otherwise only the chosen width is whitened.
    if choice.selection_centers < len(centers):
        maps, index = NystromMaps.on([problem.kernels[index]], centers), 0
    found = solve_falkon(
        problem.rows,
        maps,
        index,
        [penalty],
        block_rows=block_rows_for(
            d=centers.shape[1], rank=len(centers), limit_bytes=choice.limit_bytes, on_cuda=centers.is_cuda
        ),
        is_cached=choice.is_cached,
        center_weights=_center_weights(problem),
    )
    kept, dual = maps.coefficients(index, found.beta[0, :-1])
    selection = (
        _calibrated(problem, maps, index, found, start=start)
        if selection is None
        else _refitted(selection, found, start=start)
    )
    whitening = maps.whitenings[index]
    return KernelFit(
        centers=kept,
        dual=dual,
        intercept=found.beta[0, -1],
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
            "selected_on_centers": choice.selection_centers,
        },
    )


def _center_weights(problem: FitProblem) -> Tensor | None:
    if problem.center_rows is None:
        return None
    return torch.from_numpy(problem.rows.weights[problem.center_rows]).to(problem.centers.device)


def _calibrated(
    problem: FitProblem, maps: NystromMaps, index: int, found: FalkonSolution, *, start: float
) -> Solution:
    """Account for a fit with nothing to select: its probabilities are calibrated on leave-one-out scores.

    The preconditioner is near the system, so leverages taken from it are near the leverages of the fit.
    """
    beta, seconds = found.beta[0], {"iteration": time.perf_counter() - start}
    left = leave_one_out(
        problem.rows, maps, index, beta=beta, mean=found.feature_mean, factor=found.preconditioner
    )
    seconds["total"] = time.perf_counter() - start
    return once_solution(
        problem.kernels[0].sigma, problem.first_penalty, beta, left,
        seconds=seconds, n_passes=found.n_passes, sums=None,
    )  # fmt: skip


def _refitted(selection: Solution, found: FalkonSolution, *, start: float) -> Solution:
    """Put the coefficients of the iteration in the place of the coefficients of the selection."""
    iteration = time.perf_counter() - start
    seconds = {**selection.seconds, "selection": selection.seconds["total"], "iteration": iteration}
    seconds["total"] = seconds["selection"] + iteration
    return replace(
        selection, beta=found.beta[0], n_passes=selection.n_passes + found.n_passes, seconds=seconds
    )


def fit_library(problem: FitProblem) -> KernelFit:
    """Select by the direct path on some of the centers, then fit on all of them by FalkonML.

    With nothing to select, the selection gives the temperature only.
    """
    centers, choice = problem.centers, problem.choice
    selection = replace(problem.select(problem.on_some_centers()), sums=None)
    start = time.perf_counter()
    found = solve_library(
        problem.rows,
        problem.kernels[selection.map_index],
        centers,
        selection.chosen.penalty,
        center_rows=problem.center_rows,
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
        # FalkonML adds jitter where the other solvers drop dependent centers, so every center is kept.
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


def _iteration_notes(found: FalkonSolution) -> list[str]:
    notes = []
    if found.jitter > 0:
        notes.append(f"the preconditioner needed jitter, {found.jitter:.1e} of its mean diagonal [TT402]")
    if found.reason != "converged":
        notes.append(
            f"conjugate gradient has not converged: {found.reason} after {found.n_iterations} products at a "
            f"relative residual of {max(found.residuals):.1e} (tolerance {found.tolerance:.0e}); raise the "
            "penalty, or use solver 'direct' [TT405]"
        )
    return notes


def _library_notes(found: LibrarySolution, tolerance: float) -> list[str]:
    notes = [f"FalkonML warned: {' '.join(message.split())} [TT406]" for message in found.messages]
    if found.residual > tolerance:
        notes.append(
            f"falkon {found.version} (FalkonML) stops after {LIBRARY_ITERATIONS} iterations and returns no "
            f"residual; its solution has a residual of {found.residual:.1e} (solver 'falkon' goes on to "
            f"{tolerance:.0e}) [TT405]"
        )
    return notes
