"""The table of what was compared, and the rules that choose from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toptune.errors import InputError

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
    n_folds : int
        Folds that it is taken over: all, or one where that one told that the penalty or the map is no
        candidate.
    accuracy, log_loss, temperature : float or None
        Of the left-out predictions; known for finalists only.
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


def edge_notes(chosen: Candidate, table: Sequence[Candidate], maps: Sequence[int]) -> list[str]:
    """Say where the choice is at the edge of its grid."""
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


def numerical_notes(jitter: float, n_clipped: int, table: Sequence[Candidate]) -> list[str]:
    """Say what rounding did to the figures."""
    notes = []
    if jitter > 0:
        notes.append(f"some systems needed jitter, at most {jitter:.1e} of their mean diagonal")
    if n_clipped:
        notes.append(f"{n_clipped} left-out errors canceled to below 0 and were set to 0")
    failed = sum(not np.isfinite(row.squared_error) for row in table)
    if failed:
        notes.append(f"{failed} of {len(table)} combinations could not be fitted and were left out")
    return notes
