"""The table of the candidates that were compared, and the rules that choose among them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toptune.options import check_choice

SELECTIONS = ("accuracy", "one-se", "squared-error")
# Accuracies within this many standard errors of the best one are tied, and the log-loss decides.
TIE_STANDARD_ERRORS = 0.5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the selection table.

    Attributes
    ----------
    map_index : int
        Position of the feature map among those compared.
    sigma : float or None
        Width of the kernel; None for a map without one.
    penalty : float
        The λ of ``(1/n) loss + λ norm^2``.
    squared_error : float
        Left-out squared error per row, in closed form; NaN where a fold could not be fitted.
    n_folds : int
        Folds that the squared error is taken over: all folds, or one fold where that fold ruled out the
        penalty or the map.
    accuracy, log_loss, temperature : float or None
        Figures of the left-out predictions, and the temperature of the log-loss; known for finalists only.
    is_chosen : bool
    """

    map_index: int
    sigma: float | None
    penalty: float
    squared_error: float
    n_folds: int = 0
    accuracy: float | None = None
    log_loss: float | None = None
    temperature: float | None = None
    is_chosen: bool = False


def choose(
    accuracies: Sequence[float | None],
    log_losses: Sequence[float | None],
    *,
    n: int,
    ties: Sequence[float] | None = None,
) -> int:
    """Return the index of the best candidate by left-out accuracy and log-loss.

    Among candidates whose accuracy is within half a standard error of the best accuracy, the one with
    the least log-loss wins: accuracy alone is decided by a few rows in a set of a thousand.

    Parameters
    ----------
    accuracies, log_losses : sequence of float or None
        None counts as an accuracy of 0, and as an infinite log-loss.
    n : int
        Rows that the figures are taken over.
    ties : sequence of float, optional
        Figures, the smaller the better, that decide between equal log-losses; by default the first wins.

    Returns
    -------
    int

    Examples
    --------
    >>> choose([0.95, 0.94, 0.80], [0.30, 0.20, 0.10], n=1000)
    0
    >>> choose([0.95, 0.94, 0.80], [0.30, 0.20, 0.10], n=100)
    1
    """
    losses = [np.inf if loss is None else loss for loss in log_losses]
    near = _near_best(accuracies, n=n, standard_errors=TIE_STANDARD_ERRORS)
    return min(near, key=lambda at: (losses[at], 0.0 if ties is None else ties[at]))


def choose_candidate(finalists: Sequence[Candidate], *, n: int, rule: str = "accuracy") -> Candidate:
    """Choose among the finalists of a table.

    Parameters
    ----------
    finalists : sequence of Candidate
    n : int
        Rows that the figures are taken over.
    rule : {"accuracy", "one-se", "squared-error"}
        ``"accuracy"`` is the rule of `choose`, with the squared error for ties. ``"one-se"`` takes the
        largest penalty among those whose accuracy is within one standard error of the best (Hastie,
        Tibshirani & Friedman 2009, section 7.10). ``"squared-error"`` takes the least squared error.
    """
    if rule == "squared-error":
        return min(finalists, key=lambda candidate: candidate.squared_error)
    accuracies = [candidate.accuracy for candidate in finalists]
    if rule == "one-se":
        near = [finalists[at] for at in _near_best(accuracies, n=n, standard_errors=1.0)]
        return max(near, key=lambda candidate: (candidate.penalty, -(candidate.log_loss or np.inf)))
    log_losses = [candidate.log_loss for candidate in finalists]
    squared_errors = [candidate.squared_error for candidate in finalists]
    return finalists[choose(accuracies, log_losses, n=n, ties=squared_errors)]


def _near_best(accuracies: Sequence[float | None], *, n: int, standard_errors: float) -> list[int]:
    """Return the positions of the accuracies within so many (binomial) standard errors of the best one."""
    best = max(accuracy or 0.0 for accuracy in accuracies)
    # The accuracy of n rows has the binomial standard error sqrt(p (1 - p) / n). With every row right the
    # formula gives 0, and a best accuracy that rounding puts above 1 would give NaN.
    standard_error = float(np.sqrt(best * (1 - best) / n)) if best < 1 else 0.0
    # 1e-12 admits accuracies that differ from the bound by rounding only.
    least = best - standard_error * standard_errors - 1e-12
    return [at for at, accuracy in enumerate(accuracies) if (accuracy or 0.0) >= least]


def check_selection(rule: str) -> str:
    """Return a rule of `choose_candidate`, or refuse an unknown one with InputError."""
    check_choice(rule, SELECTIONS, option="selection")
    return rule


def edge_notes(chosen: Candidate, table: Sequence[Candidate], maps: Sequence[int]) -> list[str]:
    """Say where the choice is at the edge of its grid."""
    notes = []
    penalties = [row.penalty for row in table if row.map_index == chosen.map_index]
    if len(penalties) > 1 and chosen.penalty in (min(penalties), max(penalties)):
        side = "lower" if chosen.penalty == min(penalties) else "upper"
        notes.append(
            f"the chosen penalty {chosen.penalty:.3g} is at the {side} edge of its grid "
            f"({min(penalties):.3g} to {max(penalties):.3g}); a wider grid may do better [TT401]"
        )
    if len(maps) > 1 and chosen.sigma is not None and chosen.map_index in (maps[0], maps[-1]):
        side = "lower" if chosen.map_index == maps[0] else "upper"
        notes.append(
            f"the chosen width {chosen.sigma:.3g} is at the {side} edge of its grid; "
            "a wider grid may do better [TT401]"
        )
    return notes


def numerical_notes(jitter: float, n_clipped: int, table: Sequence[Candidate]) -> list[str]:
    """Say what rounding did to the figures."""
    notes = []
    if jitter > 0:
        notes.append(f"some systems needed jitter, at most {jitter:.1e} of their mean diagonal [TT402]")
    if n_clipped:
        notes.append(f"{n_clipped} left-out errors canceled to below 0 and were set to 0 [TT402]")
    failed = sum(not np.isfinite(row.squared_error) for row in table)
    if failed:
        notes.append(f"{failed} of {len(table)} combinations could not be fitted and were left out [TT403]")
    return notes
