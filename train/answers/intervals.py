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

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
# Before the name of a target in the file, so that a target may be called "row".
_PREFIX = "error "


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
    """

    rows: Rows
    errors: Values
    names: tuple[str, ...]

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
        at = np.flatnonzero(rows >= 0)
        if not len(at):
            return None
        return LeftOutErrors(rows=rows[at], errors=self.errors[at], names=self.names)

    def write(self, folder: Path) -> None:
        """Write ``left_out.parquet``: columns ``row``, and one of each target."""
        columns = {f"{_PREFIX}{name}": self.errors[:, at] for at, name in enumerate(self.names)}
        write_made(folder / LEFT_OUT, partial(pq.write_table, pa.table({"row": self.rows, **columns})))

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
            errors = [table[f"{_PREFIX}{name}"].to_numpy() for name in names]
            found = cls(
                rows=table["row"].to_numpy().astype(np.int64),
                errors=np.stack(errors, axis=1).astype(np.float64),
                names=tuple(names),
            )
        except FileNotFoundError:
            return None
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptError(f"{path} cannot be read ({error}); {advice}", path) from error
        if not (found.errors >= 0).all():
            raise CorruptError(f"{path} holds errors below 0; {advice}", path)
        return found
