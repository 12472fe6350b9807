"""Intervals that hold a number with a stated probability: split conformal prediction for regression.

The half width of an interval is the quantile of the absolute errors of fits on rows that they had left out:
the ``ceil((n + 1) coverage)``-th smallest of n (Lei et al. 2018, "Distribution-free predictive inference for
regression", algorithm 2). All intervals of a target have one width.
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
from toptune.train.answers.conformal import check_coverage, rank_of
from toptune.train.answers.files import LEFT_OUT
from toptune.train.answers.things import whole_things

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
# Before the name of a target in the file, so that a target may be called "row".
_PREFIX, _OF_THINGS = "error ", "thing_error "


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOutErrors:
    """Absolute errors of fits on rows that they had left out, of all rows or of a sample.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Rows of the data set's manifest.
    errors : ndarray of float64, shape (n, n_targets)
        In the units of the targets.
    names : tuple of str
        Targets.
    things : sequence of str, optional
        The thing that each row shows, in a run that answers by things.
    thing_errors : ndarray of float64, shape (n, n_targets), optional
        Absolute errors of what the left-out rows of the thing say together.
    """

    rows: Rows
    errors: Values
    names: tuple[str, ...]
    things: Sequence[str] | None = None
    thing_errors: Values | None = None

    @property
    def of_things(self) -> "LeftOutErrors | None":
        """The same with one row a thing and its errors; None in a run without things."""
        if self.things is None or self.thing_errors is None:
            return None
        first = np.unique(np.array(self.things), return_index=True)[1]
        return LeftOutErrors(rows=self.rows[first], errors=self.thing_errors[first], names=self.names)

    def half_widths(self, coverage: float) -> Values:
        """Return the half width (n_targets,) of intervals; infinite if n is too small for the coverage.

        Examples
        --------
        >>> errors = np.arange(1.0, 10.0)[:, None]
        >>> LeftOutErrors(rows=np.arange(9), errors=errors, names=("age",)).half_widths(0.8).tolist()
        [8.0]
        """
        rank = rank_of(len(self.errors), check_coverage(coverage))
        if rank > len(self.errors):
            return np.full(len(self.names), np.inf)
        widths: Values = np.sort(self.errors, axis=0)[rank - 1]
        return widths

    def changed(self, now: Rows) -> "LeftOutErrors | None":
        """Return what stays after an update; `now` as of `LeftOut.changed`."""
        rows = now[self.rows]
        at = np.flatnonzero(whole_things(rows >= 0, self.things))
        if not len(at):
            return None
        return LeftOutErrors(
            rows=rows[at],
            errors=self.errors[at],
            names=self.names,
            things=None if self.things is None else [self.things[place] for place in at.tolist()],
            thing_errors=None if self.thing_errors is None else self.thing_errors[at],
        )

    def write(self, folder: Path) -> None:
        """Write ``left_out.parquet``: columns ``row``, one of each target, and of things as many and one."""
        columns: dict[str, object] = {"row": self.rows}
        columns |= {f"{_PREFIX}{name}": self.errors[:, at] for at, name in enumerate(self.names)}
        if self.things is not None and self.thing_errors is not None:
            columns["thing"] = pa.array(self.things, pa.string())
            columns |= {f"{_OF_THINGS}{name}": self.thing_errors[:, at] for at, name in enumerate(self.names)}
        write_made(folder / LEFT_OUT, partial(pq.write_table, pa.table(columns)))

    @classmethod
    def read(cls, folder: Path, names: Sequence[str], *, advice: str) -> "LeftOutErrors | None":
        """Read what `write` wrote for some targets; None if the run has no such file.

        Raises
        ------
        CorruptError
            If the file is damaged, or is of other targets.
        """
        path = folder / LEFT_OUT
        try:
            table = read_parquet(read_linked(path))
            has_things = "thing" in table.column_names
            found = cls(
                rows=table["row"].to_numpy().astype(np.int64),
                errors=_columns(table, _PREFIX, names),
                names=tuple(names),
                things=table["thing"].to_pylist() if has_things else None,
                thing_errors=_columns(table, _OF_THINGS, names) if has_things else None,
            )
        except FileNotFoundError:
            return None
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptError(f"{path} cannot be read ({error}); {advice}", path) from error
        for errors in (found.errors, found.thing_errors):
            if errors is not None and not (errors >= 0).all():
                raise CorruptError(f"{path} holds errors below 0; {advice}", path)
        return found


def _columns(table: pa.Table, prefix: str, names: Sequence[str]) -> Values:
    columns = [table[f"{prefix}{name}"].to_numpy() for name in names]
    return np.stack(columns, axis=1).astype(np.float64)
