"""What a layer search found: a table of subsets, and the choice among them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toptune.store.files.writing import csv_text, write_text
from toptune.train.solvers.selection import choose
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION

LAYER_SEARCH = "layer_search.csv"
# What the leading figure of a search is called, by the task.
FIGURES = {CLASSIFICATION: "accuracy", MULTILABEL: "accuracy of labels", REGRESSION: "R2"}


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """A subset of layers and the figures of its left-out predictions: one row of ``layer_search.csv``.

    Attributes
    ----------
    path : str
        ``alone``, ``first`` or ``last`` (cumulative from either end), ``forward`` or ``backward``; of several
        backbones also ``each`` (the last layer of each).
    arrays : tuple of str
        Names of the stored arrays, by depth.
    n_columns, bytes_per_picture : int
        Columns of the subset, and bytes that an image takes in the store.
    relative_penalty : float
        Chosen penalty of ridge regression, in units of the total variance of the columns.
    squared_error : float
        Left-out squared error of the targets, for each row: one-hot, labels of 0 and 1, or standardized
        numbers.
    accuracy, log_loss : float or None
        Figures of ridge regression on left-out rows, weighted where classes have weights. Of several labels,
        the accuracy is the share of labels that are decided rightly. None of numbers.
    standard_error : float
        Standard error of the accuracy, by the number of rows; of numbers, that of R2.
    fit_seconds : float
        Time of one cross-validated fit to the sums, without the time to read features.
    head_accuracy, head_log_loss : float or None
        Left-out figures of the head that checked the short list.
    is_chosen : bool
        Whether the search suggests this subset.
    r2, head_r2 : float or None
        Of numbers, the coefficient of determination on left-out rows, the mean over targets: of ridge
        regression, and of the head that checked the short list.
    """

    path: str
    arrays: tuple[str, ...]
    n_columns: int
    bytes_per_picture: int
    relative_penalty: float
    squared_error: float
    accuracy: float | None
    standard_error: float
    log_loss: float | None
    fit_seconds: float
    head_accuracy: float | None = None
    head_log_loss: float | None = None
    is_chosen: bool = False
    r2: float | None = None
    head_r2: float | None = None

    @property
    def figure(self) -> float:
        """The leading figure of ridge regression: the accuracy or, of numbers, R2."""
        found = self.r2 if self.accuracy is None else self.accuracy
        assert found is not None, "a search has an accuracy or R2"
        return found

    @property
    def head_figure(self) -> float | None:
        """The leading figure of the head that checked the short list; None where none did."""
        return self.head_r2 if self.head_accuracy is None else self.head_accuracy

    @property
    def layers(self) -> str:
        """The value of ``train --layers`` that means this subset."""
        return ",".join(self.arrays)


@dataclass(frozen=True, kw_only=True)
class LayerSearch:
    """Everything that a layer search compared, and what it suggests.

    Attributes
    ----------
    choices : tuple of LayerChoice
        All rows, in the order of the paths; a subset on several paths has a row for each path.
    chosen : LayerChoice
        The subset to train on.
    cheapest : LayerChoice
        The subset of fewest stored bytes whose accuracy by ridge regression is within one standard error of
        the best accuracy.
    n_rows, n_folds : int
        Training rows that subsets were compared on, and folds of the cross-validation.
    form : {"primal", "dual"}
        Whether the Gram matrices were those of columns or of rows.
    decided_by : str
        Name of the head whose left-out figures decided.
    peak_bytes : int
        Projected peak memory.
    notes : tuple of str
        What a user should know.
    seconds : float
        Time of the whole search.
    task : str
        What was learned.
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
    task: str = CLASSIFICATION

    def path(self, name: str) -> Iterator[LayerChoice]:
        """Yield the rows of one path, in the order of the path."""
        return (choice for choice in self.choices if choice.path == name)

    def summary(self) -> dict[str, Any]:
        """Return everything but the table, as JSON values."""
        fields = asdict(self)
        del fields["choices"]
        return fields

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def write_csv(self, path: Path, *, spreadsheet_safe: bool = False) -> None:
        """Write the table; the names of arrays have spaces between them. See `csv_text`."""
        rows = [asdict(each) | {"arrays": " ".join(each.arrays)} for each in self.choices]
        write_text(path, csv_text(rows, spreadsheet_safe=spreadsheet_safe))


def choose_best(choices: Sequence[LayerChoice], *, n: int, by_head: bool = False) -> LayerChoice:
    """Choose a subset as penalties are chosen: by log-loss, among those of about the best accuracy.

    "About" means within half a standard error; see `toptune.train.solvers.selection.choose`. Of numbers the
    highest R2 is chosen.

    Parameters
    ----------
    n : int
        Rows behind each figure.
    by_head : bool
        Choose by the figures of the head that checked the short list, among the subsets that it checked.
    """
    entered = [choice for choice in choices if not by_head or choice.head_figure is not None]
    if entered[0].accuracy is None:
        return max(entered, key=lambda choice: (choice.head_r2 if by_head else choice.r2) or -np.inf)
    best = choose(
        [choice.head_accuracy if by_head else choice.accuracy for choice in entered],
        [choice.head_log_loss if by_head else choice.log_loss for choice in entered],
        n=n,
        ties=[choice.squared_error for choice in entered],
    )
    return entered[best]


def cheapest_of(choices: Sequence[LayerChoice]) -> LayerChoice:
    """Return the subset of fewest bytes whose accuracy, or R2, is within one standard error of the best."""
    best = max(choices, key=lambda choice: choice.figure)
    good = [choice for choice in choices if choice.figure >= best.figure - best.standard_error - 1e-12]
    return min(good, key=lambda choice: (choice.bytes_per_picture, -choice.figure))


def mark_chosen(choices: Sequence[LayerChoice], chosen: LayerChoice) -> tuple[LayerChoice, ...]:
    """Mark every row of the chosen subset."""
    return tuple(replace(choice, is_chosen=choice.arrays == chosen.arrays) for choice in choices)


def standard_error(accuracy: float, n: int) -> float:
    """Return the standard error of an accuracy over n rows: ``sqrt(p (1 - p) / n)``, of a binomial share."""
    return float(np.sqrt(max(0.0, accuracy * (1 - accuracy)) / n))
