"""Stored features are loaded in one line, with what is known of each image."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from grown_store import feature, make_grown
from small_store import N_ROWS, features, make_manifest

from toptune.store import FeatureCache, FeatureStore, InputError, StoreNotFoundError, load_features

MODEL = "resnet10t.demo"


def test_features_and_rows_in_one_line(template: Path, caplog: pytest.LogCaptureFixture) -> None:
    X, rows = load_features(template, "pets", MODEL, layers="all")
    kept = np.delete(np.arange(N_ROWS), 13)
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, np.hstack([features("last.cls"), features("layer4.mean")])[kept])
    known = make_manifest()
    for name in ("id", "label", "split", "camera"):
        column = known.column(name)
        assert [None if value != value else value for value in rows[name].tolist()] == [
            column[row] for row in kept
        ]
    # Nothing is dropped without a word.
    assert "1 image of 'pets' could not be used and is left out" in caplog.text
    assert "kätzchen/bild 13.png: truncated JPEG" in caplog.text


def test_failed_images_are_kept_as_nan(template: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    X, rows = FeatureStore.open(template).load("pets", MODEL, layers=["last"], keep_failed=True)
    assert X.shape == (N_ROWS, 3)
    assert len(rows["id"]) == N_ROWS
    assert np.flatnonzero(np.isnan(X).any(axis=1)).tolist() == [13]
    assert caplog.text == ""


def test_labels_and_version_are_chosen(template: Path, tmp_path: Path) -> None:
    _, rows = load_features(template, "pets", MODEL, "last", label_column="camera", keep_failed=True)
    assert rows["label"].tolist() == make_manifest().column("camera")
    store = make_grown(tmp_path / "grown")
    X, first = store.load("pets", "tiny.demo", version=1)
    assert len(X) == len(first["id"]) == 10
    X, latest = store.load("pets", "tiny.demo")
    np.testing.assert_array_equal(X, [feature(name, sum(name.encode())) for name in latest["id"].tolist()])
    assert "other" in latest["label"].tolist()


def test_rows_are_arrays_without_pandas(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    X, rows = load_features(template, "pets", MODEL, keep_failed=True)
    assert isinstance(rows, dict)
    assert [*rows] == ["id", "label", "split", "camera"]
    assert all(column.shape == (len(X),) for column in rows.values())
    assert len(X[rows["camera"] == "c0"]) == 14


def test_rows_are_a_frame_where_pandas_is_installed(template: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, rows = load_features(template, "pets", MODEL)
    assert isinstance(rows, pandas.DataFrame)
    # A mask of the frame chooses rows of the array, and so does its index.
    chosen = rows[rows["camera"] == "c0"].index
    np.testing.assert_array_equal(X[chosen], X[(rows["camera"] == "c0").to_numpy()])


def test_what_is_not_stored_is_refused(complete: FeatureCache) -> None:
    with pytest.raises(InputError, match=r"layer 'layer9' is not in the store; .*layer4"):
        load_features(complete.root, "pets", MODEL, layers="layer9")
    # The order of the command line: the data set comes first.
    with pytest.raises(StoreNotFoundError, match=r"resnet10t\.demo"):
        load_features(complete.root, MODEL, "pets")
