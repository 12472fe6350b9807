"""`train(best=True)`: what is tried, what is chosen, and what left-out rows say of the choice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from toptune.cli import toptune
from toptune.store import FeatureStore, InputError, StoreNotFoundError
from toptune.train import FusedRun, Run, evaluate_run, load_run, train, update_run
from toptune.train.best import candidates as candidates_module, trials
from toptune.train.best.candidates import HEADS, candidates
from toptune.train.best.choice import LeftOutAnswers, choose_best
from toptune.train.heads import heads
from toptune.train.runs.best_record import BestRecord
from toptune.train.runs.options import TrainOptions

Store = Callable[..., FeatureStore]
OPTIONS: dict[str, Any] = {"dataset": "pets", "cv": 3, "best": True}
TRUTH = np.arange(120) % 3


def seen(noise: float, seed: int) -> npt.NDArray[np.float32]:
    """Features in which the classes are as clear as the noise lets them be."""
    rng = np.random.default_rng(seed)
    values: npt.NDArray[np.float32] = (
        rng.normal(size=(3, 6))[TRUTH] + noise * rng.normal(size=(120, 6))
    ).astype(np.float32)
    return values


@pytest.fixture
def two_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads stand for all, because one test of all is enough."""
    monkeypatch.setattr(candidates_module, "HEADS", ("falkon", "lda"))


def best_of(run: Run | FusedRun) -> BestRecord:
    assert run.record.best is not None
    return run.record.best


def test_the_best_of_all_that_is_stored_is_a_run_like_any_other(two_models: Store, tmp_path: Path) -> None:
    store = two_models({"small": seen(1.6, 0), "large": seen(1.6, 1)})
    run = train(store, out=tmp_path / "run", **OPTIONS)
    best = best_of(run)
    # Nothing was named, so that both models, both sets of layers and both fusions are tried.
    assert {each.models for each in best.tried} == {("large",), ("small",), ("large", "small")}
    assert {each.layers for each in best.tried} == {"all stored", "last"}
    assert {each.fusion for each in best.tried} == {None, "late", "join"}
    assert {each.head for each in best.tried} == set(HEADS)
    assert len(best.tried) == 5 * (3 + 1 + 3)
    default, chosen = best.tried[0], best.tried[best.chosen]
    assert (default.head, default.layers, default.fusion) == ("falkon", "all stored", "late")
    assert chosen.log_loss is not None
    assert default.log_loss is not None
    assert chosen.log_loss <= default.log_loss
    assert best.n_rows == run.metrics["n_train"]
    # What is written is read again, scored again, and told.
    loaded = load_run(tmp_path / "run")
    assert loaded.record.best == best
    assert evaluate_run(loaded, store=store)["accuracy"] == run.metrics["accuracy"]
    assert loaded.record.left_out_accuracy == best.accuracy
    text = str(loaded)
    assert f"next best: {best.tried[best.next_best or 0]}" in text
    assert "* " in text


@pytest.mark.usefixtures("two_heads")
def test_the_chosen_run_is_the_one_that_its_options_give(two_models: Store, tmp_path: Path) -> None:
    store = two_models({"small": seen(1.6, 0), "large": seen(50, 8)})
    run = train(store, models=["small", "large"], fusion="join", out=tmp_path / "run", **OPTIONS)
    best = best_of(run)
    assert {each.fusion for each in best.tried} == {"join"}
    chosen = best.tried[best.chosen]
    again = train(store, dataset="pets", models=["small", "large"], fusion="join", head=chosen.head, cv=3,
                  out=tmp_path / "again")  # fmt: skip
    assert again.metrics["log_loss"] == pytest.approx(run.metrics["log_loss"])
    assert isinstance(again, Run)
    # The figures of the trial are those that the run has of its left-out rows.
    left_out = again.head.left_out
    assert left_out is not None
    assert chosen.accuracy == pytest.approx(left_out.accuracy)
    assert chosen.log_loss == pytest.approx(left_out.log_loss)


