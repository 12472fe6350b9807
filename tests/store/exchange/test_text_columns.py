"""Ids and labels are read as they are written."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toptune.store import InputError
from toptune.store.datasets.outside_text import outside_column
from toptune.store.exchange.matrix_files import open_arrays
from toptune.store.exchange.text_columns import as_values, read_column, read_table


def test_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\r\nhänd\n\nx\x0cy\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("label\ncat\n\ndog\n")
    np.save(tmp_path / "d.npy", np.array([3, 4]))
    np.save(tmp_path / "e.npy", np.array(["a", "", "c"]))
    pq.write_table(pa.table({"x": ["a", None], "v": [[1.0], [2.0]]}), tmp_path / "f.parquet")
    assert read_column(tmp_path / "a.txt") == ["cat", "händ", "", "x\x0cy"]
    assert read_column(tmp_path / "b.csv") == ["cat", "", "dog"]
    assert read_column(tmp_path / "d.npy") == [3, 4]
    assert read_column(tmp_path / "e.npy") == ["a", "", "c"]
    assert read_column(tmp_path / "f.parquet") == ["a", None]


def test_text_stays_text(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('id,label\n007,NA\n1e5,true\n2020-01-01,\nx,"a,b"\n')
    assert read_table(tmp_path / "c.csv") == {
        "id": ["007", "1e5", "2020-01-01", "x"],
        "label": ["NA", "true", "", "a,b"],
    }


def test_arrays_of_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["names"] = ["händ", "b"]
        file["bytes"] = np.array([b"\xff"])
        file["numbers"] = np.array([1.5, 2, np.nan], np.float32)
        file["matrix"] = np.eye(2)
    found = open_arrays(tmp_path / "a.h5")
    assert outside_column(as_values(found["names"], "names")) == ["händ", "b"]
    assert outside_column(as_values(found["bytes"], "bytes")) == ["\\xff"]
    assert outside_column(as_values(found["numbers"], "numbers")) == ["1.5", "2", None]
    with pytest.raises(InputError, match="a list of names is needed"):
        as_values(found["matrix"], "matrix")
    np.savez(tmp_path / "b.npz", names=np.array(["x", "y"]))
    assert as_values(open_arrays(tmp_path / "b.npz")["names"], "names") == ["x", "y"]


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,label\n1,cat\n")
    with pytest.raises(InputError, match="has columns id, label; one is needed"):
        read_column(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("a,b\n1\n")
    for name in ("gone.csv", "gone.parquet", "d.csv"):
        with pytest.raises(InputError, match=r"table .* cannot be read"):
            read_table(tmp_path / name)
    (tmp_path / "e.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"not text in UTF-8 \(byte 0xe9 at place 3\)"):
        read_column(tmp_path / "e.txt")
    with pytest.raises(InputError, match="is no list of names"):
        read_column(tmp_path / "labels")
