"""Files of further kinds in folders: DICOM and HEIF by name or mark, arrays where nothing else is."""

from pathlib import Path

import numpy as np
from tiny import draw, encode

from toptune.extract import extract, open_source
from toptune.extract.images.remarks import remarks_of
from toptune.workflows.gallery.thumbnails import Thumbnails
from toptune.workflows.inspection.images import ImageProperties
from toptune.workflows.predict.images import find_images


def save(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.full((8, 8, 3), 100, np.uint8))
    return folder


def test_a_folder_of_arrays_is_one_of_images(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", "a/1.npy", "b/2.npy")
    manifest = open_source(folder).manifest()
    assert (manifest.ids, manifest.labels) == (["a/1.npy", "b/2.npy"], ["a", "b"])
    assert [Path(name).name for name, _ in find_images([folder])] == ["1.npy", "2.npy"]
    flat = save(tmp_path / "flat", "1.npy", "2.npy")
    assert open_source(flat).manifest().ids == ["1.npy", "2.npy"]


def test_arrays_beside_images_are_none(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", "a/1.npy", "b/2.npy")
    (folder / "a/1.png").write_bytes(encode(draw(0)))
    (folder / "b/2.png").write_bytes(encode(draw(1)))
    source = open_source(folder)
    assert source.manifest().ids == ["a/1.png", "b/2.png"]
    assert "2 .npy" in str(remarks_of(source)[0])
    assert [Path(name).name for name, _ in find_images([folder])] == ["1.png", "2.png"]


def test_files_without_a_suffix_are_told_by_their_mark(tmp_path: Path) -> None:
    for name in ("a/im1", "b/im2"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(50))
    assert open_source(tmp_path).manifest().ids == ["a/im1", "b/im2"]


def test_what_has_no_range_is_shown_by_its_percentiles(tmp_path: Path) -> None:
    ramp = np.linspace(-5, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
    np.save(tmp_path / "1.npy", np.stack([ramp] * 7, axis=-1))
    (tmp_path / "m.csv").write_text("path\n1.npy\n")
    shown, reason = Thumbnails(tmp_path / "m.csv").jpeg("1.npy")
    assert reason is None
    assert shown is not None
    found = ImageProperties.of((tmp_path / "1.npy").read_bytes())
    assert (found.width, found.mode) == (64, "RGB")
    done = extract(
        tmp_path / "m.csv",
        model="resnet10t.toptune_glyphs",
        store=tmp_path / "s",
        dry_run=True,
        bands=(1, 2, 3),
        scale="percentile",
    )
    assert done.plan is not None
