"""Things with several labels and with numbers: trained, answered, measured, refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, logit

from toptune.errors import InputError
from toptune.store import FeatureCache
from toptune.train import blend, train
from toptune.train.answers.described import describe_asked
from toptune.train.answers.kept import Said
from toptune.train.answers.left_out import LeftOut
from toptune.train.answers.options import AnswerOptions
from toptune.train.answers.things import Things
from toptune.train.numerics.thresholds import ThresholdRule
from toptune.train.verdicts.verdicts import Verdicts
from toptune.workflows import evaluate

Build = Callable[..., FeatureCache]
N, OF_ONE = 240, 3
NAMES = ("blue", "car", "round")
HEADS = ("ridge", "falkon")


def parts(hidden: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float32]]:
    cuts = np.split(hidden.astype(np.float32), [6, 11], axis=1)
    return dict(zip(("block.mean", "block.cls", "last.mean"), cuts, strict=True))


@pytest.fixture
def numbers(build: Build, tmp_path: Path) -> Path:
    """Column slide: three images each, of one age, seen with noise."""
    rng = np.random.default_rng(0)
    of_things = rng.normal(size=(N // OF_ONE, 19))
    ages = of_things @ rng.normal(size=19)
    hidden = np.repeat(of_things, OF_ONE, axis=0) + 0.5 * rng.normal(size=(N, 19))
    ages = np.repeat(ages, OF_ONE)
    grades = np.rint(ages / 3).astype(int)
    build(labels=["one"] * N, features=parts(hidden), extra={"age": ages.tolist(), "grade": grades.tolist()})
    return tmp_path / "store"


@pytest.fixture
def labels(build: Build, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    of_things = rng.random((N // OF_ONE, 3)) < (0.5, 0.4, 0.3)
    marks = np.repeat(of_things, OF_ONE, axis=0)
    hidden = marks @ rng.normal(size=(3, 19)) + 1.5 * rng.normal(size=(N, 19))
    texts = ["|".join(name for name, mark in zip(NAMES, row, strict=True) if mark) for row in marks]
    build(labels=[None] * N, features=parts(hidden), extra={"labels": texts})
    return tmp_path / "store"


def options(**more: Any) -> dict[str, Any]:
    return {"dataset": "pets", "model": "tiny.demo", "head": "ridge", "cv": 3, "answer_by": "slide"} | more


def test_the_numbers_of_a_thing_are_the_mean_of_its_images(numbers: Path, tmp_path: Path) -> None:
    run = train(numbers, out=tmp_path / "run", **options(target="age"))
    found = evaluate(run.folder, coverage=0.8)
    things = found["things"]
    assert run.metrics["things"] == {
        name: value for name, value in things.items() if name != "prediction_intervals"
    }
    assert (things["answer_from"], things["n_things"]) == ("numbers", len(run.test_rows) // OF_ONE)
    # Three images know more than one, and their intervals are narrower.
    assert things["rmse"] < found["rmse"]
    whole, alone = things["prediction_intervals"], found["prediction_intervals"]
    assert whole["n_left_out"] == len(run.train_rows) // OF_ONE
    assert 0 < whole["targets"]["age"]["half_width"] < alone["targets"]["age"]["half_width"]
    assert abs(whole["targets"]["age"]["coverage"] - 0.8) < 3 * whole["standard_error"]
    told = list(describe_asked(found))
    assert any(line.startswith("intervals of age of things: coverage") for line in told)
    assert any(f"by 'slide' from numbers: r2 {things['r2']:.4f}" in line for line in told)
    # A linear head says of the mean of features what it says of the images on average.
    again = evaluate(run.folder, answer_from="features")["things"]
    assert again["rmse"] == pytest.approx(things["rmse"], rel=1e-3)
    with pytest.raises(InputError, match=r"which means of features do not have: no fit left them out"):
        evaluate(run.folder, coverage=0.8, answer_from="features")
    with pytest.raises(InputError, match=r"answer_from is 'maximum' with --task regression: numbers have no"):
        evaluate(run.folder, answer_from="maximum")


def test_steps_of_a_thing_are_rounded(numbers: Path, tmp_path: Path) -> None:
    run = train(numbers, out=tmp_path / "run", **options(target="grade", ordinal=True))
    things = evaluate(run.folder, coverage=0.8)["things"]
    assert things["quadratic_kappa"] is not None
    assert things["prediction_intervals"]["targets"]["grade"]["half_width"] % 1 == 0
    # Left-out answers are rounded as answers are: errors by thirds made intervals that held too few.
    kept = pq.read_table(run.folder / "left_out.parquet")["thing_error grade"].to_numpy()
    np.testing.assert_array_equal(kept % 1, 0)


@pytest.mark.parametrize("way", ["log-probabilities", "maximum"])
def test_the_labels_of_a_thing_apply_from_its_own_thresholds(
    labels: Path, tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(labels, out=tmp_path / "run", **options(answer_from=way))
    thresholds = run.record.thing_thresholds
    assert thresholds is not None
    assert set(thresholds) == set(NAMES)
    assert run.form.thresholds is not None
    assert list(thresholds.values()) != run.form.thresholds.tolist()
    found = evaluate(run.folder)
    things = found["things"]
    assert run.metrics["things"] == things
    assert things["n_things"] == len(run.test_rows) // OF_ONE
    assert things["mean_average_precision"] > found["mean_average_precision"]
    assert "per_label" not in things
    verdicts = Verdicts.of(run.record, run.folder, AnswerOptions())
    chosen = verdicts.thing_form(run.form).thresholds
    assert chosen is not None
    assert chosen.tolist() == [thresholds[name] for name in run.classes]
    assert not caplog.messages
    evaluate(run.folder, answer_from="features")
    assert "applies from the threshold that was chosen for images" in caplog.text
    with pytest.raises(InputError, match=r"'numbers' with --task multilabel: only --task regression has"):
        evaluate(run.folder, answer_from="numbers")


def test_a_fixed_threshold_is_that_of_things_too(labels: Path, tmp_path: Path) -> None:
    run = train(labels, out=tmp_path / "run", **options(answer_from="features", threshold=0.3))
    assert run.record.thing_thresholds == dict.fromkeys(NAMES, 0.3)


def test_runs_of_several_labels_are_blended_with_their_things(labels: Path, tmp_path: Path) -> None:
    alone = [train(labels, out=tmp_path / head, **options(head=head)) for head in HEADS]
    run = blend([each.folder for each in alone], out=tmp_path / "run")
    assert run.metrics["things"]["n_things"] == len(run.test_rows) // OF_ONE
    assert run.metrics["mean_average_precision"] == pytest.approx(
        alone[0].metrics["mean_average_precision"], abs=0.05
    )
    assert run.record.thing_thresholds is not None
    # Left-out answers of things were not kept, so that things had no sets.
    found = evaluate(run.folder, coverage=0.8)
    assert found["things"]["label_sets"]["n_left_out"] < found["label_sets"]["n_left_out"]
    other = train(labels, out=tmp_path / "other", **options(answer_from="maximum"))
    with pytest.raises(InputError, match=r"differ in the answers of things: log-probabilities and maximum"):
        blend([alone[0].folder, other.folder], out=tmp_path / "no")


def test_runs_of_numbers_are_not_blended(numbers: Path, tmp_path: Path) -> None:
    runs = [
        train(numbers, out=tmp_path / head, **options(head=head, target="age")) for head in ("ridge", "knn")
    ]
    with pytest.raises(InputError, match=r"--task regression, and blend weighs .*with --fusion join"):
        blend([run.folder for run in runs], out=tmp_path / "run")


def test_things_with_several_label_sets_are_refused(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"by .* with images of different targets, for instance"):
        train(labels, out=tmp_path / "run", **options(answer_by=r"(\d)\.png$"))


def test_labels_of_things_are_the_mean_of_log_odds() -> None:
    things = Things.of(["a", "b", "a"])
    values = np.array([[0.9, 0.0], [0.2, 0.4], [0.2, 0.5]])
    found = things.answers(values, task="multilabel")
    assert found[0, 0] == pytest.approx(expit((logit(0.9) + logit(0.2)) / 2))
    # One image that rules a label out does not do so for all.
    assert 0 < found[0, 1] < 0.01
    np.testing.assert_allclose(found[1], values[1])
    # Odds of a label and of its absence are one answer: the complement is answered by the complement.
    np.testing.assert_allclose(things.answers(1 - values, task="multilabel"), 1 - found, atol=1e-9)
    np.testing.assert_array_equal(
        things.answers(values, task="multilabel", way="maximum"), [[0.9, 0.5], [0.2, 0.4]]
    )


def test_one_answer_of_a_thing_counts_in_its_threshold() -> None:
    """Five things with the label and five without are told apart at one half, of how many images ever."""
    values = np.repeat(np.linspace(0.05, 0.95, 10), [1, 9, 1, 1, 1, 1, 1, 1, 30, 1])[:, None]
    said = Said(
        task="multilabel", names=["x"], values=values, truth=(values > 0.5).astype(float),
        rows=np.arange(len(values)), things=[f"{value:.2f}" for value in values[:, 0]],
    )  # fmt: skip
    found = said.thing_thresholds(ThresholdRule("f1"))
    assert found is not None
    assert found["x"] == pytest.approx(0.5)
    few = Said(
        task="multilabel", names=["x"], values=values, truth=(values > 0.9).astype(float),
        rows=np.arange(len(values)), things=[f"{value:.2f}" for value in values[:, 0]],
    )  # fmt: skip
    assert few.thing_thresholds(ThresholdRule("f1")) == {"x": 0.5}
    kept = said.kept()
    assert isinstance(kept, LeftOut)
    assert kept.of_things is not None
    # Each thing with the label stands there once.
    np.testing.assert_allclose(kept.of_things.likelihood, np.linspace(0.55, 0.95, 5))
