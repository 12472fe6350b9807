"""Any scikit-learn classifier by its dotted path: what is taken, what is refused, what may be loaded."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression

from toptune.store import CorruptError, FeatureCache, InputError
from toptune.train import Run, load_head, make_head, train
from toptune.train.heads.skops_files import is_sklearn_class, untrusted_types
from toptune.train.rows.folds import draw_folds

Build = Callable[..., FeatureCache]
Data = tuple[npt.NDArray[np.float64], npt.NDArray[Any], list[str]]
TREES = "sklearn:sklearn.ensemble.ExtraTreesClassifier"
OPTIONS: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3}


@pytest.fixture
def data() -> Data:
    rng = np.random.default_rng(0)
    y = np.array(["ant", "bee", "cat"])[np.arange(90) % 3]
    X = rng.normal(size=(90, 6)) + 2 * rng.normal(size=(3, 6))[np.arange(90) % 3]
    return X, y, [f"id {row}" for row in range(90)]


def test_is_the_estimator_that_was_named(data: Data) -> None:
    X, y, ids = data
    head = make_head(TREES, params={"n_estimators": 15}, seed=4, cv=3).fit(X, y, groups=ids)
    theirs = ExtraTreesClassifier(15, random_state=4).fit(X, y)
    logs = np.log(np.maximum(theirs.predict_proba(X), 1e-4))
    np.testing.assert_allclose(head.decision_function(X), logs)
    classes, codes = np.unique(y, return_inverse=True)
    folds = draw_folds(codes, classes, cv=3, groups=ids).numbers
    predicted = y.copy()
    for fold in range(3):
        left = folds == fold
        predicted[left] = ExtraTreesClassifier(15, random_state=4).fit(X[~left], y[~left]).predict(X[left])
    assert head.report["left_out"]["accuracy"] == pytest.approx((predicted == y).mean())


def test_lists_are_grids_and_lists_in_lists_are_lists(data: Data) -> None:
    X, y, ids = data
    params = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [[4, 3], [5]], "max_iter": 30}
    head = make_head("sklearn:sklearn.neural_network.MLPClassifier", params=params, cv=3).fit(
        X, y, groups=ids
    )
    assert [(row["alpha"], row["hidden_layer_sizes"]) for row in head.table] == [
        (1e-4, [4, 3]), (1e-4, [5]), (1.0, [4, 3]), (1.0, [5]),
    ]  # fmt: skip
    assert sum(row["is_chosen"] for row in head.table) == 1
    assert any("12 fits" in note or "13 fits" in note for note in head.report["warnings"])


@pytest.mark.parametrize(
    "name",
    [
        "ensemble.HistGradientBoostingClassifier",
        "linear_model.RidgeClassifier",
        "naive_bayes.GaussianNB",
        "neighbors.KNeighborsClassifier",
        "neural_network.MLPClassifier",
        "svm.LinearSVC",
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_saved_and_loaded_predicts_the_same(name: str, data: Data, tmp_path: Path) -> None:
    X, y, ids = data
    params = {"max_iter": 20} if "max_iter" in name or "Hist" in name or "MLP" in name else {}
    head = make_head(f"sklearn:sklearn.{name}", params=params, cv=3).fit(X, y, groups=ids)
    probabilities = head.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (head.predict(X) == y).mean() > 0.8
    head.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"head.json", "head.skops"}
    np.testing.assert_array_equal(load_head(tmp_path).predict_proba(X), probabilities)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("sklearn:ExtraTreesClassifier", {}, "names no package"),
        ("sklearn:sklearn.nonsense.Trees", {}, r"'sklearn\.nonsense' cannot be imported"),
        ("sklearn:sklearn.ensemble.Trees", {}, "sklearn.ensemble has no class 'Trees'"),
        ("sklearn:sklearn.datasets.load_iris", {}, "has no class 'load_iris'"),
        ("sklearn:sklearn.linear_model.Ridge", {}, "is no classifier"),
        ("sklearn:sklearn.datasets._base.Path", {}, "has no class 'Path'"),
        ("sklearn:pathlib.Path", {}, "'pathlib' is not part of an installed package"),
        ("sklearn:antigravity.Fly", {}, "'antigravity' is not part of an installed package"),
        ("sklearn:sklearn.ensemble.VotingClassifier", {}, "cannot be made.*estimators"),
        (TREES, {"deph": 3}, "no parameter 'deph'; did you mean 'max_depth'\\? Choose one of n_estimators"),
        (TREES, {"n_estimators": []}, "n_estimators is an empty list"),
    ],
)
def test_what_cannot_be_a_head_is_refused_before_any_work(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_head(name, params=params)


def test_what_scikit_learn_refuses_is_an_error_of_input(data: Data) -> None:
    X, y, _ = data
    with pytest.raises(InputError, match="n_estimators"):
        make_head(TREES, params={"n_estimators": -3}, cv=3).fit(X, y)
    with pytest.raises(InputError, match="cannot be fitted to these rows: Negative values"):
        make_head("sklearn:sklearn.naive_bayes.MultinomialNB", cv=3).fit(X, y)
    with pytest.raises(InputError, match="cannot weigh classes"):
        make_head("sklearn:sklearn.naive_bayes.GaussianNB", class_weight="balanced")


def test_scikit_learns_own_classes_are_trusted_and_nothing_else() -> None:
    assert is_sklearn_class("sklearn.tree._tree.Tree")
    for name in (
        "sklearn.datasets.load_files", "sklearn.utils.os.system", "sklearn.nonsense.Class", "sklearn",
        "sklearn.datasets._base.Path", "subprocess.Popen", "sklearnex.Class", "",
    ):  # fmt: skip
        assert not is_sklearn_class(name)
    assert untrusted_types(["sklearn.tree._tree.Tree", "os.system"]) == ["os.system"]


FOREIGN = """
from sklearn.naive_bayes import GaussianNB
class OwnNB(GaussianNB):
    pass
