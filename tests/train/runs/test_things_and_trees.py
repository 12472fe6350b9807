"""Trainings whose images show things, and whose classes form a tree: rows, records, files and refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toptune.errors import InputError
from toptune.store import FeatureCache, FeatureStore
from toptune.train import load_run, train, update_run
from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.left_out import LeftOut
from toptune.workflows import evaluate

Build = Callable[..., FeatureCache]
N = 120


@pytest.fixture
def store(build: Build, tmp_path: Path) -> Path:
    # Column slide: three images each, of one class.
    build(labels=[f"class {row // 3 % 3}" for row in range(N)])
    return tmp_path / "store"


def options(**more: Any) -> dict[str, Any]:
    return {"dataset": "pets", "model": "tiny.demo", "head": "ridge", "cv": 3} | more


def test_images_of_a_thing_stay_together_and_are_answered_together(store: Path, tmp_path: Path) -> None:
    run = train(store, out=tmp_path / "run", **options(answer_by="slide"))
    train_things, test_things = (
        {row // 3 for row in rows.tolist()} for rows in (run.train_rows, run.test_rows)
    )
    assert not train_things & test_things
    assert run.record.options["answer_by"] == "slide"
    said = LeftOut.read(run.folder, advice="train again")
    assert said is not None
    assert said.of_things is not None
    assert said.of_things.n_rows == len(train_things)
    found = evaluate(run.folder, coverage=0.8)
    things = found["things"]
    assert things["n_things"] == len(test_things)
    # The training measures the same, and says it.
    own = load_run(run.folder).metrics["things"]
    assert own == {name: value for name, value in things.items() if name != "label_sets"}
    assert f"{len(test_things)} things by 'slide' from log-probabilities: accuracy" in str(run)
    # Three images of a thing know more than one.
    assert things["log_loss"] < found["log_loss"]
    assert things["label_sets"]["n_left_out"] == len(train_things)
    with pytest.raises(InputError, match=r"was trained with answers from log-probabilities"):
        evaluate(run.folder, coverage=0.8, answer_from="maximum")
    assert evaluate(run.folder, answer_from="features")["things"]["accuracy"] > 0.8


def test_trainings_measure_things_by_means_of_features_and_updates_again(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(store, out=tmp_path / "run", **options(answer_by="slide", answer_from="features"))
    assert run.metrics["things"] == evaluate(run.folder)["things"]
    # Sets of images can be told, and those of things cannot.
    found = evaluate(run.folder, coverage=0.8)
    assert found["label_sets"]["asked"] == 0.8
    assert "label_sets" not in found["things"]
    assert "keeps no left-out answers of things from features [TT515]" in caplog.text
    old = FeatureStore.open(store).features("tiny.demo", "pets").manifest
    gone = [old.ids[row] for row in run.train_rows[:3]]
    newer = update_run(run.folder, out=tmp_path / "newer", forget=gone)
    assert newer.metrics["things"]["n_things"] == run.metrics["things"]["n_things"]
    assert newer.metrics["things"]["log_loss"] == evaluate(newer.folder)["things"]["log_loss"]


def test_several_models_answer_for_things_and_trees(
    two_models: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    two_models()
    (tmp_path / "tree.csv").write_text("".join(f"class {at},top\n" for at in range(3)) + "top,\n")
    # A thing is an image here, because the three images of a folder are of three classes.
    run = train(
        tmp_path / "store", dataset="pets", models=["small", "large"], out=tmp_path / "run", head="ridge",
        cv=3, answer_by=r"(\d+)\.png$", class_tree=str(tmp_path / "tree.csv"),
    )  # fmt: skip
    found = evaluate(run.folder, coverage=0.8, novelty=True)
    assert found["things"]["accuracy"] == pytest.approx(found["accuracy"])
    assert run.metrics["things"]["log_loss"] == pytest.approx(found["things"]["log_loss"])
    assert run.metrics["levels"] == found["levels"]
    assert found["things"]["label_sets"]["coverage"] == pytest.approx(found["label_sets"]["coverage"])
    assert [level["accuracy"] for level in found["levels"]] == [1, pytest.approx(found["accuracy"])]
    assert 0.2 < found["novelty"]["mean"] < 0.8


def test_a_tree_of_columns_or_of_a_file_is_kept_in_the_run(build: Build, tmp_path: Path) -> None:
    build()
    (tmp_path / "tree.csv").write_text("class 0,low\nclass 1,low\nclass 2,\nlow,\n")
    run = train(tmp_path / "store", out=tmp_path / "run", **options(class_tree=str(tmp_path / "tree.csv")))
    tree = ClassTree.read(run.folder, run.classes, advice="train again")
    assert tree is not None
    assert tree.parents == {"class 0": "low", "class 1": "low", "class 2": None, "low": None}
    found = evaluate(run.folder, back_off=0.9)
    assert [level["n_classes"] for level in found["levels"]] == [2, 3]
    assert found["levels"][0]["accuracy"] >= found["accuracy"]
    assert found["levels"][1]["accuracy"] == pytest.approx(found["accuracy"])
    assert run.metrics["levels"] == found["levels"]
    assert "level 0 (2 classes): accuracy" in str(run)
    # The tree of the run is measured without being asked.
    assert evaluate(run.folder)["levels"] == found["levels"]
    assert found["back_off"]["accuracy"] >= found["accuracy"]
    assert load_run(run.folder).record.options["class_tree"] == str(tmp_path / "tree.csv")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"answer_by": "slides"}, r"answer_by 'slides' is no column that was kept .*did you mean 'slide'"),
        ({"answer_from": "maximum"}, r"answer_from is 'maximum' without answer_by"),
        ({"answer_by": "slide", "answer_from": "mean"}, r"'mean' is unknown"),
        ({"answer_by": r"picture (\d)"}, r"things of 10 by .* with images of different labels, for instance"),
        (
            {"answer_by": "slide", "group_by": r"(\d)\.png$"},
            r"has images in the groups '0' and '1' by group_by",
        ),
        ({"class_tree": "genus"}, r"class_tree 'genus' is neither a column that was kept .* nor a file"),
        ({"class_tree": "slide"}, r"gives 'class 0' the parents 'slide 0' and 'slide 3'"),
    ],
)
def test_what_cannot_be_meant_is_told(more: dict[str, Any], told: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        train(store, out=tmp_path / "run", **options(**more))
    assert not (tmp_path / "run").exists()


def test_things_on_both_sides_of_the_split_of_a_data_set_are_told(build: Build, tmp_path: Path) -> None:
    labels = [f"class {row // 3 % 3}" for row in range(N)]
    build(labels=labels, splits=["test" if row % 3 == 0 else "train" for row in range(N)])
    with pytest.raises(
        InputError, match=r"draw another one \(--resplit\), or leave --group-by and --answer-by"
    ):
        train(tmp_path / "store", out=tmp_path / "run", **options(answer_by="slide"))
    run = train(tmp_path / "store", out=tmp_path / "run", **options(answer_by="slide", resplit=True))
    assert not {row // 3 for row in run.train_rows.tolist()} & {row // 3 for row in run.test_rows.tolist()}
    assert np.isin(run.test_rows, run.train_rows).sum() == 0
