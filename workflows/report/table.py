"""The table of settings: the text of its cells, and the values by which columns are sorted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toptune.workflows.report.pairs import by_accuracy
from toptune.workflows.report.settings import Setting

ACCURACY = "accuracy, %"
# Text of a cell whose value was not measured.
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A cell of the table; a column of numbers is sorted by `value`, which is empty without a number."""

    text: str
    small: str = ""
    is_number: bool = False
    value: str = ""


def make_table(settings: Sequence[Setting]) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """Return the columns, with whether a column holds numbers, and a row of cells for each setting.

    Rows stand by falling accuracy.
    """
    has_energy = any(setting.watt_hours is not None for setting in settings)
    has_emissions = any(setting.cost("co2e_kg") is not None for setting in settings)
    has_extraction = any(setting.cost("extract_seconds") is not None for setting in settings)
    columns = [("data set", False), ("backbone", False), ("method", False)]
    columns += [(ACCURACY, True), ("seconds", True)]
    columns += [("extraction, s", True)] if has_extraction else []
    columns += [("energy, Wh", True)] if has_energy else []
    columns += [("CO2e, g", True)] if has_emissions else []
    columns += [
        ("seeds", True),
        ("trained on", True),
        ("balanced, %", True),
        ("log-loss", True),
        ("ECE", True),
    ]
    rows = []
    for setting in sorted(settings, key=by_accuracy):
        cells = [Cell(setting.dataset), Cell(setting.model), Cell(setting.method)]
        cells += [_accuracy(setting), _number(setting.seconds)]
        cells += [_number(setting.cost("extract_seconds"))] if has_extraction else []
        cells += [_energy(setting)] if has_energy else []
        cells += [_emissions(setting)] if has_emissions else []
        cells += [_number(len(setting.runs), "d"), _number(setting.runs[0].metrics.n_train, "d")]
        cells += [_number(_percent(setting.metric("balanced_accuracy")), ".2f")]
        cells += [_number(setting.metric("log_loss"), ".3f")]
        cells += [_number(setting.metric("expected_calibration_error"), ".3f")]
        rows.append(cells)
    return columns, rows


def _accuracy(setting: Setting) -> Cell:
    found = setting.accuracy
    if found is None:
        return _number(None)
    interval = DASH
    if found.interval is not None:
        # A star tells intervals over test images from intervals over seeds, which answer different
        # questions.
        low, high = found.interval
        mark = "*" if found.over == "pictures" else ""
        interval = f"{100 * low:.2f} to {100 * high:.2f}{mark}"
    return Cell(f"{100 * found.mean:.2f}", interval, is_number=True, value=repr(found.mean))


def _energy(setting: Setting) -> Cell:
    cell = _number(setting.watt_hours)
    return replace(cell, small="estimated") if cell.value and setting.has_estimated_energy else cell


def _emissions(setting: Setting) -> Cell:
    kilograms = setting.cost("co2e_kg")
    return _number(None) if kilograms is None else replace(_number(1000 * kilograms), small=setting.countries)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def in_digits(value: float) -> str:
    """Write a number with three significant digits and without an exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _number(value: float | None, form: str | None = None) -> Cell:
    if value is None:
        return Cell(DASH, is_number=True)
    return Cell(format(value, form) if form else in_digits(value), is_number=True, value=repr(value))
