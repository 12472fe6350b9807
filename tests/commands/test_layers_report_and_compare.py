"""The commands that compare layers and heads, on images through the embedded backbone."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from shapes import MODEL, save_shapes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all layers, one of them with a second pooling."""
    from toptune.extract import extract

    folder = tmp_path_factory.mktemp("stored")
    photos = save_shapes(folder / "photos", per_class=14)
    extract(photos, model=MODEL, store=folder / "store", layers="all")
    extract(photos, model=MODEL, store=folder / "store", layers="layer2", pooling="max")
    return folder / "store"


def common(store: Path) -> tuple[object, ...]:
    return ("--store", store, "--dataset", "photos", "--model", MODEL, "--cv", "3")


def test_layers_report(run_cli: Run, stored: Path, tmp_path: Path) -> None:
    code, out, err = run_cli("layers-report", *common(stored), "--out", tmp_path / "layers")
    assert code == 0, err
    assert "layer2.max" in out
    assert "greedy, backward" in out
    with Image.open(tmp_path / "layers" / "layers.png") as image:
        assert image.width > 500
    code, out, _ = run_cli(
        "layers-report",
        *common(stored),
        "--pooling",
        "mean",
        "--short-list",
        "0",
        "--json",
        "--out",
        tmp_path / "m",
    )
    report = json.loads(out)
    assert code == 0
    assert report["decided_by"] == "ridge"
    alone = [choice["arrays"] for choice in report["choices"] if choice["path"] == "alone"]
    taps = ("act1", "layer1", "layer2", "layer3", "layer4")
    assert alone == [*([f"{tap}.mean"] for tap in taps), ["last.none"]]
    with (tmp_path / "m" / "layer_search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report["choices"])
    assert {row["is_chosen"] for row in rows if row["arrays"] == " ".join(report["chosen"]["arrays"])} == {
        "True"
    }
    assert run_cli("layers-report", *common(stored), "--out", tmp_path / "m")[0] == 2
    # What it suggests is what train takes.
    suggested = ",".join(report["chosen"]["arrays"])
    code, out, err = run_cli(
        "train", *common(stored), "--layers", suggested, "--out", tmp_path / "run", "--json"
    )
    assert code == 0, err
    assert sorted(json.loads(out)["arrays"]) == sorted(report["chosen"]["arrays"])


def test_train_chooses_layers_on_few_shots(run_cli: Run, stored: Path, tmp_path: Path) -> None:
    code, out, err = run_cli(
        "train",
        *common(stored),
        "--layers",
        "auto",
        "--shots",
        "6",
        "--head",
        "ridge",
        "--out",
        tmp_path / "run",
    )
    assert code == 0, err
    assert "macro f1" in out
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (config["split"]["n_train"], config["options"]["layers"]) == (18, "auto")
    assert [each["name"] for each in config["arrays"]] == config["layer_search"]["chosen"]["arrays"]
    assert (tmp_path / "run" / "layer_search.csv").is_file()
    assert run_cli("train", *common(stored), "--shots", "99", "--out", tmp_path / "no")[0] == 2


def test_compare(run_cli: Run, stored: Path, tmp_path: Path) -> None:
    command = ("compare", *common(stored), "--heads", "ridge,knn", "--seeds", "2", "--train-size", "12")
    code, out, err = run_cli(*command, "--out", tmp_path / "compare")
    assert code == 0, err
    assert "ridge - knn" in out
    code, out, _ = run_cli(*command, "--out", tmp_path / "compare", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["notes"]["trainings"] == 4
    assert report["heads"]["ridge"]["accuracy"]["n"] == 2
    assert [row["n_train"] for row in report["rows"]] == [12] * 4
    with (tmp_path / "compare" / "compare.csv").open() as file:
        assert [row["head"] for row in csv.DictReader(file)] == ["ridge", "knn", "ridge", "knn"]


def test_compare_says_at_the_end_what_the_runs_note(run_cli: Run, stored: Path, tmp_path: Path) -> None:
    command = (
        "compare",
        *common(stored),
        "--heads",
        "ridge,ncm",
        "--seeds",
        "2",
        "--out",
        tmp_path / "compare",
    )
    code, out, err = run_cli(*command, "--params", '{"ridge": {"penalty": [1e3, 1e4]}}')
    assert code == 0, err
    assert "\nnotes of 2 of 4 trainings, whole in each one's run.json" in out
    assert "\n  2 x ridge: the chosen penalty 1e+03 is at the lower edge of its grid" in out
    notes = json.loads((tmp_path / "compare" / "compare.json").read_text())["notes"]
    assert (notes["trainings"], notes["noted"]) == (4, 2)
    assert (notes["different"][0]["methods"], notes["different"][0]["trainings"]) == (["ridge"], 2)