@pytest.mark.usefixtures("two_heads")
def test_late_fusion_was_compared_by_the_figures_that_its_run_has(two_models: Store, tmp_path: Path) -> None:
    store = two_models({"small": seen(1.6, 0), "large": seen(1.6, 1)})
    run = train(store, models=["small", "large"], fusion="late", out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    best = best_of(run)
    # The heads alone are fitted and are no candidates, because late fusion was asked for.
    assert {each.fusion for each in best.tried} == {"late"}
    chosen = best.tried[best.chosen]
    assert chosen.accuracy == pytest.approx(run.left_out["accuracy"])
    assert chosen.log_loss == pytest.approx(run.left_out["log_loss"])


def test_one_model_of_one_layer_compares_heads(two_models: Store, tmp_path: Path) -> None:
    run = train(two_models(), model="small", layers="last", out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, Run)
    tried = best_of(run).tried
    assert [each.head for each in tried] == list(HEADS)
    assert {each.layers for each in tried} == {"as given"}
    assert [array.name for array in run.arrays] == ["last.mean"]


@pytest.mark.usefixtures("two_heads")
def test_a_chosen_layer_is_what_the_run_reads(two_models: Store, tmp_path: Path) -> None:
    # All that tells the classes apart is in the last layer; the other is loud.
    values = seen(0.4, 3)
    values[:, :2] = np.random.default_rng(5).normal(size=(120, 2)) * 40
    store = two_models({"small": values})
    run = train(store, model="small", out=tmp_path / "run", **OPTIONS)
    best = best_of(run)
    assert best.tried[best.chosen].layers == "last"
    assert isinstance(run, Run)
    assert [array.name for array in run.arrays] == ["last.mean"]
    assert run.record.options["layers"] == "last.mean"


@pytest.mark.usefixtures("two_heads")
def test_what_the_budget_leaves_out_is_said(two_models: Store, tmp_path: Path) -> None:
    # The default alone is expected to take two twentieths of a second, and takes longer than that.
    run = train(two_models(), out=tmp_path / "run", budget=0.11, **OPTIONS)
    best = best_of(run)
    skipped = [each for each in best.tried if each.skipped]
    assert skipped
    assert all(each.accuracy is None and "of the budget left" in str(each.skipped) for each in skipped)
    assert best.tried[0].accuracy is not None
    assert "not tried: " in str(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.001}, r"budget is 0.001 seconds.*falkon, all stored.*0.1; give a longer --budget"),
        ({"budget": 0}, "budget is 0 seconds; give more than 0"),
        ({"head": "lda"}, "head has no meaning with best"),
        ({"params": {"penalty": 1}}, "params has no meaning with best"),
        ({"kernel": "linear"}, "kernel has no meaning with best"),
        ({"cv": None}, "cv is None, but best compares by cross-validation"),
        ({"layers": "auto"}, "layers is 'auto' .* with best, which compares sets of layers"),
        ({"dask": "local:1"}, "dask is 'local:1', which best does not know"),
        ({"model": "small", "fusion": "late"}, "fusion is 'late' with the one model 'small'"),
        ({"model": "smal"}, "smal"),
        ({"train_size": 2}, "class"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: dict[str, Any], message: str, two_models: Store, tmp_path: Path
) -> None:
    store = two_models()
    with pytest.raises((InputError, StoreNotFoundError), match=message):
        train(store, out=tmp_path / "run", **OPTIONS | options)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("two_heads")
def test_rows_that_one_model_lacks_leave_all_candidates(two_models: Store, tmp_path: Path) -> None:
    store = two_models(failed={"small": {4: "truncated JPEG"}}, spoiled={"large": [7]})
    with pytest.raises(InputError, match="not finite"):
        train(store, out=tmp_path / "run", **OPTIONS)
    run = train(store, out=tmp_path / "run", allow_failed=True, fusion="late", **OPTIONS)
    assert run.metrics["n_skipped"] == 2
    assert best_of(run).n_rows == run.metrics["n_train"]


