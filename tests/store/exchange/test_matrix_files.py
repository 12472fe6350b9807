"""Arrays in files of other programs: the same values, in bounded memory, and nothing executed."""

import json
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from toptune.store import InputError
from toptune.store.exchange import unpacked
from toptune.store.exchange.matrix_files import open_arrays

VALUES = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)


def write_parquet(path: Path, values: Any, *, is_fixed: bool = True, **options: Any) -> None:
    rows = values.tolist()
    kind = pa.from_numpy_dtype(values.dtype)
    column = pa.array(rows, pa.list_(kind, values.shape[1]) if is_fixed else pa.list_(kind))
    pq.write_table(pa.table({"id": [f"{row}" for row in range(len(rows))], "x": column}), path, **options)


def test_every_kind_gives_the_same_slices(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    np.savez(tmp_path / "b.npz", x=VALUES, y=np.arange(200))
    np.savez_compressed(tmp_path / "c.npz", x=np.asfortranarray(VALUES))
    save_file({"x": VALUES, "half": VALUES.astype(np.float16)}, tmp_path / "d.safetensors")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["group/x"] = VALUES
        file["labels"] = ["cat"] * 200
    write_parquet(tmp_path / "f.parquet", VALUES, row_group_size=64)
    write_parquet(tmp_path / "g.parquet", VALUES, is_fixed=False)
    for name, key in (
        ("a.npy", "a"), ("b.npz", "x"), ("c.npz", "x"), ("d.safetensors", "x"), ("e.h5", "group/x"),
        ("f.parquet", "x"), ("g.parquet", "x"),
    ):  # fmt: skip
        found = open_arrays(tmp_path / name)[key]
        assert (tuple(found.shape), np.dtype(found.dtype)) == ((200, 6), np.float32), name
        # Forwards, with a gap, across row groups, and back again.
        for rows in (slice(3, 9), slice(9, 10), slice(60, 140), slice(190, 200), slice(0, 200), slice(5, 6)):
            np.testing.assert_array_equal(found[rows], VALUES[rows], err_msg=f"{name} {rows}")
    half = open_arrays(tmp_path / "d.safetensors")["half"]
    np.testing.assert_array_equal(half[:7], VALUES[:7].astype(np.float16))
    assert list(open_arrays(tmp_path / "f.parquet")["id"][:2]) == ["0", "1"]
    assert isinstance(open_arrays(tmp_path / "a.npy")["a"], np.memmap)


def test_bfloat16(tmp_path: Path) -> None:
    bits = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [200, 6], "data_offsets": [0, bits.nbytes]}})
    (tmp_path / "a.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header.encode() + bits.tobytes()
    )
    found = open_arrays(tmp_path / "a.safetensors")["x"]
    np.testing.assert_allclose(found[10:20], VALUES[10:20], rtol=2**-7)


@pytest.mark.parametrize("suffix", ["parquet", "safetensors", "npy"])
def test_files_are_not_read_whole(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).standard_normal((60_000, 128)).astype(np.float32)  # 31 MB
    path = tmp_path / f"x.{suffix}"
    match suffix:
        case "npy":
            np.save(path, values)
        case "safetensors":
            save_file({"x": values}, path)
        case _:
            column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 128)
            pq.write_table(pa.table({"x": column}), path)
    tracemalloc.start()
    try:
        before = pa.total_allocated_bytes()
        found = open_arrays(path)["x"]
        for start in range(0, 60_000, 1000):
            np.testing.assert_array_equal(found[start : start + 1000], values[start : start + 1000])
            assert pa.total_allocated_bytes() - before < 14e6
        assert tracemalloc.get_traced_memory()[1] < 14e6
    finally:
        tracemalloc.stop()


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([{"x": 1}], dtype=object))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("x", (2, 2), "f4", external=[("secret", 0, 16)])
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (2, 2))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["x"] = h5py.ExternalLink("d.h5", "x")
    for name, message in (
        ("a.npy", "Python objects"),
        ("b.npz", "x.npy is damaged, or no array of plain numbers or text: Object arrays"),
        ("c.h5", "another file"),
        ("d.h5", "another file"),
    ):
        with pytest.raises(InputError, match=message):
            open_arrays(tmp_path / name)
    assert open_arrays(tmp_path / "e.h5") == {}


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "d.exe").write_bytes(b"")
    with pytest.raises(InputError, match="no known kind"):
        open_arrays(tmp_path / "d.exe")
    with pytest.raises(InputError, match="no file"):
        open_arrays(tmp_path / "gone.npy")
    for suffix in ("npy", "npz", "h5", "safetensors", "parquet"):
        for data in (b"", b"nonsense" * 40, b"\xff" * 100):
            path = tmp_path / f"x.{suffix}"
            path.write_bytes(data)
            with pytest.raises(InputError, match="cannot be read"):
                open_arrays(path)


