"""The head of docs/develop/add-a-head.md, added as that page says, through every command that knows heads."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from house import ROOT
from shapes import MODEL, save_shapes
from sklearn.datasets import load_iris
from sklearn.neighbors import NearestCentroid
from toy_head import TOY, ToyClassifier

from toptune.extract import extract
from toptune.store import InputError
from toptune.train import Run, load_head, make_head, train
from toptune.train.heads.kinds import KINDS

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "toy", TOY)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored features of images, three of which have a wrong label: no head is ever sure."""
    folder = tmp_path_factory.mktemp("toy")
    save_shapes(folder / "photos", per_class=12)
    for number, file in enumerate(sorted((folder / "photos" / "disc").iterdir())):
        if number % 4 == 0:
            file.rename(folder / "photos" / "square" / f"wrong-{number}.png")
    extract(folder / "photos", model=MODEL, store=folder / "store", precision="fp32")
    return folder


def test_the_page_shows_this_code() -> None:
    page = (ROOT / "docs/develop/add-a-head.md").read_text(encoding="utf-8")
    code = (ROOT / "tests/toy_head.py").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        assert block in code, block


def test_without_drawing_it_is_the_nearest_centroid() -> None:
    X, y = load_iris(return_X_y=True)
    ours = ToyClassifier(share=0.0, random_state=0).fit(X, y)
    assert (ours.predict(X) == NearestCentroid().fit(X, y).predict(X)).all()


@pytest.mark.usefixtures("toy")
def test_it_is_made_saved_and_loaded_by_name(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    head = make_head("toy", params={"share": [0.0, 0.5]}).fit(X, y)
    head.save(tmp_path)
    loaded = load_head(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
    with pytest.raises(InputError, match="head 'toy' has no parameter 'shares'; did you mean 'share'"):
        make_head("toy", params={"shares": 1})
    with pytest.raises(InputError, match=r"head 'toys' is unknown; did you mean 'toy'"):
        make_head("toys")
    with pytest.raises(InputError, match="head 'toy' cannot weigh classes"):
        make_head("toy", class_weight="balanced")


@pytest.mark.usefixtures("toy")
def test_the_command_line_trains_and_exports_it(photos: Path, tmp_path: Path, run_cli: Cli) -> None:
    stored = ("--store", str(photos / "store"), "--dataset", "photos", "--model", MODEL, "--cv", "3")
    code, _, err = run_cli("train", *stored, "--head", "toy", "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["head"] == "toy"
    code, _, err = run_cli("export", str(tmp_path / "run"), "--out", str(tmp_path / "toy.pt2"))
    assert code == 0, err
    assert Run.load(tmp_path / "run").head.name == "toy"


@pytest.mark.usefixtures("toy")
def test_auto_tries_it_in_its_place(photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "photos", "model": MODEL, "cv": 3}
    # The first head is tried whatever the budget; the others do not fit into it.
    run = train(photos / "store", head="auto", budget=1e-3, out=tmp_path / "run", **options)
    assert run.head.name == "toy"
