"""Penalty and temperature of a logistic head, by the log-loss of rows left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from toptune.train.logistic.log_loss import LogisticRows
from toptune.train.logistic.path import Stop, follow
from toptune.train.numerics.calibration import CALIBRATION_ROWS, fit_temperature, softmax

# Penalties of the default grid in units of the features' total variance, half a decade apart: the
# solutions between cost few passes more, as each starts the next.
RELATIVE_PENALTIES = tuple(10.0 ** (-step / 2) for step in range(4, 19))
# Penalties are left out once the log-loss of this many in a row was above the least.
PATIENCE = 2
# Nats over all rows by which a smaller penalty must be better: where classes can be separated the log-loss
# of left-out rows falls without end, and what it falls by says nothing.
LEAST_GAIN = 1.0
# Nats a row that a left-out figure may be off by.
TOLERANCE = 1e-5
MAX_ITERATIONS = 100
# A temperature further from 1 than by this factor is noise of few rows, or of none that is wrong.
_TEMPERATURES = (0.25, 4.0)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The chosen penalty and what its left-out rows say.

    Attributes
    ----------
    penalty, temperature : float
    log_loss : float or None
        Of left-out rows, at the temperature.
    accuracy, squared_error : float or None
        Of left-out rows; squared error of their probabilities (Brier score).
    points : list of Tensor of float64, shape (r + 1, n_classes)
        Solution without each fold.
    table : list of dict
        Every penalty, descending; figures are at temperature 1, and None where it was not fitted.
    """

    penalty: float
    temperature: float
    log_loss: float | None
    accuracy: float | None
    squared_error: float | None
    points: list[Tensor]
    table: list[dict[str, Any]]
    warnings: list[str]
    jitter: float


def choose_penalty(
    rows: LogisticRows, penalties: Sequence[float] | None, sample: Tensor, sample_weights: Tensor
) -> Chosen:
    """Fit without each fold down the grid while the left-out log-loss falls; choose its least.

    Of penalties whose total log-loss differs by less than `LEAST_GAIN` the largest is taken. Rows whose
    class no row outside their fold has count as wrong and have no log-loss: no fit could know their class,
    and what it says of them is minus infinity.

    Parameters
    ----------
    penalties : sequence of float or None
        None is `RELATIVE_PENALTIES` times the variance of `sample`.
    sample, sample_weights : Tensor
        See `follow`.
    """
    training = rows.kernel_rows.rows
    folds = np.unique(training.folds).tolist()
    scale = float(sample.square().sum(dim=1).mean()) or 1.0
    grid = sorted(penalties or [scale * relative for relative in RELATIVE_PENALTIES], reverse=True)
    seen = np.stack([rows.class_weights(fold).cpu().numpy() > 0 for fold in range(training.n_folds)])
    is_seen = seen[training.folds, training.codes]
    weight, total = float(training.weights[is_seen].sum()), float(training.weights.sum())
    table: list[dict[str, Any]] = []
    best: Stop | None = None
    best_loss = float("inf")
    losses: list[float] = []
    jitter = 0.0
    for stop in follow(
        rows, grid, folds=folds, sample=sample, sample_weights=sample_weights,
        tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS,
    ):  # fmt: skip
        jitter = max(jitter, stop.jitter)
        table.append(_row(stop, weight, total))
        losses.append(sum(each.left_out_loss for each in stop.evaluations))
        if best is None or losses[-1] < best_loss - LEAST_GAIN:
            best, best_loss = stop, losses[-1]
        if weight > 0 and len(losses) > PATIENCE and min(losses[-PATIENCE:]) > min(losses):
            break
        # Nothing says which: the middle of the grid, rather than either end.
        if weight == 0 and len(losses) > len(grid) // 2:
            break
    assert best is not None
    at = next(number for number, row in enumerate(table) if row["penalty"] == best.penalty)
    table[at]["is_chosen"] = True
    notes = _notes(table, grid, at, n_unseen=int((~is_seen).sum()))
    temperature, log_loss = 1.0, None
    if weight > 0:
        temperature, log_loss = _temperature(rows, best, folds, is_seen, notes)
    table[at]["temperature"] = temperature
    skipped = dict.fromkeys(table[0])
    rest = [{**skipped, "penalty": penalty, "is_chosen": False} for penalty in grid[len(table) :]]
    return Chosen(
        penalty=best.penalty,
        temperature=temperature,
        log_loss=log_loss,
        accuracy=table[at]["accuracy"],
        squared_error=table[at]["squared_error"],
        points=best.points,
        table=table + rest,
        warnings=notes,
        jitter=jitter,
    )


def _row(stop: Stop, weight: float, total: float) -> dict[str, Any]:
    loss = sum(each.left_out_loss for each in stop.evaluations)
    squares = sum(each.left_out_squares for each in stop.evaluations)
    correct = sum(each.left_out_correct for each in stop.evaluations)
    return {
        "penalty": stop.penalty,
        "squared_error": squares / weight if weight > 0 else None,
        "accuracy": correct / total,
        "log_loss": loss / weight if weight > 0 else None,
        "temperature": None,
        "is_chosen": False,
        "reason": stop.reason,
        "n_passes": len(stop.history) - 1,
    }


def _temperature(
    rows: LogisticRows, best: Stop, folds: list[int], is_seen: np.ndarray[Any, Any], notes: list[str]
) -> tuple[float, float]:
    """Temperature of left-out scores, near 1 for a logistic fit, and their log-loss at it."""
    training = rows.kernel_rows.rows
    usable = np.flatnonzero(is_seen)
    spread = np.linspace(0, len(usable) - 1, min(len(usable), CALIBRATION_ROWS)).astype(np.int64)
    kept = usable[np.unique(spread)]
    scores = rows.left_out_scores(best.points, folds, kept)
    codes, weights = training.codes[kept], training.weights[kept]
    fitted = fit_temperature(scores, codes, weights)
    low, high = _TEMPERATURES
    if low <= fitted.value <= high:
        return fitted.value, fitted.log_loss
    temperature = min(max(fitted.value, low), high)
    notes.append(
        f"the temperature of left-out scores is {fitted.value:.3g}, far from 1; {temperature:g} is taken: "
        "there are too few rows, or none wrong, to say how sure to be"
    )
    of_truth = softmax(scores, temperature)[np.arange(len(codes)), codes]
    losses = -np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))
    return temperature, float(weights @ losses / weights.sum())


def _notes(table: list[dict[str, Any]], grid: list[float], at: int, *, n_unseen: int) -> list[str]:
    notes = []
    if len(grid) > 1 and at in (0, len(grid) - 1):
        notes.append(
            f"the chosen penalty {grid[at]:.3g} is at the {'lower' if at else 'upper'} edge of its grid "
            f"({grid[-1]:.3g} to {grid[0]:.3g}); a wider grid may do better"
        )
    short = [row for row in table if row["reason"] == "iteration-limit"]
    if short:
        notes.append(
            f"{len(short)} of {len(table)} penalties had not converged within {MAX_ITERATIONS} passes when "
            f"they were compared (the largest: {short[0]['penalty']:.3g})"
        )
    if n_unseen:
        notes.append(
            f"{n_unseen} rows are of classes that only their own fold has; left out, they count as wrong "
            "and have no log-loss"
        )
    if table[at]["log_loss"] is None:
        notes.append("no left-out row has a log-loss: penalty and temperature are not chosen by any figure")
    return notes
