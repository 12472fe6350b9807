"""Scoring a run: on its own test rows, on another stored data set, or on pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toptune.extract import open_source
from toptune.store import FeatureStore, InputError
from toptune.train import compute_metrics, evaluate_run
from toptune.workflows.classifier import Classifier


def evaluate(
    run: str | Path,
    *,
    store: str | Path | FeatureStore | None = None,
    dataset: str | None = None,
    split: str = "test",
    data: str | Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Score a run.

    Parameters
    ----------
    run : path
        Folder that `toptune.train.train` wrote.
    store, dataset : optional
        Another store, or another data set in it, whose labelled rows are all scored; by default the
        run's own test rows in the store it was trained from.
    split : {"test", "train", "all"}
        Which of the run's own rows.
    data : optional
        Pictures with labels (a folder, a manifest or a built-in) that are read directly: no store
        is needed, only the backbone.
    device : str
        Where the backbone runs; only with `data`.

    Returns
    -------
    dict
        As ``metrics.json``.

    Raises
    ------
    InputError
        If `data` is given together with `store` or `dataset`, or has no labels.
    StoreError
        If the store does not hold what the run needs.
    """
    if data is None:
        return evaluate_run(run, store=store, dataset=dataset, split=split)
    if store is not None or dataset is not None:
        raise InputError("--data reads pictures directly; leave out --store and --dataset")
    return evaluate_pictures(run, data, device=device)


def evaluate_pictures(run: str | Path, data: str | Path, *, device: str) -> dict[str, Any]:
    """Score a run on labelled pictures, batch by batch through the backbone."""
    classifier = Classifier.load(run, device=device)
    source = open_source(data)
    manifest = source.manifest()
    truth = [(row, label) for row, label in enumerate(manifest.labels) if label is not None]
    if not truth:
        raise InputError(f"{data} has no labels; evaluate compares with them, predict needs none")
    predictions = classifier.predict(source.read(row) for row, _ in truth)
    read = [(label, each) for (_, label), each in zip(truth, predictions, strict=True) if not each.error]
    labels = [label for label, _ in read]
    unknown = sorted(set(labels) - set(classifier.classes))
    if unknown:
        raise InputError(f"{data} has classes that {run} was not trained on: {', '.join(unknown[:10])}")
    probabilities = np.array([[each.probabilities[name] for name in classifier.classes] for _, each in read])
    predicted = [str(each.label) for _, each in read]
    metrics = compute_metrics(labels, predicted, probabilities, classifier.classes)
    return metrics | {"n_failed": len(truth) - len(read)}


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Put the headline figures on a line."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
    figures = ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in names)
    return f"{figures} on {metrics['n_test']} pictures"
