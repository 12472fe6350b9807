"""The RUN folder of a fine-tuned network has the files of a head's run, and the network in timm's form."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from scipy.special import softmax
from timm.models._hub import save_config_for_hf

from toptune.costs.meter import describe_costs
from toptune.costs.phase_costs import PhaseCosts
from toptune.costs.values import PhaseUse
from toptune.errors import InputError
from toptune.store.files.json_values import json_ready, read_json
from toptune.store.files.provenance import provenance
from toptune.store.files.system_errors import explained_reading
from toptune.store.files.writing import csv_text, write_file, write_text
from toptune.text import counted, repr_line
from toptune.train.figures.confusion_plot import save_confusion_image
from toptune.train.figures.metrics import Answers, ClassTables, figures_of
from toptune.train.runs.record import (
    CONFIG,
    FINETUNE,
    IMAGE,
    METRICS,
    PREDICTIONS,
    ROWS,
    SELECTION,
    ManifestIdentity,
    RunRecord,
    SplitRecord,
    library_versions,  # fmt: skip
)
from toptune.train.runs.writing import (
    new_run_folder,
    write_decisions,
    write_json,
    write_metrics,
    write_predictions,
    write_rows,
)
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import CLASSIFICATION
from toptune.workflows.finetuning.rate_search import Epoch, search_warnings
from toptune.workflows.finetuning.task import FineTuneTask
from toptune.workflows.finetuning.trained_network import TrainedNetwork

logger = logging.getLogger(__name__)

WEIGHTS, MODEL = "model.safetensors", "config.json"
_ADVICE = "fine-tune again"
_ROWS_AT_ONCE = 1024
_LIBRARIES = ("toptune", "numpy", "timm", "torch", "torchvision")
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """The result of a fine-tuning, before it is written.

    Attributes
    ----------
    epochs : sequence of Epoch
        All finished epochs, a refit's among them.
    best : Epoch
        The chosen epoch.
    network : TrainedNetwork
        The network after the chosen epoch, or after the refit.
    fitted, validation, test : ndarray of int64
        Rows that trained, chose and tested, without the rows whose image failed.
    logits : ndarray of float32, shape (n_test, n_classes)
        Logits of the test rows.
    n_skipped : int
        Number of images that failed.
    """

    epochs: Sequence[Epoch]
    best: Epoch
    network: TrainedNetwork
    fitted: Rows
    validation: Rows
    test: Rows
    logits: npt.NDArray[np.float32]
    n_skipped: int


@dataclass(frozen=True, kw_only=True)
class FineTunedRun:
    """The RUN folder of a fine-tuned network.

    Attributes
    ----------
    folder : Path
        Place of the run.
    record : RunRecord
        Content of ``run.json``.
    metrics : dict
        Content of ``metrics.json``.
    was_there : bool
        Whether `finetune` found the run finished and trained nothing.
    """

    folder: Path
    record: RunRecord
    metrics: dict[str, Any]
    was_there: bool = False

    def __repr__(self) -> str:
        return repr_line(
            self,
            str(self.folder),
            dataset=self.record.dataset,
            model=self.record.model,
            accuracy=self.metrics.get("accuracy"),
            n_train=self.metrics.get("n_train"),
        )

    @property
    def form(self) -> AnswerForm:
        """How the probabilities of the network become answers."""
        return AnswerForm(task=CLASSIFICATION, names=self.classes)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the network's outputs."""
        return list(self.record.classes)

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``run.json``, made anew from `record`."""
        return self.record.to_json()

    def to_dict(self) -> dict[str, object]:
        """Return the run as JSON values."""
        return {
            "run": str(self.folder),
            "kind": self.record.kind,
            "dataset": self.record.dataset,
            "model": self.record.model,
            "device": self.record.device,
            "selected": dict(self.record.selected),
            "warnings": list(self.record.warnings),
            "was_there": self.was_there,
            "metrics": self.metrics,
        }

    def __str__(self) -> str:
        metrics, costs, options = self.metrics, self.metrics["costs"], self.record.options
        figures = (
            ", ".join(
                f"{name.replace('_', ' ')} {metrics[name]:.4f}"
                for name in ("accuracy", "balanced_accuracy", "log_loss")
            )
            + f" on {metrics['n_test']} test images"
            if metrics["n_test"]
            else "trained, no test images"
        )
        chosen = self.record.selected
        lines = ["finished before: nothing was trained now, and this is what is there"] * self.was_there
        lines += [
            f"fine-tuned ({options['depth']}): {figures}",
            f"trained {costs['n_trained_parameters']} of {costs['n_parameters']} parameters on "
            f"{metrics['n_train']} images, {len(self.classes)} classes, "
            f"{counted(costs['epochs'], 'epoch')} in {metrics['seconds']['total']:.1f} s",
            f"selected: learning rate {chosen['learning_rate']:g}, epoch {chosen['epoch']}",
        ]
        lines += [f"note: {warning}" for warning in self.record.warnings]
        where = f"{'in' if self.was_there else 'written to'} {self.folder}"
        return "\n".join([*lines, describe_costs(costs), where])

    def check_same(self, request: Mapping[str, object]) -> "FineTunedRun":
        """Return this run if it is the one that was asked for.

        Raises
        ------
        InputError
            If the run is another one; the message says what differs.
        """
        # Going through JSON turns tuples into lists, as in the record that was read from a file.
        there, now = dict(self.record.request or {}), json.loads(json.dumps(request))
        differing = [name for name in sorted(there.keys() | now.keys()) if there.get(name) != now.get(name)]
        if differing:
            raise InputError(
                f"out {self.folder} exists and holds a fine-tuning with other {', '.join(differing)}; "
                "nothing is overwritten: give another --out"
            )
        return self

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "FineTunedRun":
        """Open a RUN folder.

        Raises
        ------
        InputError
            If the folder is no run of a fine-tuned network.
        CorruptError, FormatVersionError
            If the run is damaged, or of another version.
        """
        path = Path(folder)
        with explained_reading(path / CONFIG):
            record = RunRecord.of_folder(path) if (path / CONFIG).is_file() else None
        if record is None or not record.is_finetuned:
            raise InputError(
                f"{path} is no RUN folder of a fine-tuned network; give what finetune --out wrote"
            )
        return cls.of_record(path, record)

    @classmethod
    def of_record(cls, path: Path, record: RunRecord) -> "FineTunedRun":
        """Open a RUN folder whose ``run.json`` was read already."""
        record.check_files(path, [METRICS])
        if record.files is None:
            logger.warning(
                "%s was made before runs had checksums: whether its files are whole cannot be checked "
                "[TT501]",
                path,
            )
        return cls(folder=path, record=record, metrics=read_json(path / METRICS, advice=_ADVICE))


def write_finetuned(folder: Path, task: FineTuneTask, outcome: Outcome, costs: PhaseCosts) -> FineTunedRun:
    """Write all files of a run, or none of them."""
    train = np.union1d(outcome.fitted, outcome.validation)
    classes = list(task.rows.classes)
    answers = _answers(outcome.logits, task.targets[outcome.test])
    tables = ClassTables.of(answers, classes)
    figures = figures_of(answers, tables) | tables.files
    spent = costs.to_dict()
    seconds = {name: values["wall_seconds"] for name, values in spent["phases"].items()}
    metrics = figures | {
        "n_train": len(train),
        "n_test": len(outcome.test),
        "n_skipped": outcome.n_skipped,
        "seconds": seconds | {"total": spent["wall_seconds"]},
        "costs": spent
        | {
            "images_per_second": _rate(spent["phases"]["train"]),
            "n_parameters": outcome.network.n_parameters,
            "n_trained_parameters": outcome.network.n_trained,
            "epochs": len(outcome.epochs),
        },
    }
    run = FineTunedRun(folder=folder, record=_record(task, outcome), metrics=json_ready(metrics))
    with new_run_folder(folder) as temporary:
        _write_network(temporary, task, outcome.network)
        write_json(temporary / CONFIG, run.record.to_json())
        write_decisions(temporary, run.record, task.options.rows.decisions)
        write_metrics(temporary, run.metrics, tables)
        write_rows(
            temporary / ROWS, train=train, test=outcome.test, images=task.rows.manifest.table
        )  # fmt: skip
        write_predictions(
            temporary / PREDICTIONS, rows=outcome.test,
            ids=[task.rows.manifest.ids[row] for row in outcome.test.tolist()],
            labels=[classes[code] for code in answers.codes.tolist()],
            predicted=[classes[code] for code in answers.guesses.tolist()], confidence=answers.confidence,
        )  # fmt: skip
        _write_epochs(temporary / SELECTION, outcome)
        title = f"{task.model}, fine-tuned, on {task.rows.source.name}, {len(outcome.test)} test images"
        save_confusion_image(temporary / IMAGE, tables.confusion, classes, title=title)
    return run


def _answers(logits: npt.NDArray[np.float32], codes: Rows) -> Answers:
    """Turn logits (n, n_classes) of rows of known classes into answers, a part of the rows at a time."""
    # float64, as the probabilities of heads, with which these are compared image by image.
    starts = range(0, len(logits), _ROWS_AT_ONCE)
    parts = (
        (logits[start : start + _ROWS_AT_ONCE], codes[start : start + _ROWS_AT_ONCE]) for start in starts
    )
    return Answers.joined(
        [Answers.of(some, softmax(each.astype(np.float64), axis=1)) for each, some in parts]
    )


def _record(task: FineTuneTask, outcome: Outcome) -> RunRecord:
    """Put together the content of ``run.json``."""
    return RunRecord(
        kind=FINETUNE,
        data=task.rows.data,
        dataset=task.rows.source.name,
        model=task.model,
        recipe=json.loads(task.backbone.recipe.to_json()),
        backbone=json_ready(task.backbone.spec),
        precision=task.precision,
        device=str(task.backbone.device),
        classes=dict(task.rows.classes),
        options=json_ready(task.options.to_dict()),
        request=json_ready(task.request),
        split=replace(
            SplitRecord.of(task.rows.split, task.rows.manifest, n_skipped=outcome.n_skipped),
            # A fine-tuning that draws a sample says so in its options only.
            n_not_drawn=None,
            n_validation=len(task.rows.validation),
            validation_ids=tuple(task.rows.manifest.ids[row] for row in outcome.validation),
        ),
        manifest=ManifestIdentity.of(task.rows.manifest),
        decisions=task.options.rows.decisions.files or None,
        selected={"learning_rate": outcome.best.learning_rate, "epoch": outcome.best.epoch},
        warnings=(*task.rows.notes, *search_warnings(outcome.epochs, outcome.best, task.options)),
        versions=library_versions(_LIBRARIES),
        created=provenance(),
    )


def _write_network(folder: Path, task: FineTuneTask, network: TrainedNetwork) -> None:
    """Write ``model.safetensors`` and ``config.json``: timm's local-dir form."""
    # Files hold weights in plain order; channels-last is for speed on this machine only.
    network.model.to("cpu", memory_format=torch.contiguous_format)
    config = task.backbone.transform.config
    # timm's public `save_for_hf` does both, but leaves the weights readable by their owner alone.
    write_file(folder / WEIGHTS, save(network.model.state_dict()))
    save_config_for_hf(
        network.model,
        str(folder / MODEL),
        model_config={"label_names": list(task.rows.classes)},
        data_config={
            name: config[name] for name in ("input_size", "mean", "std", "crop_pct", "interpolation")
        },
    )


def _write_epochs(path: Path, outcome: Outcome) -> None:
    """Write ``selection.csv``, one line for each epoch."""
    rows = [each.to_dict() | {"is_chosen": each is outcome.best} for each in outcome.epochs]
    write_text(path, csv_text(rows))


def _rate(costs: PhaseUse) -> float | None:
    """Return images per second of a phase; None if the phase took no time."""
    return costs["images"] / costs["wall_seconds"] if costs["wall_seconds"] else None
