"""With few rows a class the widest kernel is taken alone, because too few rows are left out to choose by."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from toptune.train import FalkonClassifier, FalkonLogisticClassifier, FalkonRegressor
from toptune.train.estimators.kernel_ridge import FEW_ROWS, WIDTHS
from toptune.train.kernels.kernels import median_distance

Rows = npt.NDArray[np.float64]


def classes(each: int) -> tuple[Rows, npt.NDArray[np.int64]]:
    codes = np.repeat(np.arange(3), each)
    return np.random.default_rng(0).normal(size=(len(codes), 4)) + codes[:, None], codes


def widths(head: Any) -> list[float]:
    return sorted({row["sigma"] for row in head.report_.table})


@pytest.mark.parametrize("kind", [FalkonClassifier, FalkonLogisticClassifier])
def test_the_width_is_chosen_only_where_there_are_rows_to_choose_by(kind: type) -> None:
    few, codes = classes(FEW_ROWS)
    head = kind(random_state=0).fit(few, codes)
    assert widths(head) == pytest.approx([WIDTHS[-1] * median_distance(torch.from_numpy(few))])
    more, codes = classes(FEW_ROWS + 1)
    median = median_distance(torch.from_numpy(more))
    assert widths(kind(random_state=0).fit(more, codes)) == pytest.approx([each * median for each in WIDTHS])


def test_widths_that_are_given_are_compared_and_numbers_have_no_classes() -> None:
    few, codes = classes(5)
    assert widths(FalkonClassifier(sigma=[1.0, 2.0], random_state=0).fit(few, codes)) == [1, 2]
    assert len(widths(FalkonRegressor(random_state=0).fit(few, codes * 1.5))) == len(WIDTHS)
