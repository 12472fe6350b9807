"""Results of a study as one tidy table, and a summary of it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

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


def result_of(cell: Cell, out: Path) -> dict[str, Any]:
    """Give the row of a finished cell.

    Raises
    ------
    CorruptError
        If its RUN cannot be read.
    """
    metrics = RunMetrics.read(cell.folder / METRICS_FILE, advice=_ADVICE)
    record = RunRecord.read(cell.folder / CONFIG, advice=_ADVICE)
    return {
        **cell.to_dict(),
        **{name: getattr(metrics, name) for name in METRICS},
        "left_out_accuracy": record.left_out_accuracy,
        "seconds": metrics.total_seconds,
        "fit_seconds": metrics.seconds.get("fit"),
        **{name: metrics.costs.get(name) for name in COSTS},
        "bytes_per_picture": None if record.saves is None else record.saves.bytes_per_picture,
        "run": os.path.relpath(cell.folder, out),
    }


def warnings_of(cell: Cell) -> list[str]:
    """Give what a finished cell's RUN warns of.

    Raises
    ------
    CorruptError
        If it cannot be read.
    """
    return list(RunRecord.read(cell.folder / CONFIG, advice=_ADVICE).warnings)


def write_results(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Write ``results.csv`` and ``results.parquet``, a row a cell; each takes its name when it is whole."""
    out.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows), schema=_SCHEMA)
    for name, write in ((CSV, pyarrow.csv.write_csv), (PARQUET, pq.write_table)):
        temporary = out / f".{name}.tmp"
        write(table, temporary)
        temporary.replace(out / name)


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over seeds, a row a (data set, backbone, method, layers, size).

    Returns
    -------
    list of dict
        ``accuracy`` and its standard deviation over seeds (None for one seed), in percent; median
        ``seconds``.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["accuracy"] is not None:
            key = tuple(row[name] for name in ("dataset", "model", "size", "method", "layers"))
            groups.setdefault(key, []).append(row)
    summary = []
    for key, members in groups.items():
        accuracy = 100 * np.array([row["accuracy"] for row in members])
        summary.append(
            {
                **dict(zip(("dataset", "model", "size", "method", "layers"), key, strict=True)),
                "seeds": len(members),
                "accuracy": round(float(accuracy.mean()), 2),
                "deviation": round(float(accuracy.std(ddof=1)), 2) if len(members) > 1 else None,
                "seconds": round(float(np.median([row["seconds"] for row in members])), 2),
            }
        )
    return summary
