"""Runs that give numbers are exported, and their files give what the runs give."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.shapes import MODEL, save_shapes
from toptune.extract import extract
from toptune.train import Run, train
from toptune.train.verdicts.verdicts import Verdict
from toptune.workflows import Classifier, Prediction, export, write_predictions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of shapes with their brightness, which a network can see."""
    folder = tmp_path_factory.mktemp("numbers")
    save_shapes(folder / "photos", per_class=16)
    lines = ["path,brightness,grade"]
    for file in sorted((folder / "photos").rglob("*.png")):
        bright = float(np.asarray(Image.open(file).convert("L")).mean())
        lines.append(f"{file.relative_to(folder)},{bright},{round(bright / 20)}")
    (folder / "photos.csv").write_text("\n".join(lines))
    extract(folder / "photos.csv", store=folder / "store", model=MODEL, layers="last", precision="fp32")
    return folder


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("falkon", {"target": "brightness,grade"}),
        ("ridge", {"target": "grade", "ordinal": True}),
    ],
)
def test_an_exported_file_gives_the_numbers_of_the_run(
    folder: Path, tmp_path: Path, head: str, options: dict[str, Any]
) -> None:
    run = train(folder / "store", dataset="photos", out=tmp_path / "run", head=head, cv=3, **options)
    report = export(tmp_path / "run", tmp_path / "run.pt2", check=folder / "photos")
    assert report.check.what == "predictions"
    assert report.check.difference < 1e-4
    network: Any = torch.export.load(tmp_path / "run.pt2").module()
    shape = report.inputs[0]["shape"][1:]
    found = network(torch.zeros(2, *shape))
    assert list(found) == ["predictions"]
    assert found["predictions"].shape == (2, len(run.classes))
    if run.record.options["ordinal"]:
        np.testing.assert_array_equal(found["predictions"], found["predictions"].round())
    card = (tmp_path / "run.pt2.md").read_text()
    assert f"Predicts {len(run.classes)} number" in card
    assert "- r2: " in card
    assert Run.load(tmp_path / "run").record.task == "regression"
    (answer,) = Classifier.load(tmp_path / "run").predict([folder / "photos" / "disc" / "000.png"])
    assert answer.confidence is None
    assert answer.targets is not None
    assert set(answer.targets) == set(run.classes)
    assert answer.to_dict()["targets"] == dict(answer.targets)
    assert str(answer.label).startswith(f"{run.classes[0]}=")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_numbers_far_below_one_are_written_whole(form: str) -> None:
    stream = io.StringIO()
    prediction = Prediction(
        "a.png", "dose=1.25e-07", probabilities={"dose": 1.25e-7}, targets={"dose": 1.25e-7},
        verdict=Verdict(novelty=1 / 3, intervals={"dose": (1e-8, None)}),
    )  # fmt: skip
    write_predictions([prediction], stream, form=form, columns=["dose"])
    if form == "csv":
        names, cells = csv.reader(io.StringIO(stream.getvalue()))
        assert names == ["path", "label", "confidence", "novelty", "dose_low", "dose_high", "dose"]
        assert cells == ["a.png", "dose=1.25e-07", "", "0.3333", "1e-08", "", "1.25e-07"]
    else:
        row = json.loads(stream.getvalue())
        assert row["novelty"] == 0.3333
        assert (row["dose_low"], row["dose_high"]) == (1e-8, None)
        assert row["targets"] == row["probabilities"] == {"dose": 1.25e-7}


def test_answers_that_are_not_ranked_have_no_top(
    folder: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    train(folder / "store", dataset="photos", out=tmp_path / "run", head="ridge", cv=3, target="grade")
    code, _, err = run_cli("predict", tmp_path / "run", folder / "photos" / "disc" / "000.png", "--top", 2)
    assert code == 2
    assert "run of --task regression, whose answers are not ranked" in " ".join(err.split())
