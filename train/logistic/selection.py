"""Choose penalty and temperature of a logistic head by the log-loss of left-out rows.

The path of penalties is followed downwards for all folds at once, and stops soon after the left-out log-loss
turns. The fits of the chosen penalty without each fold give the left-out scores to which the temperature is
fitted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from toptune.train.logistic.log_loss import LogisticRows
from toptune.train.logistic.path import RowSample, Stop, follow
from toptune.train.numerics.calibration import fit_temperature, softmax
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.passes.training_rows import TrainingRows

# Penalties of the default grid in units of the features' total variance. They are half a decade apart: each
# solution starts the next, so that a finer grid costs few passes more.
RELATIVE_PENALTIES = tuple(10.0 ** (-step / 2) for step in range(4, 19))
# Smaller penalties are not tried once the left-out log-loss of this many in a row is above the least.
PATIENCE = 2
# Nats, summed over all rows, by which a smaller penalty must be better to be chosen. Where classes can be
# separated the left-out log-loss falls as long as the penalty does, by amounts that say nothing about new
# rows.
LEAST_GAIN = 1.0
# Nats per row that may be left in the loss when penalties are compared.
TOLERANCE = 1e-5
MAX_ITERATIONS = 100
# Temperatures outside these bounds come from too few rows, or from rows that are all classified correctly;
# they are clipped.
_TEMPERATURES = (0.25, 4.0)


@dataclass(frozen=True, kw_only=True)
class TriedPenalty:
    """A row of the table of penalties; numbers are None where the penalty was not fitted.

    Attributes
    ----------
    penalty : float
    squared_error : float or None
        Brier score of left-out rows: squared error of their probabilities.
    accuracy : float or None
        Share of the left-out rows, by weight, that are classified correctly.
    log_loss : float or None
        Mean log-loss of left-out rows at temperature 1, in nats.
    temperature : float or None
        Fitted for the chosen penalty only.
    is_chosen : bool
    reason : str or None
        Why the descent ended, as `Stop.reason`.
    n_passes : int or None
        Passes over the rows.
    """

    penalty: float
    squared_error: float | None = None
    accuracy: float | None = None
    log_loss: float | None = None
    temperature: float | None = None
    is_chosen: bool = False
    reason: str | None = None
    n_passes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The chosen penalty and what its left-out rows say.

    Attributes
    ----------
    penalty, temperature : float
    log_loss : float
        Mean log-loss of left-out rows at the temperature, in nats.
    accuracy, squared_error : float or None
        Accuracy on left-out rows, and squared error of their probabilities (Brier score).
    points : list of Tensor of float64, shape (r + 1, n_classes)
        Solution without each fold.
    tried : tuple of TriedPenalty
        Every penalty of the grid, descending.
    warnings : list of str
        What a user should know about the choice.
    jitter : float
        Largest jitter that a preconditioner needed.
    left_out : ndarray, shape (n_kept, n_classes)
        Left-out scores of `TrainingRows.calibration_rows` by the chosen penalty.
    sigmoids : Sigmoids or None
        What calibrates the scores of several labels a row; the temperature is 1 then.
    """

    penalty: float
    temperature: float
    log_loss: float
    accuracy: float | None
    squared_error: float | None
    points: list[Tensor]
    tried: tuple[TriedPenalty, ...]
    warnings: list[str]
    jitter: float
    left_out: npt.NDArray[np.floating]
    sigmoids: Sigmoids | None = None

    @property
    def table(self) -> list[dict[str, Any]]:
        """The penalties tried, as JSON-able rows of a report."""
        return [asdict(row) for row in self.tried]


