"""`FusedRun`: heads of several backbones in one RUN folder, whose weighted log-probabilities answer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError, InputError
from toptune.store.features.blocks import Blocks
from toptune.store.files.json_records import record_from_json, record_to_json
from toptune.store.files.json_values import read_json
from toptune.text import counted, repr_line
from toptune.train.answers.described import describe_asked
from toptune.train.answers.files import LEFT_OUT
from toptune.train.fusion.label_pool import pooled
from toptune.train.fusion.pool import Pool, logs_of
from toptune.train.numerics.thresholds import EVEN
from toptune.train.rows.options import RowOptions
from toptune.train.runs.record import (
    CONFIG,
    IMAGE,
    LATE,
    METRICS,
    PREDICTIONS,
    ROWS,
    SELECTION,
    FusionRecord,
    RunRecord,
)
from toptune.train.runs.run import Run, check_probabilities, first_line, last_lines, noun_of_task, read_roles
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL

MEMBERS = "members"
_ADVICE = "train again"


@dataclass(frozen=True, kw_only=True)
class FusedRun:
    """Heads of several backbones, weighed, with the record and the metrics of what they say together.

    Attributes
    ----------
    folder : Path
    record : RunRecord
        What ``run.json`` holds; `fusion` has weights and temperature.
    metrics : dict
        Content of ``metrics.json``.
    members : tuple of Run
        The run of each head, whose folder lies within `folder`.
    train_rows, test_rows : ndarray of int64
        Row numbers of the data set's manifest, the same for all members.
    size_note : str, optional
        Of a run that was just trained and is large beside its features: its size, and what makes it smaller.

    Examples
    --------
    >>> from toptune.extract import extract
    >>> from toptune.train import train
    >>> models = ["resnet10t.toptune_glyphs", "random:test_convnext"]
    >>> _ = [extract("digits", model=model, store="store") for model in models]
    >>> run = train("store", dataset="digits", models=models, out="run", head="ridge", train_size=200)
    >>> [member.model for member in run.fusion.members]
    ['resnet10t.toptune_glyphs', 'random:test_convnext']
    >>> run.metrics["accuracy"] > 0.8
    True
    """

    folder: Path
    record: RunRecord
    metrics: dict[str, Any]
    members: tuple[Run, ...]
    train_rows: npt.NDArray[np.int64]
    test_rows: npt.NDArray[np.int64]
    size_note: str | None = None

    def __repr__(self) -> str:
        return repr_line(
            self,
            str(self.folder),
            dataset=self.record.dataset,
            members=[member.model for member in self.fusion.members],
            accuracy=self.metrics.get("accuracy"),
            n_train=self.metrics.get("n_train"),
        )

    @property
    def fusion(self) -> FusionRecord:
        """The members with their weights, and the temperature."""
        if self.record.fusion is None:
            raise CorruptError(f"{self.folder / CONFIG} lacks fusion; {_ADVICE}")
        return self.record.fusion

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the columns of probabilities."""
        return self.members[0].classes

    @property
    def form(self) -> AnswerForm:
        """How the probabilities of the run become answers."""
        chosen = self.fusion.thresholds
        thresholds = None if chosen is None else np.array([chosen.get(name, EVEN) for name in self.classes])
        return AnswerForm(task=self.record.task_name, names=self.classes, thresholds=thresholds)

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``run.json``, made anew from `record`."""
        return self.record.to_json()

    @property
    def left_out(self) -> dict[str, float]:
        """Accuracy, log-loss and number of left-out rows, by weights that were chosen on other folds."""
        found = (self.record.report or {}).get("left_out")
        return dict(found) if isinstance(found, Mapping) else {}

    @property
    def title(self) -> str:
        """What the run is, in words."""
        what = noun_of([member.model for member in self.fusion.members])
        return f"late fusion of {counted(len(self.members), what)}"

    @property
    def store(self) -> str:
        """Root folder of the store that the run was trained from."""
        return self.members[0].store

    @property
    def dataset_version(self) -> int:
        """Version of the data set that the run was trained on."""
        return self.members[0].dataset_version

    @property
    def row_options(self) -> RowOptions:
        """The options that decide which rows train and which test."""
        options = {"task": CLASSIFICATION, **self.record.options}
        return record_from_json(RowOptions, options, where=f"{self.folder / CONFIG}: options")

    @cached_property
    def pool(self) -> Pool:
        """Weights and temperature, as they are computed with."""
        fusion = self.fusion
        return Pool(
            weights=np.array([member.weight for member in fusion.members]),
            temperature=fusion.temperature,
            is_equal=fusion.are_equal,
        )

    def fuse(self, probabilities: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Combine the probabilities (n, n_classes) of the members, in their order, by the weights."""
        if self.record.task_name == MULTILABEL:
            fused = pooled(self.pool, probabilities)
        else:
            fused = self.pool.probabilities(np.stack([logs_of(each) for each in probabilities]))
        check_probabilities(fused, self.folder)
        return fused

    def predict_blocks(
        self, blocks: Sequence[Blocks]
    ) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.float64]]:
        """Classify rows of features as stored, not preprocessed.

        Parameters
        ----------
        blocks : sequence of Blocks, shape (n, d_m)
            For each member, its arrays side by side; the rows of all are the same images.

        Returns
        -------
        labels : ndarray of str, shape (n,)
        probabilities : ndarray of float64, shape (n, n_classes)

        Raises
        ------
        InputError
            If there are blocks of another number than members, or of different numbers of rows or of columns,
            or a row is not finite.
        NumericalError
            If a probability is not finite.
        """
        if len(blocks) != len(self.members):
            raise InputError(
                f"blocks of {len(blocks)} models for a run of {len(self.members)}; give one for each of "
                f"{', '.join(member.name for member in self.fusion.members)}"
            )
        counts = [block.shape[0] for block in blocks]
        if len(set(counts)) > 1:
            raise InputError(
                f"the blocks have {', '.join(map(str, counts))} rows; give the same images to all"
            )
        pairs = zip(self.members, blocks, strict=True)
        probabilities = self.fuse([member.predict_blocks(block)[1] for member, block in pairs])
        return np.array(self.form.texts(probabilities), dtype=np.str_), probabilities

    def to_dict(self) -> dict[str, Any]:
        """Give the run as JSON values."""
        return {
            "run": str(self.folder),
            "head": self.record.options.get("head"),
            "dataset": self.record.dataset,
            "model": self.record.model,
            "fusion": self.record.kind,
            "members": [member.to_dict() for member in self.members],
            "device": self.record.options.get("device"),
            "best": None if self.record.best is None else record_to_json(self.record.best),
            "selected": dict(self.record.selected),
            "warnings": list(self.record.warnings),
            "metrics": self.metrics,
        }

    def __str__(self) -> str:
        metrics, fusion, task = self.metrics, self.fusion, self.record.task_name
        lines = [first_line(self.title, metrics, task=task), *describe_asked(metrics)]
        lines.append(
            f"trained on {metrics['n_train']} images, {counted(len(self.classes), noun_of_task(task))} in "
            f"{metrics['seconds']['total']:.1f} s"
            + (f"; failed images left out: {metrics['n_skipped']}" if metrics.get("n_skipped") else "")
        )
        for member, run in zip(fusion.members, self.members, strict=True):
            figures = ", ".join(
                f"{name} {value:.4f}"
                for name, value in (
                    ("left-out accuracy", member.left_out_accuracy),
                    ("left-out log loss", member.left_out_log_loss),
                    ("test accuracy", run.metrics.get("accuracy")),
                )
                if value is not None
            )
            lines.append(
                f"  {member.weight:.3f} {member.name} ({member.head}, {run.saves.n_columns} features): "
                f"{figures}"
            )
        told = ", ".join(
            f"left-out {name.replace('_', ' ')} {value:.4f}"
            for name, value in self.left_out.items()
            if name != "n_rows" and value is not None
        )
        lines.append(f"together: {told + '; ' if told else ''}temperature {fusion.temperature:.4g}")
        return "\n".join([*lines, *last_lines(self.folder, self.record, metrics, self.size_note)])

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str | None = None) -> "FusedRun":
        """Open a RUN folder of a late fusion.

        Parameters
        ----------
        folder : path
            Folder that `toptune.train.train` wrote for several models, or `toptune.train.blend`.
        device : str, optional
            torch device on which the heads compute, those that are toptune's own; the CPU by default.

        Raises
        ------
        InputError
            If the folder is no RUN folder of a late fusion.
        CorruptError
            If a file is missing or damaged, or the members do not belong together.
        FormatVersionError
            If another version of toptune wrote the folder in another format.
        """
        path = Path(folder)
        return cls.of_record(path, RunRecord.of_folder(path), device=device)

    @classmethod
    def of_record(cls, path: Path, record: RunRecord, *, device: str | None = None) -> "FusedRun":
        """Open a RUN folder whose ``run.json`` was read already; arguments and errors are those of `load`."""
        if not record.is_fused or record.fusion is None:
            raise InputError(f"{path} is no run of several models; open it with Run.load")
        own = {name for name in record.file_names if not name.startswith(f"{MEMBERS}/")}
        record.check_files(path, own - {SELECTION, PREDICTIONS, IMAGE, LEFT_OUT})
        # The record of a member is sealed by the record of the whole; the member compares its other files.
        inner = [member.folder for member in record.fusion.members]
        record.check_files(path, [f"{folder}/{CONFIG}" for folder in inner])
        rows, roles = read_roles(path / ROWS, record)
        run = cls(
            folder=path,
            record=record,
            metrics=read_json(path / METRICS, advice=_ADVICE),
            members=tuple(Run.load(path / folder, device=device) for folder in inner),
            train_rows=rows[roles == "train"],
            test_rows=rows[roles == "test"],
        )
        run._check_members()
        return run

    def _check_members(self) -> None:
        """Refuse members that do not belong together, as folders are that were mixed by hand."""
        fusion, classes = self.fusion, list(self.record.classes)
        weights = np.array([member.weight for member in fusion.members])
        is_sound = len(weights) and (weights > 0).all() and abs(weights.sum() - 1) < 1e-6
        if not is_sound or not 0 < fusion.temperature < np.inf:
            raise CorruptError(
                f"{self.folder / CONFIG} has weights {weights.tolist()} and temperature "
                f"{fusion.temperature}, with which nothing can be computed; {_ADVICE}"
            )
        for run in self.members:
            if run.classes != classes:
                raise CorruptError(
                    f"{run.folder} answers {len(run.classes)} classes that are not the {len(classes)} of "
                    f"{self.folder}; {_ADVICE}"
                )


def noun_of(models: Sequence[str]) -> str:
    """Return what the members of a run are called: heads where some are of the same model, else models."""
    return "model" if len(set(models)) == len(models) else "head"


def load_run(folder: str | os.PathLike[str], *, device: str | None = None) -> Run | FusedRun:
    """Open a RUN folder of a head or of a late fusion; arguments and errors are those of `Run.load`."""
    path = Path(folder)
    record = RunRecord.of_folder(path)
    opened = FusedRun if record.kind == LATE else Run
    return opened.of_record(path, record, device=device)
