import os
import unicodedata
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import draw, encode

from toptune.extract import ImageSource, open_source
from toptune.extract.images.remarks import remarks_of
from toptune.extract.images.source import BUILTINS
from toptune.store import InputError, UnreadableImageError

PNG = encode(draw(0))


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)


def rows(source: ImageSource) -> list[tuple[str, str | None, str | None]]:
    manifest = source.manifest()
    return list(zip(manifest.ids, manifest.labels, manifest.splits, strict=True))


def test_class_folders_sorted_by_id_and_hidden_files_left_out(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "b/10.png", "a/sub/deep/x.png", "a/z", "a/.DS_Store", "a/Thumbs.db",
        ".git/x.png", "README.json", "LICENSE")  # fmt: skip
    source = open_source(tmp_path)
    assert rows(source) == [
        ("a/sub/deep/x.png", "a", None),
        ("a/z", "a", None),
        ("b/10.png", "b", None),
        ("b/2.png", "b", None),
    ]
    assert isinstance(source, ImageSource)
    assert [source.read(i) for i in range(4)] == [PNG] * 4
    assert source.manifest().sizes.tolist() == [len(PNG)] * 4


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_split_folders_are_normalized(tmp_path: Path, name: str) -> None:
    put(tmp_path, "train/a/1.png", f"{name}/a/2.png", "test/b/3.png", "extras/a/4.png", "README.json")
    assert rows(open_source(tmp_path)) == sorted(
        [("train/a/1.png", "a", "train"), (f"{name}/a/2.png", "a", "val"), ("test/b/3.png", "b", "test")]
    )
    only = open_source(tmp_path, split=name)
    assert rows(only) == [(f"{name}/a/2.png", "a", "val")]
    assert only.read(0) == PNG
    with pytest.raises(InputError, match="choose one of test, train, val"):
        open_source(tmp_path, split="holdout")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "car/2.png")
    assert rows(open_source(tmp_path)) == [("car/2.png", "car", None), ("train/1.png", "train", None)]


def test_images_without_classes_are_unlabeled(tmp_path: Path) -> None:
    put(tmp_path, "b.PNG", "a.jpg", "notes.txt")
    assert rows(open_source(tmp_path)) == [("a.jpg", None, None), ("b.PNG", None, None)]


def test_unlabeled_test_split_beside_a_labeled_one(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "test/2.png")
    assert rows(open_source(tmp_path)) == [("test/2.png", None, "test"), ("train/a/1.png", "a", "train")]


def test_links_are_followed_and_cycles_are_not(tmp_path: Path) -> None:
    put(tmp_path / "data", "a/1.png")
    put(tmp_path / "elsewhere", "deep/2.png")
    (tmp_path / "data/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/again").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/broken.png").symlink_to(tmp_path / "nothing")
    source = open_source(tmp_path / "data")
    names = source.manifest().ids
    assert names == ["a/1.png", "a/broken.png", "a/more/deep/2.png", "b/deep/2.png"]
    with pytest.raises(UnreadableImageError, match="No such file"):
        source.read(1)


def test_unicode_forms_are_unified_and_collisions_refused(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "né.png"), unicodedata.normalize("NFD", "né.png")
    put(tmp_path, f"å b/{apart}")
    assert rows(open_source(tmp_path)) == [(f"å b/{composed}", "å b", None)]
    put(tmp_path, f"å b/{composed}")
    with pytest.raises(InputError, match="occur twice"):
        open_source(tmp_path)


def test_class_folders_that_differ_in_blanks_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/dog /1.png", "test/cat/2.png")
    source = open_source(tmp_path)
    assert rows(source) == [("test/cat/2.png", "cat", "test"), ("train/dog /1.png", "dog", "train")]
    assert "with blanks around the name, which are taken away ('dog ')" in str(remarks_of(source)[-1])
    put(tmp_path, "test/dog/3.png")
    with pytest.raises(InputError, match="the class folders 'dog' and 'dog ', which differ in blanks"):
        open_source(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in (f"{unicodedata.normalize('NFD', 'é')}/1.png", "é/2.png", "é /3.png"):
            archive.writestr(name, PNG)
    with pytest.raises(InputError, match="'é' and 'é '"):
        open_source(tmp_path / "a.zip")


def test_undecodable_names_become_escapes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xff.png")).write_bytes(PNG)
    source = open_source(tmp_path)
    assert source.manifest().ids == ["a/\\xff.png"]
    assert source.read(0) == PNG


@pytest.mark.parametrize(
    ("path", "name"),
    [("flowers", "flowers"), ("flowers/images", "flowers"), ("flowers/Train", "flowers"), ("x/data", "x")],
)
def test_default_name(tmp_path: Path, path: str, name: str) -> None:
    put(tmp_path / path, "a/1.png")
    assert open_source(tmp_path / path).name == name


def test_what_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected class/x\.jpg"):
        open_source(tmp_path / "empty")
    with pytest.raises(InputError, match="did you mean 'digits'"):
        open_source("digts")
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(InputError, match="manifest"):
        open_source(tmp_path / "x.zip")


def write_csv(folder: Path, text: str) -> Path:
    put(folder, "p/1.png", "p/2.png")
    (folder / "list.csv").write_text(text, encoding="utf-8-sig")
    return folder / "list.csv"


def test_csv_manifest_keeps_order_text_and_further_columns(tmp_path: Path) -> None:
    text = f"path,label,split,slide\np/2.png,01,valid,s 1\n{tmp_path}/p/1.png,,,\n"
    source = open_source(write_csv(tmp_path, text))
    assert source.name == "list"
    assert rows(source) == [("p/2.png", "01", "val"), (f"{tmp_path}/p/1.png", None, None)]
    assert source.manifest().column("slide") == ["s 1", None]
    assert open_source(tmp_path / "list.csv", split="val").manifest().column("slide") == ["s 1"]


def test_parquet_manifest(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    table = pa.table({"path": ["2.png", "1.png"], "label": [7, 8], "id": ["x", "y"], "weight": [0.5, 0.5]})
    pq.write_table(table, tmp_path / "m.parquet")
    source = open_source(tmp_path / "m.parquet")
    assert rows(source) == [("x", "7", None), ("y", "8", None)]
    # Numbers may be the targets of a regression.
    assert source.manifest().extra_names == ["weight"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,label\np/1.png,a\n", "no column 'path'; its columns are photo, label.*--path-column"),
        ("path,note, note\np/1.png,a,b\n", "column 'note' twice"),
        ("path\np/1.png\nmissing.png\nalso.png\n", "2 of 3 files are missing: 'missing.png', 'also.png'"),
        ("path\n", "lists no images"),
        ("path,label", "lists no images"),
        ("", "no column 'path'; its columns are none"),
        ("path,label\n,a\n", "row 0"),
        ("path,split\np/1.png,dev\n", "'dev' is none of train, val, test"),
        ("path,label\np/1.png\n", "cannot be read"),
        ("path\np/1.png\np/1.png\n", "p/1.png"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(write_csv(tmp_path, text))


def test_builtins_are_those_that_are_built_in() -> None:
    from toptune.extract.sources.builtin import BUILTINS as BUILT_IN

    assert tuple(BUILT_IN) == BUILTINS
    assert open_source("digits").name == "digits"
