"""RUN folders are written whole or not at all."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.files.json_values import json_text
from toptune.store.files.names import check_folder_name
from toptune.store.files.system_errors import explained_writing
from toptune.store.files.writing import check_writable, csv_text, new_target, write_made, write_text
from toptune.train.figures.tables import Tables
from toptune.train.rows.decisions import Decisions
from toptune.train.rows.folds import Folds
from toptune.train.runs.record import (
    CONFIG,
    DECISIONS,
    METRICS,
    PREDICTIONS,
    ROWS,
    SELECTION,
    SUMS,
    RunRecord,
    seal_run,
)
from toptune.train.runs.run import Run
from toptune.train.runs.scoring import Scored

# A run above this size that is not small beside its features is told with what makes it smaller.
LARGE_RUN_BYTES = 10_000_000


def write_run(
    run: Run,
    folder: Path,
    manifest: Manifest,
    scored: Scored,
    *,
    folds: Folds | None = None,
    keep_sums: bool = True,
    forgotten: Sequence[str] = (),
) -> None:
    """Write the files of a run into a folder that exists.

    Parameters
    ----------
    run : Run
    folder : Path
    manifest : Manifest
        Rows of the data set, by which `run` counts.
    scored : Scored
        What the run said of its test rows.
    folds : Folds, optional
        Folds of the training rows.
    keep_sums : bool
        Keep the sums that `toptune.train.update_run` needs.
    forgotten : sequence of str
        Ids that may never come back by an update.
    """
    # The folder has a temporary name meanwhile, so that the order of the files does not matter to readers.
    run.head.save(folder, keep_sums=keep_sums)
    run.preprocessing.save(folder)
    write_decisions(folder, run.record, run.decisions)
    # A head without a search still gets a table, so that readers find one row in every run.
    table = run.trials or run.head.table or [{**run.record.selected, "is_chosen": True}]
    write_account(
        run, folder, manifest, scored, what=run.head.name, table=table, folds=folds, forgotten=forgotten
    )


def write_decisions(folder: Path, record: RunRecord, decisions: Decisions) -> None:
    """Write ``decisions.csv`` if a run was trained with files of decisions."""
    # The files that were given may change or go, and an update must decide the same.
    if record.decisions:
        write_text(folder / DECISIONS, decisions.to_csv())


class Account(Protocol):
    """What a run tells of itself, whatever answers: one head, or several."""

    @property
    def record(self) -> RunRecord:
        """Content of ``run.json``."""
        ...

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json``."""
        ...

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        ...

    @property
    def train_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the manifest that train."""
        ...

    @property
    def test_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the manifest that test."""
        ...


def write_account(
    run: Account,
    folder: Path,
    manifest: Manifest,
    scored: Scored,
    *,
    what: str,
    table: Sequence[Mapping[str, object]],
    folds: Folds | None = None,
    forgotten: Sequence[str] = (),
) -> None:
    """Write all files of a run but those of its heads.

    Parameters
    ----------
    run : Account
    folder, manifest, scored, folds, forgotten
        As of `write_run`.
    what : str
        What answers, for the title of the confusion matrix.
    table : sequence of mapping
        Rows of ``selection.csv``.
    """
    write_json(folder / CONFIG, run.record.to_json())
    write_metrics(folder, run.metrics, scored.tables)
    write_rows(
        folder / ROWS, train=run.train_rows, test=run.test_rows, images=manifest.table,
        forgotten=forgotten, folds=None if folds is None or folds.count == 1 else folds.numbers,
    )  # fmt: skip
    write_predictions(
        folder / PREDICTIONS, rows=scored.rows, ids=[manifest.ids[row] for row in scored.rows.tolist()],
        labels=scored.labels, predicted=scored.predicted, confidence=scored.confidence,
    )  # fmt: skip
    write_text(folder / SELECTION, csv_text(table))
    title = f"{what} on {run.record.dataset}, {len(run.test_rows)} test images"
    scored.tables.draw(folder, title=title)


def write_metrics(folder: Path, metrics: Mapping[str, object], tables: Tables) -> None:
    """Write ``metrics.json``, and the files beside it that it names."""
    tables.write(folder)
    write_json(folder / METRICS, metrics)


