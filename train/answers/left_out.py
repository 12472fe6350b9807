"""`LeftOut`: how likely fits held the truth of training rows that they had left out, as a run keeps it.

A run keeps one number a row, from which sets of labels of any coverage follow (`conformal`). The scores of
all classes would take as many times more as there are classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from toptune.train.answers.things import whole_things

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOut:
    """Left-out probabilities of the true classes, or labels, of all rows or of a sample.

    A row of several labels is there as often as labels apply to it, and not at all where none does.

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

    def changed(self, now: Rows) -> "LeftOut | None":
        """Return what stays after an update; `now` as of `toptune.train.answers.novelty.Novelty.changed`.

        What was said of a thing stays with all of its rows or goes with one of them.
        """
        rows = now[self.rows]
        at = np.flatnonzero(whole_things(rows >= 0, self.things))
        if not len(at):
            return None
        return LeftOut(
            rows=rows[at],
            likelihood=self.likelihood[at],
            things=None if self.things is None else [self.things[place] for place in at.tolist()],
            thing_likelihood=None if self.thing_likelihood is None else self.thing_likelihood[at],
        )

    @property
    def n_rows(self) -> int:
        """Different rows."""
        return len(np.unique(self.rows))

    @property
    def of_things(self) -> "LeftOut | None":
        """The same with one row a thing, and what was said of the thing; None in a run without things."""
        if self.things is None or self.thing_likelihood is None:
            return None
        _, first, codes = np.unique(np.array(self.things), return_index=True, return_inverse=True)
        # All rows of a thing have its labels, and one of them stands for it.
        stands = self.rows == self.rows[first][codes]
        return LeftOut(rows=self.rows[stands], likelihood=self.thing_likelihood[stands])

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
