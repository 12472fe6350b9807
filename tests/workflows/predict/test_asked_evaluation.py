"""`evaluate` measures sets of labels, novelty, things, trees and another data set."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shapes import MODEL, SHAPES, save_shapes

from toptune.errors import InputError
from toptune.extract import extract
from toptune.train import train
from toptune.workflows import evaluate

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    extract(save_shapes(folder / "photos"), model=MODEL, store=folder / "store")
    rng = np.random.default_rng(0)
    (folder / "noise").mkdir()
    for number in range(20):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "noise" / f"{number}.png")
    extract(folder / "noise", model=MODEL, store=folder / "store")
    train(folder / "store", dataset="photos", model=MODEL, head="ridge", out=folder / "run", cv=3)
    (folder / "tree.csv").write_text("".join(f"{name},shape\n" for name in SHAPES) + "shape,\n")
    return folder


def test_what_was_asked_is_measured_on_stored_features_and_on_images(folder: Path, run_cli: Cli) -> None:
    asked: dict[str, Any] = {
        "coverage": 0.9, "novelty": True, "abstain_above": 0.9, "class_tree": folder / "tree.csv",
        "back_off": 0.8, "answer_by": r"^([^/]+)/",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"the run was trained without things"):
        evaluate(folder / "run", **asked)
    del asked["coverage"]
    stored = evaluate(folder / "run", split="all", **asked)
    images = evaluate(folder / "run", data=folder / "photos", **asked)
    assert stored["accuracy"] == pytest.approx(images["accuracy"])
    for key in ("levels", "back_off", "novelty", "things"):
        assert json.dumps(stored[key], sort_keys=True).count(":") == json.dumps(images[key]).count(":")
    assert stored["things"]["n_things"] == len(SHAPES)
    assert stored["things"]["accuracy"] == 1
    assert [level["accuracy"] for level in stored["levels"]] == [1, pytest.approx(stored["accuracy"])]
    assert stored["novelty"]["n_abstained"] == pytest.approx(images["novelty"]["n_abstained"], abs=3)
    assert 0 < stored["novelty"]["n_abstained"] < stored["n_test"] / 2


def test_coverage_and_sizes_of_sets_are_measured(folder: Path, run_cli: Cli) -> None:
    found = evaluate(folder / "run", coverage=0.9)["label_sets"]
    again = evaluate(folder / "run", coverage=0.5, split="test")["label_sets"]
    assert again["mean_size"] <= found["mean_size"]
    assert sum(found["sizes"].values()) == evaluate(folder / "run")["n_test"]
    assert found["sizes"].get("0", 0) == found["n_empty"]
    code, out, _ = run_cli("evaluate", folder / "run", "--coverage", "0.9")
    assert code == 0
    assert f"sets of labels: coverage {found['coverage']:.4f} of 0.9 asked" in out


@pytest.mark.parametrize("way", ["log-probabilities", "features", "maximum"])
def test_one_answer_a_thing_is_measured_alike_on_features_and_images(way: str, folder: Path) -> None:
    asked: dict[str, Any] = {"answer_by": r"(\d)\.png$", "answer_from": way}
    # Each digit ends the names of images of all shapes.
    with pytest.raises(InputError, match=r"things of 10 by .* with images of different labels") as raised:
        evaluate(folder / "run", split="all", **asked)
    assert raised.value.option == "answer_by"
    asked["answer_by"] = r"^([^/]+/\d\d)"
    stored = evaluate(folder / "run", split="all", **asked)["things"]
    images = evaluate(folder / "run", data=folder / "photos", **asked)["things"]
    assert stored["n_things"] == images["n_things"]
    assert stored["log_loss"] == pytest.approx(images["log_loss"], rel=0.02)


def test_images_of_another_data_set_are_told_from_the_own(folder: Path, run_cli: Cli) -> None:
    found = evaluate(folder / "run", ood="noise")["detection"]
    assert set(found["auroc"]) == {"novelty", "confidence", "mahalanobis", "nearest_neighbors"}
    assert found["auroc"]["novelty"] > 0.9
    assert found["auroc"]["mahalanobis"] > 0.9
    assert found["n_outside"] == 20
    with pytest.raises(InputError, match=r"is a stored data set, .* extract those of --data"):
        evaluate(folder / "run", data=folder / "photos", ood="noise")
    code, out, _ = run_cli("evaluate", folder / "run", "--ood", "noise")
    assert code == 0
    assert "images of noise: AUROC novelty" in out


def test_a_prior_moves_the_figures(folder: Path, tmp_path: Path) -> None:
    lines = [f"{name},{int(number == 0)}" for number, name in enumerate(sorted(SHAPES))]
    (tmp_path / "prior.csv").write_text("\n".join(lines))
    found = evaluate(folder / "run", prior=tmp_path / "prior.csv")
    assert found["accuracy"] == pytest.approx(1 / len(SHAPES), abs=0.1)
    assert np.array(found["confusion_matrix"])[:, 1:].sum() == 0


def test_numbers_have_intervals_and_images_without_an_answer(tmp_path: Path, run_cli: Cli) -> None:
    save_shapes(tmp_path / "photos")
    files = sorted((tmp_path / "photos").rglob("*.png"))
    bright = [f"{file},{np.asarray(Image.open(file).convert('L')).mean()}" for file in files]
    lines = ["path,brightness", *bright]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    extract(tmp_path / "list.csv", model=MODEL, store=tmp_path / "store", layers="last")
    train(tmp_path / "store", dataset="list", model=MODEL, out=tmp_path / "run", head="ridge", cv=3,
          target="brightness")  # fmt: skip
    asked = ["--coverage", "0.8", "--novelty", "--abstain-above", "0.5", "--format", "jsonl"]
    code, out, err = run_cli("predict", tmp_path / "run", tmp_path / "list.csv", *asked)
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    half = evaluate(tmp_path / "run", coverage=0.8)["prediction_intervals"]["targets"]["brightness"][
        "half_width"
    ]
    for each in found:
        assert each["brightness_high"] - each["brightness_low"] == pytest.approx(2 * half, abs=1e-3)
        assert (each["label"] is None) == each["abstained"] == (each["novelty"] > 0.5)
    assert 0 < sum(each["abstained"] for each in found) < len(found)
    # Images that are read say what stored features do, of pairs of equal images too.
    shutil.copytree(tmp_path / "photos", tmp_path / "copies")
    pairs = [f"{line},{at}" for at, line in enumerate(bright)]
    copies = [line.replace("/photos/", "/copies/") for line in pairs]
    twice = [lines[0] + ",pair", *pairs, *copies]
    (tmp_path / "twice.csv").write_text("\n".join(twice))
    asked_of: dict[str, Any] = {"coverage": 0.8, "novelty": True}
    images = evaluate(tmp_path / "run", data=tmp_path / "twice.csv", split="all", **asked_of)
    stored = evaluate(tmp_path / "run", split="all", **asked_of)
    for key in ("prediction_intervals", "novelty"):
        assert json.dumps(images[key]).count(":") == json.dumps(stored[key]).count(":")
    held = images["prediction_intervals"]["targets"]["brightness"]["coverage"]
    assert held == pytest.approx(
        stored["prediction_intervals"]["targets"]["brightness"]["coverage"], abs=0.02
    )
    for way in ("numbers", "features"):
        things = evaluate(tmp_path / "run", data=tmp_path / "twice.csv", answer_by="pair", answer_from=way)
        assert things["things"]["n_things"] == len(bright)
        assert things["things"]["rmse"] == pytest.approx(images["rmse"], rel=1e-3)
    by = ["--answer-by", r"([^/]+)/[^/]+$", "--answer-from", "numbers"]
    code, out, err = run_cli("predict", tmp_path / "run", tmp_path / "twice.csv", *by, "--json")
    assert code == 0, err
    of_shapes = json.loads(out)["predictions"]
    assert len(of_shapes) == len(SHAPES)
    assert sum(each["n_images"] for each in of_shapes) == 2 * len(files)
    truth = [np.mean([float(line.split(",")[1]) for line in bright if f"/{each['path']}/" in line])
             for each in of_shapes]  # fmt: skip
    assert [each["targets"]["brightness"] for each in of_shapes] == pytest.approx(truth, rel=0.1)
    code, _, err = run_cli("predict", tmp_path / "run", tmp_path / "twice.csv", "--answer-by", "pair",
                           "--coverage", "0.8")  # fmt: skip
    assert code == 2
    assert (
        "intervals of things need left-out answers of things, and the run was trained without things" in err
    )
