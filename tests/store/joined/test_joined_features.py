"""Several caches over one data set are read as one table."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from small_store import BATCH_SIZE, N_ROWS, features, make_recipe, write_all

from toptune.store import FeatureCache, FeatureStore, InputError, import_features
from toptune.store.joined.joined_features import JoinedFeatures
from toptune.store.joined.member_costs import member_costs


def other_cache(
    root: Path, *, unit_rows: int = 12, model: str = "random:other", weights: str = "cd"
) -> FeatureCache:
    """A second model over the same images, in units of another size and of another type."""
    store = FeatureStore.create(root)
    cache = store.create_cache(
        model, "pets", make_recipe(weights=weights * 32), unit_rows=unit_rows, batch_size=BATCH_SIZE,
        backbone={"name": model},
    )  # fmt: skip
    cache.ensure_array("last.none", dim=4, dtype="float32")
    for unit in range(cache.n_units):
        rows = cache.unit_slice(unit)
        failed = {20: "no image"} if rows.start <= 20 < rows.stop else {}
        cache.commit_unit(unit, {"last.none": other_values()[rows]}, failed=failed, seconds=0.25)
    return cache


def other_values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N_ROWS, 4)).astype(np.float32)


@pytest.fixture
def joined(tmp_path: Path) -> JoinedFeatures:
    write_all(tmp_path)
    other_cache(tmp_path)
    store = FeatureStore.open(tmp_path)
    return JoinedFeatures.of([store.features(model, "pets") for model in ("resnet10t.demo", "random:other")])


def test_columns_stand_side_by_side(joined: JoinedFeatures) -> None:
    assert [(spec.name, spec.dim) for spec in joined.arrays()] == [
        ("resnet10t.demo/last.cls", 3), ("resnet10t.demo/layer4.mean", 5), ("random:other/last.none", 4),
    ]  # fmt: skip
    names = ["resnet10t.demo/layer4.mean", "random:other/last.none", "resnet10t.demo/last.cls"]
    usable = [row for row in range(N_ROWS) if row not in joined.failed_rows()]
    whole = np.concatenate([features("layer4.mean"), other_values(), features("last.cls")], axis=1)
    order = np.random.default_rng(1).permutation(usable)
    for rows in (usable, order):
        blocks = joined.blocks(names, rows)
        assert blocks.shape == (len(rows), 12)
        assert blocks.dtype == np.float32
        for size in (None, 1, 5):
            found = list(blocks.iterate(size))
            assert [place.start for place, _ in found] == list(range(0, len(rows), size or len(rows)))
            np.testing.assert_array_equal(np.concatenate([values for _, values in found]), whole[rows])
        np.testing.assert_array_equal(blocks.take([7, 0, 7]), whole[rows][[7, 0, 7]])
        # Workers of dask receive blocks as bytes.
        again = pickle.loads(pickle.dumps(blocks))
        np.testing.assert_array_equal(again.take([3]), whole[rows][[3]])
    assert joined.blocks(names).shape == (N_ROWS, 12)
    assert [values.shape for _, values in joined.blocks(names, []).iterate()] == []


def test_a_row_that_failed_in_one_member_failed(joined: JoinedFeatures) -> None:
    assert joined.failed_rows() == {13: "truncated JPEG", 20: "no image"}
    assert joined.failed_rows(["resnet10t.demo/last.cls"]) == {13: "truncated JPEG"}
    assert joined.failed_rows(["random:other/last.none"]) == {20: "no image"}


def test_the_identity_is_that_of_all_members_in_order(joined: JoinedFeatures) -> None:
    first, second = joined.members.values()
    assert joined.name == f"{first.name} + {second.name}"
    turned = JoinedFeatures(dict(reversed(list(joined.members.items()))))
    assert len({joined.digest, turned.digest, first.digest, second.digest}) == 4


def test_costs_are_those_of_all_members(joined: JoinedFeatures) -> None:
    costs = member_costs(joined, ["resnet10t.demo/last.cls", "random:other/last.none"])
    # Four units of half a second, and three of a quarter.
    assert costs["extract_seconds"] == 4 * 0.5 + 3 * 0.25
    assert costs["extract_pictures"] == N_ROWS
    alone = [
        member_costs(joined, [name])["extract_bytes"]
        for name in ("resnet10t.demo/last.cls", "random:other/last.none")
    ]
    assert costs["extract_bytes"] == sum(alone)


def test_caches_of_one_model_are_told_apart_by_their_digests(joined: JoinedFeatures, tmp_path: Path) -> None:
    again = other_cache(tmp_path, weights="ef")
    before = joined.members["random:other"]
    assert list(JoinedFeatures.of([before, again]).members) == [before.name, again.name]


def test_members_of_other_images_are_refused(joined: JoinedFeatures, tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path)
    few = import_features(
        store, {"last": np.eye(9, dtype=np.float32)}, dataset="few", model="mine", ids=list("abcdefghi")
    )
    with pytest.raises(InputError, match="mine has 9 images of version 1 of few, and random:other has 27"):
        JoinedFeatures({"random:other": joined.members["random:other"], "mine": few})
