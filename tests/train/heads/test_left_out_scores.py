from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from toptune.store import FeatureCache
from toptune.train import HEADS, make_head
from toptune.train.numerics.calibration import softmax
from toptune.train.rows.folds import draw_folds

NAMES = ["block.mean", "block.cls", "last.mean"]


@pytest.mark.parametrize(
    ("name", "params"),
    [*((name, {}) for name in HEADS), ("falkon", {"solver": "falkon", "n_centers": 40})],
)
def test_left_out_scores_are_those_of_the_temperature(
    name: str, params: dict[str, Any], build: Callable[..., FeatureCache]
) -> None:
    # One class has one row, which no fit without its fold can know.
    labels = [f"class {row % 3}" for row in range(89)] + ["rare"]
    rng = np.random.default_rng(0)
    means = {label: rng.normal(size=19) * 0.6 for label in dict.fromkeys(labels)}
    values = np.stack([means[label] + rng.normal(size=19) for label in labels]).astype(np.float32)
    cache = build(labels=labels, features=dict(zip(NAMES, np.split(values, [6, 11], axis=1), strict=True)))
    head = make_head(name, params=params, cv=3, is_compared=True)
    head.fit(cache.blocks(NAMES), labels, groups=cache.manifest.ids)
    kept, told = head.left_out_scores, head.left_out
    assert kept is not None
    assert told is not None
    assert head.temperature is not None
    classes, codes = np.unique(labels, return_inverse=True)
    folds = draw_folds(codes, classes, cv=3, groups=cache.manifest.ids)
    assert kept.rows.tolist() == np.flatnonzero(folds.is_validated).tolist() == list(range(89))
    probabilities = softmax(kept.scores, head.temperature)
    of_truth = probabilities[np.arange(89), codes[kept.rows]]
    assert -np.log(of_truth).mean() == pytest.approx(told.log_loss, rel=1e-5)
    assert (kept.scores.argmax(axis=1) == codes[kept.rows]).mean() == pytest.approx(told.accuracy)
    # They are left out: a fit that saw these rows is surer of them.
    seen = head.decision_function(cache.blocks(NAMES))[kept.rows]
    assert np.abs(seen - kept.scores).max() > 1e-3


def test_a_fit_without_folds_has_no_left_out_scores(build: Callable[..., FeatureCache]) -> None:
    cache = build()
    labels = [str(label) for label in cache.manifest.labels]
    head = make_head("ridge", params={"penalty": 0.1}, cv=None).fit(cache.blocks(NAMES), labels)
    assert head.left_out_scores is None
