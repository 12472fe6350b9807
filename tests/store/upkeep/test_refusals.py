"""Who may write a store but not read all of it: nothing is called damaged or left over, and nothing goes."""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from grown_store import make_grown
from permissions import another_user, give_away, mode_of
from small_store import write_all

from toptune.store import FeatureStore, StoreError, collect_garbage, find_garbage, measure, repair, verify

Tree = dict[str, bytes | None]
CACHE = "features/tiny.demo@d79a95bb/pets"
# Every kind of file and folder, and the permissions that are left.
REFUSED = [
    ("datasets/pets/dataset.json", 0o200),
    ("datasets/pets/manifest.parquet", 0o200),
    ("datasets/pets~2/dataset.json", 0o200),
    ("datasets/pets/versions/000002.json", 0o200),
    (f"{CACHE}/recipe.json", 0o200),
    (f"{CACHE}/cache.json", 0o200),
    (f"{CACHE}/ledger/last.cls/array.json", 0o200),
    (f"{CACHE}/ledger/last.cls/000001.json", 0o200),
    (f"{CACHE}/ledger/content.sha256/packed.jsonl", 0o200),
    (f"{CACHE}/last.cls/zarr.json", 0o200),
    (f"{CACHE}/last.cls/c/1/0", 0o200),
    ("datasets/pets", 0), ("datasets/pets/versions", 0o300), (CACHE, 0o300), (CACHE, 0),
    (f"{CACHE}/ledger", 0), (f"{CACHE}/ledger/last.cls", 0o300), (f"{CACHE}/last.cls/c", 0),
]  # fmt: skip


def tree(root: Path) -> Tree:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in root.rglob("*")}  # fmt: skip


@pytest.fixture
def root() -> Iterator[Path]:
    # Not below pytest's own folder, which every start of pytest closes to all other users.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        store = make_grown(Path(place) / "store")
        (cache,) = store.caches(dataset="pets")
        cache.ledger("last.cls").unpack()
        cache.ledger("content.sha256").pack()
        give_away(store.root)
        yield store.root


def test_what_may_not_be_read_is_neither_damaged_nor_left_over(root: Path) -> None:
    before = tree(root)
    assert verify(FeatureStore.open(root)).exit_code == 0
    for name, mode in REFUSED:
        with another_user(), mode_of(root / name, mode):
            store = FeatureStore.open(root)
            report = verify(store, deep=True)
            assert (report.damaged, report.missing, report.leftovers) == ((), {}, ()), name
            assert report.exit_code == 1, name
            assert all(
                Path(path).is_relative_to(root / name) and "ask the owner for read permission" in reason
                for path, reason in report.unreadable
            ), name
            repaired = repair(root).to_dict()
            assert repaired.pop("left") == [list(pair) for pair in report.unreadable], name
            assert not any(repaired.values()), name
            try:
                garbage = find_garbage(store, grace=timedelta(0))
            except StoreError as error:
                assert "Permission denied" in str(error)  # noqa: PT017  (some kinds only)
            else:
                collect_garbage(store, garbage)
        assert tree(root) == before, name
    assert verify(FeatureStore.open(root), deep=True).exit_code == 0


def test_usage_does_not_pass_over_a_closed_folder(root: Path) -> None:
    closed = root / CACHE / "last.cls" / "c"
    with another_user(), mode_of(closed, 0), pytest.raises(StoreError, match=f"cannot read {closed}"):
        measure(FeatureStore.open(root))


@pytest.mark.parametrize(
    ("damaged", "refused"),
    [
        ("datasets/pets/versions/000003.json", "datasets/pets/versions/*.parquet"),
        (f"{CACHE}/ledger/last.cls/array.json", f"{CACHE}/last.cls/zarr.json"),
        (f"{CACHE}/recipe.json", f"{CACHE}/cache.json"),
        ("datasets/pets~2/manifest.parquet", "datasets/pets/versions/*.parquet"),
    ],
)
def test_damage_stays_while_what_would_mend_it_may_not_be_read(
    root: Path, damaged: str, refused: str
) -> None:
    (root / damaged).write_bytes(b"damaged")
    before = tree(root)
    for path in root.glob(refused):
        path.chmod(0o200)
    with another_user():
        report = repair(root)
    for path in root.glob(refused):
        path.chmod(0o644)
    assert report.exit_code == 1
    assert (report.dropped, report.dropped_arrays, report.dropped_versions, report.rebuilt) == (
        {},
        (),
        (),
        (),
    )
    assert tree(root) == before
    assert repair(root).exit_code == 0


def test_a_manifest_that_may_not_be_read_is_not_taken_away_with_the_record(root: Path) -> None:
    store = write_all(root.parent / "plain").root
    (store / "datasets/pets/dataset.json").write_bytes(b"damaged")
    give_away(store)
    before = tree(store)
    with another_user(), mode_of(store / "datasets/pets/manifest.parquet", 0o200):
        report = repair(store)
    assert (report.exit_code, report.dropped_datasets) == (1, ())
    assert tree(store) == before
    assert repair(store).dropped_datasets == ("pets",)
