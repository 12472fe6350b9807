"""RUN folders as a report reads them: their records, without head or backbone."""

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.errors import CorruptError, InputError
from toptune.store.files.names import plain_model_name
from toptune.train.layers.choices import LAYER_SEARCH
from toptune.train.runs.record import CONFIG, METRICS, PREDICTIONS

MAX_RUNS = 2_000
_FORMAT = "toptune-run"
_UNREADABLE = "{} cannot be read ({}); train again, or leave the run out"
# Of probabilities that add up to one.
_ROUNDING = 1e-6
_PREDICTED = ("id", "label", "predicted", "confidence")


@dataclass(frozen=True)
class Predictions:
    """What a run said of its n test images.

    Attributes
    ----------
    ids, labels, predicted : ndarray of str, shape (n,)
    confidence : ndarray of float64, shape (n,)
    """

    ids: npt.NDArray[np.object_]
    labels: npt.NDArray[np.object_]
    predicted: npt.NDArray[np.object_]
    confidence: npt.NDArray[np.float64]

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Whether each image's class was predicted."""
        right: npt.NDArray[np.bool_] = (self.labels == self.predicted).astype(bool)
        return right


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Put predictions of several runs one after the other."""
    return Predictions(
        **{
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(Predictions)
        }
    )


@dataclass(frozen=True)
class ReportedRun:
    """One RUN folder: content of ``run.json`` and ``metrics.json``, and the tables beside them."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def is_finetuned(self) -> bool:
        """Whether the backbone was trained too."""
        return bool(self.config.get("kind") == "finetune")

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.config["dataset"])

    @property
    def pictures_digest(self) -> str | None:
        """Which images the data set has, by their ids and sizes."""
        digest = self.config.get("manifest", {}).get("pictures_digest")
        return None if digest is None else str(digest)

    @cached_property
    def model(self) -> str:
        """Name of the backbone, without the folder that it lay in and without the digest of its features."""
        return plain_model_name(self.config["model"]).split("@")[0]

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for, by the names of Python's keywords."""
        return dict(self.config["options"])

    @property
    def accuracy(self) -> float | None:
        """On the test rows; None where there are none."""
        value = self.metrics["accuracy"]
        return None if value is None else float(value)

    @property
    def seconds(self) -> float:
        """Of training, testing and choosing parameters."""
        return float(self.metrics["seconds"]["total"])

    def cost(self, name: str) -> float | None:
        """Give one of ``costs`` of the metrics, such as ``energy_joules``; None where it was not measured."""
        value = (self.metrics.get("costs") or {}).get(name)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def has_estimated_energy(self) -> bool:
        """Whether its ``energy_joules`` were reckoned, at least in part, and not read from counters."""
        return bool(((self.metrics.get("costs") or {}).get("energy") or {}).get("estimate"))

    @property
    def country(self) -> str | None:
        """Whose electricity its ``co2e_kg`` is reckoned by; None where emissions are not known."""
        country = ((self.metrics.get("costs") or {}).get("co2e") or {}).get("country")
        return None if country is None else str(country)

    @property
    def classes(self) -> list[str]:
        """Names, in the order of the confusion matrix."""
        return list(self.metrics["per_class"])

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts (n_classes, n_classes), true x predicted."""
        return np.array(self.metrics["confusion_matrix"], dtype=np.int64)

    def predictions(self) -> Predictions | None:
        """Read what was said of each test image; None for a run of a toptune that did not keep it.

        Raises
        ------
        CorruptError
            If the table cannot be read.
        """
        path = self.folder / PREDICTIONS
        if not path.is_file():
            return None
        try:
            table = pq.read_table(path, columns=list(_PREDICTED), use_threads=False)
            found = Predictions(
                ids=np.array(table["id"].to_pylist(), dtype=object),
                labels=np.array(table["label"].to_pylist(), dtype=object),
                predicted=np.array(table["predicted"].to_pylist(), dtype=object),
                confidence=table["confidence"].to_numpy().astype(np.float64),
            )
            is_sure = (found.confidence >= 0) & (found.confidence <= 1 + _ROUNDING)
            if len(found.ids) != self.metrics["n_test"] or not is_sure.all():
                raise ValueError("its rows are not those of metrics.json, or a confidence is none")
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise CorruptError(_UNREADABLE.format(path, error)) from error
        return found

    def layer_search(self) -> list[dict[str, str]]:
        """Read the table of layers that a search compared; empty where none was made."""
        path = self.folder / LAYER_SEARCH
        if not path.is_file():
            return []
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                if not math.isfinite(float(row["accuracy"])) or None in (row["path"], row["arrays"]):
                    raise ValueError(f"a line {row}")
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise CorruptError(_UNREADABLE.format(path, error)) from error
        return rows


def read_runs(
    places: Sequence[str | os.PathLike[str]], *, progress: Callable[[int, int], None]
) -> list[ReportedRun]:
    """Read every RUN of some folders, sorted by path.

    Parameters
    ----------
    places : sequence of path
        RUN folders, and folders with RUN folders anywhere below.
    progress : callable
        Called with ``(done, total)``.

    Raises
    ------
    InputError
        If a folder is no RUN and holds none, or there are more than `MAX_RUNS`.
    CorruptError
        If the records of a RUN cannot be read or lack something; the message names it.
    """
    folders = sorted({folder for place in places for folder in _find_runs(Path(place))})
    if len(folders) > MAX_RUNS:
        raise InputError(f"{len(folders)} runs; a report takes at most {MAX_RUNS}: name fewer folders")
    runs = []
    for number, folder in enumerate(folders, start=1):
        runs.append(read_run(folder))
        progress(number, len(folders))
    return _with_common_names(runs)


def _with_common_names(runs: Sequence[ReportedRun]) -> list[ReportedRun]:
    """Call the data set of a fine-tuning, which read the images themselves, as the store calls it."""
    names: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        if not run.is_finetuned and (digest := run.pictures_digest):
            names[digest].append(run.dataset)
    renamed = []
    for run in runs:
        stored = names.get(run.pictures_digest or "", [])
        is_other = run.is_finetuned and stored and run.dataset not in stored
        renamed.append(replace(run, config=run.config | {"dataset": stored[0]}) if is_other else run)
    return renamed


def read_run(folder: Path) -> ReportedRun:
    """Read the records of one RUN folder and check what a report needs of them.

    Raises
    ------
    InputError
        If its ``run.json`` is of something else.
    CorruptError
        If a record cannot be read or lacks something.
    """
    config, metrics = _read_json(folder / CONFIG), _read_json(folder / METRICS)
    if config.get("format") != _FORMAT:
        raise InputError(f"{folder / CONFIG} is not of a toptune run; leave it out")
    for name, is_good in _checks(config, metrics).items():
        try:
            good = is_good()
        except (KeyError, TypeError, ValueError, AttributeError):
            good = False
        if not good:
            raise CorruptError(f"run {folder} is damaged: {name}; train again, or leave it out")
    return ReportedRun(folder, config, metrics)


def _checks(config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Callable[[], bool]]:
    """Name what must hold of a run's records, in terms of what is wrong if it does not."""

    def is_share(value: Any) -> bool:
        return isinstance(value, int | float) and 0 <= value <= 1

    def is_square() -> bool:
        counts, n = np.array(metrics["confusion_matrix"], dtype=np.int64), len(metrics["per_class"])
        return counts.shape == (n, n) and counts.min() >= 0 and counts.sum() == metrics["n_test"]

    return {
        "run.json names no data set and model": lambda: isinstance(config["dataset"], str)
        and bool(plain_model_name(config["model"])),
        "run.json holds no options with a seed": lambda: type(config["options"]["seed"]) is int,
        "metrics.json holds no accuracy between 0 and 1": lambda: is_share(metrics["accuracy"])
        or (metrics["accuracy"] is None and metrics["n_test"] == 0),
        "metrics.json holds no numbers of images": lambda: type(metrics["n_train"]) is int
        and type(metrics["n_test"]) is int,
        "metrics.json holds no seconds": lambda: math.isfinite(metrics["seconds"]["total"])
        and metrics["seconds"]["total"] > 0,
        "the confusion matrix of metrics.json is not that of its classes": is_square,
    }  # fmt: skip


def _find_runs(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        raise InputError(f"{place} is no folder; give RUN folders, or folders that hold some")
    found = False
    for folder, below, files in os.walk(place):
        # Hidden folders are those of runs that are being written.
        below[:] = [] if CONFIG in files else sorted(each for each in below if not each.startswith("."))
        if CONFIG in files:
            found = True
            yield Path(folder).resolve()
    if not found:
        raise InputError(
            f"{place} is no RUN folder and holds none (no {CONFIG}); give what train --out wrote"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptError(_UNREADABLE.format(path, error)) from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path} holds no JSON object; train again, or leave the run out")
    return value
