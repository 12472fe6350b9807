import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skops.io
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from toptune.store import ArrayBlocks, CorruptError, FormatVersionError, InputError
from toptune.train import HEADS, load_head, make_head
from toptune.train.numerics.calibration import fit_temperature, softmax

Data = tuple[npt.NDArray[np.float32], npt.NDArray[Any], list[str]]


class Cut(ArrayBlocks):
    """Rows in blocks of a few, whatever is asked for."""

    def __init__(self, values: npt.NDArray[Any], rows: int) -> None:
        super().__init__(values)
        self.rows = rows

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        return super().iterate(min(self.rows, block_rows or self.rows))


QUICK: dict[str, dict[str, Any]] = {
    "logistic": {"penalty": [1e-3, 1e-2]},
    "svm": {"C": [1.0, 10.0]},
    "knn": {"n_neighbors": [1, 5]},
    "forest": {"n_estimators": 20},
    "head2toe": {"fraction": [0.5, 1.0]},
}


def rows_of(k: int) -> Data:
    """Draw thirty rows of each of k classes."""
    rng = np.random.default_rng(0)
    y = np.repeat([f"class {i}" for i in range(k)], 30)
    X = rng.normal(size=(30 * k, 10)) + np.repeat(rng.normal(size=(k, 10)), 30, axis=0)
    return X.astype(np.float32), y, [f"id {i}" for i in range(30 * k)]


@pytest.fixture(params=[2, 4], ids=["two classes", "four classes"])
def data(request: pytest.FixtureRequest) -> Data:
    return rows_of(request.param)


def fit(name: str, data: Data) -> Any:
    X, y, ids = data
    return make_head(name, params=QUICK.get(name), cv=3).fit(ArrayBlocks(X), y, groups=ids)


@functools.cache
def _fitted(name: str, k: int) -> Any:
    return fit(name, rows_of(k))


def fitted(name: str, data: Data) -> Any:
    """Give the one head that all tests share, none of which changes it."""
    return _fitted(name, len(set(data[1])))


@pytest.mark.parametrize("name", HEADS)
class TestEveryHead:
    def test_predicts_with_probabilities_that_agree(self, name: str, data: Data) -> None:
        X, y, _ = data
        head = fitted(name, data)
        probabilities = head.predict_proba(X)
        assert probabilities.shape == head.decision_function(X).shape == (len(X), len(set(y)))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
        assert (head.predict(X) == np.array(head.classes)[probabilities.argmax(axis=1)]).all()
        assert (head.predict(X) == y).mean() > 0.75
        np.testing.assert_allclose(head.predict_proba(ArrayBlocks(X)), probabilities)

    def test_saved_and_loaded_predicts_the_same_without_pickle(
        self, name: str, data: Data, tmp_path: Path
    ) -> None:
        X, _, _ = data
        head = fitted(name, data)
        head.save(tmp_path)
        loaded = load_head(tmp_path)
        np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
        assert loaded.classes == head.classes
        assert loaded.report == head.report
        assert loaded.table == head.table
        assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".skops"}

    def test_fits_the_same_twice(self, name: str, data: Data) -> None:
        X, _, _ = data
        np.testing.assert_array_equal(fit(name, data).predict_proba(X), fitted(name, data).predict_proba(X))

    def test_report_is_json(self, name: str, data: Data) -> None:
        head = fitted(name, data)
        assert json.loads(json.dumps(head.report, allow_nan=False))["n_rows"] == len(data[0])
        assert sum(row["is_chosen"] for row in head.table) == (0 if name == "forest" else 1)
        left_out = head.report["left_out"]
        if name == "forest":
            assert left_out is None
        else:
            assert left_out["n_rows"] == len(data[0])
            assert left_out["accuracy"] > 0.7
            assert 0 <= left_out["log_loss"] < np.log(len(head.classes))

    def test_block_size_changes_nothing(self, name: str, data: Data) -> None:
        X, y, ids = data
        whole = fitted(name, data)
        in_sevens = make_head(name, params=QUICK.get(name), cv=3).fit(Cut(X, 7), y, groups=ids)
        np.testing.assert_allclose(
            in_sevens.predict_proba(Cut(X, 11)), whole.predict_proba(X), rtol=1e-4, atol=1e-6
        )
        assert in_sevens.report.get("chosen") == pytest.approx(whole.report.get("chosen"), nan_ok=True)

    @pytest.mark.parametrize("make", [str, int, bool])
    def test_labels_of_any_type_are_named(
        self, name: str, make: Callable[[Any], Any], tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(1)
        y = np.array([make(i % 2) for i in range(60)])
        X = rng.normal(size=(60, 4)) + 3 * (np.arange(60) % 2)[:, None]
        head = make_head(name, params=QUICK.get(name), cv=3).fit(X, y, groups=[str(i) for i in range(60)])
        assert head.classes == sorted({str(label) for label in y})
        assert (head.predict(X) == y.astype(str)).mean() > 0.9
        head.save(tmp_path)
        np.testing.assert_array_equal(load_head(tmp_path).predict(X), head.predict(X))

    def test_a_class_may_be_missing_from_all_folds_but_one(self, name: str) -> None:
        rng = np.random.default_rng(2)
        y = np.array([i % 2 if i < 60 else 2 for i in range(70)])
        X = rng.normal(size=(70, 5)) + 4 * np.eye(3, 5)[y]
        groups = ["together" if label == 2 else f"row {at}" for at, label in enumerate(y)]
        head = make_head(name, params=QUICK.get(name), cv=3).fit(X, y, groups=groups)
        assert (head.predict(X) == y.astype(str)).mean() > 0.9
        if name != "forest":
            # Rows of the class cannot be left out of a fit that knows it, and count for nothing.
            assert head.report["left_out"]["n_rows"] == 60
            assert head.report["left_out"]["accuracy"] > 0.9
            assert any("10 training rows of 1 of 3 classes ('2')" in note for note in head.report["warnings"])

    def test_one_feature_is_enough(self, name: str) -> None:
        rng = np.random.default_rng(3)
        y = np.arange(80) % 2
        X = rng.normal(size=(80, 1)) + 4.0 * (2 * y[:, None] - 1)
        head = make_head(name, params=QUICK.get(name), cv=3).fit(X, y, groups=[str(i) for i in range(80)])
        assert (head.predict(X) == y.astype(str)).mean() > 0.95
        assert np.isfinite(head.predict_proba(X)).all()

    def test_classes_of_few_rows(self, name: str, tmp_path: Path) -> None:
        rng = np.random.default_rng(4)
        y = np.array([*np.repeat(np.arange(10), 3), *[10] * 40])
        X = rng.normal(size=(70, 30)) + 5 * np.eye(11, 30)[y]
        head = make_head(name, params=QUICK.get(name), cv=3).fit(X, y, groups=[str(i) for i in range(70)])
        probabilities = head.predict_proba(X)
        assert probabilities.shape == (70, 11)
        assert np.isfinite(probabilities).all()
        assert (head.predict(X) == y.astype(str)).mean() > 0.8
        json.dumps(head.report, allow_nan=False)

    def test_refuses_bad_input(self, name: str, data: Data) -> None:
        X, y, _ = data
        with pytest.raises(InputError, match=rf"{name}.*no parameter 'deph'"):
            make_head(name, params={"deph": 3})
        with pytest.raises(InputError, match="one class only"):
            make_head(name).fit(X, ["same"] * len(X))
        broken = X.copy()
        broken[3, 1] = np.nan
        with pytest.raises(InputError, match="row 3 "):
            make_head(name, cv=3).fit(broken, y)

    def test_damaged_files_are_named(self, name: str, data: Data, tmp_path: Path) -> None:
        fitted(name, data).save(tmp_path)
        (payload,) = (path for path in tmp_path.iterdir() if path.stem == "head" and path.suffix != ".json")
        whole = payload.read_bytes()
        payload.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorruptError, match=payload.name):
            load_head(tmp_path)
        payload.unlink()
        with pytest.raises(CorruptError, match=payload.name):
            load_head(tmp_path)
        (tmp_path / "head.json").write_text("{")
        with pytest.raises(CorruptError, match=r"head\.json"):
            load_head(tmp_path)
        (tmp_path / "head.json").write_text('{"version": 99, "head": "falkon"}')
        with pytest.raises(FormatVersionError, match="99"):
            load_head(tmp_path)


