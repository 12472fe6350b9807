"""HDF5 behind the contract of Zarr, and both open to plain readers."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings, strategies as st
from small_store import DIMS, N_ROWS, commit, features, make_manifest, make_recipe, open_empty, write_all

from toptune.store import (
    CONTENT_ARRAY,
    ArraySpec,
    ConflictError,
    CorruptError,
    FeatureCache,
    FeatureStore,
    IncompleteError,
    InputError,
    repair,
    verify,
)
from toptune.store.arrays import hdf5_format, zarr_format
from toptune.store.arrays.array_records import read_array
from toptune.store.arrays.zarr_shards import has_plain_index
from toptune.store.exchange.matrix_files import open_arrays
from toptune.store.files.sealed import seal

NAMES = [*DIMS, CONTENT_ARRAY]


@pytest.fixture
def hdf5(root: Path) -> FeatureCache:
    return write_all(root, format="hdf5")


def expected(name: str) -> npt.NDArray[np.float32]:
    values = features(name)
    values[13] = np.nan
    return values


def files(cache: FeatureCache) -> dict[str, bytes]:
    return {
        str(path.relative_to(cache.path)): path.read_bytes()
        for name in NAMES
        for path in (cache.path / name).rglob("*")
        if path.is_file()
    }


def test_nothing_is_damaged_where_the_library_is_missing_or_too_old(
    hdf5: FeatureCache, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No h5py, or one whose HDF5 writes files that nobody can read, is said before anything is written."""
    before = files(hdf5)
    monkeypatch.setattr(h5py.version, "hdf5_version_tuple", (1, 14, 6))
    with pytest.raises(InputError, match=r"HDF5 2\.0 or newer.*h5py>=3\.16"):
        open_empty(tmp_path / "old", format="hdf5")
    # Older versions read what newer ones wrote.
    assert len(hdf5.blocks([NAMES[0]])[:]) == N_ROWS

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"need h5py; pip install 'h5py>=3\.16'"):
        open_empty(tmp_path / "none", format="hdf5")
    with pytest.raises(InputError, match="need h5py"):
        FeatureStore(root).cache(hdf5.model, hdf5.dataset).blocks([NAMES[0]])[:]
    assert files(hdf5) == before
    (tmp_path / "e.h5").write_bytes(b"x")
    with pytest.raises(InputError, match="need h5py"):
        open_arrays(tmp_path / "e.h5")
    assert open_empty(tmp_path / "zarr", format="zarr").format == "zarr"


def test_plain_h5py_reads_the_whole_and_every_unit(hdf5: FeatureCache) -> None:
    for name in DIMS:
        with h5py.File(hdf5.path / name / "all.h5", "r", locking=False) as file:
            np.testing.assert_array_equal(file["features"][:], expected(name))
        with h5py.File(hdf5.path / name / "000003.h5", "r", locking=False) as file:
            np.testing.assert_array_equal(file["features"][:], expected(name)[24:])
            assert file["features"].fletcher32


def test_plain_zarr_reads_the_whole(complete: FeatureCache) -> None:
    for name in DIMS:
        np.testing.assert_array_equal(zarr.open_array(complete.path / name, mode="r")[:], expected(name))


def test_blocks_are_those_of_zarr(hdf5: FeatureCache, complete_elsewhere: FeatureCache) -> None:
    for rows in (None, [20, 3, 26, 3, 0, 14]):
        ours, theirs = hdf5.blocks(list(DIMS), rows), complete_elsewhere.blocks(list(DIMS), rows)
        assert ours.dtype == theirs.dtype == np.float16
        for (a, x), (b, y) in zip(ours.iterate(5), theirs.iterate(5), strict=True):
            assert a == b
            np.testing.assert_array_equal(x, y)


@pytest.fixture
def complete_elsewhere(template: Path, tmp_path: Path) -> FeatureCache:
    shutil.copytree(template, tmp_path / "elsewhere")
    return open_empty(tmp_path / "elsewhere")


