"""One pass, every penalty, every fold: selection and fit of ridge regression on feature maps."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import NumericalError
from toptune.train.kernels.maps import Maps
from toptune.train.numerics.calibration import Temperature
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.sums import FoldSums, sums_bytes
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.ridge import CenteredSystem, LeftOut, left_out
from toptune.train.solvers.selection import Candidate, choose_candidate, edge_notes, numerical_notes

logger = logging.getLogger(__name__)

# The default grid of penalties is in units of the features' total variance, so that one grid serves every
# kernel, width and scale of the input.
RELATIVE_PENALTIES = tuple(10.0**exponent for exponent in range(-7, 1))
# Where the sums of all widths take more main memory than this, further passes take the sums of the other
# widths.
SUMS_BYTES = 4 * 2**30
# Up to this rank every fold tries every penalty. Above, where factorizations take most of the time, one fold
# tells the others which penalties to try.
EXHAUSTIVE_RANK = 512
# Above that rank, a map whose least error on the one fold is this many times another map's is given up.
HOPELESS = 1.2
# How scores become probabilities, in the words of a report.
SOFTMAX = "softmax of scores with one temperature fitted out of fold"
SIGMOIDS = "a sigmoid for each label, fitted to scores out of fold"
NUMBERS = "numbers, which are not calibrated"


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A fitted ridge regression, and how its map and penalty were chosen.

    Attributes
    ----------
    map_index : int
        Position of the chosen feature map.
    beta : Tensor of float64, shape (r + 1, n_classes)
        Coefficients, the intercept last.
    temperature : float
        Probabilities are the softmax of scores divided by the temperature; 1 of labels and numbers.
    chosen : Candidate
        Row of the table that was chosen.
    table : tuple of Candidate
        A row for every combination that was compared.
    jitter : float
        Largest share of the mean diagonal that had to be added to a system; 0 is none.
    n_clipped : int
        Closed-form errors that canceled to below 0.
    warnings : tuple of str
        What a user should know: a choice at the edge of its grid, jitter, cancellation.
    n_passes : int
        Times the rows were read.
    seconds : dict
        Seconds of each phase, and their total.
    sums : FoldSums or None
        Sums of the chosen map over all rows; None after an iterative fit.
    calibration : str
        Scores to which the temperature was fitted, in words.
    left_out : ndarray of float32, shape (n_kept, n_classes), or None
        Left-out scores of `TrainingRows.calibration_rows` by the chosen candidate; None where no fold was
        left out.
    sigmoids : Sigmoids or None
        What turns the scores of labels into probabilities; None of classes and numbers.
    """

    map_index: int
    beta: Tensor
    temperature: float
    chosen: Candidate
    table: tuple[Candidate, ...]
    jitter: float
    n_clipped: int
    warnings: tuple[str, ...]
    n_passes: int
    seconds: dict[str, float]
    sums: FoldSums | None
    calibration: str = SOFTMAX
    left_out: npt.NDArray[np.float32] | None = None
    sigmoids: Sigmoids | None = None


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """The rows, maps and penalties that all steps of `solve` share."""

    rows: TrainingRows
    maps: Maps
    sigmas: Sequence[float | None]
    penalties: Sequence[float] | None
    block_rows: int
    device: torch.device
    progress: Callable[[int], None] | None
    taken: Sequence[FoldSums] | None = None

    def accumulate(
        self, indices: list[int], *, keep_raw: bool = False, seconds: dict[str, float] | None = None
    ) -> list[FoldSums]:
        """Take the sums of some of the maps in one pass over the rows, unless they are taken already."""
        if self.taken is not None:
            return [self.taken[index] for index in indices]
        return accumulate(
            self.rows,
            self.maps,
            indices,
            block_rows=self.block_rows,
            device=self.device,
            keep_raw=keep_raw,
            seconds=seconds,
            progress=self.progress,
        )