def test_foreign_types_in_a_skops_file_are_refused(data: Data, tmp_path: Path) -> None:
    X, y, _ = data
    fitted("svm", data).save(tmp_path)
    foreign = make_pipeline(FunctionTransformer(func=Path.exists), SVC()).steps[0][1]
    skops.io.dump(foreign, tmp_path / "head.skops")
    with pytest.raises(CorruptError, match="types that a SVC of scikit-learn is not made of"):
        load_head(tmp_path)
    skops.io.dump(make_pipeline(SVC()).fit(X, y), tmp_path / "head.skops")
    with pytest.raises(CorruptError, match="holds a Pipeline"):
        load_head(tmp_path)


def test_in_memory_heads_refuse_beyond_the_limit(data: Data) -> None:
    X, y, _ = data
    with pytest.raises(InputError, match=r"head 'svm' on .* KiB of memory, and 1000 bytes may be taken"):
        make_head("svm", memory_limit_bytes=1000).fit(X, y)


def test_unknown_heads_and_options() -> None:
    with pytest.raises(InputError, match=r"perceptron.*falkon"):
        make_head("perceptron")
    with pytest.raises(InputError, match="class_weight"):
        make_head("knn", class_weight="balanced")
    with pytest.raises(InputError, match="manhattan"):
        make_head("knn", params={"metric": "manhattan"}).fit(np.eye(20), ["a", "b"] * 10)


def test_temperature_recovers_what_labels_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 3))
    codes = (rng.random((20_000, 1)) > softmax(scores, 0.4).cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(scores, codes).value == pytest.approx(0.4, rel=0.05)


def test_few_rows_that_are_all_right_do_not_make_certain() -> None:
    codes = np.arange(50) % 2
    scores = np.where(codes[:, None] == np.arange(2), 1.0, -1.0) * np.linspace(1, 3, 50)[:, None]
    fitted = fit_temperature(scores, codes)
    confidence = softmax(scores, fitted.value).max(axis=1).mean()
    assert 0.95 < confidence < 1 - 0.5 / 52
    assert fitted.log_loss == pytest.approx(-np.log(softmax(scores, fitted.value).max(axis=1)).mean())
