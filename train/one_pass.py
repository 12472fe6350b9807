"""One pass, every penalty, every fold: selection and fit of ridge regression on feature maps."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from toptune.store import InputError, NumericalError
from toptune.train.calibration import Temperature, fit_temperature
from toptune.train.maps import Maps
from toptune.train.passes import TrainingRows, accumulate, predict_left_out
from toptune.train.ridge import CentredSystem, left_out
from toptune.train.sums import FoldSums, sums_bytes

logger = logging.getLogger(__name__)

# Penalties of the default grid in units of the features' total variance, so that one grid serves every
# kernel, width and scale of the input.
RELATIVE_PENALTIES = tuple(10.0**exponent for exponent in range(-7, 1))
# Sums of widths beyond this are taken in further passes.
SUMS_BYTES = 4 * 2**30
SELECTIONS = ("accuracy", "one-se", "squared-error")
_TIE_STANDARD_ERRORS = 0.5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the selection table.

    Attributes
    ----------
    sigma : float or None
        Width; None for a map without one.
    penalty : float
        The λ of (1/n) loss + λ norm^2.
    squared_error : float
        Left-out squared error a row, in closed form; NaN where a fold could not be fitted.
    accuracy, log_loss, temperature : float or None
        Of the left-out predictions; known for finalists only.
    """

    map_index: int
    sigma: float | None
    penalty: float
    squared_error: float
    accuracy: float | None = None
    log_loss: float | None = None
    temperature: float | None = None
    is_chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A fitted ridge regression and how it was chosen.

    Attributes
    ----------
    map_index : int
        The chosen feature map.
    beta : Tensor of float64, shape (r + 1, n_classes)
        Coefficients, the intercept last.
    chosen : Candidate
    table : tuple of Candidate
        Everything that was compared.
    warnings : tuple of str
        What a user should know: a choice at the edge of its grid, jitter, cancellation.
    n_passes : int
        Times the rows were read.
    seconds : dict
        Of each phase.
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
) -> Solution:
    """Choose map and penalty by cross-validation, then fit to all rows.

    First pass: left-out squared errors of every (map, penalty) from the sums alone. Second pass:
    left-out predictions of the finalists (of every map the best penalty and its two neighbours).
    Among finalists whose accuracy is within half a standard error of the best, the one of least
    log-loss wins, at its own temperature: accuracy alone is decided by a few rows in a set of a
    thousand pictures.

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
    selection : {"accuracy", "one-se", "squared-error"}
        Rule of the choice among finalists; see `choose`.
    """
    clock = time.perf_counter()
    seconds: dict[str, float] = {}
    wanted = list(range(len(sigmas)))
    # All sums are kept when they fit, else taken again for the finalists.
    groups = _groups(rows, maps)
    table: list[Candidate] = []
    finalists: list[tuple[int, int]] = []
    betas: dict[int, Tensor] = {}
    kept_sums: dict[int, FoldSums] = {}
    jitter, n_clipped, n_passes = 0.0, 0, 0
    pass_seconds = solve_seconds = 0.0
    for group in groups:
        start = time.perf_counter()
        group_sums = accumulate(rows, maps, group, block_rows=block_rows, device=device, progress=progress)
        n_passes += 1
        pass_seconds += time.perf_counter() - start
        start = time.perf_counter()
        for index, sums in zip(group, group_sums, strict=True):
            grid = penalty_grid(sums, penalties)
            result = left_out(sums, grid)
            jitter, n_clipped = max(jitter, result.jitter), n_clipped + result.n_clipped
            errors = (result.errors.sum(dim=1) / float(sums.weights.sum())).tolist()
            best = min(range(len(grid)), key=lambda at, errors=errors: _nan_last(errors[at]))  # type: ignore[misc]
            for at, (penalty, error) in enumerate(zip(grid, errors, strict=True)):
                row = len(table)
                table.append(
                    Candidate(map_index=index, sigma=sigmas[index], penalty=penalty, squared_error=error)
                )
                if abs(at - best) <= 1 and np.isfinite(error):
                    finalists.append((index, row))
                    betas[row] = result.coefficients[at]
            if len(groups) == 1:
                kept_sums[index] = sums
        solve_seconds += time.perf_counter() - start
    if not finalists:
        raise NumericalError(
            "no penalty of the grid gave a positive definite system; raise the penalties or standardise"
        )
    seconds["pass"], seconds["path"] = pass_seconds, solve_seconds
    start = time.perf_counter()
    left, kept = predict_left_out(
        rows, maps, [(index, betas[row]) for index, row in finalists],
        block_rows=block_rows, device=device, progress=progress,
    )  # fmt: skip
    n_passes += 1
    total = float(rows.weights.sum())
    for (_, row), result_of in zip(finalists, left, strict=True):
        fitted: Temperature = fit_temperature(result_of.scores, rows.codes[kept], rows.weights[kept])
        table[row] = replace(
            table[row],
            accuracy=result_of.correct / total,
            log_loss=fitted.log_loss,
            temperature=fitted.value,
        )
    seconds["second_pass"] = time.perf_counter() - start
    winner = choose([table[row] for _, row in finalists], n=rows.n, rule=selection)
    chosen = replace(winner, is_chosen=True)
    table[table.index(winner)] = chosen
    start = time.perf_counter()
    if chosen.map_index not in kept_sums:
        kept_sums[chosen.map_index] = accumulate(
            rows, maps, [chosen.map_index], block_rows=block_rows, device=device, progress=progress
        )[0]
        n_passes += 1
    sums = kept_sums[chosen.map_index]
    beta, final_jitter = CentredSystem.of(sums.gram.sum(dim=0), sums.cross.sum(dim=0)).solve(chosen.penalty)
    seconds["fit"] = time.perf_counter() - start
    seconds["total"] = time.perf_counter() - clock
    assert chosen.temperature is not None
    jitter = max(jitter, final_jitter)
    notes = [*_edges(chosen, table, wanted), *_numerical_notes(jitter, n_clipped, table)]
    for note in notes:
        logger.info("%s", note)
    return Solution(
        map_index=chosen.map_index,
        beta=beta,
        temperature=chosen.temperature,
        chosen=chosen,
        table=tuple(table),
        jitter=jitter,
        n_clipped=n_clipped,
        warnings=tuple(notes),
        n_passes=n_passes,
        seconds=seconds,
    )


