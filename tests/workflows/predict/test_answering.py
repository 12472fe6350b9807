"""`predict` says more than labels: sets, novelty, other frequencies, things, classes of a tree."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import MODEL, SHAPES, save_shapes

from toptune.errors import InputError
from toptune.extract import extract
from toptune.train import train
from toptune.workflows import Classifier
from toptune.workflows.deploy.check import probabilities_of

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answering")
    extract(save_shapes(folder / "photos"), model=MODEL, store=folder / "store")
    train(folder / "store", dataset="photos", model=MODEL, head="ridge", out=folder / "run", cv=3)
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.load(folder / "run")


@pytest.fixture(scope="module")
def images(folder: Path) -> list[Path]:
    return sorted((folder / "photos").rglob("*.png"))[::4]


def test_sets_hold_the_classes_that_reach_the_threshold(classifier: Classifier, images: list[Path]) -> None:
    found = classifier.predict(images, coverage=0.5)
    wide = classifier.predict(images, coverage=0.95)
    for narrow, all_but_one in zip(found, wide, strict=True):
        assert narrow.verdict is not None
        assert all_but_one.verdict is not None
        assert narrow.verdict.label_set is not None
        assert all_but_one.verdict.label_set is not None
        assert set(narrow.verdict.label_set) <= set(all_but_one.verdict.label_set)
    sure = [each.confidence for each in found if each.verdict and each.verdict.label_set]
    unsure = [each.confidence for each in found if each.verdict and not each.verdict.label_set]
    assert min(filter(None, sure)) >= max([each for each in unsure if each is not None], default=0)


def test_an_image_unlike_the_training_images_is_new_and_gets_no_label(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    *known, noise = classifier.predict([*images, tmp_path / "noise.png"], abstain_above=0.99)
    assert noise.verdict is not None
    assert noise.verdict.novelty is not None
    assert noise.verdict.novelty > 0.99
    assert noise.verdict.abstained
    assert (noise.label, noise.confidence) == (None, None)
    assert set(noise.probabilities) == set(SHAPES)
    novelty = [each.verdict.novelty for each in known if each.verdict and each.verdict.novelty is not None]
    assert np.median(novelty) < 0.8
    told = classifier.predict(tmp_path / "noise.png", novelty=True)[0]
    assert told.label is not None
    assert told.verdict is not None
    assert told.verdict.abstained is None


def test_a_prior_of_one_class_is_believed(classifier: Classifier, images: list[Path], tmp_path: Path) -> None:
    first, *others = classifier.classes
    lines = [f"{first},1", *(f"{name},0" for name in others)]
    (tmp_path / "prior.csv").write_text("\n".join(["class,frequency", *lines]))
    assert {each.label for each in classifier.predict(images, prior=tmp_path / "prior.csv")} == {first}
    with pytest.raises(InputError, match=r"coverage would not hold"):
        classifier.predict(images, prior=tmp_path / "prior.csv", coverage=0.9)


@pytest.mark.parametrize("way", ["log-probabilities", "features", "maximum"])
def test_images_of_one_thing_get_one_answer(
    way: str, classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "disc" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    found = classifier.predict([*images, broken], answer_by=r"([^/]+)/[^/]+$", answer_from=way, batch_size=5)
    *things, failed = found
    assert [each.path for each in things] == list(dict.fromkeys(path.parent.name for path in images))
    assert [each.label for each in things] == [each.path for each in things]
    counts = [sum(path.parent.name == each.path for path in images) for each in things]
    assert [each.verdict.n_images for each in things if each.verdict] == counts
    assert failed.path == str(broken)
    assert failed.error
    # One image is answered as without things.
    (alone,) = classifier.predict(images[:1], answer_by=r"([^/]+)/[^/]+$", answer_from=way)
    assert alone.probabilities == pytest.approx(classifier.predict(images[0])[0].probabilities, rel=1e-5)


def test_things_are_told_by_the_column_of_a_list(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    rows = "".join(f"{path},p{number % 2}\n" for number, path in enumerate(images))
    (tmp_path / "list.csv").write_text(f"path,patient\n{rows}")
    found = classifier.predict(tmp_path / "list.csv", answer_by="patient")
    assert [each.path for each in found] == ["p0", "p1"]
    with pytest.raises(InputError, match=r"'patience' names no thing for .* did you mean 'patient'"):
        classifier.predict(tmp_path / "list.csv", answer_by="patience")
    (tmp_path / "gap.csv").write_text(f"path,patient\n{rows}".replace("p1", "", 1))
    # It was asked whether 'patient' was meant by 'patient'.
    with pytest.raises(InputError, match=r"column 'patient' names no thing for 1 image .*; fill the"):
        classifier.predict(tmp_path / "gap.csv", answer_by="patient")


def test_a_file_is_compared_by_images_whatever_the_run_answers_for(
    folder: Path, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    train(folder / "store", dataset="photos", model=MODEL, head="ridge", out=folder / "things", cv=None,
          penalty=1.0, answer_by=r"(.+)[.]png|image")  # fmt: skip
    caplog.clear()
    found = probabilities_of(Classifier.load(folder / "things"), [path.read_bytes() for path in images])
    assert found.shape == (len(images), len(SHAPES))
    # Encoded images have no names, and it was told that they name no thing.
    assert not caplog.messages


def test_a_class_of_a_tree_is_answered_that_is_sure_enough(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    lines = [f"{name},shape" for name in classifier.classes]
    (tmp_path / "tree.csv").write_text("\n".join(["class,parent", *lines, "shape,"]))
    found = classifier.predict(images, class_tree=tmp_path / "tree.csv", back_off=0.9)
    for each in found:
        assert each.verdict is not None
        sure = each.confidence is not None and each.confidence >= 0.9
        assert each.verdict.back_off is not None
        assert each.verdict.back_off[0] == (each.label if sure else "shape")
    with pytest.raises(InputError, match=r"trained without one; give the file of parents"):
        classifier.predict(images, back_off=0.9)
    with pytest.raises(InputError, match=r"no effect on predictions without back_off"):
        classifier.predict(images, class_tree=tmp_path / "tree.csv")


def test_what_was_asked_stands_in_csv_json_lines_and_json(
    folder: Path, images: list[Path], tmp_path: Path, run_cli: Cli
) -> None:
    (tmp_path / "tree.csv").write_text("".join(f"{name},shape\n" for name in SHAPES) + "shape,\n")
    asked = [
        "predict", str(folder / "run"), *map(str, images[:3]), "--coverage", "0.9", "--novelty",
        "--class-tree", str(tmp_path / "tree.csv"), "--back-off", "0.9",
    ]  # fmt: skip
    code, out, _ = run_cli(*asked)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == [
        "path", "label", "confidence", "label_set", "novelty", "back_off", "back_off_confidence"
    ]  # fmt: skip
    code, out, _ = run_cli(*asked, "--format", "jsonl")
    lines = [json.loads(line) for line in out.splitlines()]
    assert ["|".join(line["label_set"]) for line in lines] == [row["label_set"] for row in rows]
    code, out, _ = run_cli(*asked, "--json")
    answer = json.loads(out)
    assert [f"{each['novelty']:.4f}" for each in answer["predictions"]] == [row["novelty"] for row in rows]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--coverage", "1"], "coverage is 1; it must lie above 0 and below 1"),
        (["--coverage", "-0.5"], "coverage is -0.5; it must lie above 0"),
        (["--abstain-above", "1.5"], "abstain_above is 1.5; it must lie from 0 to below 1"),
        (["--back-off", "0"], "back_off is 0; it must lie above 0 and be at most 1"),
        (["--answer-from", "mean"], "'mean' is unknown"),
    ],
)
def test_values_out_of_range_are_told(
    asked: list[str], told: str, folder: Path, images: list[Path], run_cli: Cli
) -> None:
    code, _, err = run_cli("predict", str(folder / "run"), str(images[0]), *asked)
    assert code == 2
    assert told in " ".join(err.split())


def test_a_run_without_what_is_needed_says_which_command_makes_it(
    folder: Path, images: list[Path], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(folder / "run", old)
    content = json.loads((old / "run.json").read_text())
    del content["files"], content["self_sha256"]
    (old / "run.json").write_text(json.dumps(content))
    for name in ("left_out.parquet", "novelty.safetensors"):
        (old / name).unlink()
    with pytest.raises(InputError, match=r"train it again: toptune train --store"):
        Classifier.load(old).predict(images, coverage=0.9)
    with pytest.raises(InputError, match=r"before novelty; train it again: toptune train .* --head ridge"):
        Classifier.load(old).predict(images, novelty=True)
    assert Classifier.load(old).predict(images)[0].label
