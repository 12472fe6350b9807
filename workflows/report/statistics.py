"""Figures of several runs: means with their intervals, calibration in bins, pairs with fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from toptune.train.figures.metrics import CALIBRATION_BINS
from toptune.train.reports.statistics import LEVEL, spread_of

# An interval over seeds needs three of them: with two, Student's t has one degree of freedom.
MIN_SEEDS = 3


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval.

    Attributes
    ----------
    mean : float
    interval : tuple of float or None
        Low and high end. Two repetitions have no interval: with one degree of freedom, Student's t is 12.7
        standard errors, and the interval would hold nearly any accuracy.
    over : {"seeds", "pictures"}
        What varies: the repetitions, by Student's t; or, for a single run, the drawing of the test images,
        by Wilson's interval for a share (1927).
    """

    mean: float
    interval: tuple[float, float] | None
    over: Literal["seeds", "pictures"]


def estimate_accuracy(accuracies: Sequence[float], *, n_test: int) -> Estimate:
    """Estimate the mean accuracy of repetitions, with a confidence interval within [0, 1].

    Parameters
    ----------
    accuracies : sequence of float, length 1 or more
        Accuracy of each repetition.
    n_test : int
        Number of test images, which decides the interval of a single run.

    Examples
    --------
    >>> estimate_accuracy([0.9, 0.8, 0.85], n_test=100).over
    'seeds'
    >>> low, high = estimate_accuracy([0.9], n_test=100).interval
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    values = np.array(accuracies, dtype=np.float64)
    mean = float(values.mean())
    if len(values) == 1:
        # A single run has no spread over seeds. Wilson's interval takes its test images for a sample of all
        # images; unlike the normal interval it stays within [0, 1] and has a width at accuracy 1.
        found = stats.binomtest(round(mean * n_test), n_test).proportion_ci(LEVEL, method="wilson")
        return Estimate(mean, (float(found.low), float(found.high)), "pictures")
    if len(values) < MIN_SEEDS:
        return Estimate(mean, None, "seeds")
    spread = spread_of(accuracies)
    assert spread.low is not None
    assert spread.high is not None
    # Student's interval knows nothing of the limits of an accuracy and may reach beyond them.
    return Estimate(mean, (max(0.0, spread.low), min(1.0, spread.high)), "seeds")


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of confidence, of equal width.

    Attributes
    ----------
    counts : ndarray of int64, shape (bins,)
    accuracy, confidence : ndarray of float64, shape (bins,)
        Means over the predictions of each bin; NaN for an empty bin.
    """

    counts: npt.NDArray[np.int64]
    accuracy: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: distance of accuracy and confidence, weighted by images."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gaps * self.counts) / self.counts.sum())


def bin_confidences(
    confidence: npt.NDArray[np.float64],
    is_right: npt.NDArray[np.bool_],
    *,
    n_bins: int = CALIBRATION_BINS,
) -> Reliability:
    """Sort predictions into bins of confidence; an edge belongs to the bin below (Guo et al. 2017, eq. 3).

    There must be at least one prediction.
    """
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    # Empty bins become NaN without a warning of a division by zero.
    members = np.where(counts > 0, counts, np.nan)
    return Reliability(
        counts=counts,
        accuracy=np.bincount(bins, is_right, minlength=n_bins) / members,
        confidence=np.bincount(bins, confidence, minlength=n_bins) / members,
    )
