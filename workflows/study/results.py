"""Results of a study as one tidy table with a row for each training, and a summary over seeds."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from toptune.store.files.system_errors import explained_writing
from toptune.store.files.writing import no_formulas, replace_file
from toptune.train.reports.task_figures import task_figures
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import CONFIG, METRICS as METRICS_FILE, RunRecord
from toptune.train.tasks.names import CLASSIFICATION
from toptune.workflows.study.cells import Cell

CSV, PARQUET = "results.csv", "results.parquet"
_ADVICE = "remove the folder of the run, and it is trained again"
METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "log_loss",
    "expected_calibration_error",
    "n_train",
    "n_test",
)
COSTS = (
    "extract_seconds",
    "extract_cpu_seconds",
    "extract_joules",
    "cpu_seconds",
    "energy_joules",
    "co2e_kg",
    "peak_memory_bytes",
)
# Columns of the table that come before and after the figures of other tasks than classification.
_BEFORE = pa.schema(
    [(name, pa.string()) for name in ("kind", "dataset", "model", "method", "layers", "size")]
    + [("seed", pa.int64())]
    + [(name, pa.int64() if name.startswith("n_") else pa.float64()) for name in METRICS]
)
_AFTER = pa.schema(
    [
        ("left_out_accuracy", pa.float64()),
        ("seconds", pa.float64()),
        ("fit_seconds", pa.float64()),
        *((name, pa.int64() if name.endswith("_bytes") else pa.float64()) for name in COSTS),
        ("bytes_per_picture", pa.int64()),
        ("run", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished cell: a row of the table of results.

    Attributes
    ----------
    cell : Cell
    metrics : RunMetrics
        Metrics of the run, without the figures of its classes.
    task : str
        What the run has learned.
    figures : mapping of str to float or None
        Figures of the task, the leading one first; see `toptune.train.reports.task_figures.task_figures`.
    left_out_accuracy : float, optional
        Cross-validated accuracy of the head.
    bytes_per_picture : int, optional
        Bytes that the head needs of each image.
    warnings : tuple of str
    folder : str
        RUN folder of the cell, relative to the folder of the study.
    """

    cell: Cell
    metrics: RunMetrics
    task: str
    figures: Mapping[str, float | None]
    left_out_accuracy: float | None
    bytes_per_picture: int | None
    warnings: tuple[str, ...]
    folder: str

    def to_row(self) -> dict[str, object]:
        """Give the values of the columns; None where a run did not measure one."""
        return {
            **self.cell.to_dict(),
            **{name: getattr(self.metrics, name) for name in METRICS},
            "task": self.task,
            **self.figures,
            "left_out_accuracy": self.left_out_accuracy,
            "seconds": self.metrics.total_seconds,
            "fit_seconds": self.metrics.seconds.get("fit"),
            **{name: self.metrics.costs.get(name) for name in COSTS},
            "bytes_per_picture": self.bytes_per_picture,
            "run": self.folder,
        }


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Repetitions of one setting, over its seeds.

    Attributes
    ----------
    dataset, model, size, method, layers : str
        Names in the study file.
    seeds : int
        Number of finished trainings that have test rows.
    accuracy, deviation : float
        Mean and standard deviation in percent; there is no deviation over one seed.
    seconds : float
        Median time of a training.
    """

    dataset: str
    model: str
    size: str
    method: str
    layers: str
    seeds: int
    accuracy: float
    deviation: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """Repetitions of one setting of another task than classification, over its seeds.

    Attributes
    ----------
    dataset, model, size, method, layers : str
        Names in the study file.
    task : str
    seeds : int
        Number of finished trainings that have test rows.
    figures : mapping of str to float or None
        Mean of each figure of the task over the seeds that have it, the leading one first.
    deviation : float or None
        Standard deviation of the leading figure; there is none over one seed.
    seconds : float
        Median time of a training.
    """

    dataset: str
    model: str
    size: str
    method: str
    layers: str
    task: str
    seeds: int
    figures: Mapping[str, float | None]
    deviation: float | None
    seconds: float


def summary_row(summary: Summary | TaskSummary) -> dict[str, object]:
    """Return a row of a printed table, or of JSON, with the figures among the other columns."""
    row: dict[str, object] = {}
    for name, value in asdict(summary).items():
        row |= value if name == "figures" else {name: value}
    return row


def summary_tables(summary: Sequence[Summary | TaskSummary]) -> list[list[dict[str, object]]]:
    """Return the rows of printed tables: one table for all rows of the same columns."""
    tables: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for row in map(summary_row, summary):
        tables.setdefault(tuple(row), []).append(row)
    return [*tables.values()]


def result_of(cell: Cell, out: Path) -> Result:
    """Read the RUN folder of a finished cell.

    Raises
    ------
    CorruptError
        If the records of the run cannot be read.
    """
    record = RunRecord.read(cell.folder / CONFIG, advice=_ADVICE)
    record.check_files(cell.folder, record.table_names)
    metrics = RunMetrics.read(cell.folder / METRICS_FILE, advice=_ADVICE)
    return Result(
        cell=cell,
        # A study may have hundreds of cells, and the confusion matrix of an older run takes megabytes.
        metrics=replace(metrics, per_class={}, confusion_matrix=(), others={}),
        task=record.task_name,
        figures=task_figures(record, metrics),
        left_out_accuracy=record.left_out_accuracy,
        bytes_per_picture=_bytes_per_image(record, cell.folder),
        warnings=record.warnings,
        folder=os.path.relpath(cell.folder, out),
    )


def _bytes_per_image(record: RunRecord, folder: Path) -> int | None:
    """Add up what all heads of a run read of each image."""
    records = [record]
    if record.fusion is not None:
        records = [
            RunRecord.read(folder / member.folder / CONFIG, advice=_ADVICE)
            for member in record.fusion.members
        ]
    known = [each.saves.bytes_per_picture for each in records if each.saves is not None]
    return sum(known) if known and len(known) == len(records) else None


def write_results(results: Sequence[Result], out: Path, *, spreadsheet_safe: bool = False) -> None:
    """Write ``results.csv`` and ``results.parquet``, with a row for each cell.

    A file takes its name when it is whole, so that a reader never sees half a table. With `spreadsheet_safe`
    no text in CSV is a formula to a spreadsheet.
    """
    rows, schema = [result.to_row() for result in results], _schema(results)
    table = pa.Table.from_pylist(rows, schema=schema)
    safe = pa.Table.from_pylist([*map(no_formulas, rows)], schema=schema) if spreadsheet_safe else table
    with explained_writing(out, elsewhere="give another out in the study", kept="finished trainings stay"):
        out.mkdir(parents=True, exist_ok=True)
        for name, write, content in ((CSV, pyarrow.csv.write_csv, safe), (PARQUET, pq.write_table, table)):
            memory = io.BytesIO()
            write(content, memory)
            # Somebody may watch the table while the study runs.
            replace_file(out / name, memory.getvalue())


def _schema(results: Sequence[Result]) -> pa.Schema:
    """Return the columns of the table; those of other tasks are there where a run has such a task."""
    others = [result for result in results if result.task != CLASSIFICATION]
    figures = dict.fromkeys(name for result in others for name in result.figures)
    of_tasks = [("task", pa.string())] if others else []
    of_tasks += [(name, pa.float64()) for name in figures if name not in METRICS]
    return pa.schema([*_BEFORE, *pa.schema(of_tasks), *_AFTER])


def summarize(results: Sequence[Result]) -> list[Summary | TaskSummary]:
    """Average over seeds, with a row for each data set, backbone, method, layers, size and task."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        if next(iter(result.figures.values())) is not None:
            cell = result.cell
            key = cell.dataset, cell.model, cell.size, cell.method, cell.layers, result.task
            groups.setdefault(key, []).append(result)
    summary: list[Summary | TaskSummary] = []
    for (dataset, model, size, method, layers, task), members in groups.items():
        setting = {"dataset": dataset, "model": model, "size": size, "method": method, "layers": layers}
        # The median ignores a training that waited for a busy machine.
        seconds = round(float(np.median([result.metrics.total_seconds for result in members])), 2)
        if task != CLASSIFICATION:
            summary.append(_task_summary(task, setting, members, seconds=seconds))
            continue
        accuracy = 100 * np.array([result.metrics.accuracy for result in members])
        summary.append(
            Summary(
                **setting,
                seeds=len(members),
                accuracy=round(float(accuracy.mean()), 2),
                deviation=round(float(accuracy.std(ddof=1)), 2) if len(members) > 1 else None,
                seconds=seconds,
            )
        )
    return summary


def _task_summary(
    task: str, setting: Mapping[str, str], members: Sequence[Result], *, seconds: float
) -> TaskSummary:
    known = {
        name: [value for result in members if (value := result.figures.get(name)) is not None]
        for name in members[0].figures
    }
    leading = next(iter(known.values()))
    return TaskSummary(
        **setting,
        task=task,
        seeds=len(members),
        # Numbers have the unit of their target, so that digits and not decimals are kept.
        figures={name: float(f"{np.mean(each):.6g}") if each else None for name, each in known.items()},
        deviation=float(f"{np.std(leading, ddof=1):.6g}") if len(leading) > 1 else None,
        seconds=seconds,
    )
