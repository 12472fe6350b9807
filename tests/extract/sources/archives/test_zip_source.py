"""Zip archives: layouts, methods, damage."""

import struct
import zipfile
from pathlib import Path

import pytest
from containers import png

from toptune.extract import open_source
from toptune.store import InputError, UnreadableImageError

PNG = png(0)


def pack(file: Path, names: list[str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            archive.writestr(name, PNG)
    return file


def rows(file: Path) -> list[tuple[str, str | None, str | None]]:
    manifest = open_source(file).manifest()
    return list(zip(manifest.ids, manifest.labels, manifest.splits, strict=True))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["b/2.png", "a/x/1.jpg", "a/.hidden", "__MACOSX/a/1.jpg", "LICENSE"],
         [("a/x/1.jpg", "a", None), ("b/2.png", "b", None)]),
        (["pets/b/2.png", "pets/a/1.png"], [("a/1.png", "a", None), ("b/2.png", "b", None)]),
        (["train/a/1.png", "Val/a/1.png", "extra/x.png"],
         [("Val/a/1.png", "a", "val"), ("train/a/1.png", "a", "train")]),
        (["d/train/a/1.png"], [("train/a/1.png", "a", "train")]),
        (["train/a/1.png", "test/2.png"], [("test/2.png", None, "test"), ("train/a/1.png", "a", "train")]),
        (["2.png", "1.PNG", "notes.txt"], [("1.PNG", None, None), ("2.png", None, None)]),
        (["train/1.png", "car/2.png"], [("car/2.png", "car", None), ("train/1.png", "train", None)]),
        (["a/ü.png", "/a/2.png"], [("a/2.png", "a", None), ("a/ü.png", "a", None)]),
    ],
)  # fmt: skip
def test_layouts_are_those_of_folders(
    tmp_path: Path, names: list[str], wanted: list[tuple[str, str | None, str | None]]
) -> None:
    assert rows(pack(tmp_path / "p.zip", names)) == wanted


def test_ids_labels_and_splits_equal_those_of_the_folder(tmp_path: Path) -> None:
    names = ["train/a/1.png", "train/b/2.png", "val/a/3.png", "other/4.txt"]
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(PNG)
    assert rows(pack(tmp_path / "p.zip", names)) == rows(tmp_path / "folder")


def test_an_archive_with_something_before_it_and_zip64(tmp_path: Path) -> None:
    file = pack(tmp_path / "p.zip", ["a/1.png"])
    file.write_bytes(b"#!self-extracting\n" * 40 + file.read_bytes())
    assert open_source(file).read(0) == PNG
    with (
        zipfile.ZipFile(tmp_path / "q.zip", "w") as archive,
        archive.open("a/1.png", "w", force_zip64=True) as member,
    ):
        member.write(PNG)
    assert open_source(tmp_path / "q.zip").read(0) == PNG


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with bzip2; pack it again"):
        open_source(pack(tmp_path / "b.zip", ["a/1.png"], zipfile.ZIP_BZIP2))
    with pytest.raises(InputError, match="no images among its 1 entries"):
        open_source(pack(tmp_path / "t.zip", ["notes.txt"]))
    file = pack(tmp_path / "p.zip", ["a/1.png"])
    data = file.read_bytes()
    file.write_bytes(data[:-30])
    with pytest.raises(InputError, match=r"no whole zip archive.*cut"):
        open_source(file)
    place = data.index(b"PK\x01\x02") + 8
    file.write_bytes(data[:place] + struct.pack("<H", 1) + data[place + 2 :])
    with pytest.raises(InputError, match=r"encrypted \(a/1.png\); decrypt"):
        open_source(file)


def test_damage_is_noticed_when_a_image_is_read(tmp_path: Path) -> None:
    for method, message in (
        (zipfile.ZIP_STORED, "checksum"),
        (zipfile.ZIP_DEFLATED, "damaged in the archive"),
    ):
        file = pack(tmp_path / "p.zip", ["a/1.png", "a/2.png"], method)
        data = bytearray(file.read_bytes())
        data[data.index(b"1.png") + 60] ^= 0xFF
        file.write_bytes(data)
        source = open_source(file)
        with pytest.raises(UnreadableImageError, match=message):
            source.read(0)
        assert source.read(1) == PNG


def test_a_bomb_is_stopped_at_the_size_its_directory_says(tmp_path: Path) -> None:
    file = tmp_path / "p.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(10_000_000))
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 1000)
    file.write_bytes(data)
    with pytest.raises(UnreadableImageError, match="length"):
        open_source(file).read(0)
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 2**31)
    file.write_bytes(data)
    with pytest.raises(UnreadableImageError, match="larger than"):
        open_source(file).read(0)


def test_names_in_utf8_that_is_not_marked_are_those_of_the_folder(tmp_path: Path) -> None:
    # As macOS packs a folder: the bytes are UTF-8, and the mark for it is not set.
    data = bytearray(pack(tmp_path / "p.zip", ["caf\u00e9/1.png", "dog/2.png"]).read_bytes())
    for magic, at in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        place = data.index(magic)
        assert data[place + at] == 0x08
        data[place + at] = 0
    (tmp_path / "mac.zip").write_bytes(data)
    assert rows(tmp_path / "mac.zip") == [("caf\u00e9/1.png", "caf\u00e9", None), ("dog/2.png", "dog", None)]
    # Bytes that are no UTF-8 stay in the code page of old archives.
    (tmp_path / "old.zip").write_bytes(bytes(data).replace("caf\u00e9/".encode(), b"caf\x82s/"))
    assert rows(tmp_path / "old.zip")[0][1] == "caf\u00e9s"
