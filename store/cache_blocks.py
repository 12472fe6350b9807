"""`CacheBlocks`: rows of a cache's arrays, read unit after unit."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from toptune.store.blocks import row_numbers, row_slices
from toptune.store.zarr_arrays import ArraySpec

ReadUnit = Callable[[ArraySpec, int], npt.NDArray[np.generic]]


class CacheBlocks:
    """`Blocks` over arrays of a `FeatureCache`; made by `FeatureCache.blocks`.

    At most one unit of every array is held while iterating.

    Attributes
    ----------
    columns : Mapping[str, slice]
        Where the columns of each array stand.
    """

    def __init__(
        self, specs: Sequence[ArraySpec], read_unit: ReadUnit, rows: npt.NDArray[np.intp] | None
    ) -> None:
        self._specs = tuple(specs)
        self._read_unit = read_unit
        self._rows = rows
        ends = np.cumsum([spec.dim for spec in specs]).tolist()
        self.columns: Mapping[str, slice] = {
            spec.name: slice(end - spec.dim, end) for spec, end in zip(specs, ends, strict=True)
        }
        self._shape = (specs[0].n_rows if rows is None else len(rows), ends[-1])

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        held: dict[str, tuple[int, npt.NDArray[np.generic]]] = {}
        for block in row_slices(self._shape, self.dtype, block_rows):
            if self._rows is None:
                rows = np.arange(block.start, block.stop, dtype=np.intp)
            else:
                rows = self._rows[block]
            yield block, self._gather(rows, held)

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        wanted = row_numbers(rows, self._shape[0])
        return self._gather(wanted if self._rows is None else self._rows[wanted], {})

    def _gather(
        self, rows: npt.NDArray[np.intp], held: dict[str, tuple[int, npt.NDArray[np.generic]]]
    ) -> npt.NDArray[np.float32]:
        """Collect rows of the data set; each unit is read once, the last one stays in `held`."""
        out = np.empty((len(rows), self._shape[1]), dtype=np.float32)
        for spec in self._specs:
            units = rows // spec.unit_rows
            for unit, places in _by_unit(units):
                number, values = held.get(spec.name, (-1, None))
                if values is None or number != unit:
                    held.pop(spec.name, None)  # let go of the old unit before the next is read
                    values = self._read_unit(spec, unit)
                    held[spec.name] = (unit, values)
                within = rows[places] - unit * spec.unit_rows
                out[places, self.columns[spec.name]] = values[_as_slice(within)]
        return out


def _by_unit(units: npt.NDArray[np.intp]) -> Iterator[tuple[int, slice | npt.NDArray[np.intp]]]:
    """Yield each unit with the places where its rows stand."""
    if len(units) == 0:
        return
    order = np.argsort(units, kind="stable")
    is_sorted = bool(np.all(units[1:] >= units[:-1]))
    cuts = np.flatnonzero(np.diff(units[order])) + 1
    for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(units)], strict=True):
        places = slice(start, stop) if is_sorted else order[start:stop]
        yield int(units[order[start]]), places


def _as_slice(rows: npt.NDArray[np.intp]) -> slice | npt.NDArray[np.intp]:
    """Write consecutive row numbers as a slice, which copies several times faster."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool(np.all(np.diff(rows) == 1)):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
