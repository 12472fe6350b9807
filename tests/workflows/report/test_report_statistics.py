import math

import numpy as np
import pytest

from toptune.train.figures.metrics import expected_calibration_error
from toptune.workflows.report.statistics import bin_confidences, estimate_accuracy


def test_interval_over_seeds_is_students() -> None:
    found = estimate_accuracy([0.90, 0.92, 0.97], n_test=100)
    # By hand: mean 0.93, deviation sqrt((0.03² + 0.01² + 0.04²) / 2), t of 2 degrees of freedom 4.3027.
    half = 4.302653 * math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2) / math.sqrt(3)
    assert found.over == "seeds"
    assert found.mean == pytest.approx(0.93)
    assert found.interval == pytest.approx((0.93 - half, 1))
    assert 0.93 + half > 1


def test_equal_repetitions_have_no_width() -> None:
    found = estimate_accuracy([0.5, 0.5, 0.5], n_test=10)
    assert (found.mean, found.interval) == (0.5, (0.5, 0.5))


def test_two_seeds_have_no_interval() -> None:
    found = estimate_accuracy([0.5, 0.7], n_test=10)
    assert found.mean == pytest.approx(0.6)
    assert (found.interval, found.over) == (None, "seeds")


@pytest.mark.parametrize(("right", "n"), [(18, 20), (0, 7), (20, 20), (333, 1000)])
def test_interval_of_one_run_is_wilsons(right: int, n: int) -> None:
    found = estimate_accuracy([right / n], n_test=n)
    z = 1.959963985
    share = right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert found.over == "pictures"
    assert found.interval == pytest.approx((middle - half, middle + half), abs=1e-8)


def test_bins_are_those_of_the_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.uniform(0.3, 1, 200), [0.2, 0.4, 0.6, 1.0, 0.0]])
    is_right = rng.uniform(size=len(confidence)) < confidence
    found = bin_confidences(confidence, is_right, n_bins=5)
    assert found.expected_error == pytest.approx(expected_calibration_error(confidence, is_right, n_bins=5))
    for number in range(5):
        low, high = number / 5, (number + 1) / 5
        inside = (confidence > low) & (confidence <= high) | ((number == 0) & (confidence == 0))
        assert found.counts[number] == inside.sum()
        assert found.accuracy[number] == pytest.approx(is_right[inside].mean())
    assert np.isnan(bin_confidences(np.ones(3), np.ones(3, bool)).accuracy[0])
