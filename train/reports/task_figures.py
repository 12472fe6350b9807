"""The figures by which runs of a task are compared: those of test images, and those of left-out ones."""

import math

from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import RunRecord
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, ORDINAL_FIGURE, REGRESSION

# Before the names of figures of left-out training images.
LEFT_OUT = "left_out_"
# Figures in the unit of a target, whose size says nothing of how many decimals matter.
IN_UNITS = ("mae", "rmse", "left_out_squared_error")
# Left-out figures that the report of a head has in place of an accuracy.
_LEFT_OUT = {MULTILABEL: "log_loss", REGRESSION: "squared_error"}
_SHORT = {"balanced_accuracy": "balanced", "macro_f1": "macro F1", "log_loss": "log-loss"}


def task_figures(record: RunRecord, metrics: RunMetrics) -> dict[str, float | None]:
    """Return the figures of a run by name, the leading one of its task first; None where there is none.

    Figures of left-out training images have ``left_out_`` before their name; of classes they stand in the
    record alone.

    Raises
    ------
    CorruptError
        If a figure is no number.
    """
    task = task_of(record.task_name)
    names = [*task.figures, *([ORDINAL_FIGURE] if record.options.get("ordinal") else [])]
    figures = {name: metrics.figure(name) for name in names}
    if task.name != CLASSIFICATION:
        left_out = _LEFT_OUT[task.name]
        figures[LEFT_OUT + left_out] = record.left_out(left_out)
    return figures


def heading(name: str) -> str:
    """Return how a figure is called in printed tables."""
    return _SHORT.get(name, name.replace("_", " "))


def shown(value: float, name: str) -> str:
    """Write a figure with as many digits as it deserves."""
    form = ".2f" if name == "seconds" else ".4g" if name in IN_UNITS else ".4f"
    return "-" if math.isnan(value) else f"{value:{form}}"
