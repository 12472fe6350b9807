"""A process stands still at any step, and others go on: the store is then as if both had taken turns."""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import Stall
from small_store import BATCH_SIZE, N_ROWS, UNIT_ROWS, contents, features, make_manifest, make_recipe

from toptune.store import (
    CONTENT_ARRAY,
    FeatureCache,
    FeatureStore,
    Manifest,
    StoreError,
    plan_removal,
    remove,
    verify,
)

NAME = "last.cls"
UNIT = 1


def other_manifest() -> Manifest:
    """Other images under the names of those of `make_manifest`."""
    return Manifest.from_columns(ids=make_manifest().ids, sizes=[200 + i for i in range(N_ROWS)])


class Writer:
    """Extracts a data set of the name ``pets``: the first images, or others."""

    def __init__(self, root: Path, form: str, *, is_other: bool) -> None:
        self.root, self.form, self.is_other = root, form, is_other

    @property
    def values(self) -> dict[str, np.ndarray]:
        plus = 20 if self.is_other else 0
        return {NAME: features(NAME) + np.float32(plus), CONTENT_ARRAY: contents() + np.uint8(plus)}

    def open(self) -> FeatureCache:
        store = FeatureStore.create(self.root)
        store.register("pets", other_manifest() if self.is_other else make_manifest())
        cache = store.create_cache(
            "resnet10t.demo",
            "pets",
            make_recipe(),
            unit_rows=UNIT_ROWS,
            batch_size=BATCH_SIZE,
            backbone={},
            format=self.form,
        )
        cache.ensure_array(NAME, dim=3, dtype="float16")
        cache.ensure_array(CONTENT_ARRAY, dim=32, dtype="uint8")
        return cache

    def commit(self, cache: FeatureCache, unit: int = UNIT) -> None:
        rows = cache.unit_slice(unit)
        cache.commit_unit(unit, {name: values[rows] for name, values in self.values.items()})

    def write_all(self) -> FeatureCache:
        cache = self.open()
        for unit in range(cache.n_units):
            self.commit(cache, unit)
        cache.pack_ledgers([NAME, CONTENT_ARRAY])
        return cache

    def check(self) -> None:
        """All that can be read is of this writer's images, and nothing is damaged."""
        cache = self.write_all()
        for name, values in self.values.items():
            found = cache.blocks([name]).take(np.arange(N_ROWS))
            np.testing.assert_array_equal(found, values)
        report = verify(FeatureStore.open(self.root), deep=True)
        assert report.exit_code == 0, report
        assert report.leftovers == (), report


def remove_all(root: Path) -> None:
    store = FeatureStore.open(root)
    remove(store, plan_removal(store, dataset="pets"))


def count_steps(folder: Path, form: str, act: Callable[[Writer, FeatureCache], object]) -> int:
    """Count the steps of what a writer does who is not disturbed."""
    one = Writer(folder / "counted", form, is_other=False)
    cache = one.open()
    with pytest.MonkeyPatch.context() as monkeypatch:
        stall = Stall(0, lambda: None)
        stall.install(monkeypatch)
        act(one, cache)
    shutil.rmtree(folder / "counted")
    return stall.steps


def chosen(n_steps: int, *case: str) -> range:
    """Every step in a long run (`TOPTUNE_SOAK_EXAMPLES`); otherwise some, other ones in each case."""
    stride = 1 if "TOPTUNE_SOAK_EXAMPLES" in os.environ else 9
    return range(1 + sum(map(ord, "".join(case))) % stride, n_steps + 1, stride)


def act_stalled(stall: Stall, act: Callable[[], object]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stall.install(monkeypatch)
        with contextlib.suppress(StoreError):  # The one who stood still is told.
            act()


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stalled_writer_leaves_nothing_in_a_data_set_of_other_images(
    tmp_path: Path, form: str, when: str
) -> None:
    """The other writer commits before the first one wakes up, or after that."""

    def commit(writer: Writer, cache: FeatureCache) -> None:
        writer.commit(cache)

    n_steps = count_steps(tmp_path, form, commit)
    assert n_steps > 20
    for number in chosen(n_steps, form, when):
        root = tmp_path / f"{number}"
        one, two = Writer(root, form, is_other=False), Writer(root, form, is_other=True)
        cache = one.open()

        def meanwhile(root: Path = root, two: Writer = two) -> None:
            remove_all(root)
            two.write_all() if when == "before" else two.open()

        act_stalled(Stall(number, meanwhile), functools.partial(one.commit, cache))
        two.check()
        shutil.rmtree(root)
