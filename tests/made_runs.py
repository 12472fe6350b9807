"""RUN folders made by hand, as `toptune train` and `toptune finetune` write them, without any training."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toptune.train.figures.metrics import Answers, ClassTables, codes_of, figures_of
from toptune.train.runs.writing import write_predictions

CLASSES = ("cat", "dog", "owl")


def make_run(
    folder: Path,
    *,
    dataset: str = "pets",
    model: str = "resnet10t.demo",
    head: str = "ridge",
    seed: int = 0,
    wrong: int = 2,
    n_test: int = 20,
    seconds: float = 2.0,
    classes: Sequence[str] = CLASSES,
    ids: Sequence[str] | None = None,
    kind: str | None = None,
    costs: dict[str, Any] | None = None,
    when: str = "2026-11-21T10:00:00+00:00",
    **options: Any,
) -> Path:
    """Write one run that takes the first `wrong` of `n_test` images for the next class."""
    folder.mkdir(parents=True)
    truth = [classes[at % len(classes)] for at in range(n_test)]
    codes = [(at + (at < wrong)) % len(classes) for at in range(n_test)]
    predicted = [classes[code] for code in codes]
    # Each surer than the one before, the wrong ones too.
    confidence = np.linspace(0.6, 0.99, n_test) if n_test else np.zeros(0)
    probabilities = np.repeat((1 - confidence)[:, None] / (len(classes) - 1), len(classes), axis=1)
    probabilities[np.arange(n_test), codes] = confidence
    answers = Answers.of(codes_of(truth, classes), probabilities)
    tables = ClassTables.of(answers, classes)
    tables.write(folder)
    metrics = (
        figures_of(answers, tables)
        | tables.files
        | {"n_train": 60, "n_skipped": 0, "seconds": {"total": seconds}}
    )
    metrics |= {"costs": costs} if costs else {}
    own: dict[str, Any] = {"depth": "full"}
    if kind is None:
        own = {"head": head, "layers": None, "cv": 5, "params": {}}
    config = {
        "format": "toptune-run",
        "version": 2,
        "dataset": dataset,
        "model": model,
        "store": "features",
        "options": own | {"seed": seed, "test_fraction": 0.2} | options,
        "classes": dict.fromkeys(classes, 20),
        "backbone": {"name": model, "fold": True, "compiled": False, "decode": "fast", "precision": "bf16"},
        "recipe": {"architecture": "resnet10t"},
        "cache": {"name": model, "digest": "0" * 64},
        "split": {"rule": "0.2 of each class"},
        "warnings": [],
        "versions": {"toptune": "0.1.0"},
        "created": {"when": when},
    } | ({} if kind is None else {"kind": kind})
    (folder / "run.json").write_text(json.dumps(config))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_predictions(
        folder / "predictions.parquet",
        rows=np.arange(n_test),
        ids=[f"{label}/{at}.png" for at, label in enumerate(truth)] if ids is None else ids,
        labels=truth,
        predicted=predicted,
        confidence=confidence,
    )
    return folder


def change(folder: Path, file: str, **values: Any) -> None:
    """Put other values into a run's ``run.json`` or ``metrics.json``; None takes a value out."""
    path = folder / file
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def write_layer_search(folder: Path) -> None:
    """Write the table that a layer search leaves in a run, for three layers."""
    lines = [
        ("alone", each, 0.5 + 0.1 * at) for at, each in enumerate(("stem.mean", "block.mean", "last.none"))
    ]
    lines += [("first", "stem.mean", 0.5), ("first", "stem.mean block.mean", 0.65)]
    lines += [("last", "last.none", 0.7), ("last", "block.mean last.none", 0.75)]
    lines += [(path, "stem.mean block.mean last.none", 0.8) for path in ("first", "last")]
    with (folder / "layer_search.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerows(
            [("path", "arrays", "accuracy", "standard_error"), *((*line, 0.02) for line in lines)]
        )
