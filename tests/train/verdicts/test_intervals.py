"""Intervals of numbers: kept by trainings, measured on test rows, refused where nothing was left out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toptune.errors import CorruptError, InputError
from toptune.store import FeatureCache
from toptune.train import train
from toptune.train.answers.described import describe_asked
from toptune.train.answers.intervals import LeftOutErrors
from toptune.workflows import evaluate

Build = Callable[..., FeatureCache]
N = 600


@pytest.fixture
def store(build: Build, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(N, 19))
    numbers = (hidden @ rng.normal(size=(19, 2)) + rng.normal(size=(N, 2))) * [1, 500]
    parts = np.split(hidden.astype(np.float32), [6, 11], axis=1)
    features = dict(zip(("block.mean", "block.cls", "last.mean"), parts, strict=True))
    age, price = (numbers[:, at].tolist() for at in range(2))
    build(labels=["one"] * N, features=features, extra={"age": age, "price": price})
    return tmp_path / "store"


@pytest.mark.parametrize("head", ["ridge", "forest"])
def test_intervals_hold_the_true_number_as_often_as_asked(store: Path, tmp_path: Path, head: str) -> None:
    run = train(store, dataset="pets", model="tiny.demo", out=tmp_path / "run", head=head, target="age,price")
    found = evaluate(run.folder, coverage=0.9, novelty=True)
    intervals = found["prediction_intervals"]
    for each in intervals["targets"].values():
        assert abs(each["coverage"] - 0.9) < 2.5 * intervals["standard_error"]
    # Widths are in the unit of each target.
    age, price = (intervals["targets"][name]["half_width"] for name in ("age", "price"))
    assert 200 < price / age < 1200
    if head == "ridge":
        # The noise has a standard deviation of 1, of which 90 % lie within 1.645.
        assert age == pytest.approx(1.645, rel=0.2)
    assert 0.2 < found["novelty"]["mean"] < 0.8
    assert any(line.startswith("intervals of price: coverage") for line in describe_asked(found))
    with pytest.raises(InputError, match=r"--task regression, and back_off is told of runs with one class"):
        evaluate(run.folder, back_off=0.5)
    with pytest.raises(InputError, match=r"leave --ood out"):
        evaluate(run.folder, ood="pets")


def test_a_tree_of_numbers_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"with --task regression; a tree is one of classes"):
        train(
            store, dataset="pets", model="tiny.demo", out=tmp_path / "run", head="ridge", target="age",
            class_tree="slide",
        )  # fmt: skip


def test_errors_are_written_and_read(tmp_path: Path) -> None:
    said = LeftOutErrors(rows=np.arange(3), errors=np.array([[1.0], [3.0], [2.0]]), names=("row",))
    said.write(tmp_path)
    again = LeftOutErrors.read(tmp_path, ["row"], advice="train again")
    assert again is not None
    assert again.half_widths(0.5).tolist() == [2]
    assert again.half_widths(0.9).tolist() == [np.inf]
    changed = again.changed(np.array([-1, 5, 6]))
    assert changed is not None
    assert (changed.rows.tolist(), changed.errors.tolist()) == ([5, 6], [[3], [2]])
    with pytest.raises(CorruptError, match=r"left_out\.parquet cannot be read"):
        LeftOutErrors.read(tmp_path, ["age"], advice="train again")
