"""Fraction, group penalty and ridge penalty by cross-validation, the selection redone inside every fold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from toptune.store import NumericalError
from toptune.train.calibration import fit_temperature
from toptune.train.column_selection import Columns, Layers, choose_columns
from toptune.train.fold_moments import FoldMoments
from toptune.train.group_lasso import PathPoint
from toptune.train.maps import IdentityMap
from toptune.train.moments import Moments
from toptune.train.one_pass import RELATIVE_PENALTIES
from toptune.train.passes import TrainingRows, predict_left_out
from toptune.train.selection import Candidate, choose

# Selections whose left-out predictions are taken, each with its best penalty.
N_FINALISTS = 10


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to select columns.

    Attributes
    ----------
    share : int or None
        Position of the group penalty on its path; None where it makes no difference.
    fraction : float or None
        Of the columns (or layers) that are kept; None for the last layer only.
    """

    share: int | None
    fraction: float | None


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


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores of all columns without each fold and, last, on all rows; and how they select.

    Attributes
    ----------
    paths : list of list of PathPoint
        Of each fold left out and, last, all rows: a point for each group penalty.
    """

    paths: list[list[PathPoint]]
    layers: Layers
    selection: str

    def columns(self, rule: Rule, fold: int | None) -> Columns:
        """Columns that a rule keeps without a fold, or of all rows."""
        if rule.fraction is None:
            assert self.layers.last is not None
            return self.layers.last
        point = self.paths[-1 if fold is None else fold][rule.share or 0]
        return choose_columns(point.scores, rule.fraction, self.layers, selection=self.selection)


def rules_of(n_shares: int, fractions: Sequence[float], ranking: Ranking, *, with_last: bool) -> list[Rule]:
    """Every group penalty with every fraction, but each set of columns once; all columns, the last layer."""
    rules = [
        Rule(share=None if fraction == 1 else share, fraction=fraction)
        for fraction in fractions
        for share in range(1 if fraction == 1 else n_shares)
    ]
    first: dict[tuple[int | None, int], Rule] = {}
    for rule in rules:
        first.setdefault((rule.share, len(ranking.columns(rule, None))), rule)
    last = [Rule(share=None, fraction=None)] if with_last and ranking.layers.last is not None else []
    return [*first.values(), *last]


def compare(
    rows: TrainingRows,
    moments: FoldMoments,
    ranking: Ranking,
    rules: Sequence[Rule],
    *,
    penalties: Sequence[float] | None,
    block_rows: int,
    device: torch.device,
) -> Comparison:
    """Left-out errors of every rule and penalty in closed form; predictions of the finalists decide.

    One fold tries every penalty, the others the best of it and its neighbours. Among the finalists
    `toptune.train.selection.choose` decides as for the other heads.

    Parameters
    ----------
    penalties : sequence of float or None
        Of the ridge regression, ascending; None for a grid in units of the columns' total variance.
    """
    grid = list(penalties or RELATIVE_PENALTIES)
    errors = np.full((len(rules), len(grid), rows.n_folds), np.nan)
    fold_weights = np.bincount(rows.folds, weights=rows.weights, minlength=rows.n_folds)
    first = int(fold_weights.argmax())
    for fold in sorted(range(rows.n_folds), key=lambda fold: fold != first):
        if fold_weights[fold] == 0:
            errors[:, :, fold] = 0
            continue
        without = moments.without(fold)
        for at, rule in enumerate(rules):
            columns = torch.from_numpy(ranking.columns(rule, fold)).to(device)
            best = int(np.nan_to_num(errors[at, :, first], nan=np.inf).argmin())
            window = slice(None) if fold == first else slice(max(0, best - 1), best + 2)
            try:
                coefficients, intercepts = _ridge(without, columns, grid[window], penalties is None)
            except NumericalError:
                continue
            errors[at, window, fold] = moments.errors(fold, columns, coefficients, intercepts).cpu()
    totals = errors.sum(axis=2) / fold_weights.sum()
    if not np.isfinite(totals).any():
        raise NumericalError("no penalty gave a positive definite system; raise the penalties")
    best_of = np.where(np.isfinite(totals), totals, np.inf).argmin(axis=1)
    finalists = np.argsort(totals[np.arange(len(rules)), best_of])[:N_FINALISTS].tolist()
    # Not selecting at all, and the last layer, are always among those that are looked at.
    finalists += [at for at, rule in enumerate(rules) if rule.fraction in (None, 1.0) and at not in finalists]
    finalists = [at for at in finalists if np.isfinite(totals[at, best_of[at]])]
    table, scale = [], {}
    variances = moments.without(None).variances
    for at, rule in enumerate(rules):
        columns = torch.from_numpy(ranking.columns(rule, None)).to(device)
        scale[at] = float(variances[columns].sum()) or 1.0
        table += [
            Candidate(
                map_index=at,
                sigma=None,
                penalty=grid[index] * (scale[at] if penalties is None else 1.0),
                squared_error=float(totals[at, index]),
                n_folds=int(np.isfinite(errors[at, index]).sum()),
            )
            for index in range(len(grid))
        ]
    kept = [at * len(grid) + int(best_of[at]) for at in finalists]
    betas = _left_out_coefficients(
        rows,
        moments,
        ranking,
        [(rules[at], grid[best_of[at]]) for at in finalists],
        penalties is None,
        device,
    )
    left, known = predict_left_out(
        rows,
        IdentityMap(rows.blocks.shape[1]),
        [(0, beta) for beta in betas],
        block_rows=block_rows,
        device=device,
    )
    for place, result in zip(kept, left, strict=True):
        fitted = fit_temperature(result.scores, rows.codes[known], rows.weights[known])
        table[place] = replace(
            table[place],
            accuracy=result.correct / float(rows.weights.sum()),
            log_loss=fitted.log_loss,
            temperature=fitted.value,
        )
    winner = choose([table[place] for place in kept], n=rows.n)
    place = table.index(winner)
    table[place] = replace(winner, is_chosen=True)
    return Comparison(
        rules=list(rules),
        table=table,
        chosen=table[place],
        relative_penalty=grid[place % len(grid)] if penalties is None else None,
    )


def _ridge(
    moments: Moments, columns: Tensor, penalties: Sequence[float], is_relative: bool
) -> tuple[Tensor, Tensor]:
    """Ridge regression: coefficients (n_penalties, k, n_classes), intercepts (n_penalties, n_classes)."""
    unit = (float(moments.variances[columns].sum()) or 1.0) if is_relative else 1.0
    coefficients = moments.ridge(columns, [unit * penalty for penalty in penalties])
    return coefficients, moments.target_means - moments.means[columns] @ coefficients


def fit_ridge(moments: Moments, columns: Tensor, penalty: float) -> Tensor:
    """Coefficients (k + 1, n_classes) of ridge regression on some columns, the intercept last."""
    coefficients, intercepts = _ridge(moments, columns, [penalty], False)
    return torch.cat([coefficients[0], intercepts])


def _left_out_coefficients(
    rows: TrainingRows,
    moments: FoldMoments,
    ranking: Ranking,
    finalists: Sequence[tuple[Rule, float]],
    is_relative: bool,
    device: torch.device,
) -> list[Tensor]:
    """Coefficients (n_folds, d + 1, n_classes) of each finalist without each fold, 0 for columns not kept."""
    shape = (rows.n_folds, rows.blocks.shape[1] + 1, rows.n_classes)
    betas = [torch.zeros(shape, dtype=torch.float64, device=device) for _ in finalists]
    for fold in np.unique(rows.folds).tolist():
        without = moments.without(fold)
        for beta, (rule, penalty) in zip(betas, finalists, strict=True):
            columns = torch.from_numpy(ranking.columns(rule, fold)).to(device)
            coefficients, intercepts = _ridge(without, columns, [penalty], is_relative)
            beta[fold, columns], beta[fold, -1] = coefficients[0], intercepts[0]
    return betas
