import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from toptune.store import ArrayBlocks, CorruptError, FormatVersionError, InputError
from toptune.train import HEADS, load_head, make_head
from toptune.train.calibration import fit_temperature, softmax

Data = tuple[npt.NDArray[np.float32], npt.NDArray[Any], list[str]]
QUICK: dict[str, dict[str, Any]] = {
    "logistic": {"C": [0.1, 1.0]},
    "svm": {"C": [1.0, 10.0]},
    "knn": {"n_neighbors": [1, 5]},
    "forest": {"n_estimators": 20},
    "head2toe": {"fraction": [0.5, 1.0]},
}


@pytest.fixture(params=[2, 4], ids=["two classes", "four classes"])
def data(request: pytest.FixtureRequest) -> Data:
    rng = np.random.default_rng(0)
    k = request.param
    y = np.repeat([f"class {i}" for i in range(k)], 30)
    X = rng.normal(size=(30 * k, 10)) + np.repeat(rng.normal(size=(k, 10)), 30, axis=0)
    return X.astype(np.float32), y, [f"id {i}" for i in range(30 * k)]


def fitted(name: str, data: Data) -> Any:
    X, y, ids = data
    return make_head(name, params=QUICK.get(name), cv=3).fit(ArrayBlocks(X), y, groups=ids)


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
        np.testing.assert_array_equal(
            fitted(name, data).predict_proba(X), fitted(name, data).predict_proba(X)
        )

    def test_report_is_json(self, name: str, data: Data) -> None:
        head = fitted(name, data)
        assert json.loads(json.dumps(head.report, allow_nan=False))["n_rows"] == len(data[0])
        assert sum(row["is_chosen"] for row in head.table) == (0 if name == "forest" else 1)

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
    fitted("logistic", data).save(tmp_path)
    foreign = make_pipeline(FunctionTransformer(func=Path.exists), LogisticRegression()).steps[0][1]
    skops.io.dump(foreign, tmp_path / "head.skops")
    with pytest.raises(CorruptError, match="types that head 'logistic' is not made of"):
        load_head(tmp_path)
    skops.io.dump(make_pipeline(LogisticRegression()).fit(X, y), tmp_path / "head.skops")
    with pytest.raises(CorruptError, match="holds a Pipeline"):
        load_head(tmp_path)


def test_in_memory_heads_refuse_beyond_the_limit(data: Data) -> None:
    X, y, _ = data
    with pytest.raises(InputError, match=r"head 'svm' on .* GiB of memory, the limit is 0\.00 GiB"):
        make_head("svm", memory_limit_bytes=1000).fit(X, y)


def test_unknown_heads_and_options() -> None:
    with pytest.raises(InputError, match=r"perceptron.*falkon"):
        make_head("perceptron")
    with pytest.raises(InputError, match="class_weight"):
        make_head("knn", class_weight="balanced")
    with pytest.raises(InputError, match="manhattan"):
        make_head("knn", params={"metric": "manhattan"}).fit(np.eye(20), ["a", "b"] * 10)


def test_fits_that_did_not_converge_are_reported(data: Data) -> None:
    X, y, _ = data
    head = make_head("logistic", params={"C": 1e4, "max_iter": 2}, cv=3).fit(X, y)
    assert any("before they had converged" in note for note in head.report["warnings"])


def test_temperature_recovers_what_labels_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 3))
    codes = (rng.random((20_000, 1)) > softmax(scores, 0.4).cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(scores, codes).value == pytest.approx(0.4, rel=0.05)
