"""What a layer search found: a table of subsets, and the choice among them."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toptune.train.solvers.selection import choose

LAYER_SEARCH = "layer_search.csv"


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """A subset of layers and the figures of its left-out predictions: one row of ``layer_search.csv``.

    Attributes
    ----------
    path : str
        ``alone``, ``first`` or ``last`` (cumulative from either end), ``forward`` or ``backward``.
    arrays : tuple of str
        By depth.
    n_columns, bytes_per_picture : int
        As stored.
    relative_penalty : float
        Chosen penalty of ridge regression, in units of the total variance of the columns.
    squared_error : float
        A row, of one-hot targets.
    accuracy, log_loss : float
        Of ridge regression on left-out rows; weighted, where classes are.
    standard_error : float
        Of the accuracy, by the number of rows.
    fit_seconds : float
        Of one cross-validated fit to the sums, reading not included.
    head_accuracy, head_log_loss : float or None
        Left-out figures of the head that checked the short list.
    is_chosen : bool
    """

    path: str
    arrays: tuple[str, ...]
    n_columns: int
    bytes_per_picture: int
    relative_penalty: float
    squared_error: float
    accuracy: float
    standard_error: float
    log_loss: float
    fit_seconds: float
    head_accuracy: float | None = None
    head_log_loss: float | None = None
    is_chosen: bool = False

    @property
    def layers(self) -> str:
        """What ``train --layers`` takes."""
        return ",".join(self.arrays)


@dataclass(frozen=True, kw_only=True)
class LayerSearch:
    """Everything that a layer search compared, and what it suggests.

    Attributes
    ----------
    choices : tuple of LayerChoice
        In the order of the paths; a subset that several paths meet stands in each.
    chosen : LayerChoice
        To train on.
    cheapest : LayerChoice
        Fewest stored bytes among those within one standard error of the best accuracy of ridge regression.
    n_rows, n_folds : int
        Training rows that were compared on, and folds of the cross-validation.
    form : {"primal", "dual"}
        Whether sums were of columns or of rows.
    decided_by : str
        Head whose left-out figures decided.
    peak_bytes : int
        Projected.
    notes : tuple of str
    seconds : float
    """

    choices: tuple[LayerChoice, ...]
    chosen: LayerChoice
    cheapest: LayerChoice
    n_rows: int
    n_folds: int
    form: str
    decided_by: str
    peak_bytes: int
    notes: tuple[str, ...]
    seconds: float

    def path(self, name: str) -> Iterator[LayerChoice]:
        """Rows of one path, in its order."""
        return (choice for choice in self.choices if choice.path == name)

    def summary(self) -> dict[str, Any]:
        """Give all but the table as JSON values."""
        fields = asdict(self)
        del fields["choices"]
        return fields

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON values."""
        return asdict(self)

    def write_csv(self, path: Path) -> None:
        """Write the table; arrays have spaces between them."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(asdict(self.choices[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(each) | {"arrays": " ".join(each.arrays)} for each in self.choices)


def choose_best(choices: Sequence[LayerChoice], *, n: int, by_head: bool = False) -> LayerChoice:
    """Choose as penalties are: least log-loss among those within half a standard error of the best accuracy.

    Parameters
    ----------
    n : int
        Rows that the figures are of.
    by_head : bool
        By the figures of the head that checked the short list, of those that have them.
    """
    entered = [choice for choice in choices if not by_head or choice.head_accuracy is not None]
    best = choose(
        [choice.head_accuracy if by_head else choice.accuracy for choice in entered],
        [choice.head_log_loss if by_head else choice.log_loss for choice in entered],
        n=n,
        ties=[choice.squared_error for choice in entered],
    )
    return entered[best]


def cheapest_of(choices: Sequence[LayerChoice]) -> LayerChoice:
    """Fewest bytes among those whose accuracy is within one standard error of the best."""
    best = max(choices, key=lambda choice: choice.accuracy)
    good = [choice for choice in choices if choice.accuracy >= best.accuracy - best.standard_error - 1e-12]
    return min(good, key=lambda choice: (choice.bytes_per_picture, -choice.accuracy))


def mark_chosen(choices: Sequence[LayerChoice], chosen: LayerChoice) -> tuple[LayerChoice, ...]:
    """Mark every row of the chosen subset."""
    return tuple(replace(choice, is_chosen=choice.arrays == chosen.arrays) for choice in choices)


def standard_error(accuracy: float, n: int) -> float:
    """Give the standard error of an accuracy over n rows (binomial)."""
    return float(np.sqrt(max(0.0, accuracy * (1 - accuracy)) / n))