"""


def install(folder: Path) -> None:
    """Install a package with one classifier into a folder, as pip would."""
    (folder / "toptune_foreign.py").write_text(FOREIGN)
    facts = folder / "toptune_foreign-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toptune-foreign\nVersion: 1.0\n")
    (facts / "top_level.txt").write_text("toptune_foreign\n")


def test_files_beside_the_data_are_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toptune_beside.py").write_text("raise SystemExit('this ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="'toptune_beside' is not part of an installed package"):
        make_head("sklearn:toptune_beside.OwnNB")
    here = tmp_path / "here"
    here.mkdir()
    install(here)
    (here / "toptune_foreign.py").write_text("raise SystemExit('this ran')")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match="imported from the current folder"):
        make_head("sklearn:toptune_foreign.OwnNB")


def test_a_class_from_elsewhere_trains_but_loads_only_when_named(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, ids = data
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    head = make_head("sklearn:toptune_foreign.OwnNB", cv=3).fit(X, y, groups=ids)
    run = tmp_path / "run"
    run.mkdir()
    head.save(run)
    monkeypatch.delitem(sys.modules, "toptune_foreign")
    with pytest.raises(InputError, match=r"set TOPTUNE_TRUSTED_TYPES=toptune_foreign\.OwnNB"):
        load_head(run)
    assert "toptune_foreign" not in sys.modules
    monkeypatch.setenv("TOPTUNE_TRUSTED_TYPES", "other.Type, toptune_foreign.OwnNB")
    np.testing.assert_array_equal(load_head(run).predict_proba(X), head.predict_proba(X))


def test_another_class_than_was_recorded_is_refused(data: Data, tmp_path: Path) -> None:
    X, y, ids = data
    make_head(TREES, params={"n_estimators": 3}, cv=3).fit(X, y, groups=ids).save(tmp_path)
    import skops.io

    skops.io.dump(LogisticRegression().fit(X, y), tmp_path / "head.skops")
    with pytest.raises(CorruptError, match="holds a LogisticRegression where a ExtraTreesClassifier"):
        load_head(tmp_path)


def test_a_run_holds_it_like_any_head(build: Build, tmp_path: Path) -> None:
    build()
    run = train(
        tmp_path / "store", out=tmp_path / "run", head=TREES, params={"n_estimators": [5, 20]}, **OPTIONS
    )
    assert run.metrics["accuracy"] > 0.7
    loaded = Run.load(tmp_path / "run")
    assert loaded.head.name == TREES
    assert loaded.config["options"]["params"] == {"n_estimators": [5, 20]}
    with (tmp_path / "run" / "selection.csv").open() as file:
        assert [row["n_estimators"] for row in csv.DictReader(file)] == ["5", "20"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["selected"] == run.config["selected"]
