"""``partial_fit`` of the ridge and FALKON estimators: blocks of rows come one after the other."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.train.partial.running_sums import RunningSums
from toptune.train.rows.inputs import Given, block_inputs, row_weights

# Parameters that may change from block to block, because the sums do not depend on them.
_FREE = frozenset({"penalty", "selection", "memory_limit_bytes"})


class PartialFitBeginsWarning(UserWarning):
    """Rows of an earlier fit have no part in what `partial_fit` fits."""


class PartialFit(ABC):
    """What estimators that fit from sums have in common when blocks of rows come one after the other."""

    # The parameters by name, by scikit-learn.
    get_params: Callable[..., dict[str, Any]]
    gives_numbers: ClassVar[bool]
    _running: RunningSums | None = None

    @abstractmethod
    def _check(self) -> None:
        """Refuse parameters out of range with InputError, before any row is read."""

    @abstractmethod
    def _begin_partial(self, first: Given, settings: Mapping[str, str]) -> RunningSums:
        """Return sums of no rows, with what the first block decides: centers and widths."""

    @abstractmethod
    def _fit_partial(self, running: RunningSums) -> None:
        """Fit from the sums, and set every fitted attribute."""

    def _add_block(
        self, X: Blocks | npt.ArrayLike, y: npt.ArrayLike, classes: npt.ArrayLike | None, *, solve: bool
    ) -> Self:
        self._check()
        settings = self._settings()
        running = self._running
        if running is None and hasattr(self, "intercept_"):
            # scikit-learn's estimators take blocks after fit, too.
            warnings.warn(
                f"this {type(self).__name__} was fitted by fit, or read from a file, and holds no sums of "
                "single widths and folds to which rows could be added: partial_fit begins anew, without the "
                "rows of that fit",
                PartialFitBeginsWarning,
                stacklevel=3,
            )
        if running is not None:
            self._refuse_changes(running, settings)
        known = self._known_classes(running, classes, y)
        given = block_inputs(
            self, X, y, classes=known, are_numbers=self.gives_numbers, is_first=running is None
        )  # fmt: skip
        if running is None:
            running = self._begin_partial(given, settings)
        elif len(given.classes) != len(running.classes):
            raise InputError(
                f"y has {len(given.classes)} columns, and the first block had {len(running.classes)}; "
                "give the "
                "same labels or targets in every block"
            )
        weights = row_weights_of_block(given, getattr(self, "class_weight", None))
        with full_precision():
            running.add(given, weights)
            self._running = running
            if solve:
                self._fit_partial(running)
        return self

    def _settings(self) -> dict[str, str]:
        if self.get_params()["cv"] is not None and isinstance(self.get_params()["cv"], str):
            raise InputError(
                f"cv is {self.get_params()['cv']!r}, which partial_fit does not know: rows are dealt out "
                "over "
                "folds by their number; give a number of folds, or None"
            )
        for name, usual in (("dask", None), ("class_weight", None)):
            value = self.get_params().get(name)
            if value is not usual and not (name == "class_weight" and isinstance(value, dict)):
                raise InputError(
                    f"{name} is {value!r}, which partial_fit does not know: it sees one block at a time; "
                    "leave "
                    f"{name} out" + (", or give a weight for each class" if name == "class_weight" else "")
                )
        solver = self.get_params().get("solver", "direct")
        if solver not in ("auto", "direct"):
            raise InputError(f"solver is {solver!r}, which reads all rows again and again; use 'direct'")
        return {name: repr(value) for name, value in self.get_params().items() if name not in _FREE}

    def _refuse_changes(self, running: RunningSums, settings: Mapping[str, str]) -> None:
        changed = sorted(name for name, value in settings.items() if running.settings.get(name) != value)
        if changed:
            raise InputError(
                f"changed since the first block: {', '.join(changed)}; the sums of the blocks before are "
                "not of these parameters: set them back, or begin anew on a clone"
            )

    def _known_classes(
        self, running: RunningSums | None, classes: npt.ArrayLike | None, y: npt.ArrayLike
    ) -> npt.NDArray[np.generic] | None:
        """Return all classes, sorted; None for labels and numbers."""
        del running, classes, y
        return None


class PartialRegressor(PartialFit):
    """A regressor that takes blocks of rows as they come."""

    def partial_fit(self, X: Blocks | npt.ArrayLike, y: npt.ArrayLike, *, solve: bool = True) -> Self:
        """Add a block of rows, and fit to all rows that came so far.

        The first block decides the centers, if none are given, and the widths, if none are given. Row i of
        all rows is in fold ``i % cv``. The sums are in float64, and they are all that is kept of the rows but
        for a sample of 5,000 to 10,000, on which left-out figures are taken. With centers and width given,
        and the same folds, the fit equals `fit` on all rows at once.

        Parameters
        ----------
        X : array-like or Blocks, shape (b, d)
        y : array-like, shape (b,) or (b, n_targets)
        solve : bool
            Whether to fit now. Many small blocks are added faster if only the last is followed by a fit.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For rows or targets that are not finite, other columns or parameters than in the blocks before.
            The sums then are those of the blocks before.
        """
        return self._add_block(X, y, None, solve=solve)


class PartialClassifier(PartialFit):
    """A classifier that takes blocks of rows as they come."""

    def partial_fit(
        self,
        X: Blocks | npt.ArrayLike,
        y: npt.ArrayLike,
        classes: npt.ArrayLike | None = None,
        *,
        solve: bool = True,
    ) -> Self:
        """Add a block of rows, and fit to all rows that came so far.

        The first block decides the centers, if none are given, and the widths, if none are given. Row i of
        all rows is in fold ``i % cv``. The sums are in float64, and they are all that is kept of the rows but
        for a sample of 5,000 to 10,000, on which accuracy and calibration are taken. With centers and width
        given, and the same folds, the fit equals `fit` on all rows at once.

        Parameters
        ----------
        X : array-like or Blocks, shape (b, d)
        y : array-like, shape (b,), or (b, n_labels) of 0 and 1
        classes : array-like, shape (n_classes,)
            All classes that may come; needed at the first call, as in scikit-learn. Not of an indicator
            matrix.
        solve : bool
            Whether to fit now. Many small blocks are added faster if only the last is followed by a fit.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For rows that are not finite, classes that were not named, other columns or parameters than in the
            blocks before. The sums then are those of the blocks before.
        """
        return self._add_block(X, y, classes, solve=solve)

    def _known_classes(
        self, running: RunningSums | None, classes: npt.ArrayLike | None, y: npt.ArrayLike
    ) -> npt.NDArray[np.generic] | None:
        found = None if classes is None else np.unique(np.asarray(classes))
        shape = getattr(y, "shape", None) or np.shape(y)
        is_matrix = len(shape) == 2 and shape[1] > 1
        if running is not None:
            if found is not None and not np.array_equal(found, running.classes):
                raise InputError(
                    f"classes are {found.tolist()}, and were {running.classes.tolist()} at the first "
                    "call; leave "
                    "classes= out, or begin anew on a clone"
                )
            return None if is_matrix else running.classes
        if is_matrix:
            if found is not None and not np.array_equal(found, np.arange(shape[1])):
                raise InputError(
                    f"classes are {found.tolist()}, and y is a matrix of {shape[1]} labels, which are "
                    "known by their columns; leave classes= out"
                )
            return None
        if found is None and hasattr(self, "classes_"):
            return np.asarray(self.classes_)
        if found is None:
            raise InputError(
                "classes must be passed on the first call to partial_fit: all classes that may come, "
                "because a "
                "block need not have every one"
            )
        if len(found) < 2:
            raise InputError(f"classes are {found.tolist()}; a classifier needs at least 2")
        return found


def row_weights_of_block(given: Given, class_weight: object) -> npt.NDArray[np.float64]:
    """Return the weights (b,) of the rows of a block; their mean over all rows becomes 1 at the fit."""
    if class_weight is None:
        return np.ones(len(given.codes))
    row_weights(given.codes, given.classes, class_weight)
    assert isinstance(class_weight, dict)
    of_class = np.array([float(class_weight.get(name, 1.0)) for name in given.classes.tolist()])
    return of_class[given.codes]
