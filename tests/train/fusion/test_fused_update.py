"""Runs of several models are brought up to date, member by member, with the weights as they were."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from toptune.store import FeatureStore, InputError, Manifest, grow
from toptune.train import FusedRun, Run, load_run, train, update_run

Store = Callable[..., FeatureStore]
OPTIONS: dict[str, Any] = {"dataset": "pets", "cv": 3, "layers": "all"}


def add_images(store: FeatureStore, n: int, *, failed: dict[str, int] | None = None) -> None:
    """Make a version with n images more, stored for both models; row `failed` of the part fails for one."""
    old = store.manifest("pets")
    ids = [*old.ids, *(f"new {row}.png" for row in range(n))]
    labels = [*old.labels, *(f"class {row % 3}" for row in range(n))]
    grow(store, "pets", Manifest.from_columns(ids=ids, labels=labels, sizes=[*old.sizes.tolist(), *[7] * n]))
    for model in ("small", "large"):
        first = next(cache for cache in store.caches(dataset="pets") if cache.model == model)
        cache = store.create_cache(
            model, "pets~2", first.recipe, unit_rows=48, batch_size=8, backbone={"name": model}
        )
        rng = np.random.default_rng(1)
        values = {spec.name: rng.normal(size=(n, spec.dim)).astype(np.float32) for spec in first.arrays()}
        for name, part in values.items():
            cache.ensure_array(name, dim=part.shape[1], dtype="float32")
        mine = {row: "truncated JPEG" for name, row in (failed or {}).items() if name == model}
        for unit in range(cache.n_units):
            rows = cache.unit_slice(unit)
            cache.commit_unit(unit, {name: part[rows] for name, part in values.items()}, failed=mine)


def ids_of(run: FusedRun | Run, role: str) -> set[str]:
    table = pq.read_table(run.folder / "rows.parquet").to_pydict()
    return {each for each, of in zip(table["id"], table["role"], strict=True) if of == role}


@pytest.mark.parametrize("head", ["ridge", "falkon"])
def test_an_update_equals_those_of_its_members(head: str, two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    run = train(store, models=["small", "large"], head=head, out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    add_images(store, 30)
    gone = sorted(ids_of(run, "train"))[:2]
    updated = update_run(run, out=tmp_path / "updated", forget=gone)
    assert updated.metrics["n_train"] + updated.metrics["n_test"] == 120 + 30 - 2
    assert updated.pool.weights.tolist() == run.pool.weights.tolist()
    assert updated.fusion.temperature == run.fusion.temperature
    for folder in (updated.folder, *(updated.folder / each.folder for each in updated.fusion.members)):
        found = load_run(folder)
        assert ids_of(found, "forgotten") == set(gone)
        assert not ids_of(found, "train") & set(gone)
        assert found.record.dataset_version == 2
    # Each member is what an update of that head alone gives.
    for number, member in enumerate(run.members):
        alone = update_run(member, out=tmp_path / f"alone{number}", forget=gone)
        blocks = store.features(member.cache.name, "pets").blocks(
            [array.name for array in member.arrays], updated.test_rows
        )
        assert alone.test_rows.tolist() == updated.test_rows.tolist()
        np.testing.assert_allclose(
            updated.members[number].predict_blocks(blocks)[1], alone.predict_blocks(blocks)[1], atol=1e-9
        )
    record = updated.record.update
    assert record is not None
    assert (record.n_new, record.n_forgotten, record.run) == (30, 2, str(run.folder))
    told = str(updated)
    assert "of all heads together are those of the run before the update; how well they do on left" in told
    assert f"\ntogether: temperature {run.fusion.temperature:.4g}\n" in told
    # A forgotten image does not come back.
    with pytest.raises(InputError, match="nothing to update"):
        update_run(updated, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_new_images_that_failed_for_one_model_leave_all(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    run = train(store, models=["small", "large"], head="ridge", out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    add_images(store, 30, failed={"large": 3})
    with pytest.raises(InputError, match=r"1 of the images .*new 3\.png.*truncated JPEG"):
        update_run(run, out=tmp_path / "updated")
    assert not (tmp_path / "updated").exists()
    updated = update_run(run, out=tmp_path / "updated", allow_failed=True)
    assert updated.metrics["n_skipped"] == 1
    for member in updated.members:
        assert member.train_rows.tolist() == updated.train_rows.tolist()
    used = ids_of(updated, "train") | ids_of(updated, "test")
    assert len(used) == 149
    assert "new 3.png" not in used


@pytest.mark.parametrize("options", [{"head": "lda"}, {"head": "ridge", "keep_sums": False}])
def test_members_without_sums_are_refused(options: dict[str, Any], two_models: Store, tmp_path: Path) -> None:
    store: FeatureStore = two_models()
    run = train(store, models=["small", "large"], out=tmp_path / "run", **OPTIONS, **options)
    models: Sequence[Run] = run.members if isinstance(run, FusedRun) else []
    with pytest.raises(InputError, match=r"members/0-.* cannot be updated: it has no sums"):
        update_run(run, out=tmp_path / "updated", forget=sorted(ids_of(models[0], "train"))[:1])
    assert not (tmp_path / "updated").exists()
