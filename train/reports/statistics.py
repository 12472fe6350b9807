"""Statistics of repeated runs: means with intervals, and paired tests that allow for overlapping splits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean of repeated runs, and how far the runs are apart.

    Attributes
    ----------
    mean : float
        NaN without any run.
    deviation : float or None
        Standard deviation (with n - 1); None for one run.
    low, high : float or None
        Student's 95 % interval of the mean.
    n : int
        Number of runs.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Difference of two heads over the same runs.

    Attributes
    ----------
    difference : float
        Mean of the figures of the first head minus those of the second.
    t, p : float or None
        Statistic and two-sided p-value; None if no difference varies, or no correlation is known.
    """

    difference: float
    t: float | None
    p: float | None


def spread_of(values: Sequence[float]) -> Spread:
    """Return mean, deviation and 95 % interval (Student's t, n - 1 degrees of freedom) of repeated runs.

    Examples
    --------
    >>> spread = spread_of([0.90, 0.92, 0.94])
    >>> print(f"{spread.mean:.2f} +- {spread.deviation:.2f}, from {spread.low:.2f} to {spread.high:.2f}")
    0.92 +- 0.02, from 0.87 to 0.97
    """
    n, mean = len(values), float(np.mean(values)) if values else math.nan
    # One run says nothing about the spread of runs.
    if n < 2:
        return Spread(mean=mean, deviation=None, low=None, high=None, n=n)
    deviation = float(np.std(values, ddof=1))
    # The deviation is estimated from few runs, so that Student's t takes the place of the normal
    # distribution: for five runs the factor is 2.78 and not 1.96.
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * deviation / np.sqrt(n)
    return Spread(mean=mean, deviation=deviation, low=mean - half, high=mean + half, n=n)


def corrected_paired_test(
    first: Sequence[float], second: Sequence[float], *, ratio: float | None
) -> PairedTest:
    """Make the corrected resampled t-test (Nadeau & Bengio 2003, Machine Learning 52, section 3).

    Runs share rows, so that the differences of two heads are correlated between runs, and ``s^2 / n``
    underestimates the variance of the mean difference. With correlation r the variance is
    ``(1 / n + r / (1 - r)) s^2``, and t has n - 1 degrees of freedom.

    Parameters
    ----------
    first, second : sequence of float
        Figures of two heads over the same n runs.
    ratio : float or None
        ``r / (1 - r)``; for random splits, the number of test rows over the number of training rows. None if
        the correlation is not known, and then no test is made.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    n, mean = len(differences), float(differences.mean()) if len(differences) else math.nan
    variance = float(differences.var(ddof=1)) if n > 1 else 0.0
    # Differences that are equal up to rounding have no variance to compare the mean with.
    if ratio is None or n < 2 or variance <= (1e-12 * max(1.0, abs(mean))) ** 2:
        return PairedTest(difference=mean, t=None, p=None)
    # The plain paired t-test (ratio 0) takes overlapping runs for independent and finds differences that
    # are not there.
    t = mean / float(np.sqrt((1 / n + ratio) * variance))
    return PairedTest(difference=mean, t=t, p=float(2 * stdtr(n - 1, -abs(t))))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of several tests, so that the level holds for all tests together (Holm 1979).

    The k-th smallest of m p-values is multiplied by m - k + 1. Tests that were not made (None) do not count.

    Examples
    --------
    >>> holm([0.02, None, 0.04])
    [0.04, None, 0.04]
    """
    made = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(made):
        # The running maximum keeps adjusted p-values in the order of the raw ones, as Holm's step-down
        # procedure demands.
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        adjusted[at] = largest
    return adjusted


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> Spread:
    """Return the difference of the means, first minus second, with Welch's interval for unpaired runs."""
    n = min(len(first), len(second))
    mean = float(np.mean(first) - np.mean(second)) if n else math.nan
    if n < 2:
        return Spread(mean=mean, deviation=None, low=None, high=None, n=n)
    # scipy's ttest_ind would warn where all figures of one side are equal, as accuracies of 1 are.
    variances = np.array([np.var(each, ddof=1) / len(each) for each in (first, second)])
    if not variances.any():
        return Spread(mean=mean, deviation=0.0, low=mean, high=mean, n=n)
    # Welch's degrees of freedom allow for different variances on the two sides.
    degrees = variances.sum() ** 2 / (variances**2 / (np.array([len(first), len(second)]) - 1)).sum()
    deviation = float(np.sqrt(np.var(first, ddof=1) + np.var(second, ddof=1)))
    half = float(stdtrit(degrees, (1 + LEVEL) / 2)) * float(np.sqrt(variances.sum()))
    return Spread(mean=mean, deviation=deviation, low=mean - half, high=mean + half, n=n)
