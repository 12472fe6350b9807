"""`evaluate` scores a run on its own test rows, on another stored data set, or on images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from toptune.costs.meter import CostMeter, describe_costs
from toptune.errors import InputError
from toptune.extract.images.remarks import remarks_of, say_remarks
from toptune.extract.sources.opening import open_source
from toptune.machine.devices import AUTO, check_device_name
from toptune.options import options_of
from toptune.store.features.feature_store import FeatureStore
from toptune.text import counted, named
from toptune.train.answers.described import describe_asked
from toptune.train.answers.options import AnswerArguments, AnswerOptions
from toptune.train.figures.metrics import Answers, ClassTables, codes_of, figures_of
from toptune.train.figures.tables import Tables
from toptune.train.fusion.evaluation import score_stored
from toptune.train.rows.splits import advice_on_several_labels
from toptune.train.runs.record import ROWS, RunRecord
from toptune.train.runs.run import noun_of_task, read_table
from toptune.train.runs.scoring import scored_targets
from toptune.train.runs.writing import check_out, new_run_folder, write_metrics
from toptune.train.tasks.choice import TASKS, task_of
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.verdicts.verdicts import is_measured
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.images import ChosenImages
from toptune.workflows.predict.moved import Place

# A message names this many of the images that failed; the result has all of them.
SHOWN = 3


class EvaluateArguments(AnswerArguments, total=False):
    """The keywords of `EvaluateOptions`."""

    store: str | Path | FeatureStore | None
    dataset: str | None
    split: str | None
    data: str | Path | None
    path_column: str | None
    label_column: str | None
    device: str
    model: Place | None
    weights: Place | None
    out: str | Path | None
    ood: str | None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `evaluate`.

    Attributes
    ----------
    store, dataset : optional
        Another store, or another data set in it, whose labeled rows are all scored; by default the
        run's own test rows in the store that the run was trained from.
    split : {"test", "train", "all"}, optional
        Which of the run's own rows, by default ``test``; of another data set and of `data` only the images of
        that split, by default all.
    data : optional
        Images with labels (a folder, a manifest or a built-in) that are read directly: no store
        is needed, only the backbone.
    path_column, label_column : str, optional
        Columns of `data` that hold the paths of the images and their labels; by default told by their names.
    device : str
        Where backbone and head compute, as `Classifier.load` describes it; only with `data`.
    model, weights : optional
        Where the backbone or its checkpoint is now, if it has moved since; only with `data`.
    out : path, optional
        Folder to make, with ``metrics.json`` and, of more than 200 classes, ``per_class.parquet`` and
        ``confusion.parquet``, which hold what would be too long to return.
    ood : str, optional
        Another data set of the store, whose images are told from those that are scored, by novelty and other
        measures.
    answers : AnswerOptions
        What the run says besides labels, which is measured.

    Raises
    ------
    InputError
        If options are given that do not go together.
    """

    store: str | Path | FeatureStore | None = None
    dataset: str | None = None
    split: str | None = None
    data: str | Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    device: str = AUTO
    model: Place | None = None
    weights: Place | None = None
    out: str | Path | None = None
    ood: str | None = None
    answers: AnswerOptions = field(default_factory=AnswerOptions)

    def __post_init__(self) -> None:
        check_device_name(self.device)
        is_moved = (self.model, self.weights) != (None, None) or self.device not in (AUTO, "cpu")
        if self.data is None and is_moved:
            raise InputError(
                "--model, --weights and --device are for the backbone, which stored features do not need; "
                "leave them out, or give images with --data"
            )
        if self.data is None and (self.path_column is not None or self.label_column is not None):
            raise InputError(
                "--path-column and --label-column name columns of --data; the labels of stored features are "
                "chosen by train --label-column"
            )
        if self.data is not None and (self.store is not None or self.dataset is not None):
            raise InputError("--data reads images directly; leave out --store and --dataset")
        if self.data is not None and self.ood is not None:
            raise InputError(
                f"--ood {self.ood!r} is a stored data set, which is told from stored images; extract those "
                "of --data too (toptune extract), and name them with --dataset",
                option="ood",
            )


