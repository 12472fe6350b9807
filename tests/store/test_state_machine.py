"""A store against a model in memory: whatever happens, readers get the right numbers or an error."""

import os
import random
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from faults import STEPS, Fault, Turns
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
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
    FeatureCache,
    FeatureStore,
    StoreError,
    collect_garbage,
    find_garbage,
    plan_removal,
    remove,
    remove_arrays,
    repair,
    verify,
)

NAMES = [*DIMS, CONTENT_ARRAY]
N_UNITS = -(-N_ROWS // UNIT_ROWS)
EXAMPLES = int(os.environ.get("TOPTUNE_SOAK_EXAMPLES", "25"))
UNITS = st.integers(0, N_UNITS - 1)


def truth(name: str) -> np.ndarray:
    if name == CONTENT_ARRAY:
        return contents()
    values = features(name)
    values[13] = np.nan
    return values


def write_too(root: Path, form: str, unit: int) -> None:
    commit(open_empty(root, format=form), unit)


def begin_anew(root: Path, form: str, _: int) -> None:
    store = FeatureStore.open(root)
    remove(store, plan_removal(store, dataset="pets"))
    open_empty(root, format=form)


def remove_layer(root: Path, form: str, _: int) -> None:
    remove_arrays(open_empty(root, format=form), ["last.cls"])


def collect_all(root: Path, _: str, __: int) -> None:
    store = FeatureStore.open(root)
    collect_garbage(store, find_garbage(store, grace=timedelta(0)))


OTHERS = {"write": write_too, "anew": begin_anew, "layer": remove_layer, "collect": collect_all}


class StoreMachine(RuleBasedStateMachine):
    """Writers, crashes, damage, repair and removal in any order.

    The model: which units must be done (`done`); those that a crash left open are in neither state. Damage is
    remembered by file until a repair.
    """

    @initialize(form=st.sampled_from(["zarr", "hdf5"]))
    def begin(self, form: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "store"
        self.form = form
        self.done: set[tuple[str, int]] = set()
        self.damaged: set[Path] = set()
        self.undisturbed = shard_bytes(write_all(self.folder / "undisturbed", format=form))
        self.open()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def open(self) -> FeatureCache:
        return open_empty(self.root, format=self.form)

    @precondition(lambda self: not self.damaged)
    @rule(unit=UNITS)
    def write(self, unit: int) -> None:
        commit(self.open(), unit)
        self.done |= {(name, unit) for name in NAMES}

    @precondition(lambda self: not self.damaged)
    @rule(unit=UNITS)
    def write_by_two_who_opened_before(self, unit: int) -> None:
        one, two = self.open(), self.open()
        commit(one, unit)
        commit(two, unit)
        self.done |= {(name, unit) for name in NAMES}

    @precondition(lambda self: not self.damaged)
    @rule(unit=UNITS, step=st.sampled_from(STEPS), number=st.integers(1, 8), is_crash=st.booleans())
    def crash(self, unit: int, step: str, number: int, is_crash: bool) -> None:
        cache = self.open()
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(step, number, is_crash=is_crash).install(monkeypatch)
            try:
                commit(cache, unit)
            except StoreError:
                return
        self.done |= {(name, unit) for name in NAMES}

    @precondition(lambda self: not self.damaged)
    @rule(
        unit=UNITS,
        number=st.integers(1, 120),
        other=st.sampled_from(sorted(OTHERS)),
        its_number=st.just(0) | st.integers(1, 120),
    )
    def write_beside_another(self, unit: int, number: int, other: str, its_number: int) -> None:
        """Stand still before some step of a commit, while another process does something else.

        The other process does all of it, or stands still before its step `its_number` until the commit ended.
        """
        cache = self.open()
        with pytest.MonkeyPatch.context() as monkeypatch:
            turns = Turns(
                lambda: commit(cache, unit),
                number,
                lambda: OTHERS[other](self.root, self.form, unit),
                its_number,
            )
            turns.run(monkeypatch)
        assert verify(FeatureStore.open(self.root), deep=True).damaged == ()
        found = self.open()
        # What another process removes may be what was written before.
        is_last = not its_number and turns.steps["one"] == number
        if "one" not in turns.errors and (is_last or other in ("write", "collect")):
            assert all(found.entry(name, unit) for name in NAMES)
        there = {(name, each) for name in NAMES for each in found.entries(name)}
        assert there >= self.done or other in ("anew", "layer")
        self.done = there

    @precondition(lambda self: not self.damaged)
    @rule()
    def pack(self) -> None:
        self.open().pack_ledgers(NAMES)

    @precondition(lambda self: not self.damaged)
    @rule(step=st.sampled_from(STEPS), number=st.integers(1, 4))
    def crash_while_packing(self, step: str, number: int) -> None:
        cache = self.open()
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(step, number, is_crash=True).install(monkeypatch)
            try:
                cache.pack_ledgers(NAMES)
            except StoreError:
                return

    @precondition(lambda self: not self.damaged)
    @rule()
    def finish(self) -> None:
        cache = write_all(self.root, format=self.form)
        assert cache.is_complete()
        found = {name: data for name, data in shard_bytes(cache).items() if ".tmp-" not in name}
        assert found == self.undisturbed
        self.done = {(name, unit) for name in NAMES for unit in range(N_UNITS)}

    @rule(seed=st.integers(0, 10**6), how=st.sampled_from(["flip", "truncate", "remove"]))
    def damage(self, seed: int, how: str) -> None:
        dice = random.Random(seed)
        files = [path for path in sorted(self.open_path().rglob("*")) if path.is_file()]
        # The records that nothing can rebuild have tests of their own.
        files = [
            path
            for path in files
            if path.name not in ("cache.json", "recipe.json") and ".tmp-" not in path.name
        ]
        committed = {path for name, unit in self.done for path in self.files_of(name, unit)}
        files = [path for path in files if path in committed or path.suffix in (".jsonl", ".h5", ".json")]
        files = [path for path in files if path not in self.damaged]  # twice the same bit is none
        if not files:
            return
        path = dice.choice(files)
        data = path.read_bytes()
        if how == "remove" and path.suffix in (".json", ".jsonl") and path.name != "zarr.json":
            return  # an entry or record that is gone is not damage but missing; tested elsewhere
        if how == "remove":
            path.unlink()
        elif how == "truncate":
            path.write_bytes(data[: dice.randrange(len(data))])
        else:
            place = dice.randrange(len(data))
            path.write_bytes(
                data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :]
            )
        named = verify(FeatureStore.open(self.root), deep=True)
        is_open = how == "remove" and path not in committed and path.name != "all.h5"
        if str(path) in named.leftovers or (is_open and named.exit_code != 1):
            return  # a shard that no ledger entry names yet
        assert named.exit_code == 1, path
        self.damaged.add(path)

    def open_path(self) -> Path:
        (folder,) = FeatureStore.open(self.root).cache_folders("pets")
        return folder

    def files_of(self, name: str, unit: int) -> list[Path]:
        folder = self.open_path()
        shard = folder / name / (f"{unit:06d}.h5" if self.form == "hdf5" else f"c/{unit}/0")
        return [shard, folder / "ledger" / name / f"{unit:06d}.json"]

    @precondition(lambda self: self.damaged)
    @rule()
    def mend(self) -> None:
        report = repair(self.root)
        assert report.exit_code == 0, report
        self.damaged.clear()
        assert verify(FeatureStore.open(self.root), deep=True).exit_code in (0, 3)
        cache = self.open()
        self.done = {(name, unit) for name in NAMES for unit in cache.entries(name)}

    @precondition(lambda self: not self.damaged)
    @rule(name=st.sampled_from(sorted(DIMS)))
    def remove_array(self, name: str) -> None:
        cache = self.open()
        remove_arrays(cache, [name])
        self.done = {(each, unit) for each in NAMES for unit in cache.entries(each)}
        assert not any(each == name for each, _ in self.done)

    @rule()
    def remove_all(self) -> None:
        store = FeatureStore.open(self.root)
        remove(store, plan_removal(store, dataset="pets"))
        self.done.clear()
        self.damaged.clear()
        self.open()

    @precondition(lambda self: not self.damaged)
    @rule()
    def collect(self) -> None:
        store = FeatureStore.open(self.root)
        collect_garbage(store, find_garbage(store, grace=timedelta(0)))
        assert verify(store, deep=True).leftovers == ()

    @invariant()
    def readers_get_the_right_numbers_or_an_error(self) -> None:
        if not hasattr(self, "root"):
            return
        try:
            cache = FeatureStore.open(self.root).cache("resnet10t.demo", "pets")
        except StoreError:
            assert self.damaged
            return
        for name in NAMES:
            try:
                missing = cache.missing_units(name)
            except StoreError:
                assert self.damaged
                continue
            if not self.damaged:
                assert not {(name, unit) for unit in missing} & self.done
            for unit in range(N_UNITS):
                rows = np.arange(unit * UNIT_ROWS, min((unit + 1) * UNIT_ROWS, N_ROWS))
                try:
                    values = cache.blocks([name], rows).take(np.arange(len(rows)))
                except StoreError:
                    assert self.damaged or (name, unit) not in self.done
                else:
                    np.testing.assert_array_equal(values, truth(name)[rows])


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=12, deadline=None)