def test_a_head_that_memory_refuses_is_skipped_and_said(
    two_models: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_heads: None
) -> None:
    del two_heads
    made = heads.new_head

    def refusing(options: Any, **others: Any) -> Any:
        if options.head == "lda":
            raise InputError("lda would take 9 TB")
        return made(options, **others)

    monkeypatch.setattr(trials, "new_head", refusing)
    run = train(two_models(), out=tmp_path / "run", **OPTIONS)
    skipped = [each for each in best_of(run).tried if each.skipped]
    assert {each.head for each in skipped} == {"lda"}
    assert all("lda would take 9 TB" in str(each.skipped) for each in skipped)


def test_an_update_forgets_what_was_tried(
    two_models: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = two_models()
    monkeypatch.setattr(candidates_module, "HEADS", ("falkon", "ridge"))
    for name, models, fusion in (("alone", ["small"], None), ("late", ["small", "large"], "late")):
        run = train(store, models=models, fusion=fusion, out=tmp_path / name, layers="last", **OPTIONS)
        assert best_of(run)
        newer = update_run(run, out=tmp_path / f"newer {name}", store=store, forget=["g0/picture 0.png"])
        assert newer.record.best is None
        assert load_run(newer.folder).metrics == newer.metrics


def test_the_choice_is_honest_about_noise() -> None:
    # Forty candidates that guess: the best of them looks better than it is, and the nested figure does not.
    rng = np.random.default_rng(0)
    n, folds = 300, np.arange(300) % 5
    gaps = []
    for _ in range(20):
        answers = [
            LeftOutAnswers(losses=np.full(n, np.log(2)), is_right=rng.random(n) < 0.5) for _ in range(40)
        ]
        found = choose_best(answers, weights=np.ones(n), folds=folds)
        gaps.append((found.accuracies[found.chosen] - 0.5, found.accuracy - 0.5))
    flattering, honest = np.mean(gaps, axis=0)
    assert flattering > 0.03
    assert abs(honest) < 0.015


def test_the_choice_is_never_worse_than_the_default_by_log_loss() -> None:
    good = np.arange(100) % 10 > 0
    default = LeftOutAnswers(losses=np.full(100, 0.5), is_right=np.arange(100) % 2 > 0)
    surer = LeftOutAnswers(losses=np.where(good, 0.1, 9.0), is_right=good)
    found = choose_best([default, surer], weights=np.ones(100), folds=np.arange(100) // 20)
    assert found.accuracies == (0.5, 0.9)
    assert found.log_losses[1] > found.log_losses[0]
    assert found.chosen == 0
    assert found.next_best == 1
    alone = choose_best([default], weights=np.ones(100), folds=np.arange(100) // 20)
    assert (alone.chosen, alone.next_best, alone.accuracy) == (0, None, 0.5)


def test_sets_of_layers_come_with_the_options_that_train_them(two_models: Store) -> None:
    features = two_models().features("small", "pets")
    arrays = {"small": features.arrays()}
    given = TrainOptions(pooling="mean")
    found = list(candidates(arrays, given))
    assert [each.layers for each in found] == ["all stored"] * 5 + ["last"] * 5
    assert [each.options(given).layers for each in found] == [None] * 5 + ["last.mean"] * 5
    assert {each.options(given).head.head for each in found} == set(HEADS)
    assert not any(each.options(given).head.best for each in found)


@pytest.mark.usefixtures("two_heads")
def test_the_command_names_the_data_set_and_prints_the_choice(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    words = ["train", "--store", str(store.root), "--best", "--cv", "3", "--out"]
    done = CliRunner().invoke(toptune, [*words, str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "taken from the store, which holds no other: --dataset pets" in done.stderr
    assert "falkon, all stored, late: large + small: left-out log loss" in done.stderr
    assert "next best: " in done.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best"]["tried"]
    for typed in (["--head", "falkon"], ["--kernel", "gaussian"]):
        done = CliRunner().invoke(toptune, [*words, str(tmp_path / "other"), *typed])
        assert done.exit_code == 2
        assert "has no meaning with best, which chooses the head and its parameters" in done.stderr
