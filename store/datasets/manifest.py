"""`Manifest`: which image each row of a data set is."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toptune.errors import CorruptError, InputError
from toptune.options import choices
from toptune.store.datasets.outside_text import column_names, outside_column, sole_ids
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.text import counted, repr_line

# Name of the extra column for images with several labels, whose names stand there with separators.
LABELS_COLUMN = "labels"
LABEL_SEPARATOR = "|"
# Before the name of a label: nobody knows whether it applies. Alone: nobody knows which labels do.
UNKNOWN_LABEL = "?"
_MOST_TEXT = 2**31 - 1
_PIECE_ROWS = 2**20
_MARKS = frozenset({"0", "1", UNKNOWN_LABEL, None})
_COLUMNS = ("id", "label", "split", "bytes", "modified_ns")
_NUMBERS = ("bytes", "modified_ns")


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of a data set in their order: row number *i* of every array is row *i* here.

    Make one with `from_columns`. Columns are held by Arrow, so that millions of rows are cheap.

    Attributes
    ----------
    table : pyarrow.Table
        Columns ``id``, ``label``, ``split``, ``bytes``, ``modified_ns`` and any extra ones.
    """

    table: pa.Table

    def __repr__(self) -> str:
        return repr_line(self, self.table.column_names, n_rows=self.n_rows)

    @classmethod
    def from_columns(
        cls,
        *,
        ids: Sequence[object],
        labels: Sequence[object] | None = None,
        splits: Sequence[object] | None = None,
        sizes: Sequence[int] | npt.NDArray[np.int64],
        modified_ns: Sequence[int] | npt.NDArray[np.int64] | None = None,
        extra: Mapping[str, Sequence[object]] | None = None,
    ) -> "Manifest":
        """Build a manifest of what a source says, by the rules of `outside_text` for text.

        Parameters
        ----------
        ids : sequence of str (n,)
            Unique, not empty: how an image is found in its source.
        labels, splits : sequence of str, number or None (n,), optional
            Nothing known where None, NaN or empty.
        sizes : sequence of int (n,)
            Bytes of each image's file.
        modified_ns : sequence of int (n,), optional
            Modification times, nanoseconds; 0 where unknown.
        extra : mapping of str to sequence of str, number or None, optional
            Further columns of a user's manifest. In ``labels``, and in a column of 0 and 1, empty text says
            that no label applies, or that this one does not.

        Raises
        ------
        InputError
            If there are no rows, lengths differ, an id is empty or repeated, two columns have one name, or a
            value is a list.
        """
        n = len(ids)
        if n == 0:
            raise InputError("the data set has no images; check the path that was given")
        columns: dict[str, pa.Array] = {
            "id": _strings("id", ids, n, keeps_blanks=True),
            "label": _strings("label", [None] * n if labels is None else labels, n),
            "split": _strings("split", [None] * n if splits is None else splits, n),
            "bytes": _integers("bytes", sizes, n),
            "modified_ns": _integers("modified_ns", [0] * n if modified_ns is None else modified_ns, n),
        }
        further = extra or {}
        for name, values in zip(column_names(further, "the manifest"), further.values(), strict=True):
            if name is None or name in columns:
                raise InputError(f"column {name!r} is one of toptune's own; rename it in the manifest")
            columns[name] = _strings(name, values, n)
        _check_ids(columns["id"], ids)
        return cls(pa.table(columns))

    @classmethod
    def from_parquet(cls, data: bytes) -> "Manifest":
        """Read what `to_parquet` wrote.

        Raises
        ------
        CorruptError
            If it is not a manifest.
        """
        try:
            table = read_parquet(data)
        except ValueError as error:
            raise CorruptError(f"not a Parquet file: {error}") from error
        if tuple(table.column_names[: len(_COLUMNS)]) != _COLUMNS:
            raise CorruptError(f"columns {table.column_names} where {list(_COLUMNS)} should be")
        _check_stored(table)
        return cls(table)

    def to_parquet(self) -> bytes:
        """Return the manifest as a Parquet file; equal tables give equal bytes with one pyarrow."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.table, sink, compression="zstd", version="2.6")
        return bytes(sink.getvalue())

    @property
    def n_rows(self) -> int:
        """Number of images."""
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        """Identifiers ``(n,)``."""
        return list(self.table["id"].to_pylist())

    def image_id(self, row: int) -> str:
        """Return the id of one row without making a list of all ids."""
        return str(self.table["id"][row].as_py())

    @cached_property
    def labels(self) -> list[str | None]:
        """Labels ``(n,)``, None where unknown."""
        return _shared(self.table["label"])

    @cached_property
    def splits(self) -> list[str | None]:
        """Split names ``(n,)``, None where unknown."""
        return _shared(self.table["split"])

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Bytes of each image's file ``(n,)``."""
        return np.asarray(self.table["bytes"].to_numpy(), dtype=np.int64)

    @cached_property
    def modified_ns(self) -> npt.NDArray[np.int64]:
        """Modification times ``(n,)``, nanoseconds; 0 where unknown."""
        return np.asarray(self.table["modified_ns"].to_numpy(), dtype=np.int64)

    @property
    def extra_names(self) -> list[str]:
        """Names of the further columns."""
        return list(self.table.column_names[len(_COLUMNS) :])

    def column(self, name: str) -> list[str | None]:
        """Return a further column ``(n,)``, or ``id``, ``label``, ``split``.

        Raises
        ------
        InputError
            If there is none of that name.
        """
        cells = self.cells(name)
        return cells if name == LABELS_COLUMN else [cell or None for cell in cells]

    def cells(self, name: str) -> list[str | None]:
        """Return a column as `column` does, with the empty text of a column of 0 and 1 as it was written."""
        known = ["id", "label", "split", *self.extra_names]
        if name not in known:
            raise InputError(f"the manifest has no column {name!r}; {choices(name, known)}")
        return list(self.table[name].to_pylist())

    @cached_property
    def pictures_digest(self) -> str:
        """SHA-256 over ids and sizes in their order; labels and times do not count."""
        # Sizes count beside ids, because a file that was replaced under its name mostly has another size.
        # Labels may change without making features wrong.
        digest = hashlib.sha256(b"toptune pictures 1\n")
        digest.update(self.sizes.astype("<i8").data)
        # Arrow's buffers are read: a hundred million ids as Python strings would take some 10 GB.
        chunks = [chunk for chunk in self.table["id"].chunks if len(chunk)]
        for chunk in chunks:
            # Lengths come before the text, so that ids which join to the same text give other digests.
            digest.update(pc.binary_length(chunk).to_numpy(zero_copy_only=False).astype("<i8").data)
        for chunk in chunks:
            _, places, text = chunk.buffers()
            kind = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
            ends = np.frombuffer(places, dtype=kind)[chunk.offset : chunk.offset + len(chunk) + 1]
            digest.update(memoryview(text)[int(ends[0]) : int(ends[-1])])
        return digest.hexdigest()

    def select(self, extra_names: Sequence[str]) -> "Manifest":
        """Return the manifest with these of its further columns only."""
        return Manifest(self.table.select([*_COLUMNS, *extra_names]))

    def relabeled(self, column: str) -> "Manifest":
        """Return the manifest with the values of a further column as labels.

        Raises
        ------
        InputError
            If there is no such column, or it holds several labels.
        """
        if column == LABELS_COLUMN or column not in ("label", *self.extra_names):
            others = [name for name in self.extra_names if name != LABELS_COLUMN]
            raise InputError(
                f"no column {column!r} can be the label; "
                + (choices(column, others) if others else "there is no further column")
            )
        if column == "label":
            return self
        return self.with_label_column(self.column(column))

    def with_label_column(self, labels: Sequence[str | None]) -> "Manifest":
        """Return the manifest with other labels of all rows, None where nothing is known."""
        place = self.table.column_names.index("label")
        return Manifest(self.table.set_column(place, "label", pa.array(labels, pa.string())))

    def with_labels(self, labels: Mapping[str, str]) -> "Manifest":
        """Return the manifest with other labels of some images, by their ids; unknown ids have no effect."""
        return self.with_label_column(
            [labels.get(image, label) for image, label in zip(self.ids, self.labels, strict=True)]
        )

    def take(self, rows: npt.NDArray[np.intp]) -> "Manifest":
        """Return the manifest of some rows, in the order given."""
        if self.table.nbytes < _MOST_TEXT:
            return Manifest(self.table.take(pa.array(rows)).combine_chunks())
        # Rows are taken in pieces: Arrow would join a column's text in one array, which ends at 2 GiB.
        pieces = [self.table.schema.empty_table()]
        wide = self.table.cast(pa.schema([_widened(field) for field in self.table.schema]))
        for start in range(0, len(rows), _PIECE_ROWS):
            taken = wide.take(pa.array(rows[start : start + _PIECE_ROWS]))
            pieces.append(taken.combine_chunks().cast(self.table.schema))
        return Manifest(pa.concat_tables(pieces))

    def differences(self, other: "Manifest", *, exact: bool = False) -> list[str]:
        """Say in words how the content differs; modification times are no content.

        Parameters
        ----------
        other : Manifest
        exact : bool
            Whether text that differs only in what `outside_text` unifies counts. Earlier toptunes stored such
            text as it came: a label with a blank after it is the label that is read without it today.
        """
        if self.n_rows != other.n_rows:
            return [f"{counted(self.n_rows, 'image')} against {other.n_rows}"]
        lines: list[str] = []
        if sorted(self.extra_names) != sorted(other.extra_names):
            lines.append(f"extra columns {self.extra_names} against {other.extra_names}")
        shared = [name for name in self.extra_names if name in other.extra_names]
        for name in ("id", "bytes", "label", "split", *shared):
            if self.table[name].equals(other.table[name]):
                continue  # Equal columns are the usual case, which Arrow decides many times faster.
            mine, theirs = self.table[name].to_pylist(), other.table[name].to_pylist()
            if not exact and name != "bytes":
                mine, theirs = _unified(name, mine), _unified(name, theirs)
            rows = [row for row, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
            if rows:
                lines.append(
                    f"{name} differs in {counted(len(rows), 'row')}, first in row {rows[0]} "
                    f"({self.ids[rows[0]]}): {mine[rows[0]]!r} against {theirs[rows[0]]!r}"
                )
        return lines


def _unified(name: str, values: list[object]) -> list[str | None]:
    if name == LABELS_COLUMN:
        # Names of several labels were not unified one by one, and no label was as much as an unknown label.
        values = [
            None
            if not value
            else LABEL_SEPARATOR.join(map(str, outside_column(str(value).split(LABEL_SEPARATOR))))
            for value in values
        ]
    return outside_column(values, keeps_blanks=name == "id")


def _check_stored(table: pa.Table) -> None:
    """Refuse a table whose columns are not of the types that `Manifest.from_columns` makes."""
    if len(set(table.column_names)) < table.num_columns:
        raise CorruptError(f"two of the columns {table.column_names} have one name")
    if not table.num_rows:
        raise CorruptError("it has no rows")
    for each in table.schema:
        is_number = each.name in _NUMBERS
        fits = pa.types.is_int64(each.type) if is_number else _is_text(each.type)
        # Further columns, such as those of versions, may be numbers.
        if not fits and each.name in _COLUMNS:
            raise CorruptError(f"column {each.name!r} is of type {each.type}")
        if table[each.name].null_count and (is_number or each.name == "id"):
            raise CorruptError(f"column {each.name!r} has rows without a value")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _widened(field: pa.Field) -> pa.Field:
    return field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field


def _strings(name: str, values: Sequence[object], n: int, *, keeps_blanks: bool = False) -> pa.Array:
    _check_length(name, len(values), n)
    try:
        texts = outside_column(values, keeps_blanks=keeps_blanks)
    except InputError as error:
        raise InputError(f"column {name!r} must hold text, numbers or nothing: {error}") from error
    if name == LABELS_COLUMN or _is_of_marks(name, texts):
        # Here, nothing known and no label that applies are two things.
        texts = ["" if value == "" else text for value, text in zip(values, texts, strict=True)]
    return pa.array(texts, type=pa.string())


def _is_of_marks(name: str, texts: Sequence[str | None]) -> bool:
    """Tell a further column of 0 and 1, in which ``?`` says that nobody knows."""
    return name not in _COLUMNS and _MARKS.issuperset(texts)


def _integers(name: str, values: Sequence[int] | npt.NDArray[np.int64], n: int) -> pa.Array:
    _check_length(name, len(values), n)
    return pa.array(np.asarray(values, dtype=np.int64))


def _check_length(name: str, length: int, n: int) -> None:
    if length != n:
        raise InputError(f"column {name!r} has {length} values for {n} images")


def _check_ids(column: pa.Array, given: Sequence[object]) -> None:
    # Arrow's tables of plain text end at 2 GiB, some seventy million ids; widening the type copies no text.
    ids = column.cast(pa.large_string())
    if ids.null_count or pc.any(pc.equal(ids, "")).as_py():
        raise InputError("every image needs an id that is not empty")
    if len(pc.unique(ids)) != len(ids):
        counts = pc.value_counts(ids)
        twice = [c["values"] for c in counts.to_pylist() if c["counts"] > 1]
        sole_ids(ids.to_pylist(), given)
        raise InputError(f"{len(twice)} ids occur more than once, first {twice[0]!r}; ids must be unique")


def _shared(column: pa.ChunkedArray) -> list[str | None]:
    """Return the text of a column whose few values repeat; equal values are one object, whatever the rows."""
    values: list[str | None] = []
    for chunk in column.dictionary_encode().chunks:
        names = [*chunk.dictionary.to_pylist(), None]
        # Rows without a value get the last of the names.
        values += [names[code] for code in chunk.indices.fill_null(-1).to_numpy().tolist()]
    return values