def evaluate(
    run: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    **arguments: Unpack[EvaluateArguments],
) -> dict[str, Any]:
    """Score a run.

    Parameters
    ----------
    run : path
        Folder that `toptune.train.train` wrote.
    progress : callable, optional
        Called with the number of images done and of all, after every batch; only with `data`.
    **arguments
        The fields of `EvaluateOptions`.

    Returns
    -------
    dict
        The keys of ``metrics.json``, with the ``costs`` of this call; with `data` also the keys that
        `evaluate_images` adds.

    Raises
    ------
    InputError
        If options are unknown or do not go together, `data` has no labels, or no image can be read.
    StoreError
        If the store does not hold what the run needs.
    """
    meter = CostMeter()
    options = options_of(EvaluateOptions, arguments, call="evaluate")
    out = None if options.out is None else check_out(options.out)
    folder = Path(run)
    asks = options.ood is not None or is_measured(RunRecord.of_folder(folder), folder, options.answers)
    if options.data is None and asks:
        # This imports torch, which only rows that are scored need.
        from toptune.workflows.predict.asked_evaluation import Where, score_asked

        where = Where(store=options.store, dataset=options.dataset, split=options.split, ood=options.ood)
        metrics, tables = score_asked(run, where, options.answers)
    elif options.data is None:
        metrics, tables = score_stored(run, store=options.store, dataset=options.dataset, split=options.split)
    else:
        metrics, tables = _score_images(
            run,
            options.data,
            split=options.split,
            path_column=options.path_column,
            label_column=options.label_column,
            device=options.device,
            model=options.model,
            weights=options.weights,
            progress=progress,
            answers=options.answers,
        )
    metrics |= {"costs": meter.to_dict()}
    if out is None:
        return metrics
    with new_run_folder(out) as folder:
        write_metrics(folder, metrics | tables.files, tables)
    return metrics | tables.files | {"out": str(out)}