@dataclass(kw_only=True)
class _Comparison:
    """Errors, finalists and sums that the passes have found so far.

    Attributes
    ----------
    table : list of Candidate
        A row for every (map, penalty).
    finalists : list of (int, int)
        Position of the map and row of the table, for each candidate whose left-out rows are predicted.
    betas : dict of int to Tensor of float64, shape (n_folds, r + 1, n_targets)
        Coefficients of each finalist on the basis of its map, by its row of the table.
    sums : dict of int to FoldSums
        Sums of each map, where the sums of all maps fit into memory.
    scores : dict of int to ndarray of float32, shape (n_kept, n_classes)
        Left-out scores of each finalist, by its row of the table.
    sigmoids : dict of int to Sigmoids
        Sigmoids of each finalist, by its row of the table, where rows have labels.
    """

    table: list[Candidate] = field(default_factory=list)
    finalists: list[tuple[int, int]] = field(default_factory=list)
    betas: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[int, FoldSums] = field(default_factory=dict)
    scores: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    sigmoids: dict[int, Sigmoids] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    jitter: float = 0.0
    n_clipped: int = 0
    n_passes: int = 0


def solve(
    rows: TrainingRows,
    maps: Maps,
    sigmas: Sequence[float | None],
    *,
    penalties: Sequence[float] | None,
    block_rows: int,
    device: torch.device,
    selection: str = "accuracy",
    progress: Callable[[int], None] | None = None,
    taken: Sequence[FoldSums] | None = None,
) -> Solution:
    """Choose map and penalty by cross-validation, then fit to all rows.

    The first pass gives left-out squared errors of every (map, penalty) from the sums alone. The second pass
    predicts the left-out rows of the finalists, which are the best penalty of every map and its two
    neighbors. Among the finalists `choose_candidate` decides, and the winner keeps its own temperature.

    Parameters
    ----------
    rows : TrainingRows
    maps : Maps
        One map for each of `sigmas`.
    sigmas : sequence of float or None
        Width of each map, ascending.
    penalties : sequence of float or None
        Grid, ascending; None for `RELATIVE_PENALTIES` times the total variance of each map's features.
    block_rows : int
        Rows read at a time.
    device : torch.device
        Device of the sums.
    selection : {"accuracy", "one-se", "squared-error"}
        Rule of the choice among finalists; see `choose_candidate`.
    progress : callable, optional
        Called with the number of rows read so far.
    taken : sequence of FoldSums, optional
        Sums of each map that were taken already, over more rows than `rows`, which then are a sample.

    Raises
    ------
    NumericalError
        If no penalty of the grid gives a system that can be solved.
    """
    clock = time.perf_counter()
    problem = _Problem(
        rows=rows, maps=maps, sigmas=sigmas, penalties=penalties, block_rows=block_rows, device=device,
        progress=progress, taken=taken,
    )  # fmt: skip
    found = _compare_by_sums(problem)
    _score_finalists(problem, found)
    winner = choose_candidate(
        [found.table[row] for _, row in found.finalists], n=rows.n_validated, rule=selection
    )
    chosen = replace(winner, is_chosen=True)
    at = found.table.index(winner)
    found.table[at] = chosen
    # The scores of the other finalists take memory, and nothing else reads them.
    found.scores = {at: found.scores[at]}
    found.sigmoids = {at: each for at, each in found.sigmoids.items() if found.table[at] is chosen}
    return _fit_chosen(problem, found, chosen, clock=clock)


