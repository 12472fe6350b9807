"""Fraction, group penalty and ridge penalty by cross-validation, the selection redone inside every fold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import NumericalError
from toptune.train.head2toe.fold_moments import Finalist, Fit, FoldMoments
from toptune.train.head2toe.moments import Moments
from toptune.train.head2toe.ranking import Ranking, Rule
from toptune.train.numerics.calibration import fit_temperature
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES
from toptune.train.solvers.selection import Candidate, choose

# Selections whose left-out predictions are taken, each with its best penalty.
N_FINALISTS = 10


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What cross-validation said.

    Attributes
    ----------
    rules : list of Rule
    table : list of Candidate
        Every rule with every ridge penalty; ``map_index`` is the rule's position.
    chosen : Candidate
    relative_penalty : float or None
        The chosen penalty in units of the total variance of the columns kept; None where it was given.
    """

    rules: list[Rule]
    table: list[Candidate]
    chosen: Candidate
    relative_penalty: float | None

    @property
    def rule(self) -> Rule:
        return self.rules[self.chosen.map_index]


def compare(
    rows: TrainingRows,
    moments: FoldMoments,
    ranking: Ranking,
    rules: Sequence[Rule],
    *,
    penalties: Sequence[float] | None,
) -> Comparison:
    """Left-out errors of every rule and penalty in closed form; predictions of the finalists decide.

    One fold tries every penalty, the others the best of it and its neighbors. Among the finalists
    `toptune.train.solvers.selection.choose` decides as for the other heads.

    Parameters
    ----------
    penalties : sequence of float or None
        Of the ridge regression, ascending; None for a grid in units of the columns' total variance.
    """
    grid = list(penalties or RELATIVE_PENALTIES)
    errors = np.full((len(rules), len(grid), rows.n_folds), np.nan)
    finalists: dict[int, Finalist] = {}
    for at, rule in enumerate(rules):
        columns = [ranking.columns(rule, fold) for fold in range(rows.n_folds)]
        fits = _left_out(rows, moments.ridge(columns, is_relative=penalties is None), grid, errors[at])
        finalists[at] = columns, fits
        # Only what may still be predicted is kept.
        finalists = {each: finalists[each] for each in _best_rules(errors, rules) if each in finalists}
    totals = errors.sum(axis=2) / rows.weights.sum()
    if not np.isfinite(totals).any():
        raise NumericalError("no penalty gave a positive definite system; raise the penalties")
    table = []
    variances = moments.without(None).variances
    for at, rule in enumerate(rules):
        unit = float(variances[torch.from_numpy(ranking.columns(rule, None)).to(variances.device)].sum())
        table += [
            Candidate(
                map_index=at,
                sigma=None,
                penalty=grid[index] * ((unit or 1.0) if penalties is None else 1.0),
                squared_error=float(totals[at, index]),
                n_folds=int(np.isfinite(errors[at, index]).sum()),
            )
            for index in range(len(grid))
        ]
    places = [at * len(grid) + _best(errors[at]) for at in finalists]
    left, known = moments.left_out(list(finalists.values()))
    for place, result in zip(places, left, strict=True):
        fitted = fit_temperature(result.scores, rows.codes[known], rows.weights[known])
        table[place] = replace(
            table[place],
            accuracy=result.correct / float(rows.weights.sum()),
            log_loss=fitted.log_loss,
            temperature=fitted.value,
        )
    winner = choose([table[place] for place in places], n=rows.n)
    place = table.index(winner)
    table[place] = replace(winner, is_chosen=True)
    return Comparison(
        rules=list(rules),
        table=table,
        chosen=table[place],
        relative_penalty=grid[place % len(grid)] if penalties is None else None,
    )


def _left_out(
    rows: TrainingRows, fit: Fit, grid: Sequence[float], errors: npt.NDArray[np.float64]
) -> dict[int, Tensor]:
    """Fill in a rule's errors (n_penalties, n_folds); of each fold the `Trials.fits` of the best penalty."""
    counts = np.bincount(rows.folds, minlength=rows.n_folds)
    weights = np.bincount(rows.folds, weights=rows.weights, minlength=rows.n_folds)
    errors[:, counts == 0] = 0
    first, *others = [fold for fold in np.argsort(-weights, kind="stable").tolist() if counts[fold]]
    fits: dict[int, dict[int, Tensor]] = {}
    window = range(len(grid))
    for fold in (first, *others):
        try:
            trials = fit(fold, [grid[index] for index in window])
        except NumericalError:
            continue
        errors[window, fold] = trials.errors.cpu()
        fits[fold] = dict(zip(window, trials.fits, strict=True))
        if fold == first:
            best = int(errors[:, first].argmin())
            window = range(max(0, best - 1), min(len(grid), best + 2))
    best = _best(errors)
    return {fold: its[best] for fold, its in fits.items() if best in its}


def _best(errors: npt.NDArray[np.float64]) -> int:
    """Penalty of least error among those fitted without every fold."""
    totals = errors.sum(axis=1)
    return int(np.where(np.isfinite(totals), totals, np.inf).argmin())


def _best_rules(errors: npt.NDArray[np.float64], rules: Sequence[Rule]) -> list[int]:
    """Rules of least error; not selecting at all, and the last layer, are always among them."""
    least = np.nan_to_num(errors.sum(axis=2), nan=np.inf).min(axis=1)
    ranks = np.argsort(np.argsort(least, kind="stable"))
    return [
        int(at)
        for at in np.argsort(least, kind="stable")
        if np.isfinite(least[at]) and (ranks[at] < N_FINALISTS or rules[at].fraction in (None, 1.0))
    ]


def fit_ridge(moments: Moments, columns: Tensor, penalty: float) -> Tensor:
    """Coefficients (k + 1, n_classes) of ridge regression on some columns, the intercept last."""
    coefficients = moments.ridge(columns, [penalty])[0]
    intercept = moments.target_means - moments.means[columns] @ coefficients
    return torch.cat([coefficients, intercept[None]])
