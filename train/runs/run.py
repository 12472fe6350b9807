"""`Run`: a folder that holds a trained head and everything needed to repeat and use it."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toptune.costs.meter import describe_costs
from toptune.errors import CorruptError, InputError, NumericalError
from toptune.machine.device_memory import explained_out_of_memory
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.features.blocks import Blocks
from toptune.store.files.json_records import record_from_json, record_to_json
from toptune.store.files.json_values import read_json
from toptune.store.files.reading import read_linked
from toptune.text import counted, repr_line
from toptune.train.answers.described import describe_asked
from toptune.train.answers.files import LEFT_OUT, NOVELTY
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing
from toptune.train.rows.decisions import Decisions
from toptune.train.rows.groups import row_keys
from toptune.train.rows.options import RowOptions
from toptune.train.runs.record import (
    CONFIG,
    DECISIONS,
    IMAGE,
    METRICS,
    PREDICTIONS,
    ROWS,
    SELECTION,
    SUMS,
    RunRecord,
    Savings,
)
from toptune.train.runs.sources import CacheIdentity, RunArray, RunSource
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, ORDINAL_FIGURE, REGRESSION

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # heads import torch and scikit-learn, which a run that is refused does not need
    from toptune.train.heads.heads import Head

_SHOWN_LAYERS = 8
_ADVICE = "train again"
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained head with its preprocessing, its record and its metrics.

    Attributes
    ----------
    folder : Path
    record : RunRecord
        What ``run.json`` holds.
    metrics : dict
        Content of ``metrics.json``.
    head : Head
        The fitted head, which takes preprocessed features.
    preprocessing : Preprocessing
        The fitted preprocessing, which takes the columns of `arrays` side by side.
    train_rows, test_rows : ndarray of int64
        Row numbers of the data set's manifest.
    size_note : str, optional
        Of a run that was just trained and is large beside its features: its size, and what makes it smaller.
    decisions : Decisions
        What a person decided about images of the data set; an update decides the same.
    """

    folder: Path
    record: RunRecord
    metrics: dict[str, Any]
    head: "Head"
    preprocessing: Preprocessing
    train_rows: npt.NDArray[np.int64]
    test_rows: npt.NDArray[np.int64]
    size_note: str | None = None
    decisions: Decisions = field(default_factory=Decisions)

    def __repr__(self) -> str:
        return repr_line(
            self,
            str(self.folder),
            head=self.head.name,
            dataset=self.record.dataset,
            model=self.record.model,
            accuracy=self.metrics.get("accuracy"),
            n_train=self.metrics.get("n_train"),
        )

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the columns of probabilities."""
        return self.head.classes

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``run.json``, made anew from `record`."""
        return self.record.to_json()

    @property
    def arrays(self) -> list[RunArray]:
        """Stored arrays whose columns, side by side, are all that is needed of an image."""
        return list(self._of(self.record.arrays, "arrays"))

    @property
    def store(self) -> str:
        """Root folder of the store that the run was trained from."""
        return self._of(self.record.store, "store")

    @property
    def cache(self) -> CacheIdentity:
        """Identity of the features that the run was trained on."""
        return self._of(self.record.cache, "cache")

    @property
    def dataset_version(self) -> int:
        """Version of the data set that the run was trained on."""
        # Runs that are older than versions of data sets do not record one. They were trained on the first.
        return 1 if self.record.dataset_version is None else self.record.dataset_version

    @property
    def saves(self) -> Savings:
        """What the head saves where it uses a part of the features only."""
        return self._of(self.record.saves, "saves")

    @property
    def row_options(self) -> RowOptions:
        """The options that decide which rows train and which test."""
        # Options that are older than tasks do not name one, and mean what they meant.
        options = {"task": CLASSIFICATION, **self.record.options}
        return record_from_json(RowOptions, options, where=f"{self.folder / CONFIG}: options")

    @property
    def form(self) -> AnswerForm:
        """How the probabilities of the head become answers."""
        return self.head.answer_form

    def keys(self, manifest: Manifest) -> list[str] | None:
        """Return the key of each row of a manifest, by which rows stay together; None without groups."""
        return row_keys(manifest, group_by=self.row_options.grouped_by, together=self.decisions.groups)

    @property
    def trials(self) -> list[dict[str, object]]:
        """Heads that ``--head auto`` tried, a row each; none where the head was named."""
        table = (self.record.auto or {}).get("table", [])
        return [dict(row) for row in table] if isinstance(table, list) else []

    @property
    def sources(self) -> tuple[RunSource, ...]:
        """The features of each backbone that the head needs."""
        return self.record.all_sources

    def predict_blocks(self, blocks: Blocks) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.float64]]:
        """Classify rows of features as stored, not preprocessed.

        Parameters
        ----------
        blocks : Blocks, shape (n, d)
            The run's arrays side by side.

        Returns
        -------
        labels : ndarray of str, shape (n,)
            Classes; of several labels an image, those that apply, with ``|`` between them.
        probabilities : ndarray of float64, shape (n, n_classes)

        Raises
        ------
        InputError
            If the number of columns differs, or a row is not finite.
        NumericalError
            If a probability is not finite.
        """
        d = self.preprocessing.n_inputs
        if blocks.shape[1] != d:
            raise InputError(f"{blocks.shape[1]} features a row where this run takes {d}")
        # What overflows is refused below, with the run's name.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            probabilities = self.head.predict_proba(PreprocessedBlocks(blocks, self.preprocessing))
        check_probabilities(probabilities, self.folder)
        return np.array(self.form.texts(probabilities), dtype=np.str_), probabilities

    def to_dict(self) -> dict[str, Any]:
        """Give the run as JSON values."""
        return {
            "run": str(self.folder),
            "head": self.head.name,
            "dataset": self.record.dataset,
            "model": self.record.model,
            "arrays": [array.name for array in self.arrays],
            "device": self.record.options.get("device"),
            "auto": self.record.auto,
            "best": None if self.record.best is None else record_to_json(self.record.best),
            "selected": dict(self.record.selected),
            "warnings": list(self.record.warnings),
            "metrics": self.metrics,
        }

    def __str__(self) -> str:
        from toptune.train.heads.trials import why_chosen

        metrics, saves, lines = self.metrics, self.saves, []
        lines.append(first_line(self.head.name, metrics, task=self.record.task_name))
        lines += describe_asked(metrics)
        lines.append(
            f"trained on {metrics['n_train']} images, {saves.n_columns_trained_on} features, "
            f"{counted(len(self.classes), noun_of_task(self.record.task_name))} in "
            f"{metrics['seconds']['total']:.1f} s"
            + (f"; failed images left out: {metrics['n_skipped']}" if metrics.get("n_skipped") else "")
        )
        lines.append(f"layers: {_shortened([array.name for array in self.arrays])}")
        if saves.n_columns < saves.n_columns_trained_on:
            lines.append(
                f"uses {saves.n_columns} of the features, of {saves.n_arrays} of "
                f"{saves.n_arrays_trained_on} arrays: {saves.bytes_per_picture} of "
                f"{saves.bytes_per_picture_trained_on} bytes an image"
            )
        chosen = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.record.selected.items()
            if value is not None
        )
        if chosen:
            lines.append(f"selected: {chosen}")
        lines += [_trial_line(row) for row in self.trials]
        if why := why_chosen(self.trials, n=metrics["n_train"]):
            lines.append(f"note: {why}")
        return "\n".join([*lines, *last_lines(self.folder, self.record, metrics, self.size_note)])

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str | None = None) -> "Run":
        """Open a RUN folder.

        Parameters
        ----------
        folder : path
            Folder that `toptune.train.train` wrote.
        device : str, optional
            torch device on which the head computes, if it is toptune's own; the CPU by default.

        Raises
        ------
        InputError
            If the folder is no RUN folder of a head.
        CorruptError
            If a file is missing or damaged.
        FormatVersionError
            If another version of toptune wrote the folder in another format.
        """
        path = Path(folder)
        return cls.of_record(path, RunRecord.of_folder(path), device=device)

    @classmethod
    def of_record(cls, path: Path, record: RunRecord, *, device: str | None = None) -> "Run":
        """Open a RUN folder whose ``run.json`` was read already; arguments and errors are those of `load`."""
        if record.is_fused:
            raise InputError(
                f"{path} is a run of several models; open it with toptune.train.load_run, or one of its "
                f"heads below {path / 'members'}"
            )
        if record.is_finetuned:
            raise InputError(
                f"{path} is a fine-tuned network, which stored features have nothing to do with: score it on "
                "images (evaluate RUN --data DATA), or classify with it (predict RUN PATH...)"
            )
        # Only what is read is compared: a damaged image of the confusion matrix must not stop a prediction.
        record.check_files(path, record.file_names - {SUMS, SELECTION, PREDICTIONS, IMAGE, LEFT_OUT, NOVELTY})
        if record.files is None:
            logger.warning(
                "%s was made before runs had checksums: whether its files are whole cannot be checked "
                "[TT501]",
                path,
            )
        rows, roles = read_roles(path / ROWS, record)
        from toptune.train.heads.heads import load_head

        run = cls(
            folder=path,
            record=record,
            metrics=read_json(path / METRICS, advice=_ADVICE),
            head=load_head(path, device=device),
            preprocessing=Preprocessing.load(path),
            train_rows=rows[roles == "train"],
            test_rows=rows[roles == "test"],
            decisions=_decisions(path, record),
        )
        d = sum(array.dim for array in run.arrays)
        # Files of two runs that were mixed by hand would predict without an error.
        if run.preprocessing.n_inputs != d:
            raise CorruptError(
                f"{path}: {run.preprocessing.n_inputs} preprocessed columns for {d} in run.json; train again"
            )
        _check_answers(run, device)
        return run

    def _of(self, value: _Value | None, name: str) -> _Value:
        """Give a value that the record of a head must have."""
        if value is None:
            raise CorruptError(f"{self.folder / CONFIG} lacks {name}; {_ADVICE}")
        return value


