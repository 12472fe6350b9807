"""`Run`: a folder that holds a trained head and everything needed to repeat and use it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.costs.meter import describe_costs
from toptune.errors import CorruptError, FormatVersionError, InputError
from toptune.store.features.blocks import Blocks
from toptune.store.features.recipe import Recipe
from toptune.train.heads.heads import Head, load_head
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing

VERSION = 2
_SHOWN_LAYERS = 8
CONFIG, METRICS, SELECTION, ROWS, PREDICTIONS, IMAGE = (
    "run.json", "metrics.json", "selection.csv", "rows.parquet", "predictions.parquet",
    "confusion_matrix.png",
)  # fmt: skip


@dataclass(frozen=True)
class RunArray:
    """A stored array that a run's features are made of: name, columns, type on disk."""

    name: str
    dim: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained head with its preprocessing, its config and its metrics.

    Attributes
    ----------
    folder : Path
    config : dict
        Content of ``run.json``.
    metrics : dict
        Content of ``metrics.json``.
    head : Head
        Fitted, on preprocessed features.
    preprocessing : Preprocessing
        Fitted, on `arrays` side by side.
    train_rows, test_rows : ndarray of int64
        Row numbers of the data set's manifest.
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    head: Head
    preprocessing: Preprocessing
    train_rows: npt.NDArray[np.int64]
    test_rows: npt.NDArray[np.int64]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the columns of probabilities."""
        return self.head.classes

    @property
    def arrays(self) -> list[RunArray]:
        """Stored arrays whose columns, side by side, are all that is needed of an image."""
        return [RunArray(each["name"], each["dim"], each["dtype"]) for each in self.config["arrays"]]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Heads that ``--head auto`` tried; none where the head was named."""
        return list((self.config.get("auto") or {}).get("table", []))

    @property
    def recipe(self) -> Recipe:
        """How the features were computed."""
        return Recipe.from_json(json.dumps(self.config["recipe"]))

    @property
    def backbone(self) -> dict[str, Any]:
        """What loads the backbone again."""
        return dict(self.config["backbone"])

    def predict_blocks(self, blocks: Blocks) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Classify rows of features as stored, not preprocessed.

        Parameters
        ----------
        blocks : Blocks, shape (n, d)
            The run's arrays side by side.

        Returns
        -------
        labels : ndarray of str, shape (n,)
        probabilities : ndarray of float64, shape (n, n_classes)

        Raises
        ------
        InputError
            If the number of columns differs, or a row is not finite.
        """
        d = self.preprocessing.n_inputs
        if blocks.shape[1] != d:
            raise InputError(f"{blocks.shape[1]} features a row where this run takes {d}")
        probabilities = self.head.predict_proba(PreprocessedBlocks(blocks, self.preprocessing))
        return np.array(self.classes)[probabilities.argmax(axis=1)], probabilities

    def to_dict(self) -> dict[str, Any]:
        """Give the run as JSON values."""
        return {
            "run": str(self.folder),
            "head": self.head.name,
            "dataset": self.config["dataset"],
            "model": self.config["model"],
            "arrays": [array.name for array in self.arrays],
            "auto": self.config.get("auto"),
            "selected": self.config["selected"],
            "warnings": self.config["warnings"],
            "metrics": self.metrics,
        }

    def __str__(self) -> str:
        metrics, saves, lines = self.metrics, self.config["saves"], []
        if metrics["n_test"]:
            figures = ", ".join(
                f"{name.replace('_', ' ')} {metrics[name]:.4f}"
                for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
            )
            lines.append(f"{self.head.name}: {figures} on {metrics['n_test']} test images")
        else:
            lines.append(f"{self.head.name}: trained, no test images")
        lines.append(
            f"trained on {metrics['n_train']} images, {saves['n_columns_trained_on']} features, "
            f"{len(self.classes)} classes in {metrics['seconds']['total']:.1f} s"
            + (f"; failed images left out: {metrics['n_skipped']}" if metrics.get("n_skipped") else "")
        )
        lines.append(f"layers: {_shortened([array.name for array in self.arrays])}")
        if saves["n_columns"] < saves["n_columns_trained_on"]:
            lines.append(
                f"uses {saves['n_columns']} of the features, of {saves['n_arrays']} of "
                f"{saves['n_arrays_trained_on']} arrays: {saves['bytes_per_picture']} of "
                f"{saves['bytes_per_picture_trained_on']} bytes an image"
            )
        chosen = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.config["selected"].items()
            if value is not None
        )
        if chosen:
            lines.append(f"selected: {chosen}")
        lines += [_trial_line(row) for row in self.trials]
        lines += [f"note: {warning}" for warning in self.config["warnings"]]
        lines += [describe_costs(metrics["costs"])] if "costs" in metrics else []
        return "\n".join([*lines, f"written to {self.folder}"])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Run":
        """Open a RUN folder.

        Raises
        ------
        InputError
            If the folder is no RUN.
        CorruptError
            If a file is missing or damaged.
        FormatVersionError
            If another version of the format is there.
        """
        path = Path(folder)
        if not (path / CONFIG).is_file():
            raise InputError(f"{path} is no RUN folder (it has no {CONFIG}); give what train --out wrote")
        config = _read_json(path / CONFIG)
        if config.get("format") != "toptune-run":
            raise InputError(f"{path / CONFIG} is not of a toptune run; give what train --out wrote")
        if config.get("kind") == "finetune":
            raise InputError(
                f"{path} is a fine-tuned network, which stored features have nothing to do with: score it on "
                "pictures (evaluate RUN --data DATA), or classify with it (predict RUN PATH...)"
            )
        if config.get("version") != VERSION:
            raise FormatVersionError(
                f"{path} is of version {config.get('version')}, this toptune reads {VERSION}; train again"
            )
        needed = {"dataset", "model", "arrays", "recipe", "backbone", "selected", "warnings", "saves"}
        if missing := needed - config.keys():
            raise CorruptError(f"{path / CONFIG} lacks {', '.join(sorted(missing))}; train again")
        rows, roles = _read_rows(path / ROWS)
        run = cls(
            folder=path,
            config=config,
            metrics=_read_json(path / METRICS),
            head=load_head(path),
            preprocessing=Preprocessing.load(path),
            train_rows=rows[roles == "train"],
            test_rows=rows[roles == "test"],
        )
        d = sum(array.dim for array in run.arrays)
        if run.preprocessing.n_inputs != d:
            raise CorruptError(
                f"{path}: {run.preprocessing.n_inputs} preprocessed columns for {d} in run.json; train again"
            )
        return run


def _shortened(names: Sequence[str]) -> str:
    """List names, the first of them where they are many."""
    more = len(names) - _SHOWN_LAYERS
    return ", ".join(names[:_SHOWN_LAYERS]) + (f" and {more} more" if more > 0 else "")


def _trial_line(row: Mapping[str, Any]) -> str:
    mark = "*" if row["is_chosen"] else " "
    if row["skipped"]:
        return f"{mark} {row['head']:<15} skipped: {row['skipped']}"
    figures = [
        f"{name} {value:.4f}"
        for name, value in (("accuracy", row["accuracy"]), ("log loss", row["log_loss"]))
        if value is not None
    ]
    return f"{mark} {row['head']:<15} left-out {', '.join(figures)} in {row['seconds']:.1f} s"


def read_labels(folder: Path) -> dict[int, str]:
    """Labels that a run's rows were trained and tested with, by row of the manifest."""
    with pq.ParquetFile(folder / ROWS) as file:
        table = file.read(columns=["row", "label"], use_threads=False)
    pairs = zip(table["row"].to_pylist(), table["label"].to_pylist(), strict=True)
    return {row: str(label) for row, label in pairs if row >= 0}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path} cannot be read ({error}); train again") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path} holds no JSON object; train again")
    return value


def _read_rows(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=["row", "role"], use_threads=False)
        return table["row"].to_numpy().astype(np.int64), np.array(table["role"].to_pylist(), dtype=np.str_)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise CorruptError(f"{path} cannot be read ({error}); train again") from error
