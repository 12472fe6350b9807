"""`LeftOut`: how likely fits held the classes of training rows that they had left out, as a run keeps it.

A run keeps one number a row, from which sets of labels of any coverage follow (`conformal`). The scores of
all classes would take as many times more as there are classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.errors import CorruptError
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.files.reading import read_linked
from toptune.store.files.writing import write_made
from toptune.train.answers.files import LEFT_OUT
from toptune.train.answers.things import FEATURES, Things

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOut:
    """Left-out probabilities of the true classes, of all rows or of a sample.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Rows of the data set's manifest.
    likelihood : ndarray of float64, shape (n,)
        Probability of the class of each row, by the fit that had left the row out.
    things : sequence of str, optional
        The thing that each row shows, in a run that answers by things.
    thing_likelihood : ndarray of float64, shape (n,), optional
        Probability of the class of the thing, by its left-out rows together.
    """

    rows: Rows
    likelihood: Values
    things: Sequence[str] | None = None
    thing_likelihood: Values | None = None

    @classmethod
    def of(cls, rows: Rows, codes: Rows, probabilities: Values) -> "LeftOut":
        """Take the probabilities of the true classes out of those of all classes (n, n_classes)."""
        return cls(rows=rows, likelihood=probabilities[np.arange(len(codes)), codes])

    def with_things(
        self, things: Sequence[str], codes: Rows, probabilities: Values, *, way: str
    ) -> "LeftOut":
        """Return the same rows with what they say together of things.

        Rows of one thing share a fold, so that all of it was said by fits without any of them.

        Parameters
        ----------
        things : sequence of str, length n
            The thing that each row shows.
        codes : ndarray of int64, shape (n,)
            Class of each row.
        probabilities : ndarray of float64, shape (n, n_classes)
        way : str
            How the rows of a thing become one answer. From means of features nothing was left out, so that
            nothing is said of things then.
        """
        if way == FEATURES:
            return self
        numbered = Things.of(things)
        together = numbered.probabilities(probabilities, way=way)[numbered.codes]
        own = together[np.arange(len(codes)), codes]
        return replace(self, things=list(things), thing_likelihood=own)

    def changed(self, now: Rows) -> "LeftOut | None":
        """Return what stays after an update; `now` as of `toptune.train.answers.novelty.Novelty.changed`.

        What was said of a thing stays with all of its rows or goes with one of them.
        """
        rows = now[self.rows]
        stays = rows >= 0
        if self.things is not None:
            gone = {self.things[at] for at in np.flatnonzero(~stays).tolist()}
            stays &= np.array([thing not in gone for thing in self.things], dtype=bool)
        if not stays.any():
            return None
        at = np.flatnonzero(stays)
        return LeftOut(
            rows=rows[at],
            likelihood=self.likelihood[at],
            things=None if self.things is None else [self.things[place] for place in at.tolist()],
            thing_likelihood=None if self.thing_likelihood is None else self.thing_likelihood[at],
        )

    @property
    def of_things(self) -> Values | None:
        """Left-out probability of the class of each thing; None in a run without things."""
        if self.things is None or self.thing_likelihood is None:
            return None
        first = np.unique(np.array(self.things), return_index=True)[1]
        return self.thing_likelihood[first]

    def write(self, folder: Path) -> None:
        """Write ``left_out.parquet``: columns ``row``, ``likelihood``, and of things two more."""
        columns: dict[str, object] = {"row": self.rows, "likelihood": self.likelihood}
        if self.things is not None:
            columns |= {
                "thing": pa.array(self.things, pa.string()),
                "thing_likelihood": self.thing_likelihood,
            }
        write_made(folder / LEFT_OUT, partial(pq.write_table, pa.table(columns)))

    @classmethod
    def read(cls, folder: Path, *, advice: str) -> "LeftOut | None":
        """Read what `write` wrote; None if the run has no such file.

        Raises
        ------
        CorruptError
            If the file is damaged.
        """
        path = folder / LEFT_OUT
        try:
            table = read_parquet(read_linked(path))
            values = [table[name].to_numpy() for name in ("row", "likelihood")]
            found = cls(rows=values[0].astype(np.int64), likelihood=values[1].astype(np.float64))
            if "thing" in table.column_names:
                found = cls(
                    rows=found.rows,
                    likelihood=found.likelihood,
                    things=table["thing"].to_pylist(),
                    thing_likelihood=table["thing_likelihood"].to_numpy().astype(np.float64),
                )
        except FileNotFoundError:
            return None
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptError(f"{path} cannot be read ({error}); {advice}", path) from error
        for values_of in (found.likelihood, found.thing_likelihood):
            if values_of is not None and not ((values_of >= 0) & (values_of <= 1)).all():
                raise CorruptError(f"{path} holds probabilities outside of 0 to 1; {advice}", path)
        return found
