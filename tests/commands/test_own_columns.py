"""Columns that the user names: paths and labels at extraction, other labels at training, and what is said."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import MODEL

from toptune.train import update_run

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def table(photos: Path) -> Path:
    """A list of the images with two columns of labels, as a spreadsheet of another country writes it."""
    lines = ["Bild;Form;Größe;Labels"]
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        size = "" if number % 9 == 8 else f" {'klein' if number % 2 else 'groß'}"
        lines.append(f"{file.relative_to(photos.parent)};{file.parent.name};{size};")
    (photos.parent / "list.csv").write_text("\n".join(lines), encoding="utf-16")
    return photos.parent / "list.csv"


def test_named_columns_from_extraction_to_evaluation(
    run_cli: Run, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, out = tmp_path / "store", tmp_path / "run"
    extract = ("extract", table, "--model", MODEL, "--store", store)
    code, _, err = run_cli(*extract)
    assert code == 2
    assert (
        "its columns are Bild, Form, Größe, Labels: name the one of the images' files with --path-col" in err
    )
    code, text, _ = run_cli(*extract, "--path-column", "Bild", "--label-column", "Form")
    assert (code, "3 classes" in text, "';' between its columns" in caplog.text) == (0, True, True)
    stored = ("--store", store, "--dataset", "list", "--model", MODEL)
    train = ("train", *stored, "--centers", "8", "--cv", "3", "--label-column")
    code, _, err = run_cli(*train, "Farbe", "--out", out)
    assert code == 2
    assert "no column 'Farbe' can be the label; choose one of Form, Größe" in err
    assert run_cli(*train, "Größe", "--out", out, "--json")[0] == 0
    record = json.loads((out / "run.json").read_text())
    assert [*record["classes"]] == ["groß", "klein"]
    assert record["split"]["n_unlabelled"] == 4
    metrics = json.loads((out / "metrics.json").read_text())
    code, text, _ = run_cli("evaluate", out, "--json")
    assert (code, json.loads(text)["accuracy"]) == (0, metrics["accuracy"])
    code, text, _ = run_cli("evaluate", out, "--dataset", "list", "--split", "all", "--json")
    assert (code, json.loads(text)["n_test"]) == (0, 32)
    code, text, _ = run_cli(
        "evaluate", out, "--data", table, "--path-column", "Bild", "--label-column", "Größe", "--json"
    )
    assert (code, json.loads(text)["n_test"]) == (0, 32)
    forgotten = sorted(str(file.relative_to(tmp_path)) for file in (tmp_path / "photos").rglob("*.png"))[0]
    newer = update_run(out, out=tmp_path / "newer", forget=[forgotten])
    assert set(newer.record.classes) == {"groß", "klein"}
    assert sum(newer.record.classes.values()) + len(newer.test_rows) == 31


@pytest.mark.parametrize("command", ["train", "compare", "layers-report", "finetune", "advise", "study"])
def test_who_splits_by_labels_takes_the_column(run_cli: Run, command: str) -> None:
    assert ("--label-column" in run_cli(command, "--help")[1]) == (command != "study")


def test_labels_that_look_like_numbers_are_told(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    lines = ["path,label", *(f"{file},{number % 3}.5" for number, file in enumerate(files))]
    (tmp_path / "ages.csv").write_text("\n".join(lines))
    stored = ("--model", MODEL, "--store", tmp_path / "store")
    words = "labels look like numbers (0.5 to 2.5, 3 values)"
    code, text, _ = run_cli("extract", tmp_path / "ages.csv", *stored)
    assert (code, words in text) == (0, True)
    code, text, _ = run_cli(
        "train", "--dataset", "ages", *stored, "--head", "ridge", "--cv", "3", "--out", tmp_path / "run"
    )
    assert (code, words in text) == (0, True)


def test_unlabeled_images_of_val_may_be_dropped(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "train")
    (tmp_path / "data").mkdir()
    (tmp_path / "train").rename(tmp_path / "data" / "train")
    (tmp_path / "data" / "val").mkdir()
    (tmp_path / "data" / "train" / "disc" / "000.png").rename(tmp_path / "data" / "val" / "x.png")
    store = ("--store", tmp_path / "store", "--model", MODEL)
    assert run_cli("extract", tmp_path / "data", "--dataset", "d", *store)[0] == 0
    train = ("train", "--dataset", "d", *store, "--head", "ridge", "--cv", "3", "--out", tmp_path / "run")
    code, _, err = run_cli(*train)
    assert code == 2
    assert "all of them are of the split val, which trains by default: leave it out with --val drop" in err
    assert run_cli(*train, "--val", "drop")[0] == 0
