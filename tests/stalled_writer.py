"""A writer that can stand still at any step, and what must hold afterwards; for tests of the store."""

import contextlib
import os
from collections.abc import Callable
from datetime import timedelta
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
    collect_garbage,
    find_garbage,
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
        store = FeatureStore.open(self.root)
        collect_garbage(store, find_garbage(store, grace=timedelta(0)))
        report = verify(store, deep=True)
        assert (report.exit_code, report.leftovers) == (0, ()), report


def remove_all(root: Path) -> None:
    store = FeatureStore.open(root)
    remove(store, plan_removal(store, dataset="pets"))


def chosen(counted: Stall, *case: str) -> list[int]:
    """Every step in a long run (`TOPTUNE_SOAK_EXAMPLES`); otherwise one of each function of the system.

    Which one depends on the case, so that the cases together try many callers.
    """
    if "TOPTUNE_SOAK_EXAMPLES" in os.environ:
        return list(range(1, len(counted.kinds) + 1))
    # Of each function of the system, one caller; of this caller, one call.
    seed, steps = sum(map(ord, "".join(case))), []
    for name in sorted({name for name, _ in counted.kinds}):
        callers = sorted({caller for each, caller in counted.kinds if each == name})
        kind = (name, callers[seed % len(callers)])
        steps.append([at for at, each in enumerate(counted.kinds, start=1) if each == kind])
    return [each[seed % len(each)] for each in steps]


def act_stalled(stall: Stall, act: Callable[[], object]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stall.install(monkeypatch)
        with contextlib.suppress(StoreError):  # The one who stood still is told.
            act()
