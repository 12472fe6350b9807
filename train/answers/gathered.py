"""`Gathered`: what is said of rows of classes, for figures of things and of levels of a tree."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.thing_figures import plain_figures
from toptune.train.answers.things import Things
from toptune.train.figures.metrics import Answers

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(kw_only=True)
class Gathered:
    """Probabilities of rows, as far as figures need them.

    Attributes
    ----------
    tree : ClassTree, optional
        Of the classes, where levels are measured.
    thing_of : mapping of int to str, optional
        The thing that each row of the manifest shows, where things are measured.
    """

    tree: ClassTree | None = None
    thing_of: Mapping[int, str] | None = None
    _levels: list[list[Answers]] = field(default_factory=list)
    _rows: list[int] = field(default_factory=list)
    _codes: list[Rows] = field(default_factory=list)
    _kept: list[Values] = field(default_factory=list)

    def __call__(self, rows: Rows, codes: Rows, probabilities: Values) -> Values:
        """Take what was said of some rows of the manifest (n,) of the classes (n,), and return it."""
        if self.tree is not None:
            levels = self.tree.levels
            self._levels = self._levels or [[] for _ in levels]
            for level, parts in zip(levels, self._levels, strict=True):
                parts.append(Answers.of(level.codes[codes], level.sums(probabilities)))
        if self.thing_of is not None:
            self._kept.append(probabilities)
        self._rows += rows.tolist()
        self._codes.append(codes)
        return probabilities

    @property
    def things(self) -> Things:
        """The things of the rows that were seen."""
        assert self.thing_of is not None, "things are measured"
        return Things.of([self.thing_of[row] for row in self._rows])

    @property
    def codes(self) -> Rows:
        """Classes (n,) of the rows that were seen."""
        return np.concatenate(self._codes)

    @property
    def probabilities(self) -> Values:
        """What was said (n, n_classes) of the rows that were seen, where things are measured."""
        return np.concatenate(self._kept)

    def levels(self) -> list[dict[str, Any]]:
        """Return the figures of each level of the tree, the top first."""
        assert self.tree is not None, "levels are measured"
        return [
            {"level": level.depth, "n_classes": len(level.names)} | plain_figures(parts, level.names)
            for level, parts in zip(self.tree.levels, self._levels, strict=True)
        ]
