"""Sets of labels: the rank of the threshold, and coverage on exchangeable rows."""

import numpy as np
import pytest

from toptune.errors import InputError
from toptune.train.answers.conformal import label_sets, rank_of, threshold_of


def test_coverage_holds_on_exchangeable_rows_whatever_the_classifier() -> None:
    rng = np.random.default_rng(0)
    # Probabilities that know little, and are far too sure.
    logits = rng.normal(size=(6000, 8)) * 4
    codes = np.array([rng.choice(8, p=np.exp(row / 4) / np.exp(row / 4).sum()) for row in logits])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    likelihood = probabilities[np.arange(6000), codes]
    for coverage in (0.5, 0.8, 0.95):
        threshold = threshold_of(likelihood[:3000], coverage)
        holds = label_sets(probabilities[3000:], threshold)[np.arange(3000), codes[3000:]]
        deviation = np.sqrt(coverage * (1 - coverage) * (2 / 3000))
        assert holds.mean() == pytest.approx(coverage, abs=3 * deviation)


def test_too_few_rows_for_a_coverage_take_every_class() -> None:
    likelihood = np.full(10, 0.5)
    assert rank_of(10, 0.95) == 11
    assert threshold_of(likelihood, 0.95) == 0
    assert label_sets(np.array([[1.0, 0.0]]), 0.0).all()
    assert threshold_of(likelihood, 0.9) == 0.5


def test_ranks_are_those_of_decimal_numbers() -> None:
    # In binary numbers, 0.07 * 100 is a little more than 7.
    assert rank_of(99, 0.07) == 7
    assert rank_of(1999, 0.95) == 1900


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, float("nan")])
def test_a_coverage_out_of_range_is_told(coverage: float) -> None:
    with pytest.raises(InputError, match=r"it must lie above 0 and below 1"):
        threshold_of(np.full(10, 0.5), coverage)
