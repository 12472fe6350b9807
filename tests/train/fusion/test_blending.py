import json
import subprocess
import sys
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
        ([run], "1 run to blend; give at least 2"),
        (str(run), "runs is .*; give a list"),
        ([run, tmp_path / "." / "run"], "is given twice; give it once"),
        ([run, fused], "is a run of several models; give its heads: .*members/0-small, .*members/1-large"),
    ):
        with pytest.raises(InputError, match=message):
            blend(runs, out=tmp_path / "blended")
    assert not (tmp_path / "blended").exists()


def test_runs_that_do_not_belong_together_are_refused_before_torch_is_loaded(
    two_models: Store, tmp_path: Path
) -> None:
    store = two_models()
    for seed in (0, 1):
        train(store, model="small", head="ridge", seed=seed, out=tmp_path / f"{seed}", **OPTIONS)
    program = (
        "import sys\nfrom toptune.cli import run\n"
        f"code = run(['blend', {str(tmp_path / '0')!r}, {str(tmp_path / '1')!r}, '--out', 'blended'])\n"
        "assert code == 2 and 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "differ in the rows, labels and split" in done.stderr
    assert not (tmp_path / "blended").exists()


def test_a_head_that_is_dropped_spares_a_backbone_only_if_no_other_head_reads_it(
    two_models: Store, tmp_path: Path
) -> None:
    # Only the last layer of the first model knows the classes; by this seed the noise of the others harms.
    rng = np.random.default_rng(1)
    values = (np.eye(3)[np.arange(120) % 3][:, [0, 1, 0, 1, 2, 2]] + 0.4 * rng.normal(size=(120, 6))).astype(
        np.float32
    )
    values[:, :2] = rng.normal(size=(120, 2))
    store = two_models({"small": values, "large": rng.normal(size=(120, 6)).astype(np.float32)})
    for name, model, layers in (
        ("good", "small", "last"),
        ("poor", "small", "block"),
        ("other", "large", "all"),
    ):
        options: dict[str, Any] = {"layers": layers, "penalty": 1e-6, "head": "ridge", "cv": 3}
        train(store, dataset="pets", model=model, out=tmp_path / name, **options)
    run = blend([tmp_path / "good", tmp_path / "poor", tmp_path / "other"], out=tmp_path / "blended")
    dropped = {note.split("'")[1]: note for note in run.record.warnings if "weighs nothing" in note}
    assert dropped["poor"].endswith("predictions are the same without it [TT411]")
    assert dropped["other"].endswith("predictions are the same without it and need 1 backbone fewer [TT411]")
    assert all(note.startswith("head ") for note in dropped.values())
    assert str(run).startswith("late fusion of 1 model: ")


def test_fits_that_do_not_repeat_are_told(
    two_models: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = two_models()
    for model in ("small", "large"):
        train(store, model=model, head="ridge", out=tmp_path / model, **OPTIONS)
    runs = [tmp_path / "small", tmp_path / "large"]
    alike = blend(runs, out=tmp_path / "alike")
    assert not any("the repeated fits" in note for note in alike.record.warnings)
    monkeypatch.setattr("toptune.train.fusion.repeated_fits._SAME_LOSS", -1.0)
    other = blend(runs, out=tmp_path / "other")
    assert sum("the repeated fits have the left-out log loss" in note for note in other.record.warnings) == 2


def test_columns_that_were_kept_of_several_models_are_refused(two_models: Store, tmp_path: Path) -> None:
    store, options = two_models(), OPTIONS | {"head": "ridge"}
    run = train(store, model="small", out=tmp_path / "run", **options).folder
    kept = OPTIONS | {"head": "head2toe", "fusion": "join", "params": {"fraction": 0.5}}
    joined = train(store, models=["small", "large"], out=tmp_path / "joined", **kept).folder
    message = "keeps 6 of 12 columns of several models side by side, .*'head2toe' on the models with --fusion"
    with pytest.raises(InputError, match=message):
        blend([run, joined], out=tmp_path / "blended")
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
