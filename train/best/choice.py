"""The choice among candidates by left-out rows, and what it is worth on rows that it did not see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.train.solvers.selection import choose

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOutAnswers:
    """What one candidate says of the rows that all candidates left out, by the fits without the row's fold.

    Attributes
    ----------
    losses : ndarray of float64, shape (n,)
        Log-loss of each row.
    is_right : ndarray of bool, shape (n,)
        Whether the row gets its class.
    """

    losses: Numbers
    is_right: Flags


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The chosen candidate, and honest figures of the choice.

    Attributes
    ----------
    chosen : int
    next_best : int or None
        What would be chosen without the chosen one.
    accuracies, log_losses : tuple of float
        Figures of each candidate.
    accuracy, log_loss : float
        Figures of the choice: each row by the candidate that the rows of the other folds choose.
    """

    chosen: int
    next_best: int | None
    accuracies: tuple[float, ...]
    log_losses: tuple[float, ...]
    accuracy: float
    log_loss: float


def choose_best(
    answers: Sequence[LeftOutAnswers], *, weights: Numbers, folds: npt.NDArray[np.int64]
) -> Choice:
    """Choose a candidate whose left-out log-loss is not above that of the first, by the rule of all choices.

    The rule is that of `toptune.train.solvers.selection.choose`. The figures of the choice are nested
    (Cawley & Talbot 2010, "On over-fitting in model selection and subsequent selection bias in performance
    evaluation"): for each fold the rule sees the rows of the other folds alone. All candidates have the same
    folds, so that nothing is fitted again.

    Parameters
    ----------
    answers : sequence of LeftOutAnswers
        One for each candidate, the default first, over the same n rows.
    weights : ndarray of float64, shape (n,)
        Weight of each row.
    folds : ndarray of int64, shape (n,)
        Fold that each row was left out with; two folds at least.

    Examples
    --------
    >>> import numpy as np
    >>> good, bad = np.arange(100) % 10 > 0, np.arange(100) % 2 > 0
    >>> answers = [LeftOutAnswers(losses=np.where(each, 0.1, 2.0), is_right=each) for each in (bad, good)]
    >>> found = choose_best(answers, weights=np.ones(100), folds=np.arange(100) // 20)
    >>> found.chosen, found.next_best, found.accuracies, found.accuracy
    (1, 0, (0.5, 0.9), 0.9)
    """
    losses = np.stack([each.losses for each in answers])
    is_right = np.stack([each.is_right for each in answers])
    every = np.ones(len(folds), dtype=bool)
    accuracies, log_losses = _figures(losses, is_right, weights, every)
    chosen = _chosen(accuracies, log_losses, n=len(folds))
    others = [at for at in range(len(answers)) if at != chosen]
    nested_losses, nested_right = np.empty(len(folds)), np.empty(len(folds))
    for fold in np.unique(folds):
        is_left = folds == fold
        by_others = _chosen(*_figures(losses, is_right, weights, ~is_left), n=int((~is_left).sum()))
        nested_losses[is_left] = losses[by_others, is_left]
        nested_right[is_left] = is_right[by_others, is_left]
    return Choice(
        chosen=chosen,
        next_best=others[_rule(accuracies[others], log_losses[others], n=len(folds))] if others else None,
        accuracies=tuple(accuracies.tolist()),
        log_losses=tuple(log_losses.tolist()),
        accuracy=float(np.average(nested_right, weights=weights)),
        log_loss=float(np.average(nested_losses, weights=weights)),
    )


def _figures(losses: Numbers, is_right: Flags, weights: Numbers, rows: Flags) -> tuple[Numbers, Numbers]:
    """Return accuracy and log-loss of each candidate over some rows."""
    accuracies, log_losses = (
        np.average(values[:, rows], axis=1, weights=weights[rows]) for values in (is_right, losses)
    )
    return accuracies, log_losses


def _chosen(accuracies: Numbers, log_losses: Numbers, *, n: int) -> int:
    # The default is among them, whatever else is.
    allowed = np.flatnonzero(log_losses <= log_losses[0])
    return int(allowed[_rule(accuracies[allowed], log_losses[allowed], n=n)])


def _rule(accuracies: Numbers, log_losses: Numbers, *, n: int) -> int:
    return choose(accuracies.tolist(), log_losses.tolist(), n=n)