def choose_penalty(rows: LogisticRows, penalties: Sequence[float] | None, sample: RowSample) -> Chosen:
    """Fit without each fold down the grid of penalties and choose the least left-out log-loss.

    Of penalties whose total log-loss differs by less than `LEAST_GAIN` the largest is chosen.

    Parameters
    ----------
    rows : LogisticRows
    penalties : sequence of float or None
        None stands for `RELATIVE_PENALTIES` times the total variance of `sample`.
    sample : RowSample
        Rows of which `follow` makes its preconditioner.

    Raises
    ------
    NumericalError
        If the first loss is not finite.
    """
    training = rows.kernel_rows.rows
    folds = np.unique(training.folds[training.is_validated]).tolist()
    scale = sample.total_variance or 1.0
    grid = sorted(penalties or [scale * relative for relative in RELATIVE_PENALTIES], reverse=True)
    weight = float(training.validated_weights.sum())
    tried: list[TriedPenalty] = []
    best: Stop | None = None
    best_loss = float("inf")
    losses: list[float] = []
    jitter = 0.0
    for stop in follow(
        rows, grid, folds=folds, sample=sample, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS
    ):
        jitter = max(jitter, stop.jitter)
        tried.append(_tried(stop, weight, n_losses=training.n_classes if training.have_labels else 1))
        losses.append(sum(each.left_out_loss for each in stop.evaluations))
        if best is None or losses[-1] < best_loss - LEAST_GAIN:
            best, best_loss = stop, losses[-1]
        if len(losses) > PATIENCE and min(losses[-PATIENCE:]) > min(losses):
            break
    assert best is not None
    at = next(number for number, row in enumerate(tried) if row.penalty == best.penalty)
    notes = _notes(tried, grid, at)
    left_out = rows.left_out_scores(best.points, folds, training.calibration_rows())
    sigmoids = None
    if training.have_labels:
        found = training.calibration(left_out, training.calibration_rows())
        assert isinstance(found, Sigmoids), "labels are calibrated by sigmoids"
        temperature, log_loss, sigmoids = 1.0, found.log_loss, found
    else:
        temperature, log_loss = _temperature(training, left_out, notes)
    tried[at] = winner = replace(tried[at], is_chosen=True, temperature=temperature)
    skipped = [TriedPenalty(penalty=penalty) for penalty in grid[len(tried) :]]
    return Chosen(
        penalty=best.penalty,
        temperature=temperature,
        log_loss=log_loss,
        accuracy=winner.accuracy,
        squared_error=winner.squared_error,
        points=best.points,
        tried=(*tried, *skipped),
        warnings=notes,
        jitter=jitter,
        left_out=left_out,
        sigmoids=sigmoids,
    )


def _tried(stop: Stop, weight: float, *, n_losses: int) -> TriedPenalty:
    """Summarize the left-out rows, whose weight is given, at one stop; a row has `n_losses`."""
    loss = sum(each.left_out_loss for each in stop.evaluations)
    squares = sum(each.left_out_squares for each in stop.evaluations)
    correct = sum(each.left_out_correct for each in stop.evaluations)
    return TriedPenalty(
        penalty=stop.penalty,
        squared_error=squares / weight,
        accuracy=correct / weight,
        log_loss=loss / weight / n_losses,
        reason=stop.reason,
        n_passes=len(stop.history) - 1,
    )


def _temperature(
    training: TrainingRows, scores: npt.NDArray[np.floating], notes: list[str]
) -> tuple[float, float]:
    """Fit the temperature to left-out scores, near 1 for a logistic fit; return it with the log-loss at it.

    A temperature out of bounds is clipped, with a note.
    """
    kept = training.calibration_rows()
    codes, weights = training.codes[kept], training.weights[kept]
    fitted = fit_temperature(scores, codes, weights)
    low, high = _TEMPERATURES
    if low <= fitted.value <= high:
        return fitted.value, fitted.log_loss
    temperature = min(max(fitted.value, low), high)
    notes.append(
        f"the temperature of left-out scores is {fitted.value:.3g}, far from 1; {temperature:g} is taken: "
        "there are too few rows, or none wrong, to say how sure to be [TT407]"
    )
    # At the clipped temperature the log-loss differs from the one that the fit found.
    of_truth = softmax(scores, temperature)[np.arange(len(codes)), codes]
    losses = -np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))
    return temperature, float(weights @ losses / weights.sum())


def _notes(tried: list[TriedPenalty], grid: list[float], at: int) -> list[str]:
    """Say what a user should know about the choice of the penalty at position `at` of the grid."""
    notes = []
    if len(grid) > 1 and at in (0, len(grid) - 1):
        notes.append(
            f"the chosen penalty {grid[at]:.3g} is at the {'lower' if at else 'upper'} edge of its grid "
            f"({grid[-1]:.3g} to {grid[0]:.3g}); a wider grid may do better [TT401]"
        )
    short = [row for row in tried if row.reason == "iteration-limit"]
    if short:
        notes.append(
            f"{len(short)} of {len(tried)} penalties had not converged within {MAX_ITERATIONS} passes when "
            f"they were compared (the largest: {short[0].penalty:.3g}) [TT405]"
        )
    return notes
