"""`CacheBlocks`: rows of a cache's arrays, read unit after unit."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from toptune.store.arrays.unit_reader import UnitReader
from toptune.store.features.blocks import BLOCK_BYTES, IndexedBlocks, row_numbers, row_slices

Held = dict[str, tuple[int, npt.NDArray[np.number]]]


class CacheBlocks(IndexedBlocks):
    """`Blocks` over arrays of a `FeatureCache`; made by `FeatureCache.blocks`.

    Values have the type on disk, or the widest one where the arrays differ. Iterating holds at most one unit
    of every array.

    Attributes
    ----------
    columns : Mapping[str, slice]
        Place of each array's columns.
    """

    def __init__(self, readers: Sequence[UnitReader], rows: npt.NDArray[np.intp] | None) -> None:
        self._readers = tuple(readers)
        self._rows = rows
        specs = [reader.spec for reader in readers]
        ends = np.cumsum([spec.dim for spec in specs]).tolist()
        self.columns: Mapping[str, slice] = {
            spec.name: slice(end - spec.dim, end) for spec, end in zip(specs, ends, strict=True)
        }
        self._unit_rows = specs[0].unit_rows
        self._shape = (specs[0].n_rows if rows is None else len(rows), ends[-1])
        self._dtype = np.result_type(*(np.dtype(spec.dtype) for spec in specs))

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[np.number]:
        return self._dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        held: Held = {}
        if block_rows is None:
            block_rows = self._whole_units()
        for block in row_slices(self._shape, self.dtype, block_rows):
            if self._rows is None:
                yield block, self._consecutive(block, held)
            else:
                yield block, self._gather(self._rows[block], held)

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        wanted = row_numbers(rows, self._shape[0])
        return self._gather(wanted if self._rows is None else self._rows[wanted], None)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.number]:
        """Return the values of consecutive rows."""
        if self._rows is None:
            return self._consecutive(slice(start, stop), {})
        return self._gather(self._rows[start:stop], {})

    def _whole_units(self) -> int:
        """Return rows of a block that splits no unit: several units, one unit, or an even part of one."""
        row_bytes = self._shape[1] * self.dtype.itemsize
        unit_bytes = self._unit_rows * row_bytes
        if unit_bytes <= BLOCK_BYTES:
            return int(self._unit_rows * (BLOCK_BYTES // unit_bytes))
        # The unit is divided evenly, because a short last block would cost a whole call for a few rows.
        return int(-(-self._unit_rows // -(-unit_bytes // BLOCK_BYTES)))

    def _consecutive(self, rows: slice, held: Held) -> npt.NDArray[np.number]:
        """Read consecutive rows of the data set; whole units are read straight into place."""
        out = np.empty((rows.stop - rows.start, self._shape[1]), dtype=self.dtype)
        for unit in range(rows.start // self._unit_rows, -(-rows.stop // self._unit_rows)):
            first = unit * self._unit_rows
            start, stop = max(first, rows.start), min(first + self._unit_rows, rows.stop)
            place = slice(start - rows.start, stop - rows.start)
            for reader in self._readers:
                target = out[place, self.columns[reader.spec.name]]
                is_whole = len(target) == reader.spec.unit_length(unit)
                # The usual pass, over one array in its own type, copies nothing: the file is read into the
                # block.
                if is_whole and target.flags.c_contiguous and reader.spec.dtype == self.dtype:
                    reader.unit(unit, target)
                elif is_whole:
                    target[:] = reader.unit(unit)
                else:
                    target[:] = self._held(reader, unit, held)[start - first : stop - first]
        return out

    def _gather(self, rows: npt.NDArray[np.intp], held: Held | None) -> npt.NDArray[np.number]:
        """Collect rows of the data set; each unit is read once, and the last one stays in `held` if given."""
        out = np.empty((len(rows), self._shape[1]), dtype=self.dtype)
        for reader in self._readers:
            columns = self.columns[reader.spec.name]
            for unit, places in _by_unit(rows // self._unit_rows):
                within = rows[places] - unit * self._unit_rows
                # Random access reads single rows where that is cheaper; a pass holds the unit, whose other
                # rows come next.
                if held is None:
                    out[places, columns] = reader.rows(unit, within)
                else:
                    out[places, columns] = self._held(reader, unit, held)[_as_slice(within)]
        return out

    @staticmethod
    def _held(reader: UnitReader, unit: int, held: Held) -> npt.NDArray[np.number]:
        name = reader.spec.name
        number, values = held.get(name, (-1, None))
        if values is None or number != unit:
            held.pop(name, None)  # The old unit is released before the next one is read.
            values = reader.unit(unit)
            held[name] = (unit, values)
        return values


def _by_unit(units: npt.NDArray[np.intp]) -> Iterator[tuple[int, slice | npt.NDArray[np.intp]]]:
    """Yield each unit with the places of its rows in `units`."""
    if len(units) == 0:
        return
    # A stable sort keeps rows of a unit in the order given, and runs of consecutive rows become slices.
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