def test_cut_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    np.savez_compressed(tmp_path / "x.npz", x=VALUES)
    save_file({"x": VALUES}, tmp_path / "x.safetensors")
    write_parquet(tmp_path / "x.parquet", VALUES)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = VALUES
    for path in sorted(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError):
            open_arrays(path)["x"][:]


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=VALUES)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[2000] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.npy is damaged, .*: Bad CRC"):
        open_arrays(tmp_path / "x.npz")


def zip_with(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", data)


def npy_header(shape: tuple[int, ...]) -> bytes:
    text = str({"descr": "<f4", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_files_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("x", (10**6, 10**6), "f4", chunks=(1000, 1000))
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1_000_000, np.float32)), 50)
    pq.write_table(pa.table({"x": zeros}), tmp_path / "bomb.parquet", compression="zstd")
    with pytest.raises(InputError, match=r"x unpacks to 4000000000000 bytes"):
        open_arrays(tmp_path / "bomb.h5")
    monkeypatch.setattr(unpacked, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(InputError, match=r"x unpacks to 4000000 bytes"):
        open_arrays(tmp_path / "bomb.parquet")


def limit_memory(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr("toptune.machine.memory.memory_limit_bytes", lambda: n_bytes)


def test_npz_above_the_memory_limit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    np.savez_compressed(one, x=np.zeros((3000, 2000), np.float32))  # 24 MB in 24 kB
    np.savez_compressed(two, x=np.zeros((3000, 2000), np.float32), y=np.zeros((3000, 2000), np.float32))
    limit_memory(monkeypatch, 30_000_000)
    assert open_arrays(one)["x"].shape == (3000, 2000)
    needs = (
        "needs about 45.8 MiB of memory, and 28.6 MiB may be taken; save its arrays as .npy, HDF5 or Parquet"
    )
    tracemalloc.start()
    try:
        # All members count together, because they may share their bytes.
        with pytest.raises(InputError, match=f"loading .*two.npz {needs}"):
            open_arrays(two)
        with pytest.raises(InputError, match=f"one.npz beside the .npz files before it {needs}"):
            open_arrays(one, held_bytes=24_000_000)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_npz_whose_directory_understates_its_size_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, n_bytes = tmp_path / "x.npz", 128 + 4 * 10_000_000
    zip_with(path, npy_header((10_000_000,)) + bytes(n_bytes - 128))
    data = path.read_bytes()
    assert data.count(struct.pack("<I", n_bytes)) == 2  # before the member, and in the directory
    path.write_bytes(data.replace(struct.pack("<I", n_bytes), struct.pack("<I", 1000)))
    limit_memory(monkeypatch, 1_000_000)
    # The checksum is compared where the directory ends the member.
    with pytest.raises(InputError, match=r"x\.npy is damaged, .*: (Bad CRC|EOF)"):
        open_arrays(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_compressed_by_a_method_that_unpacks_without_bound_is_refused(
    method: int, tmp_path: Path
) -> None:
    zip_with(tmp_path / "x.npz", npy_header((2, 2)) + bytes(16), method)
    with pytest.raises(InputError, match=f"compressed by method {method} of zip, and only methods 0 and 8"):
        open_arrays(tmp_path / "x.npz")


def test_npz_member_with_more_bytes_than_its_shape_needs(tmp_path: Path) -> None:
    zip_with(tmp_path / "x.npz", npy_header((2, 2)) + bytes(20))
    with pytest.raises(InputError, match=r"x\.npy has 148 bytes, more than an array of shape \(2, 2\)"):
        open_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("shape", [(10**12, 4), (4, 10**12), (3, 4), (-2, -2)])
def test_headers_that_lie(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "x.npy").write_bytes(npy_header(shape) + bytes(16))
    zip_with(tmp_path / "x.npz", npy_header(shape) + bytes(16))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError):
            open_arrays(tmp_path / name)


def test_lists_that_are_no_matrix_are_refused(tmp_path: Path) -> None:
    ragged = pa.table({"x": pa.array([[1.0, 2.0], [1.0]])})
    empty = pa.table({"x": pa.array([[1.0], None])})
    for table, message in ((ragged, "different lengths"), (empty, "is empty in row 1")):
        pq.write_table(table, tmp_path / "b.parquet")
        with pytest.raises(InputError, match=message):
            open_arrays(tmp_path / "b.parquet")["x"][:2]
