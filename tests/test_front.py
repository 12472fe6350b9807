"""What `import toptune` offers, and how its values and errors show."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from house import ROOT

import toptune
from toptune import Classifier, FalkonClassifier, FeatureStore, InputError, load_features
from toptune.extract import extract
from toptune.train import train

MODEL = "resnet10t.toptune_glyphs"


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert toptune.__version__ == version("toptune")
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "toptune.__version__"}
    assert f"## {toptune.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_front_offers_what_the_rooms_offer() -> None:
    rooms = (toptune.store, toptune.extract, toptune.train, toptune.workflows)
    for name in {*dir(toptune)} - {"store", "extract", "train", "workflows"}:
        offered = [room for room in rooms if name in dir(room)]
        assert offered, f"no room offers {name}"
        assert all(getattr(room, name) is getattr(toptune, name) for room in offered)
    # The room and its function have one name; the function is had from the room.
    assert toptune.extract.extract is extract
    assert toptune.train.train is train
    assert FalkonClassifier is toptune.train.FalkonClassifier


@pytest.mark.usefixtures("_here")
def test_a_classifier_in_two_lines(photos: Path) -> None:
    """Nothing but what must be said: the only data set and model of the store are taken."""
    summary = extract(photos, model=MODEL, store="features")
    run = train("features", out="run", head="ridge")
    assert run.metrics["accuracy"] > 0.8
    digest = summary.digest[:8]
    shown = rf"head='ridge', dataset='photos', model='{MODEL}(@{digest})?', accuracy=[01][.\d]*, n_train=\d+"
    assert re.fullmatch(rf"Run\('{run.folder}', {shown}\)", repr(run))
    assert repr(summary).startswith(f"ExtractSummary('photos', model='{MODEL}@{digest}', rows=36, failed=0")
    store = FeatureStore.open("features")
    assert repr(store.features(MODEL, "photos")) == (
        f"FeatureCache('{MODEL}@{digest}', dataset='photos', n_rows=36)"
    )
    X, rows = load_features(store, "photos", MODEL, layers="last")
    assert X.shape == (36, 256)
    assert (rows["label"] == "disc").sum() == 12

    classifier = Classifier.load("run")
    assert repr(classifier) == f"Classifier('run', model='{MODEL}', classes=['cross', 'disc', 'square'])"
    path = next(iter(sorted((photos / "disc").iterdir())))
    by_path = classifier.predict(path)
    assert re.fullmatch(rf"Prediction\('{path}', label='disc', confidence=0\.\d+\)", repr(by_path[0]))

    extract(photos, dataset="others", model=MODEL, store="features", layers="last")
    with pytest.raises(InputError, match="holds 2 data sets; choose one with --dataset: others, photos"):
        train("features", out="other")
    assert not Path("other").exists()


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_error_is_one_sentence_in_a_notebook() -> None:
    """IPython shows what this method returns in the place of a traceback."""
    error = InputError("layers is ''; name at least one")
    assert error._render_traceback_() == ["InputError: layers is ''; name at least one [TT901]"]


def test_long_lists_are_short_in_a_repr() -> None:
    from toptune.text import repr_line

    assert repr_line(np.float64(0), "a", classes=list("abcd"), loss=0.123456, none=None) == (
        "float64('a', classes=['a', 'b', 'c', ... 4], loss=0.1235)"
    )
