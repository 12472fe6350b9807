"""The tables of a Hugging Face data set give one manifest: ids, labels and splits of all rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toptune.errors import InputError
from toptune.extract.images.remarks import Remark, Remarks
from toptune.extract.images.source import SPLITS
from toptune.extract.sources.tables.columns import RESERVED, TableColumns, label_columns
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.outside_text import outside_column, outside_text


@dataclass(frozen=True)
class TablePart:
    """One file of a data set.

    Attributes
    ----------
    file : path
        Path of the file.
    split : str or None
        Name of the split, as the data set calls it.
    columns : TableColumns
        Columns that are taken from the file.
    names : sequence of str
        Names of all columns.
    beside : pyarrow.Table
        All columns but the images.
    sizes : array (n,) of int
        Bytes of each image, 0 where the length is not known.
    modified_ns : int
        Modification time of the file, nanoseconds.
    """

    file: Path
    split: str | None
    columns: TableColumns
    names: Sequence[str]
    beside: pa.Table
    sizes: npt.NDArray[np.int64]
    modified_ns: int


def table_manifest(parts: Sequence[TablePart]) -> Manifest:
    """Join the files of a data set; ids are the split and the number of the row in the split.

    Raises
    ------
    InputError
        If a file has other columns than the first, or no file has rows.
    """
    first = parts[0].columns
    ids: list[str] = []
    labels: list[str | None] = []
    splits: list[str | None] = []
    extra: dict[str, list[str | None]] = {}
    n_of_split: dict[str | None, int] = {}
    for part in parts:
        if (part.columns.image, sorted(part.columns.beside)) != (first.image, sorted(first.beside)):
            raise InputError(
                f"{part.file} has the columns {', '.join([part.columns.image, *part.columns.beside])}, and "
                f"{parts[0].file} has {', '.join([first.image, *first.beside])}; give the files of one "
                "data set"
            )
        n = len(part.sizes)
        start = n_of_split.get(part.split, 0)
        n_of_split[part.split] = start + n
        prefix = "" if part.split is None else f"{part.split}/"
        ids += [f"{prefix}{row:08d}" for row in range(start, start + n)]
        splits += [SPLITS.get((part.split or "").lower())] * n
        found, more = label_columns(part.beside, part.columns, part.file)
        labels += found
        for name, values in more.items():
            extra.setdefault(name, []).extend(values)
    return Manifest.from_columns(
        ids=ids,
        labels=labels,
        splits=splits,
        sizes=np.concatenate([part.sizes for part in parts]),
        modified_ns=np.repeat([part.modified_ns for part in parts], [len(part.sizes) for part in parts]),
        extra=extra,
    )


def table_remarks(parts: Sequence[TablePart]) -> tuple[Remark, ...]:
    """Say which columns are not used, which one is the label, and which splits are none of toptune's."""
    remarks, first = Remarks(), parts[0]
    for name in first.names:
        if name in (first.columns.image, *first.columns.beside):
            continue
        if outside_text(name) in RESERVED:
            remarks.add("column", "with a name of toptune's own", name, code="TT011", advice="rename it")
        else:
            remarks.add("column", "with neither text nor numbers, not kept", name, code="TT011")
    for names in first.columns.class_names.values():
        for one, count in Counter(outside_column(names)).items():
            if count > 1:
                remarks.add(
                    "class",
                    "of several names that are one without blanks and in one Unicode form",
                    one,
                    code="TT009",
                    is_left_out=False,
                )
    for name in sorted({part.split for part in parts if part.split and part.split.lower() not in SPLITS}):
        remarks.add(
            "split",
            "other than train, val and test, kept in the ids only",
            name,
            code="TT015",
            is_left_out=False,
        )
    if first.columns.label is not None and outside_text(first.columns.label) != "label":
        remarks.add("column", "taken for the label", first.columns.label, code="TT010", is_left_out=False)
    return tuple(remarks)
