"""A path is on a disk or in a bucket, and its operations follow from that."""

from pathlib import Path

import pytest

from toptune.errors import InputError
from toptune.store import FeatureStore, copy_store, place_of
from toptune.store.files.bucket_place import BucketPlace
from toptune.store.files.local_place import LocalPlace
from toptune.store.files.place import place_at


def test_the_root_of_a_store_decides(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    assert place_at(place_of(tmp_path) / "datasets") == LocalPlace(tmp_path / "datasets")
    bucket = place_at(place_of("s3://team/store") / "datasets")
    assert isinstance(bucket, BucketPlace)
    assert bucket.real() == "s3://team/store/datasets"
    # The parts of both paths are equal, and the places are not.
    assert not bucket.is_same(place_at(Path("/team/store/datasets")))
    assert not place_at(Path("/team/store/datasets")).is_same(bucket)


def test_sizes_pass_over_what_is_gone(tmp_path: Path) -> None:
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.write_bytes(b"abc")
    assert place_at(tmp_path).sizes([there, gone]) == {there: 3}


@pytest.mark.parametrize("target", ["store/inner", "."])
def test_a_copy_within_the_source_is_refused(tmp_path: Path, target: str) -> None:
    source = FeatureStore.create(tmp_path / "store")
    with pytest.raises(InputError, match="lies within the other"):
        copy_store(source, tmp_path / target)
