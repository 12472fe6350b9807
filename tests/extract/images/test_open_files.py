"""Only regular files are opened, and nothing that an entry of a data set leads to waits or never ends."""

import os
import socket
import stat
from pathlib import Path

import pytest

from toptune.errors import InputError, UnreadableImageError
from toptune.extract import open_source
from toptune.extract.images.folder_listing import list_folder
from toptune.extract.images.open_files import KnownFile, OpenFiles, look_at, open_regular, read_regular
from toptune.extract.images.remarks import SPECIAL, remarks_of

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Make links to a pipe, a socket, a device, a folder, a file of the kernel, nothing, and to itself."""
    targets, odd = tmp_path / "targets", tmp_path / "odd"
    targets.mkdir()
    odd.mkdir()
    os.mkfifo(targets / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(targets / "socket"))
    links: dict[str, str | Path] = {
        "pipe": targets / "pipe", "socket": targets / "socket", "device": "/dev/zero", "folder": targets,
        "kernel": "/proc/self/mounts", "nothing": targets / "gone", "itself": odd / "itself.png",
    }  # fmt: skip
    for name, target in links.items():
        (odd / f"{name}.png").symlink_to(target)
    return odd


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pipe", "is a pipe, no regular file"),
        ("socket", "is a socket, no regular file"),
        ("device", "is a device, no regular file"),
        ("folder", "is a folder, no regular file"),
        ("nothing", "cannot be read: No such file or directory"),
        ("itself", "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_with_what_it_is(odd: Path, name: str, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=rf"^{reason}(\n\[TT903\])?$"):
        read_regular(odd / f"{name}.png", 100)


def test_a_file_of_the_kernel_is_empty(odd: Path) -> None:
    assert read_regular(odd / "kernel.png", 100) == b""


def test_a_file_that_is_swapped_for_a_pipe_after_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "image.png", os.stat
    file.write_bytes(b"image")

    def swap(path: Path, **options: bool) -> os.stat_result:
        found = seen(path, **options)
        if path == file and stat.S_ISREG(found.st_mode):
            file.unlink()
            os.mkfifo(file)
        return found

    monkeypatch.setattr(os, "stat", swap)
    with pytest.raises(UnreadableImageError, match="is a pipe"):
        open_regular(file)


def test_the_limit_holds_for_the_bytes_that_are_read(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(b"123456")
    assert read_regular(file, 6) == b"123456"
    with pytest.raises(UnreadableImageError, match="larger than 5 bytes"):
        read_regular(file, 5)


def test_a_shard_that_became_a_pipe_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    os.mkfifo(shard)
    files = OpenFiles([KnownFile(str(shard), 5, 0)])
    with pytest.raises(InputError, match=r"0\.tar was there before .* it is a pipe, no regular file"):
        files.read(0, 0, 5)


def test_data_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("pipe", "pipe.csv", "pipe.tar", "pipe.npz"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} is a pipe, no regular file"):
            open_source(tmp_path / name)
        with pytest.raises(InputError, match="is a pipe"):
            look_at(tmp_path / name)


def test_a_folder_leaves_out_what_is_no_file_and_keeps_broken_links(
    odd: Path,
) -> None:
    photos = odd.parent / "photos"
    photos.mkdir()
    (odd / "folder.png").unlink()
    odd.rename(photos / "a")
    source = open_source(photos)
    assert [*source.manifest().ids] == ["a/itself.png", "a/kernel.png", "a/nothing.png"]
    (remark,) = (each for each in remarks_of(source) if each.reason == SPECIAL)
    assert str(remark).startswith(
        "left out: 3 files of a special kind: pipe, socket or device (a/device.png, a/pipe.png,"
    )
    listing = list_folder(photos / "a")
    assert listing.others == ("device.png", "pipe.png", "socket.png")


@pytest.mark.parametrize("name", ["0.tar", "train.parquet", "train-images-idx3-ubyte", "data-0.arrow"])
def test_a_pipe_beside_images_is_no_container(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"x")
    os.mkfifo(tmp_path / name)
    assert [*open_source(tmp_path).manifest().ids] == ["a/0.png"]