def write_rows(
    path: Path,
    *,
    train: npt.NDArray[np.int64],
    test: npt.NDArray[np.int64],
    images: pa.Table,
    forgotten: Sequence[str] = (),
    folds: npt.NDArray[np.int64] | None = None,
) -> None:
    """Write which rows trained and which tested: columns ``row``, ``id``, ``label``, ``role``, ``fold``.

    A forgotten id has the row number -1 and no label. Only training rows have a fold.

    Parameters
    ----------
    train, test : ndarray of int64
        Row numbers of `images`.
    images : Table
        Columns ``id`` and ``label`` of the manifest.
    forgotten : sequence of str
        Ids that may never come back by an update.
    folds : ndarray of int64, optional
        Fold of each training row; without it there is no column.
    """
    rows = np.concatenate([train, test])
    chosen = images.select(["id", "label"]).take(pa.array(rows))
    roles = pa.array(["train"] * len(train) + ["test"] * len(test))
    used = chosen.add_column(0, "row", pa.array(rows)).append_column("role", roles)
    # A forgotten image keeps nothing but its id: without the id an update could not keep the image out.
    gone = {"row": [-1] * len(forgotten), "id": forgotten, "label": [None] * len(forgotten)}
    others = pa.table(gone | {"role": ["forgotten"] * len(forgotten)}, schema=used.schema)
    table = pa.concat_tables([used, others])
    if folds is not None:
        numbers = pa.array([*folds.tolist(), *[None] * (len(table) - len(folds))], pa.int32())
        table = table.append_column("fold", numbers)
    write_made(path, partial(pq.write_table, table))


def write_predictions(
    path: Path,
    *,
    rows: npt.NDArray[np.int64],
    ids: Sequence[str],
    labels: Sequence[str],
    predicted: Sequence[str],
    confidence: npt.NDArray[np.float64],
) -> None:
    """Write the predictions of test images: ``row``, ``id``, ``label``, ``predicted``, ``confidence``."""
    columns = {
        "row": pa.array(rows, pa.int64()),
        "id": pa.array(ids, pa.string()),
        "label": pa.array(labels, pa.string()),
        "predicted": pa.array(predicted, pa.string()),
        "confidence": pa.array(confidence, pa.float64()),
    }
    write_made(path, partial(pq.write_table, pa.table(columns)))


def size_note(folder: Path, feature_bytes: int) -> str | None:
    """Say how large a run is that is large beside the features it was trained on, and what makes it smaller.

    Parameters
    ----------
    folder : Path
        The RUN folder.
    feature_bytes : int
        Size of the features of all images.
    """
    # A run of several heads has files of one name for each, which count together.
    sizes: Counter[str] = Counter()
    for file in folder.rglob("*"):
        sizes[file.name] += file.stat().st_size if file.is_file() else 0
    total = sizes.total()
    if total < LARGE_RUN_BYTES or total < feature_bytes / 2:
        return None
    largest = max(sizes, key=sizes.__getitem__)
    remedy = {
        SUMS: "--no-keep-sums leaves out what only --update and --forget need",
        "head.safetensors": "fewer centers make it smaller (--centers), or a head without centers or stored "
        "rows, such as ridge",
        "head.skops": "fewer or smaller trees make it smaller (--params), or another head",
    }.get(largest, "another head may write less")
    return (
        f"the run takes {total / 1e6:.0f} MB, its features {feature_bytes / 1e6:.0f} MB; {largest} alone "
        f"takes {sizes[largest] / 1e6:.0f} MB: {remedy} [TT418]"
    )


def check_out(out: str | os.PathLike[str]) -> Path:
    """Refuse an `out` that could not become a RUN folder, before any work is done.

    Raises
    ------
    InputError
        If `out` exists and is not an empty folder, has the name of a file, or the folder above may not be
        written to.
    """
    # A folder cannot be renamed to a link, so that the run goes to the place that the link names.
    path = Path(os.path.realpath(out))
    check_folder_name(out, option="out")
    with explained_writing(path, elsewhere="give another --out", kept="nothing was written"):
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            what = "is not empty" if path.is_dir() else "is a file"
            raise InputError(
                f"out {path} exists and {what}; nothing is overwritten: give another --out", option="out"
            )
    # The run is renamed to its place, so that the folder above is what must be written to.
    check_writable(path.parent, option="out")
    return path


@contextlib.contextmanager
def new_run_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that is renamed to `path` on success and deleted on failure.

    Raises
    ------
    InputError
        If `path` has come into being meanwhile.
    StoreError
        If a file cannot be written, for instance because the disk is full.
    """
    with new_target(path, option="--out") as temporary:
        temporary.mkdir()
        yield temporary
        # The checksums come last, so that they are those of every file, whoever wrote it.
        if (temporary / CONFIG).is_file():
            seal_run(temporary)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write JSON values, indented."""
    write_text(path, json_text(value, indent=1) + "\n")
