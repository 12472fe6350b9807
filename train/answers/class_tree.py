"""`ClassTree`: which class belongs to which, so that probabilities add up along the tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from toptune.errors import CorruptError, InputError
from toptune.options import choices
from toptune.store.datasets.manifest import Manifest
from toptune.store.files.json_values import json_text, read_json
from toptune.store.files.writing import write_text
from toptune.text import counted, named
from toptune.train.answers.files import CLASS_TREE
from toptune.train.answers.pairs import read_pairs

Values = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
_FORM = (
    'give lines "class,parent", one for each class and for each parent (a class at the top has an empty '
    "parent), or a JSON object of parents by class"
)
_WORD = "parent"


@dataclass(frozen=True, eq=False)
class ClassTree:
    """Classes of a run and what they belong to.

    Attributes
    ----------
    classes : tuple of str
        Classes of the run, in the order of the probabilities; any of them may be a parent itself.
    parents : mapping of str to str or None
        The parent of each class, and of each parent; None at the top.

    Examples
    --------
    >>> parents = {"cat": "animal", "dog": "animal", "animal": None, "oak": None}
    >>> tree = ClassTree(("cat", "dog", "oak"), parents)
    >>> tree.nodes
    ('animal', 'oak', 'cat', 'dog')
    >>> tree.sums(np.array([[0.5, 0.375, 0.125]])).tolist()
    [[0.875, 0.125, 0.5, 0.375]]
    """

    classes: tuple[str, ...]
    parents: Mapping[str, str | None]

    @classmethod
    def of(cls, parents: Mapping[str, str | None], classes: Sequence[str], *, where: str) -> "ClassTree":
        """Make a tree for the classes of a run, without what none of them belongs to.

        Parameters
        ----------
        parents : mapping of str to str or None
        classes : sequence of str
        where : str
            The file or column that says so, for messages.

        Raises
        ------
        InputError
            If a class has no entry, a parent is unknown, or classes belong to each other in a circle.
        """
        if missing := [name for name in classes if name not in parents]:
            raise _refusal(
                f"{where} lacks {counted(len(missing), 'class')} of the {len(classes)} of the run: "
                f"{named(missing)}; {_FORM}"
            )
        ways = {name: _way_up(name, parents, where) for name in parents}
        kept = {node: parents[node] for name in classes for node in ways[name]}
        return cls(tuple(classes), kept)

    @classmethod
    def told(cls, text: str, manifest: Manifest, classes: Sequence[str]) -> "ClassTree":
        """Take parents from columns of a manifest, or from a file where no column has the name.

        Raises
        ------
        InputError
            As of `of`; if there is neither a column nor a file of the name.
        """
        if text.split(",")[0].strip() in manifest.extra_names:
            return cls.of_columns(text, manifest, classes)
        if Path(text).is_file():
            return cls.of_file(text, classes)
        raise _refusal(
            f"class_tree {text!r} is neither a column that was kept with the images nor a file; "
            f"{choices(text, manifest.extra_names)}, or {_FORM}"
        )

    @classmethod
    def of_file(cls, path: str | Path, classes: Sequence[str]) -> "ClassTree":
        """Read a table of classes and parents, or a JSON object; errors are those of `of`."""
        pairs = read_pairs(path, what="the file of parents", form=_FORM, option="class_tree")
        if len(pairs) > 1 and (pairs[0][1] or "").lower() == _WORD and _WORD not in dict(pairs[1:]):
            pairs = pairs[1:]  # A line of names.
        parents: dict[str, str | None] = {}
        for name, parent in pairs:
            if parents.setdefault(name, parent) != parent:
                raise _refusal(
                    f"{path} gives {name!r} two parents, {parents[name]!r} and {parent!r}; leave one of them"
                )
        return cls.of(parents, classes, where=str(path))

    @classmethod
    def of_columns(cls, names: str, manifest: Manifest, classes: Sequence[str]) -> "ClassTree":
        """Take parents from columns of a manifest: the first has those of the labels, the next theirs.

        Parameters
        ----------
        names : str
            Names of columns, with commas between them, from the parents of the labels upwards.
        manifest : Manifest
        classes : sequence of str

        Raises
        ------
        InputError
            If there is no such column, or images of one class have different parents or some have none.
        """
        parents: dict[str, str | None] = {}
        below: list[str | None] = list(manifest.labels)
        for column in (name.strip() for name in names.split(",")):
            try:
                values = manifest.column(column)
            except InputError as error:
                raise _refusal(f"{error}; or give a file of parents") from error
            for child, parent, image in zip(below, values, manifest.ids, strict=True):
                if child is None:
                    continue
                if parents.setdefault(child, parent) != parent:
                    raise _refusal(
                        f"column {column!r} gives {child!r} the parents {parents[child]!r} and {parent!r} "
                        f"(image {image!r}); give all images of a class one parent"
                    )
            below = values
        parents |= {each: None for each in below if each is not None and each not in parents}
        return cls.of(parents, classes, where=f"column {names!r}")

    def write(self, folder: Path) -> None:
        """Write ``class_tree.json``."""
        write_text(folder / CLASS_TREE, json_text({"parents": dict(self.parents)}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path, classes: Sequence[str], *, advice: str) -> "ClassTree | None":
        """Read what `write` wrote; None if the run has no tree.

        Raises
        ------
        CorruptError
            If the file is damaged or is not of these classes.
        """
        path = folder / CLASS_TREE
        if not path.is_file():
            return None
        parents = read_json(path, advice=advice).get("parents")
        is_sound = isinstance(parents, dict) and all(
            value is None or isinstance(value, str) for value in parents.values()
        )
        try:
            if not isinstance(parents, dict) or not is_sound:
                raise InputError("it has no parents by class")
            return cls.of(parents, classes, where=str(path))
        except InputError as error:
            raise CorruptError(f"{path} cannot be used ({error}); {advice}", path) from error

    @cached_property
    def depths(self) -> dict[str, int]:
        """How many parents stand above each class and parent."""
        found: dict[str, int] = {}

        def depth(name: str) -> int:
            parent = self.parents[name]
            if name not in found:
                found[name] = 0 if parent is None else depth(parent) + 1
            return found[name]

        for name in self.parents:
            depth(name)
        return found

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All classes and parents, those at the top first."""
        order = {name: place for place, name in enumerate(self.parents)}
        return tuple(sorted(self.parents, key=lambda name: (self.depths[name], order[name])))

    @cached_property
    def _members(self) -> csr_array:
        """Whether each class (n_classes,) belongs to each of `nodes`: itself, its parent, and so on."""
        at = {name: place for place, name in enumerate(self.nodes)}
        pairs = [(code, at[node]) for code, name in enumerate(self.classes) for node in self.way_up(name)]
        rows, columns = np.array(pairs, dtype=np.int64).T
        shape = (len(self.classes), len(self.nodes))
        return csr_array((np.ones(len(pairs)), (rows, columns)), shape=shape)

    def way_up(self, name: str) -> list[str]:
        """Return a class, its parent, the parent of that, and so on to the top."""
        return _way_up(name, self.parents, CLASS_TREE)

    def sums(self, probabilities: Values) -> Values:
        """Return the probability of each of `nodes` (n, n_nodes) from those of the classes (n, n_classes)."""
        # Sums of rounded probabilities may be a little above 1.
        sums: Values = np.minimum(np.asarray(probabilities @ self._members), 1.0)
        return sums

    def back_off(self, probabilities: Values, least: float) -> list[tuple[str | None, float | None]]:
        """Return the deepest class or parent at least so probable, with its probability, for each row.

        Of several at one depth the most probable; None where even the tops are less probable.
        """
        sums = self.sums(probabilities)
        depths = np.array([self.depths[name] for name in self.nodes], dtype=np.float64)
        # The depth decides, and the probability among equal depths.
        rank = np.where(sums >= least, depths + sums / 2, -1.0)
        best = rank.argmax(axis=1)
        return [
            (self.nodes[at], float(sums[row, at])) if rank[row, at] >= 0 else (None, None)
            for row, at in enumerate(best.tolist())
        ]

    @cached_property
    def levels(self) -> tuple["Level", ...]:
        """The tree cut at each depth from the top; the last level is that of the classes themselves."""
        ways = [self.way_up(name)[::-1] for name in self.classes]
        found = []
        for depth in range(max(map(len, ways))):
            own = [way[min(depth, len(way) - 1)] for way in ways]
            names = tuple(dict.fromkeys(own))
            at = {name: place for place, name in enumerate(names)}
            found.append(Level(depth=depth, names=names, codes=np.array([at[name] for name in own])))
        return tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """A tree cut at one depth: classes that are less deep stand for themselves.

    Attributes
    ----------
    depth : int
        0 at the top.
    names : tuple of str
        Classes and parents of the level.
    codes : ndarray of int64, shape (n_classes,)
        For each class of the run, the position among `names`.
    """

    depth: int
    names: tuple[str, ...]
    codes: Codes

    def sums(self, probabilities: Values) -> Values:
        """Return the probabilities of `names` (n, n_names) from those of the classes (n, n_classes)."""
        shape = (len(self.codes), len(self.names))
        ones = np.ones(len(self.codes))
        member = csr_array((ones, (np.arange(len(self.codes)), self.codes)), shape=shape)
        sums: Values = np.minimum(np.asarray(probabilities @ member), 1.0)
        return sums


def _way_up(name: str, parents: Mapping[str, str | None], where: str) -> list[str]:
    """Return a class and what it belongs to, up to the top."""
    way = [name]
    while (parent := parents[way[-1]]) is not None:
        if parent in way:
            circle = " -> ".join([*way[way.index(parent) :], parent])
            raise _refusal(f"{where} has a circle of parents, {circle}; give one of them no parent")
        if parent not in parents:
            known = [each for each in parents if each != way[-1]]
            raise _refusal(
                f"{where} gives {way[-1]!r} the parent {parent!r}, which has no line of its own; "
                f"{choices(parent, known)}, or add it with an empty parent"
            )
        way.append(parent)
    return way


def _refusal(message: str) -> InputError:
    return InputError(message, option="class_tree")
