"""idx files, npz and CIFAR: names, shapes, labels, damage."""

import gzip
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from containers import idx_bytes, make_cifar, make_cifar_binary, make_idx, pixels, planes
from PIL import Image

from toptune.extract import decode_image, open_source
from toptune.extract.images.remarks import remarks_of
from toptune.store import InputError

X, Y = pixels(4), np.array([0, 1, 1, 0])


def test_ids_and_bytes_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X, labels=Y)
    source = open_source(tmp_path / "a.npz")
    assert source.manifest().ids == [f"{row:08d}" for row in range(4)]
    assert source.manifest().labels == ["0", "1", "1", "0"]
    assert source.read(2) == b"P6\n32 32\n255\n" + X[2].tobytes()


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 5, 7, 1), (4, 5, 7, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_shape_decodes_to_its_pixels(tmp_path: Path, shape: tuple[int, ...], order: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=np.asarray(values, order=order))  # type: ignore[call-overload]
    source = open_source(tmp_path / "a.npz")
    for row in range(4):
        wanted = Image.fromarray(values[row].squeeze()).convert("RGB")
        assert decode_image(source.read(row)).tobytes() == wanted.tobytes()


def test_the_names_of_medmnist_and_labels_of_several_columns(tmp_path: Path) -> None:
    labels = np.array([[1, 0, 1], [0, 1, 0]], dtype=np.uint8)
    np.savez_compressed(
        tmp_path / "chest.npz",
        train_images=X[:2], train_labels=labels, val_images=X[2:3], val_labels=labels[:1],
        test_images=X[3:], test_labels=labels[1:],
    )  # fmt: skip
    manifest = open_source(tmp_path / "chest.npz").manifest()
    assert manifest.ids == ["train/00000000", "train/00000001", "val/00000000", "test/00000000"]
    assert manifest.labels == [None, "1", None, "1"]
    assert manifest.column("labels") == ["0|2", "1", "0|2", "1"]
    np.savez(tmp_path / "path.npz", train_images=X, train_labels=Y[:, None])
    assert open_source(tmp_path / "path.npz").manifest().labels == ["0", "1", "1", "0"]


def test_stored_arrays_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X)
    part = open_source(tmp_path / "a.npz")._parts[0]  # type: ignore[attr-defined]
    assert isinstance(part.images, np.memmap)
    assert np.array_equal(part.images, X)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X, "b": Y}, "holds the arrays a, b; images are in x_train"),
        ({"x": X.astype(np.float32) / 255}, "float32; images are uint8"),
        ({"x": np.moveaxis(X, -1, 1)}, "colors last, with numpy.moveaxis"),
        ({"x": X[..., :2]}, r"\(4, 32, 32, 2\)"),
        ({"x": X, "y": Y[:3]}, r"'y' of .* \(3,\) for 4 images"),
        ({"x": X, "y": Y * 1j}, "complex128; labels are numbers or texts"),
        ({"x": X, "y": np.eye(4) / 2}, "float64 and has 4 columns"),
        ({"x": np.zeros((4, 5, 7, 4), np.uint8)}, r"4 channels: drop alpha, with x\[\.\.\., :3\]"),
        ({"x": X, "y": np.array([[1, 2], [3, 4], [5, 6], [7, 8]])}, "not all 0 and 1"),
        ({"x": X, "y": np.array(list("abcd"), dtype=object)}, "Python objects, which are never loaded"),
        ({"x": X, "images": X}, "both 'x' and 'images'"),
    ],
)
def test_arrays_that_are_no_images_are_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_cut_off_npz_is_refused(tmp_path: Path, save: object) -> None:
    save(tmp_path / "a.npz", images=X)  # type: ignore[operator]
    data = (tmp_path / "a.npz").read_bytes()
    for length in (len(data) - 40, len(data) // 2, 10):
        (tmp_path / "a.npz").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"no whole \.npz"):
            open_source(tmp_path / "a.npz")


def test_idx_is_found_where_torchvision_puts_it_and_file_by_file(tmp_path: Path) -> None:
    folder = make_idx(tmp_path)
    assert open_source(folder).name == open_source(folder / "raw").name == "MNIST"
    one = open_source(folder / "raw" / "t10k-images-idx3-ubyte.gz")
    assert one.manifest().labels == ["0", "1"]
    assert one.manifest().splits == ["test", "test"]


