"""Runs of other tasks than classification on the page: their figures, a table of each, and their drawings."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toptune.errors import CorruptError
from toptune.store.files.json_values import read_json
from toptune.store.files.reading import read_linked
from toptune.train.figures.label_figures import CURVES
from toptune.train.figures.number_figures import PREDICTED, RESIDUALS
from toptune.train.runs.record import METRICS, RunRecord
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import ORDINAL_FIGURE

# Drawings of a run, with their captions; a run has those of its task.
_DRAWINGS = {
    CURVES: "Precision over recall of the test images; a dot is a label's threshold",
    PREDICTED: "Predicted against true",
    RESIDUALS: "Residuals",
}
# Tables that `metrics.json` may hold: a row for each label, or for each target.
_TABLES = {"per_label": "label", "targets": "target"}
_MOST_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One run of several labels, or of numbers.

    Attributes
    ----------
    folder, task, dataset, model, head : str
    figures : list of (str, str)
        Names and values of the figures of all test images.
    columns : list of str
        Heads of the table of labels or targets.
    rows : list of list of str
        Its rows.
    drawings : list of (str, str)
        Captions, and images as data addresses.
    warnings : tuple of str
    """

    folder: str
    task: str
    dataset: str
    model: str
    head: str
    figures: list[tuple[str, str]]
    columns: list[str]
    rows: list[list[str]]
    drawings: list[tuple[str, str]]
    warnings: tuple[str, ...]


def read_task_run(folder: Path, record: RunRecord, *, advice: str) -> TaskRun:
    """Read what the page shows of a run whose record was read already.

    Raises
    ------
    CorruptError
        If ``metrics.json`` or a drawing cannot be read.
    """
    metrics = read_json(folder / METRICS, advice=advice)
    if not isinstance(metrics.get("n_test"), int):
        raise CorruptError(f"run {folder} is damaged: metrics.json holds no number of test images; {advice}")
    task = task_of(record.task_name)
    figures = [
        *((name.replace("_", " "), metrics.get(name)) for name in task.figures),
        *([("quadratic kappa", metrics[ORDINAL_FIGURE])] if ORDINAL_FIGURE in metrics else []),
        ("test images", metrics["n_test"]),
    ]
    columns, rows = _table(metrics)
    return TaskRun(
        folder=str(folder),
        task=record.task_name,
        dataset=record.dataset,
        model=record.model,
        head=str(record.options.get("head")),
        figures=[(name, _shown(value)) for name, value in figures],
        columns=columns,
        rows=rows,
        drawings=[
            (caption, _address(folder / name))
            for name, caption in _DRAWINGS.items()
            if (folder / name).exists()
        ],
        warnings=record.warnings,
    )


def _table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    for key, what in _TABLES.items():
        found = metrics.get(key)
        if not isinstance(found, Mapping) or not found:
            continue
        names = [
            name for name, value in next(iter(found.values())).items() if not isinstance(value, dict | list)
        ]
        rows = [
            [str(label), *(_shown(values.get(name)) for name in names)] for label, values in found.items()
        ]
        return [what, *(name.replace("_", " ") for name in names)], rows[:_MOST_ROWS]
    return [], []


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else str(value)


def _address(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(read_linked(path)).decode()


def counted_tasks(runs: Sequence[TaskRun]) -> str:
    """Say how many runs of which other tasks there are; empty text for none."""
    tasks = sorted({run.task for run in runs})
    return ", ".join(f"{sum(run.task == task for run in runs)} of {task}" for task in tasks)