def _compare_by_sums(problem: _Problem) -> _Comparison:
    """Enter every (map, penalty) with its left-out squared error, from as few passes as memory allows."""
    found, phases = _Comparison(), dict[str, float]()
    # All sums are kept if they fit into memory; otherwise the sums of the chosen map are taken once more.
    groups = _groups(problem.rows, problem.maps, problem.device)
    if problem.taken is not None:
        groups = [list(range(len(problem.taken)))]
    pass_seconds = path_seconds = 0.0
    bound = math.inf
    for group in groups:
        start = time.perf_counter()
        group_sums = problem.accumulate(group, keep_raw=True, seconds=phases)
        found.n_passes += 1
        pass_seconds += time.perf_counter() - start
        start = time.perf_counter()
        by_map = dict(zip(group, group_sums, strict=True))
        results, bound = _leave_folds_out(problem, by_map, bound)
        for index, sums in by_map.items():
            # Popped, because the coefficients of all penalties are large, and only the finalists' are kept.
            _enter(problem, found, index, sums, *results.pop(index))
        if len(groups) == 1:
            found.sums = by_map
        path_seconds += time.perf_counter() - start
    if not found.finalists:
        raise NumericalError(
            "no penalty of the grid gave a positive definite system; raise the penalties or standardise"
        )
    found.seconds |= {"pass": pass_seconds, "path": path_seconds, **phases}
    return found


def _leave_folds_out(
    problem: _Problem, by_map: dict[int, FoldSums], bound: float
) -> tuple[dict[int, tuple[list[float], LeftOut]], float]:
    """Return the penalties of each map with their left-out errors, and the bound for maps of later groups.

    Widths in the middle of the grid come first, because they are the likeliest to be good, and a map whose
    least error on one fold is `HOPELESS` times another's is not tried on the other folds.
    """
    results: dict[int, tuple[list[float], LeftOut]] = {}
    for index in sorted(by_map, key=lambda index: abs(2 * index - (len(problem.sigmas) - 1))):
        is_exhaustive = problem.maps.ranks[index] <= EXHAUSTIVE_RANK
        grid = penalty_grid(by_map[index], problem.penalties)
        result = left_out(
            by_map[index], grid, is_exhaustive=is_exhaustive, bound=math.inf if is_exhaustive else bound
        )
        if not is_exhaustive:
            bound = min(bound, HOPELESS * result.first_error)
        results[index] = grid, result
    return results, bound


def _enter(
    problem: _Problem, found: _Comparison, index: int, sums: FoldSums, grid: list[float], result: LeftOut
) -> None:
    """Enter the penalties of a map into the table; the best one and its neighbors become finalists."""
    found.jitter = max(found.jitter, result.jitter)
    fold_weights = sums.validated().weights.cpu()
    found.n_clipped += result.n_clipped
    for at, penalty in enumerate(grid):
        tried = result.is_tried[at]
        # The weight of the folds that were tried turns the error into one per row, comparable between rows of
        # the table that were tried on different numbers of folds.
        error = float(result.errors[at, tried].sum() / fold_weights[tried].sum())
        if at in result.coefficients and abs(at - result.best) <= 1 and np.isfinite(error):
            row = len(found.table)
            found.finalists.append((index, row))
            found.betas[row] = on_basis(problem.maps, index, sums, result.coefficients[at])
        found.table.append(
            Candidate(
                map_index=index,
                sigma=problem.sigmas[index],
                penalty=penalty,
                squared_error=error,
                n_folds=int(tried.sum()),
            )
        )


def _score_finalists(problem: _Problem, found: _Comparison) -> None:
    """Predict the left-out rows of the finalists in a second pass, and enter accuracy and log-loss."""
    start, rows = time.perf_counter(), problem.rows
    left, kept = predict_left_out(
        rows,
        problem.maps,
        [(index, found.betas[row]) for index, row in found.finalists],
        block_rows=problem.block_rows,
        device=problem.device,
        progress=problem.progress,
    )
    found.n_passes += 1
    found.betas.clear()
    total = float(rows.validated_weights.sum())
    # Every finalist gets a temperature of its own before log-losses are compared: the scale of scores depends
    # on the penalty, and says nothing about which classifier is best.
    for (_, row), result in zip(found.finalists, left, strict=True):
        fitted = rows.calibration(result.scores, kept)
        found.scores[row] = result.scores
        if fitted is None:
            continue
        found.table[row] = replace(
            found.table[row],
            accuracy=result.correct / total,
            log_loss=fitted.log_loss,
            temperature=fitted.value if isinstance(fitted, Temperature) else None,
        )
        if isinstance(fitted, Sigmoids):
            found.sigmoids[row] = fitted
    found.seconds["second_pass"] = time.perf_counter() - start