def test_interrupted_and_resumed_equals_undisturbed(hdf5: FeatureCache, tmp_path: Path) -> None:
    cache = open_empty(tmp_path / "other", format="hdf5")
    commit(cache, 2)
    # As one who was killed before the ledger entry leaves it.
    cache.entry_path("last.cls", 2).unlink()
    cache.shard_path("last.cls", 0).parent.mkdir(exist_ok=True)
    cache.shard_path("last.cls", 0).write_bytes(b"torn")
    assert files(write_all(tmp_path / "other", format="hdf5")) == files(hdf5)
    assert verify(cache, deep=True).exit_code == 0


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "victim", ["all.h5", "000001.h5", "000003.h5", "array.json", "000002.json", "packed.jsonl", "cache.json"]
)
def test_every_byte_is_covered_and_repaired(hdf5: FeatureCache, victim: str, packed: bool) -> None:
    before = files(hdf5)
    if packed:
        hdf5.pack_ledgers(NAMES)
    found = sorted(hdf5.path.rglob(victim))
    if not found:
        assert packed == (victim == "000002.json")
        return
    path = found[-1]
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        report = verify(FeatureStore(hdf5.root), deep=True)
        assert report.exit_code == 1, f"byte {place} of {path}"
        assert str(path) in {where for where, _ in report.damaged}
    if victim != "cache.json":  # the one record that cannot be rebuilt
        assert repair(hdf5.root).exit_code == 0
        cache = write_all(hdf5.root, format="hdf5")
        assert files(cache) == before
        assert verify(cache, deep=True).exit_code == 0


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_unit_is_an_error_while_reading(hdf5: FeatureCache, damage: str) -> None:
    path = hdf5.shard_path("layer4.mean", 1)
    data = bytearray(path.read_bytes())
    blocks = hdf5.blocks(["layer4.mean"])
    if damage == "truncate":
        path.write_bytes(data[:-5])
    elif damage == "remove":
        path.unlink()
    else:
        place = data.index(expected("layer4.mean")[8:16].astype(np.float16).tobytes())
        data[place + 7] ^= 4
        path.write_bytes(data)
    with pytest.raises(CorruptError, match=str(path)):
        blocks.take([9])
    assert np.isfinite(blocks.take([0])).all()


