"""Choose fraction, group penalty and ridge penalty by cross-validation that redoes the selection.

A selection made on all rows has seen the rows that it is judged by, and its left-out accuracy is too good. So
columns are ranked and chosen anew without each fold, and only then are left-out rows predicted.
"""

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
from toptune.train.numerics.calibration import Temperature
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES
from toptune.train.solvers.selection import Candidate, choose_candidate

# Rules whose left-out predictions are taken, each with its best penalty.
N_FINALISTS = 10


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What cross-validation compared, and what it chose.

    Attributes
    ----------
    rules : list of Rule
    table : list of Candidate
        Every rule with every ridge penalty; ``map_index`` is the position of the rule.
    chosen : Candidate
    relative_penalty : float or None
        The chosen penalty in units of the total variance of the columns kept; None where penalties were
        given.
    scores : ndarray of float32, shape (n_kept, n_classes)
        Left-out scores of `TrainingRows.calibration_rows` by the chosen candidate.
    sigmoids : Sigmoids or None
        What calibrates the scores of several labels a row; None where a row has one class.
    """

    rules: list[Rule]
    table: list[Candidate]
    chosen: Candidate
    relative_penalty: float | None
    scores: npt.NDArray[np.float32]
    sigmoids: Sigmoids | None = None

    @property
    def rule(self) -> Rule:
        """The rule that was chosen."""
        return self.rules[self.chosen.map_index]


def compare(
    rows: TrainingRows,
    moments: FoldMoments,
    ranking: Ranking,
    rules: Sequence[Rule],
    *,
    penalties: Sequence[float] | None,
) -> Comparison:
    """Compare every rule and ridge penalty by left-out squared error; the finalists' predictions decide.

    The squared errors come in closed form from moments. One fold tries every penalty, the others only the
    best one and its neighbors. Among the finalists, `toptune.train.solvers.selection.choose` decides as for
    the other heads.

    Parameters
    ----------
    rows : TrainingRows
    moments : FoldMoments
    ranking : Ranking
    rules : sequence of Rule
    penalties : sequence of float or None
        Penalties of the ridge regression, ascending; None for a grid in units of the columns' total variance.

    Raises
    ------
    NumericalError
        If no penalty gives a positive definite system.
    """
    grid = list(penalties or RELATIVE_PENALTIES)
    errors = np.full((len(rules), len(grid), rows.n_folds), np.nan)
    finalists: dict[int, Finalist] = {}
    for at, rule in enumerate(rules):
        columns = [ranking.columns(rule, fold) for fold in range(rows.n_folds)]
        ridge = moments.ridge(columns, is_relative=penalties is None)
        finalists[at] = Finalist(columns, _left_out(rows, ridge, grid, errors[at]))
        # Fits take memory: only those of rules that may still become finalists are kept.
        finalists = {each: finalists[each] for each in _best_rules(errors, rules) if each in finalists}
    totals = errors.sum(axis=2) / rows.validated_weights.sum()
    if not np.isfinite(totals).any():
        raise NumericalError("no penalty gave a positive definite system; raise the penalties")
    table = []
    # Penalties of the table are absolute: relative ones in units of the variance of the columns kept on all
    # rows.
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
    fits = [rows.calibration(result.scores, known) for result in left]
    for place, result, fitted in zip(places, left, fits, strict=True):
        assert fitted is not None, "classes and labels are calibrated"
        table[place] = replace(
            table[place],
            accuracy=result.correct / float(rows.validated_weights.sum()),
            log_loss=fitted.log_loss,
            temperature=fitted.value if isinstance(fitted, Temperature) else None,
        )
    winner = choose_candidate([table[place] for place in places], n=rows.n_validated)
    place = table.index(winner)
    table[place] = replace(winner, is_chosen=True)
    fitted = fits[places.index(place)]
    return Comparison(
        rules=list(rules),
        table=table,
        chosen=table[place],
        relative_penalty=grid[place % len(grid)] if penalties is None else None,
        scores=left[places.index(place)].scores,
        sigmoids=fitted if isinstance(fitted, Sigmoids) else None,
    )


def _left_out(
    rows: TrainingRows, fit: Fit, grid: Sequence[float], errors: npt.NDArray[np.float64]
) -> dict[int, Tensor]:
    """Fill in the squared errors of one rule and return, by fold, the fit of the rule's best penalty.

    Parameters
    ----------
    rows : TrainingRows
    fit : Fit
        Ridge regression on the columns that the rule selects without each fold.
    grid : sequence of float
        Penalties.
    errors : ndarray of float64, shape (n_penalties, n_folds)
        Filled in; NaN stays where a penalty was not tried or gave no positive definite system.

    Returns
    -------
    dict of int to Tensor
        An entry of `Trials.fits` for each fold.
    """
    # Rows that take no part in cross-validation lie behind the last fold.
    counts = np.bincount(rows.folds, minlength=rows.n_folds)[: rows.n_folds]
    weights = np.bincount(rows.folds, weights=rows.weights, minlength=rows.n_folds)[: rows.n_folds]
    errors[:, counts == 0] = 0
    # The heaviest fold goes first: its errors are the least noisy guide to the penalties worth trying.
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
    # A copy lets go of the fits at all other penalties, which lie in the same memory.
    return {fold: found[best].clone() for fold, found in fits.items() if best in found}


def _best(errors: npt.NDArray[np.float64]) -> int:
    """Return the position of the penalty of least error among those that every fold could be fitted with."""
    totals = errors.sum(axis=1)
    return int(np.where(np.isfinite(totals), totals, np.inf).argmin())


def _best_rules(errors: npt.NDArray[np.float64], rules: Sequence[Rule]) -> list[int]:
    """Return the positions of the `N_FINALISTS` rules of least error.

    Two more are always among them, so that selection is compared with no selection: all columns, and the last
    layer alone.
    """
    # A rule without a finite error has no fit, and is never a finalist.
    least = np.nan_to_num(errors.sum(axis=2), nan=np.inf).min(axis=1)
    ranks = np.argsort(np.argsort(least, kind="stable"))
    return [
        int(at)
        for at in np.argsort(least, kind="stable")
        if np.isfinite(least[at]) and (ranks[at] < N_FINALISTS or rules[at].fraction in (None, 1.0))
    ]


def fit_ridge(moments: Moments, columns: Tensor, penalty: float) -> Tensor:
    """Return ridge coefficients (k + 1, n_classes) on k columns of centered moments, the intercept last."""
    coefficients = moments.ridge(columns, [penalty])[0]
    intercept = moments.target_means - moments.means[columns] @ coefficients
    return torch.cat([coefficients, intercept[None]])
