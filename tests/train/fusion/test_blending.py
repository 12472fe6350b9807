import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from toptune.cli import toptune
from toptune.store import FeatureStore, InputError
from toptune.train import FusedRun, blend, load_run, train

Store = Callable[..., FeatureStore]
OPTIONS: dict[str, Any] = {"dataset": "pets", "cv": 3, "layers": "all"}


@pytest.mark.parametrize("head", ["ridge", "falkon", "logistic", "svm"])
def test_blended_runs_equal_a_training_of_both_models(head: str, two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    for model in ("small", "large"):
        train(store, model=model, head=head, out=tmp_path / model, **OPTIONS)
    before = {path: path.read_bytes() for path in (tmp_path / "small").iterdir()}
    blended = blend([tmp_path / "small", tmp_path / "large"], out=tmp_path / "blended")
    together = train(store, models=["small", "large"], head=head, out=tmp_path / "together", **OPTIONS)
    assert isinstance(together, FusedRun)
    assert blended.fusion.are_equal == together.fusion.are_equal
    for mine, other in zip(blended.fusion.members, together.fusion.members, strict=True):
        assert (mine.name, mine.folder) == (other.name, other.folder)
        assert mine.weight == pytest.approx(other.weight, abs=1e-4)
    for name in ("accuracy", "log_loss"):
        assert blended.metrics[name] == pytest.approx(together.metrics[name], abs=1e-4)
    assert blended.left_out == pytest.approx(together.left_out, abs=1e-4)
    assert {path: path.read_bytes() for path in (tmp_path / "small").iterdir()} == before
    # The heads are those of the runs, byte by byte.
    for path, content in before.items():
        assert (tmp_path / "blended" / "members" / "0-small" / path.name).read_bytes() == content
    loaded = load_run(tmp_path / "blended")
    assert isinstance(loaded, FusedRun)
    assert loaded.metrics == blended.metrics


def test_heads_of_one_model_can_be_blended(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    for head in ("ridge", "lda", "knn", "head2toe"):
        train(store, model="small", head=head, out=tmp_path / head, **OPTIONS)
    runs = [tmp_path / head for head in ("ridge", "lda", "knn", "head2toe")]
    blended = blend(runs, out=tmp_path / "blended")
    names = [member.name for member in blended.fusion.members] + list(blended.fusion.dropped)
    assert sorted(names) == ["small head2toe", "small knn", "small lda", "small ridge"]
    assert blended.record.model == "small"
    assert blended.metrics["costs"]["extract_pictures"] == 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "differ in the rows, labels and split: .*; train both with the same --seed"),
        ({"cv": 4}, "differ in the number of folds: 3 and 4; train both with the same --cv"),
        ({"train_size": 60}, "differ in the number of training rows: 96 and 60"),
        ({"head": "forest"}, "was fitted without folds, .*several models in one command"),
    ],
)
def test_runs_of_other_rows_or_folds_are_refused(
    options: dict[str, Any], message: str, two_models: Store, tmp_path: Path
) -> None:
    store = two_models()
    usual = OPTIONS | {"head": "ridge"}
    train(store, model="small", out=tmp_path / "first", **usual)
    train(store, model="large", out=tmp_path / "second", **usual | options)
    with pytest.raises(InputError, match=message):
        blend([tmp_path / "first", tmp_path / "second"], out=tmp_path / "blended")
    assert not (tmp_path / "blended").exists()


def test_what_is_no_two_heads_is_refused(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    options = OPTIONS | {"head": "ridge"}
    run = train(store, model="small", out=tmp_path / "run", **options).folder
    fused = train(store, models=["small", "large"], out=tmp_path / "fused", **options).folder
    for runs, message in (
        ([run], "1 runs to blend; give at least 2"),
        ([run, tmp_path / "." / "run"], "is given twice; give it once"),
        ([run, fused], "is a run of several models; give its heads"),
    ):
        with pytest.raises(InputError, match=message):
            blend(runs, out=tmp_path / "blended")
    assert not (tmp_path / "blended").exists()


def test_the_command_blends(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    for model in ("small", "large"):
        train(store, model=model, head="ridge", out=tmp_path / model, **OPTIONS)
    words = ["blend", str(tmp_path / "small"), str(tmp_path / "large"), "--out", str(tmp_path / "blended")]
    done = CliRunner().invoke(toptune, [*words, "--json", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert np.sum(list(told["selected"]["weights"].values())) == pytest.approx(1)
    assert told["metrics"]["accuracy"] == load_run(tmp_path / "blended").metrics["accuracy"]
    assert CliRunner().invoke(toptune, words).exit_code != 0
