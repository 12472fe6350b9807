"""One pass, every penalty, every fold: selection and fit of ridge regression on feature maps."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from toptune.errors import NumericalError
from toptune.train.kernels.maps import Maps
from toptune.train.numerics.calibration import Temperature, fit_temperature
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.sums import FoldSums, sums_bytes
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.ridge import CentredSystem, LeftOut, left_out
from toptune.train.solvers.selection import Candidate, choose, edge_notes, numerical_notes

logger = logging.getLogger(__name__)

# Penalties of the default grid in units of the features' total variance, so that one grid serves every
# kernel, width and scale of the input.
RELATIVE_PENALTIES = tuple(10.0**exponent for exponent in range(-7, 1))
# Sums of widths beyond this are taken in further passes.
SUMS_BYTES = 4 * 2**30
# Up to this rank every fold tries every penalty; above, one fold tells the others which to try.
EXHAUSTIVE_RANK = 512
# There, a map whose least error on that fold is so many times another's is not tried on the others.
HOPELESS = 1.2


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
    sums : FoldSums or None
        Of the chosen map, over all rows; None after an iterative fit.
    calibration : str
        What the temperature was fitted to.
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
    sums: FoldSums | None
    calibration: str = "softmax of scores with one temperature fitted out of fold"


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
    left-out predictions of the finalists (of every map the best penalty and its two neighbors).
    Among finalists whose accuracy is within half a standard error of the best, the one of least
    log-loss wins, at its own temperature: accuracy alone is decided by a few rows in a set of a
    thousand images.

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
    results: dict[int, LeftOut] = {}
    grids: dict[int, list[float]] = {}
    bound = math.inf
    phases: dict[str, float] = {}
    for group in groups:
        start = time.perf_counter()
        group_sums = accumulate(
            rows,
            maps,
            group,
            block_rows=block_rows,
            device=device,
            keep_raw=True,
            seconds=phases,
            progress=progress,
        )
        n_passes += 1
        pass_seconds += time.perf_counter() - start
        start = time.perf_counter()
        for index in sorted(group, key=lambda index: abs(2 * index - (len(sigmas) - 1))):
            is_exhaustive = maps.ranks[index] <= EXHAUSTIVE_RANK
            grids[index] = penalty_grid(group_sums[index - group[0]], penalties)
            results[index] = left_out(
                group_sums[index - group[0]],
                grids[index],
                is_exhaustive=is_exhaustive,
                bound=math.inf if is_exhaustive else bound,
            )
            if not is_exhaustive:
                bound = min(bound, HOPELESS * results[index].first_error)
        for index, sums in zip(group, group_sums, strict=True):
            result, grid = results.pop(index), grids[index]
            jitter, n_clipped = max(jitter, result.jitter), n_clipped + result.n_clipped
            for at, penalty in enumerate(grid):
                tried = result.is_tried[at]
                error = float(result.errors[at, tried].sum() / sums.weights.cpu()[tried].sum())
                if at in result.coefficients and abs(at - result.best) <= 1 and np.isfinite(error):
                    finalists.append((index, len(table)))
                    betas[len(table)] = _on_basis(maps, index, sums, result.coefficients[at])
                table.append(
                    Candidate(
                        map_index=index,
                        sigma=sigmas[index],
                        penalty=penalty,
                        squared_error=error,
                        n_folds=int(tried.sum()),
                    )
                )
            if len(groups) == 1:
                kept_sums[index] = sums
        solve_seconds += time.perf_counter() - start
    if not finalists:
        raise NumericalError(
            "no penalty of the grid gave a positive definite system; raise the penalties or standardise"
        )
    seconds |= {"pass": pass_seconds, "path": solve_seconds, **phases}
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
    whole = sums.total()
    system = CentredSystem.of(whole.gram[0], whole.cross[0], whole.metric)
    beta, final_jitter = system.solve(chosen.penalty)
    beta = whole.of_features(beta)
    seconds["fit"] = time.perf_counter() - start
    seconds["total"] = time.perf_counter() - clock
    assert chosen.temperature is not None
    jitter = max(jitter, final_jitter)
    notes = [*edge_notes(chosen, table, wanted), *numerical_notes(jitter, n_clipped, table)]
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
        sums=sums,
    )


def penalty_grid(sums: FoldSums, penalties: Sequence[float] | None) -> list[float]:
    """Return the penalties to compare: those given, or the default grid in this map's own scale."""
    if penalties is not None:
        return sorted(penalties)
    total = sums.total().whitened()
    scale = CentredSystem.of(total.gram[0], total.cross[0]).scale
    return [relative * (scale or 1.0) for relative in RELATIVE_PENALTIES]


def _on_basis(maps: Maps, index: int, sums: FoldSums, beta: Tensor) -> Tensor:
    """Coefficients (n_folds, r + 1, n_targets) of the basis, whichever the sums are of."""
    if sums.factor is not None:
        return beta
    return torch.cat([maps.on_basis(index, beta[:, :-1]), beta[:, -1:]], dim=1)


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
