"""Which kind of data a path holds is told by content; two kinds are never guessed between."""

import shutil
from pathlib import Path

import pytest
from containers import MAKERS, N_IMAGES, make_cifar_binary, make_npz, make_saved, make_zip, png, write_tar

from toptune.extract import open_source
from toptune.store import InputError

PNG = png(0)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="File name too long; the file system allows no name of that length"):
        open_source("n" * 300)


@pytest.mark.parametrize("kind", ["zip", "npz", "idx"])
def test_the_name_of_a_file_does_not_matter(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path)
    path = path / "raw" / "t10k-images-idx3-ubyte.gz" if kind == "idx" else path
    other = tmp_path / "renamed"
    shutil.copy(path, other)
    assert open_source(other).manifest().n_rows in (N_IMAGES, 2)


def test_a_tar_and_a_parquet_by_content(tmp_path: Path) -> None:
    shutil.copy(write_tar(tmp_path / "a.tar", {"a.png": PNG}), tmp_path / "shard")
    assert open_source(tmp_path / "shard").manifest().ids == ["shard/a"]
    shutil.copy(next(MAKERS["parquet"](tmp_path).rglob("test*")), tmp_path / "table")
    assert open_source(tmp_path / "table").manifest().labels == ["ant", "bee"]


@pytest.mark.parametrize("kind", ["tars", "saved", "idx", "cifar binary"])
def test_a_folder_of_two_kinds_is_refused_and_both_are_named(tmp_path: Path, kind: str) -> None:
    folder = MAKERS[kind](tmp_path)
    (folder / "ant").mkdir()
    (folder / "ant" / "1.png").write_bytes(PNG)
    with pytest.raises(InputError, match=r"holds .* and images \(ant/1\.png\); which is meant\?"):
        open_source(folder)
    shutil.rmtree(folder / "ant")
    write_tar(folder / "x.tar", {"a.png": PNG})
    if kind != "tars":
        with pytest.raises(InputError, match="holds tar shards and "):
            open_source(folder)


def test_a_table_of_something_else_beside_images_does_not_matter(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "1.png").write_bytes(PNG)
    pq.write_table(pa.table({"path": ["ant/1.png"], "label": ["x"]}), tmp_path / "metadata.parquet")
    (tmp_path / "images.tar.gz").write_bytes(b"\x1f\x8b rest of a download")
    assert open_source(tmp_path).manifest().labels == ["ant"]
    assert open_source(tmp_path / "metadata.parquet").manifest().labels == ["x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", PNG, "is one image; give its folder"),
        ("a.bin", b"", "is empty; give a folder of images, a manifest"),
        ("a.tfrecord", b"\x00\x01\x02\x03" * 9, "kind '.tfrecord', and nothing that toptune reads"),
        ("a.gz", b"\x1f\x8b\x08\x00junk", "compressed with gzip"),
        ("a.7z", b"7z\xbc\xaf", "'.7z'"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / name)


def test_a_file_of_cifars_binary_version_points_to_its_folder(tmp_path: Path) -> None:
    folder = make_cifar_binary(tmp_path)
    with pytest.raises(InputError, match="is one batch of CIFAR; give its folder"):
        open_source(folder / "test_batch.bin")


def test_folders_of_other_files_are_refused_and_images_without_suffix_are_not(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "bin" / "deploy").write_text("#!/bin/sh")
    for number in range(60):
        (tmp_path / "data" / f"{number:02d}-ubyte").write_bytes(bytes(8))
    with pytest.raises(
        InputError,
        match=r"none of the 16 files looked at is an image, of 61 in all: the first is bin/deploy",
    ):
        open_source(tmp_path)
    for number in range(60):
        (tmp_path / "data" / f"{number:02d}-ubyte").write_bytes(PNG)
    assert open_source(tmp_path).manifest().n_rows == 61


def test_a_folder_of_archives_names_them(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    shutil.copy(make_zip(tmp_path), inner)
    shutil.copy(make_npz(tmp_path), inner)
    with pytest.raises(InputError, match=r"holds no images; .*arrays\.npz, packed\.zip.*give one of them"):
        open_source(inner)


def test_saved_splits_are_read_by_their_own_folder_too(tmp_path: Path) -> None:
    folder = make_saved(tmp_path)
    assert open_source(folder / "test").manifest().n_rows == 2
