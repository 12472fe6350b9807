"""Several images show one thing (a patient, a slide, a product), and one answer is given for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, softmax

from toptune.options import check_choice
from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.train.answers.options import WAYS
from toptune.train.rows.groups import labels_of_things
from toptune.train.rows.options import check_way, ways_of
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION

Values = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

LOGS, FEATURES, MAXIMUM, NUMBERS = WAYS
# No probability counts as less: one image that rules a class out must not do so whatever the others say.
_LEAST = 1e-12
# Means of features are taken of so many rows at a time.
_BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Things:
    """Which of some rows show one thing.

    Attributes
    ----------
    names : tuple of str
        The things, in the order of their first rows.
    codes : ndarray of int64, shape (n,)
        For each row the position of its thing among `names`.
    """

    names: tuple[str, ...]
    codes: Codes

    @classmethod
    def of(cls, keys: Sequence[str]) -> "Things":
        """Give numbers to the things of rows (n,), each row given by the name of its thing."""
        names = tuple(dict.fromkeys(keys))
        at = {name: place for place, name in enumerate(names)}
        return cls(names=names, codes=np.array([at[key] for key in keys], dtype=np.int64))

    @property
    def counts(self) -> Codes:
        """Rows of each thing."""
        return np.bincount(self.codes, minlength=len(self.names))

    def means(self, values: npt.NDArray[np.floating]) -> Values:
        """Return the mean of the rows of each thing (n_things, ...) of values (n, ...)."""
        sums = np.zeros((len(self.names), *values.shape[1:]))
        np.add.at(sums, self.codes, values)
        means: Values = sums / self.counts.reshape(-1, *[1] * (values.ndim - 1))
        return means

    def means_of(self, blocks: Blocks) -> ArrayBlocks:
        """Return the means (n_things, d) of rows of features (n, d), which are read some at a time."""
        sums = np.zeros((len(self.names), blocks.shape[1]))
        for rows, values in blocks.iterate(_BLOCK_ROWS):
            np.add.at(sums, self.codes[rows], np.asarray(values, dtype=np.float64))
        return ArrayBlocks((sums / self.counts[:, None]).astype(np.float32))

    def probabilities(self, of_rows: Values, *, way: str = LOGS) -> Values:
        """Return one answer a thing (n_things, n_classes) from those of its rows (n, n_classes).

        Parameters
        ----------
        of_rows : ndarray of float64, shape (n, n_classes)
        way : {"log-probabilities", "maximum"}
            The mean of log-probabilities, or for each class its largest probability among the rows; both
            are scaled to the sum 1.

        Examples
        --------
        >>> things = Things.of(["a", "b", "a"])
        >>> found = things.probabilities(np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]))
        >>> found.round(3).tolist()
        [[0.5, 0.5], [0.2, 0.8]]
        """
        check_choice(way, (LOGS, MAXIMUM), option="answer_from")
        if way == LOGS:
            logs = self.means(np.log(np.maximum(of_rows, _LEAST)))
            return np.asarray(softmax(logs, axis=1), dtype=np.float64)
        largest = np.zeros((len(self.names), of_rows.shape[1]))
        np.maximum.at(largest, self.codes, of_rows)
        scaled: Values = largest / largest.sum(axis=1, keepdims=True)
        return scaled

    def answers(
        self, of_rows: Values, *, task: str, way: str | None = None, is_ordinal: bool = False
    ) -> Values:
        """Return one answer a thing (n_things, k) from those of its rows (n, k).

        Parameters
        ----------
        of_rows : ndarray of float64, shape (n, k)
            Probabilities of classes or of labels, or numbers.
        task : str
        way : str, optional
            As `toptune.train.rows.options.ways_of` lists them, but for ``features``; by default the first. Of
            classes see `probabilities`. For each label, ``log-probabilities`` is the mean of the log-odds of
            the rows, which is that of the log-probabilities that it applies and that it does not, scaled to
            the sum 1; ``maximum`` is the largest probability. ``numbers`` is the mean of the rows.
        is_ordinal : bool
            Whether numbers are steps of a scale, to which means are rounded.

        Raises
        ------
        InputError
            For a way that the task does not know.

        Examples
        --------
        >>> things = Things.of(["a", "a"])
        >>> things.answers(np.array([[0.9, 0.2], [0.1, 0.2]]), task="multilabel").round(3).tolist()
        [[0.5, 0.2]]
        >>> things.answers(np.array([[41.0], [44.0]]), task="regression").tolist()
        [[42.5]]
        """
        way = ways_of(task)[0] if way is None else way
        check_way(way, task)
        if task == REGRESSION:
            means = self.means(of_rows)
            # Zero is added because a little below 0 is rounded to -0.0, which would be printed so.
            return np.rint(means) + 0.0 if is_ordinal else means
        if task != MULTILABEL:
            return self.probabilities(of_rows, way=way)
        if way == LOGS:
            odds: Values = expit(self.means(logit(np.clip(of_rows, _LEAST, 1 - _LEAST))))
            return odds
        largest = np.zeros((len(self.names), of_rows.shape[1]))
        np.maximum.at(largest, self.codes, of_rows)
        return largest

    def labels(self, labels: Sequence[str], *, by: str, task: str = CLASSIFICATION) -> list[str]:
        """Return the label of each thing, or what else a row teaches, as text.

        Parameters
        ----------
        labels : sequence of str, length n
            Label of each row.
        by : str
            Column or pattern that tells the things, for messages.
        task : str

        Raises
        ------
        InputError
            For things whose images carry different labels.
        """
        keys = [self.names[code] for code in self.codes.tolist()]
        found = labels_of_things(keys, labels, by=by, task=task)
        return [found[name] for name in self.names]


def whole_things(stays: npt.NDArray[np.bool_], things: Sequence[str] | None) -> npt.NDArray[np.bool_]:
    """Tell of each row (n,) whether all rows of its thing stay; without things, whether it stays itself."""
    if things is None:
        return stays
    gone = {things[at] for at in np.flatnonzero(~stays).tolist()}
    whole: npt.NDArray[np.bool_] = stays & np.array([thing not in gone for thing in things], dtype=bool)
    return whole
