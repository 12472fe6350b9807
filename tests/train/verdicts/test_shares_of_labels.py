"""Sets that hold a stated share of several true labels: calibrated, measured, kept, refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toptune.errors import CorruptError, InputError
from toptune.store import FeatureCache, FeatureStore, Manifest, grow
from toptune.train import train
from toptune.train.answers.conformal import share_threshold_of, threshold_of
from toptune.train.answers.described import describe_asked
from toptune.train.answers.left_out import LeftOut
from toptune.train.answers.options import AnswerOptions
from toptune.train.verdicts.verdicts import Verdicts
from toptune.workflows import evaluate

Build = Callable[..., FeatureCache]
N, NAMES = 600, ("blue", "car", "round", "wet")


@pytest.fixture
def store(build: Build, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    marks = np.repeat(rng.random((N // 3, 4)) < (0.5, 0.4, 0.3, 0.1), 3, axis=0)
    hidden = (marks @ rng.normal(size=(4, 19)) + 1.5 * rng.normal(size=(N, 19))).astype(np.float32)
    features = dict(
        zip(("block.mean", "block.cls", "last.mean"), np.split(hidden, [6, 11], axis=1), strict=True)
    )
    texts = ["|".join(name for name, mark in zip(NAMES, row, strict=True) if mark) for row in marks]
    build(labels=[None] * N, features=features, extra={"labels": texts})
    return tmp_path / "store"


def test_sets_hold_the_share_of_labels_that_was_asked_for(store: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"head": "ridge", "answer_by": "slide", "cv": 3}
    run = train(store, dataset="pets", model="tiny.demo", out=tmp_path / "run", **options)
    found = evaluate(run.folder, coverage=0.9)
    for sets in (found["label_sets"], found["things"]["label_sets"]):
        assert abs(sets["coverage"] - 0.9) < 2.5 * sets["standard_error"]
        assert sets["contain_all"] <= sets["coverage"]
        assert sum(sets["sizes"].values()) == sets["n_with_labels"]
    # Three images know more than one: sets of things are smaller, and calibrated by as many things.
    images, things = found["label_sets"], found["things"]["label_sets"]
    assert things["mean_size"] < images["mean_size"]
    assert images["n_left_out"] == 3 * things["n_left_out"]
    assert any(
        line.endswith(f"{images['contain_all']:.4f} hold all that apply") for line in describe_asked(found)
    )
    # The sets that predict gives are those that were measured.
    verdicts = Verdicts.of(run.record, run.folder, AnswerOptions(coverage=0.9))
    values = np.array([[0.01, 0.99, 0.5, 0.02]])
    (verdict,) = verdicts.of_rows(values)
    expected = [name for _, name in sorted(zip(-values[0], NAMES, strict=True)) if -_ >= images["threshold"]]
    assert verdict.label_set == tuple(expected)


def test_a_late_fusion_of_several_labels_has_sets(
    two_models: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    marks = rng.random((120, 3)) < 0.4
    features = {
        model: (marks @ rng.normal(size=(3, 6)) + rng.normal(size=(120, 6))).astype(np.float32)
        for model in ("small", "large")
    }
    opened = two_models(features)
    old = opened.features("small", "pets").manifest
    texts = ["|".join(name for name, mark in zip(NAMES, row, strict=False) if mark) for row in marks]
    grow(
        opened, "pets", Manifest.from_columns(ids=old.ids, sizes=old.sizes.tolist(), extra={"labels": texts})
    )
    run = train(opened, dataset="pets", models=["small", "large"], out=tmp_path / "run", head="ridge")
    said = LeftOut.read(run.folder, advice="train again")
    assert said is not None
    assert said.n_rows == marks[run.train_rows].any(axis=1).sum()
    assert len(said.rows) == marks[run.train_rows].sum()
    assert evaluate(run.folder, coverage=0.8)["label_sets"]["asked"] == 0.8
    (run.folder / "left_out.parquet").unlink()
    with pytest.raises(CorruptError, match=r"left_out\.parquet"):
        evaluate(run.folder, coverage=0.8)


def test_a_run_without_left_out_rows_says_how_one_is_made(store: Path, tmp_path: Path) -> None:
    run = train(
        store, dataset="pets", model="tiny.demo", out=tmp_path / "run", head="ridge", cv=None, penalty=1e-2
    )
    with pytest.raises(InputError, match=r"without left-out rows \(no folds\).* --cv 5"):
        evaluate(run.folder, coverage=0.9)


def test_one_label_a_row_is_the_threshold_of_classes() -> None:
    likelihood = np.random.default_rng(0).random(57)
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99):
        assert share_threshold_of(np.arange(57), likelihood, coverage) == threshold_of(likelihood, coverage)


def test_the_largest_threshold_is_taken_that_misses_few_enough() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = np.sort(rng.integers(0, 30, 80))
        likelihood = rng.integers(0, 20, 80) / 20
        counts = np.bincount(rows, minlength=30)
        n = int((counts > 0).sum())
        bounds = {}
        for threshold in np.unique(likelihood).tolist():
            missed = np.bincount(rows, likelihood < threshold, minlength=30)
            bounds[threshold] = ((missed[counts > 0] / counts[counts > 0]).sum() + 1) / (n + 1)
        allowed = [threshold for threshold, bound in bounds.items() if bound <= 0.2 + 1e-9]
        assert share_threshold_of(rows, likelihood, 0.8) == max(allowed)


def test_stated_shares_are_held_on_average() -> None:
    """Over many draws of 40 left-out rows, the mean share that new rows miss is at most that asked for."""
    rng = np.random.default_rng(2)
    missed = []
    for _ in range(400):
        counts = rng.integers(1, 4, 80)
        rows = np.repeat(np.arange(80), counts)
        # Labels of one row are hard together.
        likelihood = rng.beta(4, 2, 80)[rows] * rng.random(len(rows))
        known = rows < 40
        threshold = share_threshold_of(rows[known], likelihood[known], 0.8)
        of_rows = np.bincount(rows, likelihood < threshold, minlength=80) / counts
        missed.append(of_rows[40:].mean())
    # By the theorem the mean lies from 0.2 - 2 / 41 to 0.2.
    assert 0.2 - 2 / 41 - 0.01 < np.mean(missed) < 0.2 + 0.01
