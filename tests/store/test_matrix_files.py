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

from toptune.store import InputError, unpacked
from toptune.store.matrix_files import open_arrays

VALUES = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)


def write_parquet(path: Path, values: Any, *, is_fixed: bool = True, **options: Any) -> None:
    rows = values.tolist()
    kind = pa.from_numpy_dtype(values.dtype)
    column = pa.array(rows, pa.list_(kind, values.shape[1]) if is_fixed else pa.list_(kind))
    pq.write_table(pa.table({"id": [f"{row}" for row in range(len(rows))], "x": column}), path, **options)


def test_every_kind_gives_the_same_slices(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    np.savez(tmp_path / "b.npz", x=VALUES, y=np.arange(200))
    np.savez_compressed(tmp_path / "c.npz", x=VALUES)
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
    assert open_arrays(tmp_path / "f.parquet")["id"].tolist()[:2] == ["0", "1"]
    assert isinstance(open_arrays(tmp_path / "a.npy")["a"], np.memmap)


def test_bfloat16(tmp_path: Path) -> None:
    bits = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [200, 6], "data_offsets": [0, bits.nbytes]}})
    (tmp_path / "a.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header.encode() + bits.tobytes()
    )
    found = open_arrays(tmp_path / "a.safetensors")["x"]
    np.testing.assert_allclose(found[10:20], VALUES[10:20], rtol=2**-7)


@pytest.mark.parametrize("suffix", ["npz", "parquet", "safetensors", "npy"])
def test_files_are_not_read_whole(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).standard_normal((60_000, 128)).astype(np.float32)  # 31 MB
    path = tmp_path / f"x.{suffix}"
    match suffix:
        case "npz":
            np.savez(path, x=values)
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
        ("b.npz", "Python objects, which are never read"),
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
    with pytest.raises(InputError, match=r"x\.npy is damaged: Bad CRC"):
        open_arrays(tmp_path / "x.npz")["x"][:200]


def zip_with(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)


def npy_header(shape: tuple[int, ...]) -> bytes:
    text = str({"descr": "<f4", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_archives_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 1000)))
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("x", (10**6, 10**6), "f4", chunks=(1000, 1000))
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1_000_000, np.float32)), 50)
    pq.write_table(pa.table({"x": zeros}), tmp_path / "bomb.parquet", compression="zstd")
    assert open_arrays(tmp_path / "bomb.npz")["x"].shape == (1000, 1000)
    with pytest.raises(InputError, match=r"x unpacks to 4000000000000 bytes"):
        open_arrays(tmp_path / "bomb.h5")
    monkeypatch.setattr(unpacked, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(InputError, match=r"the archive unpacks to 8000128 bytes, above the limit of 1000000"):
        open_arrays(tmp_path / "bomb.npz")
    with pytest.raises(InputError, match=r"x unpacks to 4000000 bytes"):
        open_arrays(tmp_path / "bomb.parquet")


def test_members_that_share_their_bytes_count_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "one.npz", x=np.zeros((300, 1000), np.float32))
    monkeypatch.setattr(unpacked, "MAX_UNPACKED_BYTES", 2_000_000)
    assert list(open_arrays(tmp_path / "one.npz")) == ["x"]
    np.savez_compressed(tmp_path / "two.npz", x=np.zeros((300, 1000), "f4"), y=np.zeros((300, 1000), "f4"))
    with pytest.raises(InputError, match="the archive unpacks to 24002"):
        open_arrays(tmp_path / "two.npz")


@pytest.mark.parametrize("shape", [(10**12, 4), (4, 10**12), (3, 4), (-2, -2)])
def test_headers_that_lie(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "x.npy").write_bytes(npy_header(shape) + bytes(16))
    zip_with(tmp_path / "x.npz", npy_header(shape) + bytes(16))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError):
            open_arrays(tmp_path / name)


def test_columns_stored_otherwise_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(VALUES))
    with pytest.raises(InputError, match="Fortran order"):
        open_arrays(tmp_path / "a.npz")
    ragged = pa.table({"x": pa.array([[1.0, 2.0], [1.0]])})
    empty = pa.table({"x": pa.array([[1.0], None])})
    for table, message in ((ragged, "different lengths"), (empty, "is empty in row 1")):
        pq.write_table(table, tmp_path / "b.parquet")
        with pytest.raises(InputError, match=message):
            open_arrays(tmp_path / "b.parquet")["x"][:2]