def test_a_unit_that_points_to_another_file_is_refused(hdf5: FeatureCache) -> None:
    path = hdf5.shard_path("last.cls", 0)
    secret = path.with_name("secret.h5")
    path.rename(secret)
    layout = h5py.VirtualLayout((8, 3), "float16")
    layout[:] = h5py.VirtualSource(str(secret), "features", shape=(8, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("features", layout)
    spec = hdf5.array("last.cls")
    with pytest.raises(CorruptError, match="no user block of toptune's"):
        hdf5_format.read_unit(spec, path, 0)
    with pytest.raises(CorruptError, match="does not hold its values itself"):
        hdf5_format.read_unit(spec, path, 0, check=False)


def test_a_cache_keeps_its_format(hdf5: FeatureCache) -> None:
    store = FeatureStore.create(hdf5.root)
    options: dict[str, Any] = {"unit_rows": 8, "batch_size": 4, "backbone": {}}
    again = store.create_cache("resnet10t.demo", "pets", make_recipe(), format="zarr", **options)
    assert again.format == "hdf5"
    assert again.path == hdf5.path
    with pytest.raises(InputError, match="'csv' is unknown; choose one of zarr, hdf5"):
        store.create_cache("other", "pets", make_recipe(weights="cd" * 32), format="csv", **options)


def test_missing_units_read_as_nan_only_for_plain_h5py(root: Path) -> None:
    cache = open_empty(root, format="hdf5")
    commit(cache, 1)
    with h5py.File(cache.path / "last.cls" / "all.h5", "r") as file:
        assert np.isnan(file["features"][:8]).all()
    with pytest.raises(IncompleteError, match="0, 2-3"):
        cache.blocks(["last.cls"])


def test_conflicting_metadata_is_refused(hdf5: FeatureCache) -> None:
    spec = hdf5.array("last.cls")
    other = dataclasses.replace(spec, dim=4)
    assert hdf5_format.is_same_array(hdf5_format.metadata(spec), spec)
    assert not hdf5_format.is_same_array(hdf5_format.metadata(other), spec)
    assert not hdf5_format.is_same_array(b"no file", spec)
    with pytest.raises(ConflictError, match="3 columns, now 4"):
        hdf5.ensure_array("last.cls", dim=4, dtype="float16")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_shards_are_what_zarr_writes(data: st.DataObject) -> None:
    """Made by toptune, read by zarr; made by zarr, read by toptune."""
    chunk_rows = data.draw(st.integers(1, 5))
    unit_rows = chunk_rows * data.draw(st.integers(1, 4))
    dim = data.draw(st.integers(1, 7))
    dtype = data.draw(st.sampled_from(["float16", "float32", "uint8"]))
    # What stands in chunks that lie wholly behind the last row is nobody's business.
    length = data.draw(st.integers(unit_rows - chunk_rows + 1, unit_rows))
    spec = ArraySpec(
        name="a", dim=dim, dtype=dtype, unit_rows=unit_rows, chunk_rows=chunk_rows, n_rows=unit_rows + length
    )
    values = np.random.default_rng(0).integers(0, 200, (length, dim)).astype(dtype)
    contents: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(contents),
        shape=(spec.n_rows, dim),
        shards=(unit_rows, dim),
        chunks=(chunk_rows, dim),
        dtype=dtype,
        fill_value=spec.fill_value,
        filters=None,
        compressors=[zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[unit_rows:] = values
    theirs = contents["c/1/0"].to_bytes()
    assert zarr_format.encode_unit(spec, values) == theirs
    assert has_plain_index(spec, theirs)
    np.testing.assert_array_equal(zarr_format.decode_unit(spec, theirs, 1), values)


def test_a_shard_laid_out_by_another_program_is_read(complete: FeatureCache) -> None:
    """Chunks in another order, with an index that says so."""
    spec = ArraySpec(name="a", dim=2, dtype="float32", unit_rows=8, chunk_rows=4, n_rows=8)
    values = np.arange(16, dtype=np.float32).reshape(8, 2)
    plain = zarr_format.encode_unit(spec, values)
    size = 4 * 2 * 4 + 4
    index = np.array([[size, size], [0, size]], dtype="<u8").tobytes()
    crc = int(google_crc32c.value(index)).to_bytes(4, "little")
    swapped = plain[size : 2 * size] + plain[:size] + index + crc
    np.testing.assert_array_equal(zarr_format.decode_unit(spec, swapped, 0), values)
    path = complete.path / "other-shard"
    path.write_bytes(swapped)
    np.testing.assert_array_equal(zarr_format.read_unit(spec, path, 0), values)
    np.testing.assert_array_equal(
        zarr_format.read_unit_rows(spec, path, 0, np.array([5, 0]), check=False), values[[5, 0]]
    )


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_rows_of_units_that_were_checked_before(root: Path, form: str) -> None:
    cache = write_all(root, format=form)
    blocks = cache.blocks(["layer4.mean"])
    for _ in blocks.iterate():
        pass
    rows = [26, 0, 25, 7, 8, 0]
    np.testing.assert_array_equal(blocks.take(rows), expected("layer4.mean")[rows])


def test_records_of_version_one_name_zarr(complete: FeatureCache) -> None:
    """Records written before there was another format do not name it."""
    record = complete.path / "ledger/last.cls/array.json"
    values = json.loads(record.read_bytes())
    spec = {key: value for key, value in values["spec"].items() if key != "format"}
    record.write_bytes(seal("toptune-array", {"spec": spec, "zarr_sha256": values["metadata_sha256"]}))
    assert read_array(complete.path, "last.cls").format == "zarr"
    assert make_manifest().n_rows == N_ROWS
    assert verify(complete).exit_code == 0


@pytest.mark.parametrize("change", ["a key of the future", "no digest"])
def test_a_record_that_is_not_understood_is_blamed(complete: FeatureCache, change: str) -> None:
    path = complete.path / "ledger/last.cls/array.json"
    values = json.loads(path.read_bytes())
    spec, digest = values["spec"], {"metadata_sha256": values["metadata_sha256"]}
    if change == "no digest":
        digest = {}
    else:
        spec["byte_order"] = "big"
    path.write_bytes(seal("toptune-array", {"spec": spec} | digest))
    with pytest.raises(
        CorruptError, match=r"lacks metadata_sha256|'byte_order', which this toptune does not"
    ):
        read_array(complete.path, "last.cls")
    assert str(path) in {where for where, _ in verify(complete).damaged}