def _fit_chosen(problem: _Problem, found: _Comparison, chosen: Candidate, *, clock: float) -> Solution:
    """Fit the chosen map and penalty to all rows; `clock` is when `solve` began."""
    start, index = time.perf_counter(), chosen.map_index
    if index not in found.sums:
        (found.sums[index],) = problem.accumulate([index])
        found.n_passes += 1
    whole = found.sums[index].total()
    system = CenteredSystem.of(whole.gram[0], whole.cross[0], whole.metric)
    beta, jitter = system.solve(chosen.penalty)
    beta = whole.of_features(beta)
    seconds = found.seconds | {"fit": time.perf_counter() - start}
    seconds["total"] = time.perf_counter() - clock
    jitter = max(found.jitter, jitter)
    notes = [
        *edge_notes(chosen, found.table, list(range(len(problem.sigmas)))),
        *numerical_notes(jitter, found.n_clipped, found.table),
    ]
    for note in notes:
        logger.info("%s", note)
    return Solution(
        map_index=index,
        beta=beta,
        temperature=chosen.temperature or 1.0,
        chosen=chosen,
        table=tuple(found.table),
        jitter=jitter,
        n_clipped=found.n_clipped,
        warnings=tuple(notes),
        n_passes=found.n_passes,
        seconds=seconds,
        sums=found.sums[index],
        left_out=next(iter(found.scores.values())),
        sigmoids=next(iter(found.sigmoids.values()), None),
        calibration=calibration_of(problem.rows),
    )


def calibration_of(rows: TrainingRows) -> str:
    """Return how the scores of a fit become probabilities, in words."""
    if rows.targets is None:
        return SOFTMAX
    return SIGMOIDS if rows.targets.are_labels else NUMBERS


def held_fits(*, rank: int, n_penalties: int, n_folds: int) -> int:
    """Return how many fits, of one fold each, have their coefficients in memory while one map is compared."""
    if rank <= EXHAUSTIVE_RANK:
        return n_penalties * n_folds
    return max(n_penalties, min(3, n_penalties) * n_folds) + 1


def penalty_grid(sums: FoldSums, penalties: Sequence[float] | None) -> list[float]:
    """Return the penalties to compare: the penalties given, or the default grid in the scale of the map."""
    if penalties is not None:
        return sorted(penalties)
    # Variances of whitened features are in the kernel's own scale, in which the penalty acts.
    total = sums.total().whitened()
    scale = CenteredSystem.of(total.gram[0], total.cross[0]).scale
    return [relative * (scale or 1.0) for relative in RELATIVE_PENALTIES]


def on_basis(maps: Maps, index: int, sums: FoldSums, beta: Tensor) -> Tensor:
    """Return coefficients (n_folds, r + 1, n_targets) of the map's basis.

    Where the sums are of plain kernel values, the coefficients belong to the basis already. Otherwise they
    belong to whitened features, and the map changes them.
    """
    if sums.factor is not None:
        return beta
    return torch.cat([maps.on_basis(index, beta[:, :-1]), beta[:, -1:]], dim=1)


def _groups(rows: TrainingRows, maps: Maps, device: torch.device) -> list[list[int]]:
    """Divide the maps into groups whose sums fit into `SUMS_BYTES` together; on a GPU one group has all.

    The plan of a fit has found room there for the sums of all maps, and reading the rows once more would take
    longer than all the work on them. The sums of a cluster come together in main memory.
    """
    is_bounded = device.type != "cuda" or rows.cluster is not None
    groups: list[list[int]] = [[]]
    held = 0
    for index, rank in enumerate(maps.ranks):
        size = sums_bytes(n_folds=rows.n_places, rank=rank, n_targets=rows.n_classes)
        if is_bounded and groups[-1] and held + size > SUMS_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(index)
        held += size
    return groups
