"""`Task`: all that training knows of a task by its name, but for what estimators do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from toptune.store.datasets.manifest import Manifest

Matrix = npt.NDArray[np.float64]
AnyMatrix = npt.NDArray[np.floating]
Codes = npt.NDArray[np.int64]
# Numbers of rows and strata, in 32 or 64 bits.
Strata = npt.NDArray[np.signedinteger]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which columns of a data set say what the head is to learn.

    Attributes
    ----------
    label_column : str, optional
        The option of that name: a column, or several with commas between them.
    target : str, optional
        The option of that name: numeric columns, with commas between them.
    drop_missing : bool
        Whether rows without a number in such a column are left out in place of being refused.
    """

    label_column: str | None = None
    target: str | None = None
    drop_missing: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetMatrix:
    """Targets of rows.

    Attributes
    ----------
    values : ndarray of float64, shape (n, k)
        Targets; NaN where unknown.
    names : tuple of str
        Names of the columns.
    """

    values: Matrix
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: npt.ArrayLike) -> "TargetMatrix":
        """Return the targets of some rows."""
        return TargetMatrix(values=self.values[np.asarray(rows)], names=self.names)


class Task(ABC):
    """What a head is to learn.

    What a row is to teach is kept as one text a row, in the column ``label`` of the manifest: the name of the
    class, the labels that apply with ``|`` between them, or the numbers. So splits, RUN folders and updates
    see labels that changed, whatever the task. `labeled` writes these texts, and `targets` reads them.

    Attributes
    ----------
    name : str
        The value of ``--task``, which a run records.
    figures : tuple of str
        The figures at the top of ``metrics.json``, the leading one first.
    loss : str
        The left-out loss that selects hyperparameters, in words.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    loss: ClassVar[str]

    @abstractmethod
    def labeled(self, manifest: Manifest, wanted: Wanted) -> Manifest:
        """Return a manifest whose ``label`` is the text of what each row teaches, or None.

        Raises
        ------
        InputError
            For columns that there are not, or that do not hold what the task needs.
        """

    @abstractmethod
    def names(self, texts: Sequence[str]) -> list[str]:
        """Return the names of the columns of the targets that rows have, in their order."""

    @abstractmethod
    def targets(self, texts: Sequence[str], names: Sequence[str]) -> TargetMatrix:
        """Return the targets of rows; what is none of the names is left out."""

    @abstractmethod
    def members(self, texts: Sequence[str]) -> Mapping[str, int]:
        """Count the rows behind each column of the targets: rows with the label, or with the number."""

    @abstractmethod
    def strata(self, values: AnyMatrix) -> tuple[Strata, Strata]:
        """Return what folds and splits spread evenly, of targets (n, k).

        Returns
        -------
        rows, codes : ndarray of int, shape (m,)
            A row and a stratum that it belongs to, in any order; every row is in one stratum at least.
        """

    @abstractmethod
    def check(self, texts: Sequence[str]) -> None:
        """Refuse training rows that no head could learn from, with InputError."""

    def notes(self, texts: Sequence[str]) -> list[str]:
        """Say what a user should know of the training rows."""
        del texts
        return []
