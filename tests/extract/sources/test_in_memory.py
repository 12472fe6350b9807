"""Images that a program holds already: arrays, PIL images, tensors, and frames of paths."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from shapes import MODEL, draw_shape, save_shapes

from toptune.extract import ImageSource, decode_image, extract, open_source, source_of_images
from toptune.store import InputError, UnreadableImageError

COLOR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = COLOR[..., 0]


def saved(image: Image.Image, form: str, **options: Any) -> Image.Image:
    """An image as Pillow opens the image from a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def turned() -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(COLOR), "PNG", exif=exif)


def gray_as_color() -> np.ndarray[Any, Any]:
    return np.repeat(GRAY[..., None], 3, axis=2)


KINDS = {
    "color array": (COLOR, COLOR),
    "gray array": (GRAY, gray_as_color()),
    "gray array with a channel": (GRAY[..., None], gray_as_color()),
    "array in another order": (np.asfortranarray(COLOR), COLOR),
    "color tensor": (torch.from_numpy(COLOR).permute(2, 0, 1), COLOR),
    "gray tensor": (torch.from_numpy(GRAY.copy()), gray_as_color()),
    "PIL image": (Image.fromarray(COLOR), COLOR),
    "gray PIL image": (Image.fromarray(GRAY), gray_as_color()),
    "transparent PIL image": (Image.fromarray(np.dstack([COLOR, GRAY])), COLOR),
    "black and white": (Image.fromarray(GRAY > 99), np.repeat(255 * (GRAY > 99)[..., None], 3, axis=2)),
    "16 bits": (Image.fromarray(GRAY.astype(np.uint16) * 257), gray_as_color()),
    "a turned photograph": (turned(), np.rot90(COLOR, -1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_come_back(kind: str) -> None:
    image, expected = KINDS[kind]
    source = source_of_images([image], name="mine")
    assert isinstance(source, ImageSource)
    data = source.read(0)
    np.testing.assert_array_equal(np.asarray(decode_image(data)), expected)
    assert source.manifest().sizes.tolist() == [len(data)]


def test_an_image_of_a_file_is_decoded_as_the_file_is() -> None:
    """CMYK and palettes have their own way to RGB, which goes on from the pixels that Pillow holds."""
    for mode, form in (("CMYK", "TIFF"), ("P", "PNG"), ("LAB", "TIFF"), ("YCbCr", "TIFF"), ("RGBA", "PNG")):
        pillow = Image.fromarray(COLOR).convert("RGB" if mode == "LAB" else mode)
        if mode == "LAB":
            pillow = Image.merge("LAB", pillow.split())
        file = io.BytesIO()
        pillow.save(file, form)
        own = source_of_images([Image.open(io.BytesIO(file.getvalue()))], name="mine").read(0)
        np.testing.assert_array_equal(decode_image(own), decode_image(file.getvalue()), err_msg=mode)


def test_labels_splits_and_names_are_kept() -> None:
    images = torch.zeros((3, 3, 8, 8), dtype=torch.uint8)
    source = source_of_images(
        images, np.array([1, 0, 1]), name="mine", splits=["train", None, "validation"], ids=["a", "b", "c"]
    )
    manifest = source.manifest()
    assert manifest.labels == ["1", "0", "1"]
    assert manifest.splits == ["train", None, "val"]
    assert manifest.ids == ["a", "b", "c"]
    assert open_source(np.zeros((2, 8, 8), dtype=np.uint8)).manifest().ids == ["00000000", "00000001"]
    with pytest.raises(InputError, match="column 'label' has 2 values for 3 images"):
        source_of_images(images, [1, 0], name="mine")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLOR.astype(np.float32), r"image 0 of 1 \(from 0\).* is of float32; .*255 \* x"),
        (torch.zeros(3, 8, 8), "float32"),
        (np.zeros((8, 8, 4), np.uint8), "drop alpha"),
        (torch.zeros((8, 8, 3), dtype=torch.uint8), "permute"),
        (np.zeros((2, 8, 8, 3, 1), np.uint8), "shape"),
        ("photos/a.png", "is of type str; give arrays"),
    ],
)
def test_other_pixels_are_refused(image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        source_of_images([image], name="mine")


def test_what_is_no_list_of_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"one ndarray of one image; give a list"):
        open_source(COLOR)
    with pytest.raises(InputError, match=r"images are of type dict; give a folder of images, .* frame"):
        open_source({"a": COLOR})  # type: ignore[arg-type]
    damaged = io.BytesIO(b"\x89PNG")
    with pytest.raises((UnreadableImageError, OSError)):
        source_of_images([Image.open(damaged)], name="mine")


def test_features_of_images_in_memory_are_those_of_their_files(tmp_path: Path) -> None:
    save_shapes(tmp_path / "photos", per_class=2)
    by_path = open_source(tmp_path / "photos")
    images = [Image.open(tmp_path / "photos" / name) for name in by_path.manifest().ids]
    source = source_of_images(images, by_path.manifest().labels, name="held")
    with pytest.raises(InputError, match=r"dataset=\.\.\.") as refused:
        extract(images, model=MODEL, store=tmp_path / "store", layers="last")
    assert refused.value.option == "dataset"
    assert not (tmp_path / "store").exists()
    found = []
    for data in (tmp_path / "photos", source):
        summary = extract(data, model=MODEL, store=tmp_path / "store", layers="last")
        assert summary.rows == 6
        found.append(summary.dataset)
    from toptune.store import load_features

    (X, rows), (Y, others) = (load_features(tmp_path / "store", name, MODEL) for name in found)
    np.testing.assert_array_equal(X, Y)
    assert rows["label"].tolist() == others["label"].tolist()
    # The same images are recognized, and others of that name are refused.
    assert extract(source, model=MODEL, store=tmp_path / "store").nothing_to_do


def test_a_frame_lists_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("photos/a.png", "photos/b/c.png"):
        Path(place).parent.mkdir(exist_ok=True)
        draw_shape("disc", 0).save(place)
    frame = pa.table(
        {
            "path": ["photos/b/c.png", str(tmp_path / "photos/a.png")],
            "label": [1, 0],
            "camera": ["x", "y"],
            "__index_level_0__": [7, 3],
        }
    )
    source = open_source(frame)
    manifest = source.manifest()
    assert source.name == "photos"
    assert manifest.ids == ["photos/b/c.png", str(tmp_path / "photos/a.png")]
    assert manifest.labels == ["1", "0"]
    assert manifest.extra_names == ["camera"]
    assert decode_image(source.read(0)).size == (48, 48)
    assert open_source(frame, label_column="camera").manifest().labels == ["x", "y"]
    with pytest.raises(InputError, match=r"the Table: 1 of 1 files are missing: 'nowhere\.png'"):
        open_source(pa.table({"path": ["nowhere.png"]}))


def test_a_frame_of_pandas_lists_images(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    draw_shape("disc", 0).save(tmp_path / "a.png")
    frame = pandas.DataFrame({"path": ["gone.png", str(tmp_path / "a.png")], "label": ["x", "disc"]})
    manifest = open_source(frame[frame["label"] == "disc"]).manifest()
    assert manifest.labels == ["disc"]
    assert manifest.extra_names == []
