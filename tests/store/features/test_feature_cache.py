"""FeatureCache: done means a valid ledger entry; a committed unit does not change."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_store import (
    DIMS,
    N_ROWS,
    UNIT_ROWS,
    commit,
    contents,
    features,
    open_empty,
    shard_bytes,
    write_all,
)

from toptune.store import (
    CONTENT_ARRAY,
    ArraySpec,
    ConflictError,
    CorruptError,
    FeatureCache,
    IncompleteError,
    InputError,
    LedgerEntry,
    NumericalError,
    verify,
)
from toptune.store.arrays import zarr_format


def reopened(cache: FeatureCache) -> FeatureCache:
    return open_empty(cache.root)


def stored(name: str) -> np.ndarray:
    values = features(name).copy()
    values[13] = np.nan
    return values


def test_units_cover_the_rows(root: Path) -> None:
    cache = open_empty(root)
    assert cache.n_units == 4
    assert [cache.unit_slice(i) for i in range(4)] == [
        slice(0, 8),
        slice(8, 16),
        slice(16, 24),
        slice(24, 27),
    ]
    for unit in (-1, 4):
        with pytest.raises(InputError, match="has 4 units"):
            cache.unit_slice(unit)


def test_committed_units_come_back(complete: FeatureCache) -> None:
    cache = reopened(complete)
    assert cache.is_complete()
    assert [spec.name for spec in cache.arrays()] == sorted(DIMS)
    for name in DIMS:
        np.testing.assert_array_equal(cache.blocks([name]).take(np.arange(N_ROWS)), stored(name))
    digests, known = cache.content_digests()
    np.testing.assert_array_equal(digests, contents())
    assert known.all()
    assert cache.failed_rows() == {13: "truncated JPEG"}
    entry = cache.entry("last.cls", 1)
    assert isinstance(entry, LedgerEntry)
    assert (entry.start, entry.stop, entry.non_finite, entry.seconds) == (8, 16, 0, 0.5)


def test_incomplete_names_the_units_that_are_asked_for(root: Path) -> None:
    cache = open_empty(root)
    commit(cache, 1)
    assert cache.missing_units("last.cls") == [0, 2, 3]
    assert not cache.is_complete()
    assert not cache.is_complete(["last.cls"])
    with pytest.raises(IncompleteError, match=r"lacks 3 of 4 units: 0, 2-3; run the same extract again"):
        cache.blocks(["last.cls"])
    with pytest.raises(IncompleteError, match=r"units: 3;"):
        cache.blocks(["last.cls"], [9, 26])
    assert cache.blocks(["last.cls"], [9, 15]).shape == (2, 3)
    with pytest.raises(IncompleteError, match=r"'other\.mean'.*there are: last\.cls, layer4\.mean"):
        cache.blocks(["other.mean"])
    assert cache.missing_units("other.mean") == [0, 1, 2, 3]
    assert cache.content_digests()[1].tolist() == [False] * 8 + [True] * 8 + [False] * 11


def test_a_cache_without_arrays_is_not_complete(root: Path) -> None:
    cache = open_empty(root)
    for name in [*DIMS, CONTENT_ARRAY]:
        (cache.path / "ledger" / name / "array.json").unlink()
    assert not cache.is_complete()
    assert cache.arrays() == []


def test_a_committed_unit_does_not_change(complete: FeatureCache) -> None:
    before = shard_bytes(complete)
    entry = complete.entry("last.cls", 0)
    rows = complete.unit_slice(0)
    reopened(complete).commit_unit(
        0, {"last.cls": features("last.cls")[rows] + 1}, failed={0: "no"}, seconds=9
    )
    assert shard_bytes(complete) == before
    assert reopened(complete).entry("last.cls", 0) == entry


def test_order_of_units_does_not_matter(root: Path, tmp_path: Path) -> None:
    cache = open_empty(root)
    for unit in (3, 1, 0, 2):
        commit(cache, unit)
    assert shard_bytes(cache) == shard_bytes(write_all(tmp_path / "other"))


def test_an_array_added_later(complete: FeatureCache) -> None:
    complete.ensure_array("layer1.mean", dim=2, dtype="float32")
    assert complete.missing_units("layer1.mean") == [0, 1, 2, 3]
    assert complete.is_complete(["last.cls"])
    assert not complete.is_complete()


def test_ensure_array_adopts_or_refuses(complete: FeatureCache) -> None:
    assert complete.ensure_array("last.cls", dim=3, dtype="float32").dtype == "float16"
    with pytest.raises(ConflictError, match="has 3 columns, now 4"):
        complete.ensure_array("last.cls", dim=4, dtype="float16")
    with pytest.raises(InputError, match="float64"):
        complete.ensure_array("new.cls", dim=4, dtype="float64")
    with pytest.raises(InputError, match="dim 0"):
        complete.ensure_array("new.cls", dim=0, dtype="float16")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((7, 3), np.float32), r"\(7, 3\)"),
        (np.zeros((8, 4), np.float32), r"\(8, 4\)"),
        (np.zeros((8, 3), np.int64), "floating point"),
    ],
)
def test_values_that_do_not_fit_are_refused(root: Path, values: np.ndarray, message: str) -> None:
    cache = open_empty(root)
    with pytest.raises(InputError, match=message):
        cache.commit_unit(0, {"layer4.mean": features("layer4.mean")[:8], "last.cls": values}, seconds=0)
    assert not list(cache.path.glob("*/c"))  # nothing of the unit was written


def test_failed_rows_must_be_of_the_unit(root: Path) -> None:
    with pytest.raises(InputError, match="not all in unit 0"):
        open_empty(root).commit_unit(0, {"last.cls": features("last.cls")[:8]}, failed={8: "x"}, seconds=0)


def test_overflow_names_image_and_array(root: Path) -> None:
    cache = open_empty(root)
    values = features("last.cls")[8:16].copy()
    values[2, 1] = -70000.0
    with pytest.raises(NumericalError, match=r"last\.cls: value -70000 of image 'kätzchen/bild 10\.png'"):
        cache.commit_unit(1, {"last.cls": values}, seconds=0)
    cache.commit_unit(1, {"last.cls": values}, failed={10: "unusable"}, seconds=0)
    wide = cache.ensure_array("wide.cls", dim=3, dtype="float32")
    cache.commit_unit(1, {wide.name: values}, seconds=0)
    assert cache.blocks([wide.name], [10]).take([0])[0, 1] == -70000.0


def test_non_finite_values_are_counted_and_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = open_empty(root)
    values = features("last.cls")[:8].copy()
    values[3, :2] = np.nan
    values[4, 0] = np.inf
    values[5] = np.nan
    with caplog.at_level(logging.WARNING):
        cache.commit_unit(0, {"last.cls": values}, failed={5: "gone"}, seconds=0)
    entry = cache.entry("last.cls", 0)
    assert entry is not None
    assert entry.non_finite == 3
    assert "3 values are not finite in 2 rows" in caplog.text
    assert "bild 3.png" in caplog.text


def test_plain_zarr_reads_the_arrays(complete: FeatureCache) -> None:
    for name, dim in DIMS.items():
        array = zarr.open_array(complete.path / name, mode="r")
        assert (array.shape, array.shards, array.chunks) == (
            (N_ROWS, dim),
            (UNIT_ROWS, dim),
            (UNIT_ROWS, dim),
        )
        np.testing.assert_array_equal(array[:], stored(name).astype(np.float16))


def test_files_are_what_zarr_itself_would_write(complete: FeatureCache, tmp_path: Path) -> None:
    for name in [*DIMS, CONTENT_ARRAY]:
        theirs = tmp_path / name
        source = zarr.open_array(complete.path / name, mode="r")
        copy = zarr.create_array(
            theirs,
            shape=source.shape,
            shards=source.shards,
            chunks=source.chunks,
            dtype=source.dtype,
            fill_value=source.fill_value,
            filters=None,
            compressors=[zarr.codecs.Crc32cCodec()],
            dimension_names=("row", "feature"),
            config={"write_empty_chunks": True},
        )
        copy[:] = source[:]
        ours = {k.split("/", 1)[1]: v for k, v in shard_bytes(complete).items() if k.startswith(f"{name}/")}
        assert ours == {str(p.relative_to(theirs)): p.read_bytes() for p in theirs.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_shard_size_is_arithmetic(dtype: str) -> None:
    spec = ArraySpec(name="a.b", dim=3, dtype=dtype, unit_rows=40, chunk_rows=10, n_rows=100)
    values = np.zeros((40, 3), dtype)
    data = zarr_format.encode_unit(spec, values)
    assert len(data) == zarr_format.unit_bytes(spec, 0)
    np.testing.assert_array_equal(zarr_format.decode_unit(spec, data, 0), values)
    assert len(zarr_format.encode_unit(spec, values[:7])) == zarr_format.unit_bytes(spec, 0)
    with pytest.raises(CorruptError, match="bytes where"):
        zarr_format.decode_unit(spec, data[:-1], 0)


def test_values_given_stay_as_they_are(root: Path) -> None:
    """Also where they are stored as they come, and where they may not be written to."""
    cache = open_empty(root)
    values = features("last.cls")[:8].astype(np.float16)
    cache.commit_unit(0, {"last.cls": values})
    values[0, 0] += 1  # still the caller's own
    frozen = features("last.cls")[8:16].astype(np.float16)
    frozen.flags.writeable = False
    cache.commit_unit(1, {"last.cls": frozen})
    cache.commit_unit(2, {"last.cls": features("last.cls")[16:24]}, failed={17: "gone"})
    found = cache.blocks(["last.cls"], np.arange(24)).take(np.arange(24))
    expected = features("last.cls")[:24]
    expected[17] = np.nan
    np.testing.assert_array_equal(found, expected)


def test_a_shard_without_ledger_entry_means_nothing(complete: FeatureCache) -> None:
    complete.entry_path("last.cls", 2).unlink()
    assert reopened(complete).missing_units("last.cls") == [2]
    assert complete.missing_units("last.cls") == [2]  # also where the entry had been seen
    before = shard_bytes(complete)
    commit(complete, 2)
    assert complete.is_complete()
    assert shard_bytes(complete) == before


def test_a_damaged_shard_without_entry_is_written_again(complete: FeatureCache) -> None:
    before = shard_bytes(complete)
    for damage in (b"", b"x" * 400, before["last.cls/c/2/0"][:-1] + b"\x00"):
        complete.entry_path("last.cls", 2).unlink()
        complete.shard_path("last.cls", 2).write_bytes(damage)
        write_all(complete.root)
        assert shard_bytes(complete) == before
        assert complete.is_complete()
    assert not list(complete.path.rglob(".tmp-*"))


def left_by_another(cache: FeatureCache, theirs: np.ndarray) -> None:
    """A shard without a ledger entry, as a writer leaves it who is killed before the ledger."""
    path = cache.shard_path("last.cls", 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(zarr_format.encode_unit(cache.array("last.cls"), theirs.astype(np.float16)))


def test_a_shard_that_differs_in_last_bits_is_adopted(root: Path) -> None:
    """As another kind of machine computes it."""
    cache = open_empty(root)
    theirs = features("last.cls")[:8].astype(np.float16)
    theirs[1] = np.nextafter(theirs[1], np.float16(np.inf))
    theirs[6] = np.nan
    left_by_another(cache, theirs)
    cache.commit_unit(0, {"last.cls": features("last.cls")[:8]}, failed={6: "unreadable here"}, seconds=0)
    np.testing.assert_array_equal(cache.blocks(["last.cls"], np.arange(8)).take(np.arange(8)), theirs)
    assert cache.failed_rows() == {6: "unreadable here"}
    assert verify(cache, deep=True).damaged == ()


@pytest.mark.parametrize("what", ["other values", "another row failed", "other images", "two rows swapped"])
def test_a_sound_shard_that_is_not_ours_is_written_again(root: Path, what: str) -> None:
    """A file that decodes may be of other images."""
    cache = open_empty(root)
    own = features("last.cls")[:8].astype(np.float16)
    theirs = own.copy()
    if what == "other values":
        theirs += np.float16(0.25)
    elif what == "another row failed":
        theirs[3] = np.nan
    elif what == "two rows swapped":
        theirs[[2, 3]] = theirs[[3, 2]]
    else:
        theirs[1] = np.nextafter(theirs[1], np.float16(np.inf))
        path = cache.shard_path(CONTENT_ARRAY, 0)
        path.parent.mkdir(parents=True)
        path.write_bytes(zarr_format.encode_unit(cache.array(CONTENT_ARRAY), contents()[8:16]))
    left_by_another(cache, theirs)
    cache.commit_unit(0, {"last.cls": own, CONTENT_ARRAY: contents()[:8]}, seconds=0)
    np.testing.assert_array_equal(cache.blocks(["last.cls"], np.arange(8)).take(np.arange(8)), own)
    np.testing.assert_array_equal(cache.unit_digests(0), contents()[:8])
    assert cache.failed_rows() == {}
    assert verify(cache, deep=True).damaged == ()


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_lost_shard_is_an_error_and_is_restored(complete: FeatureCache, damage: str) -> None:
    before = shard_bytes(complete)
    path = complete.shard_path("layer4.mean", 1)
    blocks = complete.blocks(["layer4.mean"])
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.unlink()
    with pytest.raises(CorruptError, match=str(path)):
        complete.blocks(["layer4.mean"])
    with pytest.raises(CorruptError, match=str(path)):  # opened before the damage: never NaN
        list(blocks.iterate())
    assert complete.missing_units("layer4.mean") == [1]
    write_all(complete.root)
    assert shard_bytes(complete) == before
    assert complete.is_complete()


def test_a_lost_shard_computed_again_elsewhere(complete: FeatureCache) -> None:
    """Other bytes than before: the ledger entry that was left must not vouch for them."""
    complete.shard_path("last.cls", 0).unlink()
    complete.commit_unit(0, {"last.cls": features("last.cls")[:8] + np.float32(0.25)}, seconds=0)
    assert verify(complete, deep=True).exit_code == 0
    assert complete.blocks(["last.cls"]).take([0])[0, 0] == features("last.cls")[0, 0] + 0.25


def test_a_flipped_bit_is_an_error_while_reading(complete: FeatureCache) -> None:
    path = complete.shard_path("layer4.mean", 1)
    data = bytearray(path.read_bytes())
    data[7] ^= 4
    path.write_bytes(data)
    blocks = complete.blocks(["last.cls", "layer4.mean"])
    with pytest.raises(CorruptError, match=r"layer4\.mean, unit 1"):
        blocks.take([9])
    assert blocks.take([0]).shape == (1, 8)


def test_a_damaged_ledger_entry_counts_as_missing(complete: FeatureCache) -> None:
    path = complete.entry_path("last.cls", 0)
    path.write_text(path.read_text().replace('"seconds": 0.5', '"seconds": 0.6'))
    assert complete.missing_units("last.cls") == [0]
    with pytest.raises(IncompleteError, match="units: 0"):
        complete.blocks(["last.cls"])
    write_all(complete.root)
    assert complete.is_complete()


def test_an_entry_of_another_unit_counts_as_missing(complete: FeatureCache) -> None:
    complete.entry_path("last.cls", 0).write_bytes(complete.entry_path("last.cls", 1).read_bytes())
    assert complete.missing_units("last.cls") == [0]


def test_damaged_array_metadata_is_an_error(complete: FeatureCache) -> None:
    path = complete.path / "last.cls" / "zarr.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata))
    with pytest.raises(CorruptError, match=str(path)):
        complete.blocks(["last.cls"])


def test_metadata_of_another_zarr_is_adopted_before_the_record(root: Path) -> None:
    cache = open_empty(root)
    record = cache.path / "ledger" / "last.cls" / "array.json"
    path = cache.path / "last.cls" / "zarr.json"
    record.unlink()
    other = json.dumps(json.loads(path.read_text()))
    path.write_text(other)
    assert cache.ensure_array("last.cls", dim=3, dtype="float16").dim == 3
    assert path.read_text() == other
    record.unlink()
    path.write_text("{")
    cache.ensure_array("last.cls", dim=3, dtype="float16")
    assert json.loads(path.read_text())["shape"] == [N_ROWS, 3]


def test_what_cannot_be_asked_for(complete: FeatureCache) -> None:
    for names in ([], ["last.cls", "last.cls"], "last.cls"):
        with pytest.raises(InputError):
            complete.blocks(names)
    with pytest.raises(IndexError):
        complete.blocks(["last.cls"], [27])
    with pytest.raises(TypeError):
        complete.blocks(["last.cls"], np.ones(N_ROWS, bool))
