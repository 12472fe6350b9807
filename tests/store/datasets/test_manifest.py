"""Manifest: row order is what it was given, ids are unique, equal content has equal digests."""

from typing import Any

import numpy as np
import pytest
from small_store import make_manifest

from toptune.store import CorruptError, InputError, Manifest


def test_columns_come_back() -> None:
    manifest = make_manifest(6)
    assert manifest.n_rows == 6
    assert manifest.ids[5] == "kätzchen/bild 5.png"
    assert manifest.labels == ["class 0", "class 1", "class 2", "class 0", None, "class 2"]
    assert manifest.splits[:2] == ["test", "train"]
    assert manifest.sizes.tolist() == [100, 101, 102, 103, 104, 105]
    assert manifest.modified_ns.dtype == np.int64
    assert manifest.extra_names == ["camera"]
    assert manifest.column("camera")[:2] == ["c0", "c1"]
    assert manifest.column("label") == manifest.labels


def test_round_trip_is_exact() -> None:
    manifest = make_manifest()
    data = manifest.to_parquet()
    assert data == make_manifest().to_parquet()
    again = Manifest.from_parquet(data)
    assert again.table.equals(manifest.table)
    assert again.pictures_digest == manifest.pictures_digest
    assert again.differences(manifest) == []


def test_images_digest_is_of_ids_and_sizes() -> None:
    def digest(**changes: Any) -> str:
        fields: dict[str, Any] = {"ids": ["a", "b"], "labels": ["x", "y"], "splits": None, "sizes": [1, 2]}
        return Manifest.from_columns(**{**fields, **changes}).pictures_digest

    same = digest()
    assert digest(labels=None, splits=["train", None], modified_ns=[3, 4]) == same
    assert digest(ids=["a", "c"]) != same
    assert digest(ids=["b", "a"]) != same
    assert digest(sizes=[1, 3]) != same
    assert digest(ids=["ab", "c"]) != digest(ids=["a", "bc"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [], "sizes": []}, "no images"),
        ({"ids": ["a", "a"]}, "first 'a'"),
        ({"ids": ["a", ""]}, "not empty"),
        ({"ids": ["a", None]}, "not empty"),
        ({"sizes": [1]}, "1 values for 2 images"),
        ({"labels": ["x"]}, "'label' has 1 values"),
        ({"labels": ["x", ["y"]]}, "'label'.*is a list"),
        ({"extra": {"split": ["a", "b"]}}, "rename"),
    ],
)
def test_bad_columns_are_refused(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"ids": ["a", "b"], "sizes": [1, 2]}
    with pytest.raises(InputError, match=message):
        Manifest.from_columns(**{**fields, **changes})


def test_unknown_column_is_refused() -> None:
    with pytest.raises(InputError, match="camera"):
        make_manifest(3).column("color")


@pytest.mark.parametrize("data", [b"", b"not parquet"])
def test_what_is_no_manifest_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        Manifest.from_parquet(data)


def test_differences_name_the_first_row() -> None:
    one = Manifest.from_columns(ids=["a", "b"], labels=["x", "y"], sizes=[1, 2])
    other = Manifest.from_columns(ids=["a", "b"], labels=["x", "z"], sizes=[1, 2])
    assert one.differences(other) == ["label differs in 1 row, first in row 1 (b): 'y' against 'z'"]
    assert one.differences(make_manifest(3)) == ["2 images against 3"]


def test_a_million_rows_are_cheap() -> None:
    n = 10**6
    manifest = Manifest.from_columns(ids=[f"{i}" for i in range(n)], sizes=np.arange(n))
    assert len(manifest.to_parquet()) < 30 * 2**20
    assert len(manifest.pictures_digest) == 64