def penalty_grid(sums: FoldSums, penalties: Sequence[float] | None) -> list[float]:
    """Return the penalties to compare: those given, or the default grid in this map's own scale."""
    if penalties is not None:
        return sorted(penalties)
    scale = CentredSystem.of(sums.gram.sum(dim=0), sums.cross.sum(dim=0)).scale
    return [relative * (scale or 1.0) for relative in RELATIVE_PENALTIES]


def choose(finalists: Sequence[Candidate], *, n: int, rule: str = "accuracy") -> Candidate:
    """Choose among finalists by their left-out figures.

    Parameters
    ----------
    finalists : sequence of Candidate
    n : int
        Rows that the figures are of.
    rule : {"accuracy", "one-se", "squared-error"}
        Least log-loss among those whose accuracy is within half a standard error of the best; the largest
        penalty among those within one standard error (Hastie, Tibshirani & Friedman 2009, §7.10); or least
        squared error.
    """
    if rule == "squared-error":
        return min(finalists, key=lambda candidate: candidate.squared_error)
    best = max(candidate.accuracy or 0.0 for candidate in finalists)
    standard_error = float(np.sqrt(best * (1 - best) / n)) if best < 1 else 0.0
    margin = standard_error * (1.0 if rule == "one-se" else _TIE_STANDARD_ERRORS)
    tied = [candidate for candidate in finalists if (candidate.accuracy or 0.0) >= best - margin - 1e-12]
    if rule == "one-se":
        return max(tied, key=lambda candidate: (candidate.penalty, -(candidate.log_loss or np.inf)))
    return min(tied, key=lambda candidate: (candidate.log_loss, candidate.squared_error))


def check_selection(rule: str) -> str:
    """Return a rule of `choose`, or refuse it with InputError."""
    if rule not in SELECTIONS:
        raise InputError(f"selection {rule!r} is unknown; choose one of {', '.join(SELECTIONS)}")
    return rule


def _groups(rows: TrainingRows, maps: Maps) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    held = 0
    for index, rank in enumerate(maps.ranks):
        size = sums_bytes(n_folds=rows.n_folds, rank=rank, n_targets=rows.n_classes)
        if groups[-1] and held + size > SUMS_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(index)
        held += size
    return groups


def _edges(chosen: Candidate, table: Sequence[Candidate], maps: Sequence[int]) -> list[str]:
    notes = []
    penalties = [row.penalty for row in table if row.map_index == chosen.map_index]
    if len(penalties) > 1 and chosen.penalty in (min(penalties), max(penalties)):
        side = "lower" if chosen.penalty == min(penalties) else "upper"
        notes.append(
            f"the chosen penalty {chosen.penalty:.3g} is at the {side} edge of its grid "
            f"({min(penalties):.3g} to {max(penalties):.3g}); a wider grid may do better"
        )
    if len(maps) > 1 and chosen.sigma is not None and chosen.map_index in (maps[0], maps[-1]):
        side = "lower" if chosen.map_index == maps[0] else "upper"
        notes.append(
            f"the chosen width {chosen.sigma:.3g} is at the {side} edge of its grid; "
            "a wider grid may do better"
        )
    return notes


def _numerical_notes(jitter: float, n_clipped: int, table: Sequence[Candidate]) -> list[str]:
    notes = []
    if jitter > 0:
        notes.append(f"some systems needed jitter, at most {jitter:.1e} of their mean diagonal")
    if n_clipped:
        notes.append(f"{n_clipped} left-out errors cancelled to below 0 and were set to 0")
    failed = sum(not np.isfinite(row.squared_error) for row in table)
    if failed:
        notes.append(f"{failed} of {len(table)} combinations could not be fitted and were left out")
    return notes


def _nan_last(value: float) -> float:
    return value if np.isfinite(value) else float("inf")
