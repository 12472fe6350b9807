"""The dask view of a cache."""

import pickle
import sys

import numpy as np
import pytest
from small_store import DIMS, features

from toptune.store import CorruptError, FeatureCache, InputError, as_dask_array

da = pytest.importorskip("dask.array", reason="dask is not installed")


def test_dask_reads_the_same_unit_by_unit(complete: FeatureCache) -> None:
    array = as_dask_array(complete, list(DIMS))
    assert array.chunks == ((8, 8, 8, 3), (8,))
    expected = np.concatenate([features(name) for name in DIMS], axis=1)
    expected[13] = np.nan
    np.testing.assert_array_equal(array.compute(scheduler="threads"), expected)
    assert float(array[:8].sum().compute(scheduler="sync")) == expected[:8].sum()


@pytest.mark.parametrize(
    ("rows", "chunks"), [([1, 2, 9, 26], (2, 1, 1)), ([26, 1, 9] * 4, (8, 4)), ([5], (1,))]
)
def test_some_rows(complete: FeatureCache, rows: list[int], chunks: tuple[int, ...]) -> None:
    array = as_dask_array(complete, ["last.cls"], rows)
    assert array.chunks[0] == chunks
    np.testing.assert_array_equal(array.compute(scheduler="sync"), features("last.cls")[rows])
    with pytest.raises(InputError, match="rows is empty"):
        as_dask_array(complete, ["last.cls"], [])
    with pytest.raises(IndexError):
        as_dask_array(complete, ["last.cls"], [27])


def test_views_travel_to_other_processes(complete: FeatureCache) -> None:
    assert complete.manifest.n_rows == 27  # read, and so carried along
    blocks = pickle.loads(pickle.dumps(complete.blocks(["last.cls"], [3, 1])))
    np.testing.assert_array_equal(blocks.take([0, 1]), features("last.cls")[[3, 1]])


def test_damage_is_found_when_it_is_read(complete: FeatureCache) -> None:
    array = as_dask_array(complete, ["last.cls"])
    path = complete.shard_path("last.cls", 1)
    data = path.read_bytes()
    path.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    assert np.isfinite(array[:8].compute(scheduler="sync")).all()
    with pytest.raises(CorruptError, match=str(path)):
        array.compute(scheduler="sync")


def test_without_dask(complete: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(InputError, match=r"pip install 'toptune\[dask\]'"):
        as_dask_array(complete, ["last.cls"])