def evaluate_images(
    run: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    device: str = AUTO,
    model: Place | None = None,
    weights: Place | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a run on labeled images, batch by batch through the backbone.

    Parameters
    ----------
    run : path
        Folder that `toptune.train.train` wrote.
    data : path or str
        Images with labels: a folder, a manifest or a built-in.
    split : str, optional
        Only the images of that split; all of them by default.
    path_column, label_column : str, optional
        Columns of `data` that hold the paths of the images and their labels.
    device : str
        Where backbone and head compute, as `Classifier.load` describes it.
    model, weights : optional
        Where the backbone or its checkpoint is now, if it has moved since the training.
    progress : callable, optional
        Called with the number of images done and of all, after every batch.

    Returns
    -------
    dict
        The keys of ``metrics.json``; ``failed``, the reason for each id whose image could not be read;
        ``n_failed``, the number of these images; ``n_unlabelled``, the number of images without a label,
        which are not scored; and ``n_named_as_trained``, the number of images that have
        the id of an image that the run was trained on; and ``device``, where the backbone ran.

    Raises
    ------
    InputError
        If `data` has no labels, classes that the run does not know, or no image that can be read.
    """
    metrics, _ = _score_images(
        run,
        data,
        split=split,
        path_column=path_column,
        label_column=label_column,
        device=device,
        model=model,
        weights=weights,
        progress=progress,
    )
    return metrics


def _score_images(
    run: str | Path,
    data: str | Path,
    *,
    split: str | None,
    path_column: str | None,
    label_column: str | None,
    device: str,
    model: Place | None,
    weights: Place | None,
    progress: Callable[[int, int], None] | None,
    answers: AnswerOptions | None = None,
) -> tuple[dict[str, Any], Tables]:
    """Do what `evaluate_images` does, and return the tables of the classes beside the metrics."""
    # Labels and classes are compared before the backbone is loaded, which takes the longest.
    record = RunRecord.of_folder(Path(run))
    known, task = set(record.classes), task_of(record.task_name)
    is_class = task.name == CLASSIFICATION
    source = open_source(
        data,
        split=None if split == "all" else split,
        path_column=path_column,
        label_column=label_column if is_class else None,
    )
    say_remarks(remarks_of(source), source.name)
    manifest = source.manifest()
    if not is_class:
        manifest = task.labeled(manifest, record.wanted(label_column))
    truth = {row: label for row, label in enumerate(manifest.labels) if label is not None}
    if not truth:
        several = advice_on_several_labels(manifest, np.arange(manifest.n_rows))
        raise InputError(several or f"{data} has no labels; evaluate compares with them, predict needs none")
    # A class that the run cannot answer would only ever count as an error, and hide what the figures mean.
    if unknown := sorted(set(task.names(list(truth.values()))) - known):
        raise InputError(
            f"{data} has {counted(len(unknown), noun_of_task(task.name))} that {run} was not trained on: "
            f"{named(unknown)}; leave their images out, or train with rows of them"
        )
    classifier = Classifier.load(run, device=device, model=model, weights=weights)
    rows = list(truth)
    from toptune.workflows.predict.asked_evaluation import Seen

    seen = Seen.of(classifier.network, answers or AnswerOptions(), manifest, rows)
    classifier = Classifier(seen.network)
    failed: dict[str, str] = {}
    good: list[int] = []
    parts: list[npt.NDArray[np.float64]] = []
    few: list[Answers] = []
    for batch in classifier.answers(ChosenImages(source, rows), len(rows)):
        failed |= {manifest.ids[rows[at]]: reason for at, reason in sorted(batch.failed.items())}
        some = [rows[at] for at in batch.rows.tolist()]
        # A few numbers a row are kept, because the probabilities of many classes would fill the memory.
        if is_class:
            codes = codes_of([truth[row] for row in some], classifier.classes)
            few.append(Answers.of(codes, seen.batch(np.array(some, dtype=np.int64), codes, batch)))
        else:
            parts.append(batch.probabilities)
            seen.keep(batch)
        good += some
        if progress is not None:
            progress(len(good) + len(failed), len(rows))
    if not good:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:SHOWN])
        raise InputError(f"none of the {len(truth)} images of {data} could be read: {first}")
    texts = [truth[row] for row in good]
    figures, tables = _figures(classifier, few, parts, np.array(good), texts)
    # Images that the run was trained on flatter it. Ids are all that a run keeps of its images, and another
    # image may have the same id: the number is reported, and no image is left out.
    trained = _trained_ids(classifier.record.folder)
    n_trained = sum(manifest.ids[row] in trained for row in good)
    counts = {
        "device": str(classifier.backbones[0].device),
        "n_failed": len(failed),
        "failed": failed,
        "n_unlabelled": manifest.n_rows - len(truth),
        "n_named_as_trained": n_trained,
    }
    added = seen.figures() if is_class else seen.target_figures(good, tables, texts)
    return {**figures, **counts, **added}, tables


def _figures(
    classifier: Classifier,
    few: Sequence[Answers],
    parts: Sequence[npt.NDArray[np.float64]],
    rows: npt.NDArray[np.int64],
    truth: Sequence[str],
) -> tuple[Mapping[str, Any], Tables]:
    """Return the figures and tables of classes, from a few numbers a row, or of another task."""
    form = classifier.record.form
    if form.task != CLASSIFICATION:
        scored = scored_targets(np.concatenate(parts), rows, truth=truth, form=form)
        return scored.metrics, scored.tables
    found = Answers.joined(few)
    tables = ClassTables.of(found, classifier.classes)
    return figures_of(found, tables), tables


def _trained_ids(run: Path) -> set[str]:
    """Return the ids of the images that a run was fitted or chosen on, which are all but the test images."""
    if not (run / ROWS).is_file():
        # Shared runs come without their rows; a missing table of others was told when the run was opened.
        return set()
    rows = read_table(run / ROWS, ["id", "role"]).to_pydict()
    return {name for name, role in zip(rows["id"], rows["role"], strict=True) if role != "test"}


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Write the main figures on one line and the costs on another; without images, a figure is a dash."""
    names = next(task.figures for task in TASKS.values() if task.figures[0] in metrics)
    figures = ", ".join(f"{name.replace('_', ' ')} {_figure(metrics[name])}" for name in names)
    left_out = ""
    if n_failed := metrics.get("n_failed") or metrics.get("n_skipped"):
        left_out += f"; {n_failed} could not be read and are left out"
    if n_unlabelled := metrics.get("n_unlabelled"):
        left_out += f"; {n_unlabelled} without a label are left out"
    lines = [f"{figures} on {metrics['n_test']} images{left_out}", *describe_asked(metrics)]
    if n_trained := metrics.get("n_named_as_trained"):
        lines.append(
            f"note: {n_trained} of them have the names of images that the run was trained on; if they are "
            "these, the figures flatter it: take others, or with --split test the test images of DATA alone "
            "where it has that split [TT513]"
        )
    is_listed = "confusion_matrix" in metrics or "accuracy" not in metrics
    if metrics["n_test"] and not is_listed and "out" not in metrics:
        lines.append(
            "note: the classes are too many to list; evaluate --out FOLDER writes the figures of each class "
            "and the confusion matrix [TT514]"
        )
    lines.append(describe_costs(metrics["costs"]))
    return "\n".join([*lines, *([f"written to {metrics['out']}"] if "out" in metrics else [])])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