def test_idx_without_labels_and_two_of_a_split(tmp_path: Path) -> None:
    gray = X[..., 0]
    (tmp_path / "emnist-letters-train-images-idx3-ubyte").write_bytes(idx_bytes(gray))
    assert open_source(tmp_path).manifest().labels == [None] * 4
    (tmp_path / "emnist-digits-train-images-idx3-ubyte").write_bytes(idx_bytes(gray))
    with pytest.raises(InputError, match="both are train split; give one of the files"):
        open_source(tmp_path)


@pytest.mark.parametrize("is_packed", [False, True])
def test_idx_that_is_damaged(tmp_path: Path, is_packed: bool) -> None:
    file = tmp_path / ("train-images-idx3-ubyte" + (".gz" if is_packed else ""))
    data = idx_bytes(X[..., 0])

    def write(content: bytes) -> Path:
        file.write_bytes(gzip.compress(content) if is_packed else content)
        return tmp_path

    for content, message in (
        (data[:-1], "fewer than the 4096 bytes"),
        (data + b"x", "more than the 4096 bytes"),
        (b"\0\0\x0d\x03" + data[4:], "begins with 00 00 0d 03"),
        (data[:9], "begins with"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(write(content))
    if is_packed:
        file.write_bytes(gzip.compress(data)[:-20])
        with pytest.raises(InputError, match="cut off"):
            open_source(tmp_path)
        bomb = b"\0\0\x08\x03" + (2**16).to_bytes(4, "big") * 3
        with pytest.raises(InputError, match="gunzip"):
            open_source(write(bomb))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar_in_every_protocol_is_cifars_binary_version(tmp_path: Path, protocol: int) -> None:
    python, binary = open_source(make_cifar(tmp_path, protocol)), open_source(make_cifar_binary(tmp_path))
    assert python.manifest().ids == binary.manifest().ids
    assert python.manifest().labels == binary.manifest().labels == ["ant", "bee"] * 4
    assert [python.read(row) for row in range(8)] == [binary.read(row) for row in range(8)]


def test_missing_batches_of_cifar_are_named(tmp_path: Path) -> None:
    (remark,) = remarks_of(open_source(make_cifar_binary(tmp_path)))
    assert remark.sentence == ("left out: 4 files missing, of 6; there are data_batch_1.bin, test_batch.bin")


def test_cifar_100_keeps_both_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    coarse_fine = np.array([[1, 2], [0, 0], [1, 1]], dtype=np.uint8)
    records = np.hstack([coarse_fine, planes(slice(0, 3))])
    (folder / "train.bin").write_bytes(records[:2].tobytes())
    (folder / "test.bin").write_bytes(records[2:].tobytes())
    (folder / "fine_label_names.txt").write_text("apple\npear\nbus\n")
    (folder / "coarse_label_names.txt").write_text("fruit\nvehicle\n")
    manifest = open_source(folder).manifest()
    assert manifest.labels == ["bus", "apple", "pear"]
    assert manifest.column("coarse_label") == ["vehicle", "fruit", "vehicle"]
    (folder / "fine_label_names.txt").write_text("apple\npear\n")
    with pytest.raises(InputError, match="from 0 to 2 for 2 names"):
        open_source(folder)
    (folder / "train.bin").write_bytes(records.tobytes()[:-1])
    with pytest.raises(InputError, match="no multiple of the 3074"):
        open_source(folder)


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (np.zeros((2, 4, 4), np.uint16), "(x // 256).astype('uint8') where they use all 16 bits"),
        (np.zeros((2, 4, 4), np.int64), "by x.astype('uint8') where all values are from 0 to 255"),
        (np.zeros((2, 4, 4), np.bool_), "by 255 * x.astype('uint8')"),
        (np.zeros((2, 4, 4), np.int8), "scale its values to that range"),
        (np.zeros((2, 4, 4), np.float32), "(255 * x).round()"),
        (np.zeros((2, 16), np.uint8), "x.reshape(n, height, width)"),
    ],
)
def test_each_type_and_shape_has_its_own_remedy(
    tmp_path: Path, images: npt.NDArray[np.generic], remedy: str
) -> None:
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(InputError, match=re.escape(remedy)):
        open_source(tmp_path / "a.npz")
