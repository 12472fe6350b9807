"""The folds of a run, which are stored for every training row."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toptune.errors import CorruptError
from toptune.store.files.reading import read_linked
from toptune.train.rows.folds import Folds, validated
from toptune.train.runs.record import DEALT, ROWS, FoldsRecord
from toptune.train.runs.run import Run
from toptune.train.tasks.names import CLASSIFICATION

Rows = npt.NDArray[np.int64]


def folds_record(folds: Folds, ids: Sequence[str], *, rule: str = DEALT) -> FoldsRecord | None:
    """Say what ``run.json`` says of the folds of training rows; None where nothing was left out."""
    if folds.count == 1:
        return None
    return FoldsRecord(
        rule=rule,
        count=folds.count,
        n_left_aside=int((~folds.is_validated).sum()),
        digest=_digest(ids, folds.numbers),
    )


def read_folds(run: Run) -> Rows:
    """Read the fold of each training row of a run (n,).

    Raises
    ------
    CorruptError
        If the file lacks folds, or they are not those of ``run.json``.
    """
    path: Path = run.folder / ROWS
    advice = "train again"
    try:
        with pq.ParquetFile(io.BytesIO(read_linked(path))) as file:
            table = file.read(columns=["id", "role", "fold"], use_threads=False)
        trains = table.filter(pc.equal(table["role"], "train"))
        numbers: Rows = trains["fold"].to_numpy().astype(np.int64)
    except (FileNotFoundError, pa.ArrowException, KeyError, ValueError) as error:
        raise CorruptError(f"{path} has no folds that can be read ({error}); {advice}") from error
    assert run.record.folds is not None
    if _digest(trains["id"].to_pylist(), numbers) != run.record.folds.digest:
        raise CorruptError(f"{path} holds other folds than run.json names; {advice}")
    return numbers


def folds_of(numbers: Rows, n_folds: int, labels: Sequence[str], *, task: str = CLASSIFICATION) -> Folds:
    """Give the folds of rows (n,) whose fold is known already, with the rows that take part."""
    if task != CLASSIFICATION:
        return Folds(numbers=numbers, count=n_folds, is_validated=np.ones(len(numbers), dtype=np.bool_))
    classes, codes = np.unique(labels, return_inverse=True)
    # An update chooses nothing, so that it needs no two classes that can be left out.
    return validated(numbers, n_folds, codes.astype(np.int64), classes, may_lack=True)


def _digest(ids: Sequence[str], numbers: Rows) -> str:
    """Return the SHA-256 over ids and folds."""
    lines = [f"{key}\0{fold}\n" for key, fold in zip(ids, numbers.tolist(), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
