"""Results of a study as one tidy table with a row for each training, and a summary over seeds."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from toptune.store.files.system_errors import explained_writing
from toptune.store.files.writing import no_formulas, replace_file
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import CONFIG, METRICS as METRICS_FILE, RunRecord
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
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("kind", "dataset", "model", "method", "layers", "size")]
    + [("seed", pa.int64())]
    + [(name, pa.int64() if name.startswith("n_") else pa.float64()) for name in METRICS]
    + [
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
    left_out_accuracy: float | None
    bytes_per_picture: int | None
    warnings: tuple[str, ...]
    folder: str

    def to_row(self) -> dict[str, object]:
        """Give the values of the columns; None where a run did not measure one."""
        return {
            **self.cell.to_dict(),
            **{name: getattr(self.metrics, name) for name in METRICS},
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
        metrics=replace(metrics, per_class={}, confusion_matrix=()),
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
    rows = [result.to_row() for result in results]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    safe = pa.Table.from_pylist([*map(no_formulas, rows)], schema=_SCHEMA) if spreadsheet_safe else table
    with explained_writing(out, elsewhere="give another out in the study", kept="finished trainings stay"):
        out.mkdir(parents=True, exist_ok=True)
        for name, write, content in ((CSV, pyarrow.csv.write_csv, safe), (PARQUET, pq.write_table, table)):
            memory = io.BytesIO()
            write(content, memory)
            # Somebody may watch the table while the study runs.
            replace_file(out / name, memory.getvalue())


def summarize(results: Sequence[Result]) -> list[Summary]:
    """Average over seeds, with a row for each data set, backbone, method, layers and size."""
    groups: dict[tuple[str, str, str, str, str], list[Result]] = {}
    for result in results:
        if result.metrics.accuracy is not None:
            cell = result.cell
            key = cell.dataset, cell.model, cell.size, cell.method, cell.layers
            groups.setdefault(key, []).append(result)
    summary = []
    for (dataset, model, size, method, layers), members in groups.items():
        accuracy = 100 * np.array([result.metrics.accuracy for result in members])
        seconds = [result.metrics.total_seconds for result in members]
        summary.append(
            Summary(
                dataset=dataset,
                model=model,
                size=size,
                method=method,
                layers=layers,
                seeds=len(members),
                accuracy=round(float(accuracy.mean()), 2),
                deviation=round(float(accuracy.std(ddof=1)), 2) if len(members) > 1 else None,
                # The median ignores a training that waited for a busy machine.
                seconds=round(float(np.median(seconds)), 2),
            )
        )
    return summary
