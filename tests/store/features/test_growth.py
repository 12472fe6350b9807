"""Data sets that grow: what is known stays where it is, and versions do not change."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grown_store import NAME, extend, feature, fill, make_grown, make_images, names, start
from small_store import make_recipe

from toptune.store import (
    GONE,
    Blocks,
    ConflictError,
    FeatureCache,
    FeatureStore,
    FeatureView,
    IncompleteError,
    InputError,
    StoreNotFoundError,
    find_version,
    grow,
    plan_growth,
    read_dataset_version,
    verify,
)
from toptune.store.datasets.versions import publish_version
from toptune.store.features import growth as growing

TESTS = Path(__file__).parents[2]


def expected(store: FeatureStore, version: int | None = None) -> np.ndarray[Any, Any]:
    manifest = store.manifest("pets", version=version)
    return np.stack([feature(*pair) for pair in zip(manifest.ids, manifest.sizes.tolist(), strict=True)])


def read_all(blocks: Blocks, block_rows: int | None = None) -> np.ndarray[Any, Any]:
    out = np.full(blocks.shape, np.nan, dtype=blocks.dtype)
    for rows, values in blocks.iterate(block_rows):
        out[rows] = values
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_nothing_differs(root: Path) -> None:
    store = start(root, make_images(names((0, 9))))
    before = files(root)
    touched = make_images(names((0, 9)), times={"003.png": 5})
    growth = grow(store, "pets", touched)
    assert not growth.is_needed
    assert growth.after.number == 1
    assert growth.difference.shared == 9
    assert files(root) == before  # a data set that never grew has no files of versions


def test_added_removed_relabeled_changed(root: Path) -> None:
    store = start(root, make_images(names((0, 10))))
    before = files(root / "features")
    now = make_images(
        names((2, 14)), labels={"004.png": "x", "005.png": "y"}, sizes={"006.png": 7, "012.png": 1}
    )
    plan = plan_growth(store, "pets", now)
    assert str(plan.difference) == "4 added, 2 removed, 2 relabeled, 1 changed"
    assert plan.difference.shared == 7
    assert store.manifest("pets").n_rows == 10  # a plan only
    growth = grow(store, "pets", now)
    assert growth.new_part is not None
    assert growth.new_part.ids == ["006.png", *names((10, 14))]
    assert (growth.after.number, growth.after.parts) == (2, ("pets", "pets~2"))
    assert store.datasets() == ["pets"]
    found = read_dataset_version(root, "pets")
    assert not found.manifest.differences(now)
    assert found.is_same(growth.after)
    assert store.manifest("pets", version=1).ids == names((0, 10))
    assert {path: data for path, data in files(root / "features").items() if path in before} == before


def test_labels_order_and_columns_alone_make_no_part(root: Path) -> None:
    store = start(root, make_images(names((0, 6))))
    order = names((0, 6))[::-1]
    cases = [
        (make_images(names((0, 6)), labels={"001.png": "x"}), "1 relabeled", 0),
        (make_images(order, labels={"001.png": "x"}), "0 relabeled", 0),
        (make_images(order, extra={"slide": ["a"] * 6}), "6 relabeled", 0),
        (make_images(names((1, 4))), "3 relabeled", 3),
    ]
    for number, (manifest, relabeled, n_removed) in enumerate(cases, start=2):
        growth = grow(store, "pets", manifest)
        assert (growth.after.number, growth.after.parts, growth.new_part) == (number, ("pets",), None)
        figures = f"0 added, {n_removed} removed, {relabeled}, 0 changed"
        assert str(growth.difference) == figures
        view = store.features("tiny.demo", "pets")
        assert isinstance(view, FeatureView)
        assert np.array_equal(read_all(view.blocks([NAME])), expected(store))
        assert view.is_complete()


def test_images_that_come_back_are_known(root: Path) -> None:
    store = start(root, make_images(names((0, 8))))
    extend(store, make_images(names((4, 12))))
    growth = extend(store, make_images(names((0, 12))))
    assert growth.new_part is None
    assert growth.after.parts == ("pets", "pets~2")
    assert str(growth.difference) == "4 added, 0 removed, 0 relabeled, 0 changed"
    # Back to exactly what the first version was: a version of its own, and nothing to compute.
    assert extend(store, make_images(names((0, 8)))).after.number == 4
    assert find_version(root, "pets", make_images(names((4, 12)))).number == 2
    with pytest.raises(ConflictError, match="images of its version 2"):
        store.register("pets", make_images(names((4, 12))))
    assert store.register("pets", make_images(names((0, 8)))).n_rows == 8
    assert np.array_equal(read_all(store.features("tiny.demo", "pets").blocks([NAME])), expected(store))


def test_rows_left_empty_for_want_of_their_image_are_not_known(root: Path) -> None:
    store = start(root, make_images(names((0, 8))))
    extend(store, make_images(names((1, 8))))
    other = make_recipe(precision="bf16")
    fill(store, "pets", recipe=other, failed={0: GONE})
    growth = grow(store, "pets", make_images(names((0, 8))))
    assert growth.new_part is not None
    assert growth.new_part.ids == ["000.png"]


def test_bytes_behind_an_equal_size(root: Path) -> None:
    store = start(root, make_images(names((0, 6))))
    asked: list[tuple[str, list[int], list[int]]] = []

    def changed(part: str, places: Any, rows: Any) -> Any:
        asked.append((part, places.tolist(), rows.tolist()))
        return places == 3

    now = make_images(names((1, 6)), times={"002.png": 1, "003.png": 1})
    plan = plan_growth(store, "pets", now, changed=changed)
    assert asked == [("pets", [2, 3], [1, 2])]
    assert (plan.difference.changed, plan.difference.shared) == (1, 4)
    assert plan.new_part is not None
    assert plan.new_part.ids == ["003.png"]
    plan_growth(store, "pets", now, changed=changed, every=True)
    assert asked[-1] == ("pets", [1, 2, 3, 4, 5], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("block_rows", [None, 1, 2, 3, 5, 100])
def test_a_view_reads_as_one_cache(root: Path, block_rows: int | None) -> None:
    store = make_grown(root)
    view = store.features("tiny.demo", "pets")
    assert isinstance(view, FeatureView)
    assert (view.dataset_version, view.n_rows, view.version.parts) == (3, 13, ("pets", "pets~2"))
    assert view.manifest.labels[1] == "other"
    assert [spec.name for spec in view.arrays()] == [NAME]
    assert view.array(NAME).n_rows == 13
    blocks = view.blocks([NAME])
    assert isinstance(blocks, Blocks)
    assert (blocks.shape, blocks.columns) == ((13, 3), {NAME: slice(0, 3)})
    assert blocks.dtype == np.float16
    assert np.array_equal(read_all(blocks, block_rows), expected(store))
    rows = np.array([12, 0, 5, 5, 1, 7])
    chosen = view.blocks([NAME], rows)
    assert np.array_equal(read_all(chosen, block_rows), expected(store)[rows])
    assert np.array_equal(chosen.take([3, 0]), expected(store)[[5, 12]])
    assert np.array_equal(blocks.take(rows), expected(store)[rows])
    assert blocks.take([]).shape == (0, 3)
    assert read_all(view.blocks([NAME], [])).shape == (0, 3)
    with pytest.raises(IndexError):
        blocks.take([13])
    digests, known = view.content_digests()
    assert known.all()
    assert digests[:, 0].tolist() == (view.manifest.sizes % 251).tolist()


def test_each_unit_is_read_once_a_pass(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toptune.store.arrays.unit_reader import UnitReader

    store = make_grown(root)
    blocks = store.features("tiny.demo", "pets").blocks([NAME])
    read: list[tuple[str, int]] = []
    plain = UnitReader._read

    def counted(self: Any, unit: int, *arguments: Any, **options: Any) -> Any:
        read.append((self._cache.name, unit))
        return plain(self, unit, *arguments, **options)

    monkeypatch.setattr(UnitReader, "_read", counted)
    read_all(blocks, 2)
    assert sorted(read) == [("pets", 0), ("pets", 1), ("pets", 2), ("pets~2", 0), ("pets~2", 1)]


def test_older_versions_stay(root: Path) -> None:
    store = make_grown(root)
    first = store.features("tiny.demo", "pets", version=1)
    assert isinstance(first, FeatureCache)
    second = store.features("tiny.demo", "pets", version=2)
    assert second.manifest.labels[1] != "other"
    for number, features in ((1, first), (2, second)):
        assert np.array_equal(read_all(features.blocks([NAME])), expected(store, number))
    for number in (0, 4):
        with pytest.raises(StoreNotFoundError, match=rf"no version {number} \(there are: 1, 2, 3\)"):
            store.features("tiny.demo", "pets", version=number)
    with pytest.raises(ConflictError, match="grown to version 3"):
        store.cache("tiny.demo", "pets")


def test_what_a_part_lacks_is_said(root: Path) -> None:
    store = start(root, make_images(names((0, 8))))
    grow(store, "pets", make_images(names((2, 12))))
    view = store.features("tiny.demo", "pets")
    assert [spec.name for spec in view.arrays()] == [NAME]
    message = (
        rf"over version 2 of pets \(10 images\) lacks {NAME} of 4 images in part pets~2; "
        "run extract with the same options and layers, it computes only these"
    )
    with pytest.raises(IncompleteError, match=message):
        view.blocks([NAME])
    assert isinstance(view, FeatureView)
    assert not view.is_complete()
    fill(store, "pets~2")
    again = store.features("tiny.demo", "pets")
    again.blocks([NAME])
    with pytest.raises(IncompleteError, match=r"lacks layer4 of 6 images in part pets; layer4 of 4"):
        again.blocks([NAME, "layer4"])


def test_parts_of_different_types_are_read_in_the_wider(root: Path) -> None:
    store = start(root, make_images(names((0, 8))))
    grow(store, "pets", make_images(names((2, 12))))
    fill(store, "pets~2", dtype="float32", format="hdf5", failed={1: "truncated"})
    view = store.features("tiny.demo", "pets")
    assert view.arrays()[0].dtype == "float32"
    assert view.failed_rows([NAME]) == {7: "truncated"}
    values, rows = read_all(view.blocks([NAME])), [row for row in range(10) if row != 7]
    assert values.dtype == np.float32
    assert np.array_equal(values[rows], expected(store)[rows])
    assert np.isnan(values[7]).all()


def test_names_of_parts_are_not_for_users(root: Path) -> None:
    store = make_grown(root)
    for call in (
        lambda: store.register("pets~2", make_images(names((0, 2)))),
        lambda: store.manifest("pets~2"),
        lambda: store.features("tiny.demo", "pets~2"),
        lambda: store.cache("tiny.demo", "pets~2"),
    ):
        with pytest.raises(InputError, match="'pets~2' is a part of data set 'pets'"):
            call()
    with pytest.raises(InputError, match="'cats~2' looks like a part"):
        store.register("cats~2", make_images(names((0, 2))))
    assert store.register("cats~two", make_images(names((0, 2)))).n_rows == 2


def test_an_interrupted_grower_is_taken_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = start(root, make_images(names((0, 4))))

    def die(*_: Any, **_options: Any) -> bool:
        raise KeyboardInterrupt

    now = make_images(names((0, 6)))
    with monkeypatch.context() as patch:
        patch.setattr(growing, "publish_version", die)
        with pytest.raises(KeyboardInterrupt):
            grow(store, "pets", now)
    assert store.manifest("pets").n_rows == 4
    growth = grow(store, "pets", now)
    assert (growth.after.parts, growth.new_part) == (("pets", "pets~2"), None)
    assert verify(store).damaged == ()


def test_a_lost_race_is_run_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = start(root, make_images(names((0, 4))))
    plain, others = publish_version, [names((2, 8)), names((0, 6))]

    def outrun(where: Path, version: Any, **options: Any) -> bool:
        if others:
            ids = others.pop()
            with monkeypatch.context() as patch:
                patch.setattr(growing, "publish_version", plain)
                grow(store, "pets", make_images(ids))
        return plain(where, version, **options)

    monkeypatch.setattr(growing, "publish_version", outrun)
    growth = grow(store, "pets", make_images(names((0, 7))))
    assert growth.after.number == 4
    for number, ids in enumerate([names((0, 4)), names((0, 6)), names((2, 8)), names((0, 7))], start=1):
        assert store.manifest("pets", version=number).ids == ids
    monkeypatch.setattr(growing, "publish_version", lambda *_, **__: False)
    with pytest.raises(ConflictError, match="changed by others 50 times"):
        grow(store, "pets", make_images(names((0, 9))))


GROWER = """
import sys
from pathlib import Path
from grown_store import extend, make_images, names
from toptune.store import FeatureStore
store = FeatureStore.open(sys.argv[1])
for number in range(5):
    first, last = int(sys.argv[2]), int(sys.argv[2]) + 4 + number
    extend(store, make_images(names((0, 3), (first, last))))
"""


def test_growers_in_processes_of_their_own(root: Path) -> None:
    store = start(root, make_images(names((0, 4))))
    jobs = [
        subprocess.Popen([sys.executable, "-c", GROWER, str(root), str(first)], cwd=TESTS)
        for first in (100, 100, 200)
    ]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    latest = read_dataset_version(root, "pets")
    assert latest.number >= 11  # ten different ones at least; equal ones are made once where they meet
    report = verify(store, deep=True)
    assert (report.damaged, report.missing) == ((), {})
    for number in range(1, latest.number + 1):
        features = store.features("tiny.demo", "pets", version=number)
        assert np.array_equal(read_all(features.blocks([NAME])), expected(store, number))
    parts = {part: store.caches(dataset=part) for part in latest.parts}
    assert all(len(caches) == 1 for caches in parts.values())
