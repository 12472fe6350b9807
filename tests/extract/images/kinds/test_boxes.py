"""Boxes of images are rows: read from manifests, decoded once a file, known to update and predict."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from toptune.extract import extract, open_source
from toptune.extract.images import decode
from toptune.extract.images.decode import Decoded, Decoding, decode_image, decoding
from toptune.extract.images.kinds.boxes import Box, RecentImages
from toptune.extract.images.remarks import remarks_of
from toptune.store import ConflictError, InputError, UnreadableImageError
from toptune.train import train
from toptune.train.rows.groups import row_keys
from toptune.workflows import Classifier
from toptune.workflows.gallery.thumbnails import Thumbnails

MODEL = "resnet10t.toptune_glyphs"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of 60 x 40 pixels in which every pixel differs from its neighbors."""
    y, x = np.mgrid[:40, :60]
    pixels = np.stack([x * 4, y * 6, (x + y) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def listed(folder: Path, *rows: str, head: str = "path,x0,y0,x1,y1", name: str = "m.csv") -> Path:
    (folder / name).write_text("\n".join([head, *rows]) + "\n")
    return folder / name


def test_boxes_are_crops(photo: Path) -> None:
    file = listed(photo.parent, "a.png,5,10,25,40", "a.png,0,0,60,40", "a.png,,,,")
    source = open_source(file)
    whole = np.asarray(Image.open(photo))
    found = [np.asarray(decode_image(source.read(row))) for row in range(3)]
    for pixels, expected in zip(found, (whole[10:40, 5:25], whole, whole), strict=True):
        np.testing.assert_array_equal(pixels, expected)
    assert source.manifest().ids == ["a.png[5,10,25,40]", "a.png[0,0,60,40]", "a.png"]
    assert source.manifest().column("x1") == ["25", "60", None]
    # Boxes of one image on both sides of a split would flatter the run.
    assert list(map(str, remarks_of(source))) == [
        "note: 2 rows of a box of an image, in pixels; several of one image may train and test a run: train "
        "--group-by with '^([^[]+)' keeps them together [TT023]"
    ]
    keys = row_keys(source.manifest(), group_by="^([^[]+)")
    assert keys is not None
    assert len(set(keys)) == 1


def test_boxes_may_be_shares_and_come_as_a_frame(photo: Path) -> None:
    frame = pa.table({"path": [str(photo)], "X0": [0.1], "Y0": [0.25], "X1": [1.0], "Y1": [1.0]})
    source = open_source(frame)
    whole = np.asarray(Image.open(photo))
    np.testing.assert_array_equal(np.asarray(decode_image(source.read(0))), whole[10:, 6:])
    assert "as shares of the image's width and height" in str(remarks_of(source)[0])


def test_boxes_count_on_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8))
    image.save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(decode_image((tmp_path / "a.png").read_bytes()))
    assert upright.shape == (60, 40, 3)
    boxed = Box(1, 2, 39, 60).wrapped((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(np.asarray(decode_image(boxed)), upright[2:60, 1:39])


@pytest.mark.parametrize("how", [Decoding(), Decoding(draft_edge=4), Decoding(version=1)])
def test_a_file_is_decoded_once(photo: Path, how: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    inner = decode._decode

    def counted(*given: Any) -> Decoded:
        calls.append(1)
        return inner(*given)

    monkeypatch.setattr(decode, "_decode", counted)
    monkeypatch.setattr(decode, "_RECENT", RecentImages(10**6))
    data = photo.read_bytes()
    boxes = [Box(x, 0, x + 10, 20) for x in range(40)]

    def size(box: Box) -> tuple[int, int]:
        with decoding(box.wrapped(data), how) as decoded:
            return decoded.image.size

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(size, boxes)) == {(10, 20)}
    assert len(calls) == 1


def test_recent_images_are_few() -> None:
    recent: RecentImages[str] = RecentImages(10)
    made: list[str] = []

    def image(name: str) -> str:
        def decoded() -> tuple[str, int]:
            made.append(name)
            return name, 6

        return recent.get(name, decoded)

    assert [image(name) for name in "aabba"] == ["a", "a", "b", "b", "a"]
    assert made == ["a", "b", "a"]


def test_a_damaged_file_fails_every_box_with_its_reason(photo: Path) -> None:
    data = photo.read_bytes()[:100]
    for box in (Box(0, 0, 5, 5), Box(1, 1, 5, 5)):
        with pytest.raises(UnreadableImageError, match="damaged"):
            decode_image(box.wrapped(data))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box(50, 0, 61, 10), "the box 50,0,61,10 is not inside the image, which has 60 x 40 pixels; correct"),
        (Box(0, 39.6, 5, 40.4), "the box 0,39.6,5,40.4 holds no pixel of the image, which has 60 x 40"),
        (Box(0.5, 0, 0.501, 1, are_shares=True), "holds no pixel"),
    ],
)
def test_boxes_that_do_not_fit_fail_their_row(photo: Path, box: Box, message: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(box.wrapped(photo.read_bytes()))
    assert message in str(caught.value)


def test_bytes_that_only_begin_like_a_box(photo: Path) -> None:
    for data in (b"toptune box 1 ", b"toptune box 1 pixels 1,2\nx", b"toptune box 1 pixels nan,0,1,1\nx"):
        with pytest.raises(UnreadableImageError, match="begin like a box"):
            decode_image(data)


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (["a.png,1,1"], "path,x0,y0", "has x0, y0 and not x1, y1; a box of an image needs"),
        (["a.png,1,1,,5"], "path,x0,y0,x1,y1", "row 0 (from 0) has no x1; a box has all of"),
        (["a.png,9,1,2,5"], "path,x0,y0,x1,y1", "has the box 9,1,2,5, whose edges are swapped; x0 must be"),
        (["a.png,9,1,9,5"], "path,x0,y0,x1,y1", "has the box 9,1,9,5, which is empty; x0 must be"),
        (["a.png,-1,1,9,5"], "path,x0,y0,x1,y1", "has x0 '-1'; edges of boxes are numbers from 0"),
        (["a.png,1,1,inf,5"], "path,x0,y0,x1,y1", "has x1 'inf'; edges"),
        (["a.png,a,1,2,5"], "path,x0,y0,x1,y1", "has x0 'a'; edges"),
        (
            ["a.png,1,1,9,5", "a.png,0.1,0,0.5,1"],
            "path,x0,y0,x1,y1",
            "row 1 (from 0) has the box 0.1,0,0.5,1, shares of an image, and row 0 has 1,1,9,5, which",
        ),
        (["a.png,1,1,9,5", "a.png,1,1,9,5"], "path,x0,y0,x1,y1", "has 'a.png[1,1,9,5]' twice"),
    ],
)
def test_boxes_that_cannot_be_meant(photo: Path, rows: list[str], head: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(listed(photo.parent, *rows, head=head))
    assert message in str(caught.value)


def test_another_box_is_another_image(photo: Path) -> None:
    head = "id,path,label,x0,y0,x1,y1"
    rows = [f"{n},a.png,{n % 2},{n},0,{n + 20},30" for n in range(8)]
    file = listed(photo.parent, *rows, head=head)
    store = photo.parent / "s"
    done = extract(file, model=MODEL, store=store, dataset="d", layers="last", img_size=32)
    assert not done.failed
    rows[3] = "3,a.png,1,3,0,23,40"
    listed(photo.parent, *rows, head=head)
    with pytest.raises(ConflictError, match="--update"):
        extract(file, model=MODEL, store=store, dataset="d", layers="last", img_size=32)
    done = extract(file, model=MODEL, store=store, dataset="d", layers="last", img_size=32, update=True)
    assert done.changed == ("3",)


def test_boxes_train_and_predict_and_are_shown(photo: Path) -> None:
    rows = [f"a.png,{n % 2},{n},0,{n + 20},{30 if n % 2 else 10}" for n in range(12)]
    file = listed(photo.parent, *rows, "a.png,0,50,0,70,10", head="path,label,x0,y0,x1,y1")
    store = photo.parent / "s"
    done = extract(file, dataset="d", model=MODEL, store=store, layers="last", img_size=32)
    assert list(done.failed) == ["a.png[50,0,70,10]"]
    assert "not inside the image" in done.failed["a.png[50,0,70,10]"]
    out = photo.parent / "run"
    train(store=store, dataset="d", model=MODEL, head="ridge", out=out, allow_failed=True)
    found = Classifier.load(out).predict([file])
    assert [each.path for each in found][:2] == ["a.png[0,0,20,10]", "a.png[1,0,21,30]"]
    assert "not inside the image" in str(found[-1].error)
    crops = [Image.open(photo).crop((n, 0, n + 20, 30 if n % 2 else 10)) for n in range(12)]
    again = Classifier.load(out).predict(crops)
    assert [each.probabilities for each in again] == [each.probabilities for each in found[:12]]
    shown, reason = Thumbnails(file).jpeg("a.png[1,0,21,30]")
    assert reason is None
    assert shown is not None