def noun_of_task(task: str) -> str:
    """Say what the columns of a run's answers are."""
    return {MULTILABEL: "label", REGRESSION: "target"}.get(task, "class")


def first_line(what: str, metrics: Mapping[str, Any], *, task: str = CLASSIFICATION) -> str:
    """Say what was trained, and the figures of its test images, as the text of a run begins."""
    if not metrics["n_test"]:
        return f"{what}: trained, no test images"
    figures = ", ".join(
        f"{name.replace('_', ' ')} {metrics[name]:.4f}"
        for name in (*task_of(task).figures, ORDINAL_FIGURE)
        if metrics.get(name) is not None
    )
    return f"{what}: {figures} on {metrics['n_test']} test images"


def last_lines(
    folder: Path, record: RunRecord, metrics: Mapping[str, Any], size_note: str | None
) -> list[str]:
    """Give what a run was chosen among, its warnings, costs and place, as the text of the run ends."""
    lines = [] if record.best is None else [*record.best.lines()]
    lines += [f"note: {warning}" for warning in record.warnings]
    lines += [f"note: {size_note}"] if size_note else []
    lines += [describe_costs(metrics["costs"])] if "costs" in metrics else []
    return [*lines, f"written to {folder}"]


def _shortened(names: Sequence[str]) -> str:
    """List names; of many, only the first ones and the number of the others."""
    more = len(names) - _SHOWN_LAYERS
    return ", ".join(names[:_SHOWN_LAYERS]) + (f" and {more} more" if more > 0 else "")


def _trial_line(row: Mapping[str, Any]) -> str:
    mark = "*" if row["is_chosen"] else " "
    if row["skipped"]:
        return f"{mark} {row['head']:<15} skipped: {row['skipped']}"
    figures = [
        f"{name} {value:.4f}"
        for name, value in (
            ("accuracy", row["accuracy"]),
            ("log loss", row["log_loss"]),
            # Runs that are older than other tasks have none.
            ("squared error", row.get("squared_error")),
        )
        if value is not None
    ]
    return f"{mark} {row['head']:<15} left-out {', '.join(figures)} in {row['seconds']:.1f} s"


def _check_answers(run: Run, device: str | None) -> None:
    """Refuse a head whose arrays do not fit each other, by letting it answer one row.

    Raises
    ------
    CorruptError
        If the head cannot answer, or not for its classes.
    """
    row, expected = np.zeros((1, run.preprocessing.n_outputs), dtype=np.float32), (1, len(run.classes))
    room = explained_out_of_memory(
        f"the head of {run.folder}", device=device, knobs="stop other programs there"
    )
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), room:
            warnings.simplefilter("ignore")
            found = run.head.predict_proba(row).shape
        reason = f"it answers {found} where {expected} is expected"
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        found, reason = None, f"{type(error).__name__}: {error}"
    if found != expected:
        raise CorruptError(f"the head of {run.folder} does not fit together ({reason}); {_ADVICE}")


def _decisions(folder: Path, record: RunRecord) -> Decisions:
    """Read what was decided about images of the data set."""
    if not record.decisions:
        return Decisions()
    try:
        return Decisions.saved(folder / DECISIONS, record.decisions)
    except InputError as error:
        raise CorruptError(f"{folder / DECISIONS} cannot be read ({error}); {_ADVICE}") from error


def read_labels(folder: Path) -> dict[int, str]:
    """Read the labels that the rows of a run were trained and tested with, by row of the manifest."""
    table = read_table(folder / ROWS, ["row", "label"])
    pairs = zip(table["row"].to_pylist(), table["label"].to_pylist(), strict=True)
    # Row -1 stands for a forgotten image, which has no label.
    return {row: str(label) for row, label in pairs if row >= 0}


def check_probabilities(probabilities: npt.NDArray[np.floating], folder: Path) -> None:
    """Refuse probabilities that are not finite.

    Raises
    ------
    NumericalError
        If there is such a probability: a weight is too large to compute with, or was damaged.
    """
    n_bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if n_bad:
        raise NumericalError(
            f"{folder} gives probabilities that are not finite, for {n_bad} of {len(probabilities)} images: "
            "its weights are damaged or too large; compare its files with their checksums (toptune verify), "
            "and copy the run again or train again"
        )


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a Parquet file of a run."""
    try:
        table = read_parquet(read_linked(path), columns=columns)
        for name in columns:
            # Images that were forgotten have neither id nor label.
            fits = pa.types.is_integer if name == "row" else pa.types.is_string
            if not fits(table[name].type) or (name in ("row", "role") and table[name].null_count):
                raise ValueError(f"column {name} is of another type, or has rows without a value")
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is missing; {_ADVICE}", path) from error
    except (KeyError, ValueError) as error:
        raise CorruptError(f"{path} cannot be read ({error}); {_ADVICE}", path) from error
    return table


def read_roles(path: Path, record: RunRecord) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    """Read the row number and the role of each row of a run; a run that was shared came without its rows."""
    if record.is_shared:
        return np.empty(0, np.int64), np.empty(0, np.str_)
    table = read_table(path, ["row", "role"])
    return table["row"].to_numpy().astype(np.int64), np.array(table["role"].to_pylist(), dtype=np.str_)
