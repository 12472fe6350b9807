"""Updating and forgetting: equal to training anew on the same centers, by reading the change alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from toptune.store import CorruptError, FeatureCache, FeatureStore, InputError, Manifest, StoredFeatures, grow
from toptune.train import (
    FalkonClassifier,
    PreprocessedBlocks,
    Run,
    StreamingRidgeClassifier,
    evaluate_run,
    train,
    update_run,
)
from toptune.train.passes.passes import accumulate

Build = Callable[..., FeatureCache]
OPTIONS: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3, "layers": "all"}


def label_of(identity: str) -> str:
    return f"class {sum(identity.encode()) % 3}"


def manifest_of(
    cache: FeatureCache, n_new: int = 0, *, dropped: int = 0, labels: dict[str, str | None] | None = None
) -> Manifest:
    old = cache.manifest
    known = dict(zip(old.ids, zip(old.labels, old.sizes.tolist(), strict=True), strict=True))
    fresh = {f"new {i}.png": (label_of(f"new {i}.png"), 7) for i in range(n_new)}
    all_of = dict(list(known.items())[dropped:]) | fresh
    return Manifest.from_columns(
        ids=list(all_of),
        labels=[(labels or {}).get(name, label) for name, (label, _) in all_of.items()],
        sizes=[size for _, size in all_of.values()],
    )


def fill(store: FeatureStore, like: FeatureCache, part: str, failed: dict[int, str] | None = None) -> None:
    manifest = store.part_manifest(part)
    cache = store.create_cache(
        "tiny.demo", part, like.recipe, unit_rows=8, batch_size=8, backbone={"name": "tiny.demo"}
    )
    rng = np.random.default_rng(5)
    for spec in like.arrays():
        cache.ensure_array(spec.name, dim=spec.dim, dtype=spec.dtype)
    for unit in range(cache.n_units):
        rows = cache.unit_slice(unit)
        mine = {row: why for row, why in (failed or {}).items() if rows.start <= row < rows.stop}
        values = {
            spec.name: np.stack(
                [
                    rng.normal(size=spec.dim) + int(str(manifest.labels[row])[-1])
                    for row in range(rows.start, rows.stop)
                ]
            ).astype(np.float32)
            for spec in like.arrays()
        }
        cache.commit_unit(unit, values, failed=mine)


def preprocessed(run: Run, cache: StoredFeatures, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    names = [array.name for array in run.arrays]
    return PreprocessedBlocks(cache.blocks(names, rows), run.preprocessing).take(np.arange(len(rows)))


def from_scratch(run: Run, store: FeatureStore) -> Any:
    """Fit the updated run's rows anew, on its own centers, width, penalty and preprocessing."""
    cache = store.features("tiny.demo", "pets", version=run.config["dataset_version"])
    X = preprocessed(run, cache, run.train_rows)
    y = [str(cache.manifest.labels[row]) for row in run.train_rows]
    estimator = run.head.estimator  # type: ignore[attr-defined]
    fresh: Any = (
        FalkonClassifier(
            centers=estimator.centers_, sigma=estimator.sigma_, penalty=estimator.penalty_, cv=None
        )
        if run.head.name == "falkon"
        else StreamingRidgeClassifier(penalty=estimator.penalty_, cv=None)
    )
    return fresh.fit(X, y)


def assert_equal_to_scratch(run: Run, store: FeatureStore, atol: float = 1e-8) -> None:
    fresh = from_scratch(run, store)
    cache = store.features("tiny.demo", "pets", version=run.config["dataset_version"])
    X = preprocessed(run, cache, np.concatenate([run.train_rows, run.test_rows]))
    assert run.classes == list(fresh.classes_)
    np.testing.assert_allclose(run.head.decision_function(X), fresh.scores(X), atol=atol)


class Reads:
    """Counts the rows of features that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        inner = PreprocessedBlocks.iterate

        def iterate(blocks: PreprocessedBlocks, block_rows: int | None = None) -> Any:
            for rows, values in inner(blocks, block_rows):
                self.rows += len(values)
                yield rows, values

        monkeypatch.setattr(PreprocessedBlocks, "iterate", iterate)


HEADS: dict[str, dict[str, Any]] = {
    "falkon": {"head": "falkon", "n_centers": 25, "solver": "direct"},
    "wide": {"head": "falkon", "sigma": 60.0, "solver": "direct"},
    "ridge": {"head": "ridge"},
    "unit norms": {"head": "ridge", "preprocess": "l2,standardise"},
    "components": {"head": "falkon", "n_centers": 25, "solver": "direct", "preprocess": "l2,whiten:8"},
}


@pytest.mark.parametrize("head", HEADS)
def test_new_images_and_classes_are_added(
    head: str, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", **OPTIONS, **HEADS[head])
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    labels: dict[str, str | None] = {f"new {i}.png": "class 7" for i in range(12)}
    grow(store, "pets", manifest_of(cache, 30, labels=labels))
    fill(store, cache, "pets~2")
    reads = Reads(monkeypatch)
    second = update_run(first.folder, out=tmp_path / "second")
    n_new_train = second.config["update"]["n_added"]
    # New images once, test images once; no training image again.
    assert reads.rows == n_new_train + len(second.test_rows)
    assert 0 < n_new_train < 30
    assert n_new_train + len(first.train_rows) == len(second.train_rows)
    assert len(second.train_rows) + len(second.test_rows) == 120
    assert second.classes == ["class 0", "class 1", "class 2", "class 7"]
    assert_equal_to_scratch(second, store)
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
    loaded = Run.load(second.folder)
    assert loaded.metrics["accuracy"] == second.metrics["accuracy"]
    assert any("updated" in note for note in loaded.config["warnings"])
    with pytest.raises(InputError, match=r"nothing to update.*version 2"):
        update_run(loaded, out=tmp_path / "third")


@pytest.mark.parametrize("are_centers", [False, True])
def test_scores_agree_in_float32_too(
    are_centers: bool, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0)
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", **OPTIONS, **HEADS["falkon"])
    assert first.head.report["precision"] == "float32"
    grow(store, "pets", manifest_of(cache, 30))
    fill(store, cache, "pets~2")
    indices = first.head.estimator.center_indices_
    positions = indices[:4] if are_centers else np.setdiff1d(np.arange(len(first.train_rows)), indices)[:9]
    goes = [cache.manifest.ids[row] for row in first.train_rows[positions]]

    def sums(*args: Any, **options: Any) -> Any:
        # The process chose bfloat16 for its networks, and that is not for kernel values.
        assert torch.get_float32_matmul_precision() == "highest"
        return accumulate(*args, **options)

    monkeypatch.setattr("toptune.train.updates.head_update.accumulate", sums)
    torch.set_float32_matmul_precision("medium")
    try:
        second = update_run(first.folder, out=tmp_path / "second", forget=goes)
    finally:
        torch.set_float32_matmul_precision("highest")
    # Centers that go move the point that float32 distances are taken from, and so their rounding.
    assert_equal_to_scratch(second, store, atol=1e-4 if are_centers else 1e-6)


def test_old_images_keep_their_side_of_the_split(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", group_by="^(g\\d+|new \\d)", **OPTIONS, **HEADS["falkon"])
    sides = {cache.manifest.ids[row]: side for side in ("train", "test")
             for row in getattr(first, f"{side}_rows")}  # fmt: skip
    grow(store, "pets", manifest_of(cache, 40))
    fill(store, cache, "pets~2")
    second = update_run(first, out=tmp_path / "second", store=store)
    ids = store.features("tiny.demo", "pets").manifest.ids
    now = {ids[row]: side for side in ("train", "test") for row in getattr(second, f"{side}_rows")}
    assert {identity: now[identity] for identity in sides} == sides
    groups: dict[str, set[str]] = {}
    for identity, side in now.items():
        if identity.startswith("new"):
            groups.setdefault(identity[:5], set()).add(side)
    assert all(len(both) == 1 for both in groups.values())
    assert_equal_to_scratch(second, store)


@pytest.mark.parametrize("head", HEADS)
def test_images_are_forgotten_with_the_centers_on_them(head: str, build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", **OPTIONS, **HEADS[head])
    ids = [cache.manifest.ids[row] for row in first.train_rows]
    goes = [ids[row] for row in (3, 11, 40)]
    indices = getattr(first.head.estimator, "center_indices_", None)
    if indices is not None:
        goes += [ids[indices[0]], ids[indices[7]]]
    second = update_run(first.folder, out=tmp_path / "second", forget=goes)
    assert len(second.train_rows) == len(first.train_rows) - len(set(goes))
    assert not {cache.manifest.ids[row] for row in second.train_rows} & set(goes)
    assert_equal_to_scratch(second, store)
    if indices is not None:
        left = second.head.estimator
        n_gone = len({ids[row] for row in indices} & set(goes))
        assert len(left.centers_) == len(indices) - n_gone
        X = preprocessed(second, cache, second.train_rows)
        np.testing.assert_array_equal(left.centers_, X[left.center_indices_])
    # What is forgotten does not come back when the data set grows, and can be forgotten further.
    grow(store, "pets", manifest_of(cache, 9))
    fill(store, cache, "pets~2")
    third = update_run(second.folder, out=tmp_path / "third", forget=[ids[5]])
    manifest = store.features("tiny.demo", "pets").manifest
    used = {manifest.ids[row] for row in [*third.train_rows, *third.test_rows]}
    assert not used & {*goes, ids[5]}
    assert_equal_to_scratch(third, store)
    with pq.ParquetFile(third.folder / "rows.parquet") as file:
        table = file.read().to_pydict()
    marked = {name for name, role in zip(table["id"], table["role"], strict=True) if role == "forgotten"}
    assert marked == {*goes, ids[5]}


def test_images_that_left_changed_or_lost_their_label(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", **OPTIONS, **HEADS["falkon"])
    trained = [cache.manifest.ids[row] for row in first.train_rows]
    labels: dict[str, str | None] = dict.fromkeys(trained[20:26], "class 1") | dict.fromkeys(trained[30:33])
    labels |= {name: label_of(name) for name in ("new 0.png", "new 1.png")}
    grow(store, "pets", manifest_of(cache, 2, dropped=9, labels=labels))
    fill(store, cache, "pets~2")
    second = update_run(first.folder, out=tmp_path / "second")
    assert second.config["update"]["n_changed"] == sum(
        cache.manifest.labels[cache.manifest.ids.index(name)] != "class 1" for name in trained[20:26]
    )
    used = {store.features("tiny.demo", "pets").manifest.ids[row] for row in second.train_rows}
    assert not used & {*cache.manifest.ids[:9], *trained[30:33]}
    assert_equal_to_scratch(second, store)


def test_a_class_that_is_forgotten_leaves_the_head(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", **OPTIONS, **HEADS["ridge"])
    goes = [cache.manifest.ids[row] for row in first.train_rows if cache.manifest.labels[row] == "class 2"]
    second = update_run(first.folder, out=tmp_path / "second", forget=goes)
    assert second.classes == ["class 0", "class 1"]
    assert second.config["selected"]["rank"] == second.config["report"]["rank"]
    assert any("of classes without training" in note for note in second.config["warnings"])
    assert_equal_to_scratch(second, store)
    more = [cache.manifest.ids[row] for row in second.train_rows if cache.manifest.labels[row] == "class 0"]
    with pytest.raises(InputError, match="1 classes would be left"):
        update_run(second.folder, out=tmp_path / "third", forget=more)
    assert not (tmp_path / "third").exists()


def test_all_training_images_cannot_be_forgotten(build: Build, tmp_path: Path) -> None:
    cache = build()
    first = train(tmp_path / "store", out=tmp_path / "first", **OPTIONS, **HEADS["ridge"])
    goes = [cache.manifest.ids[row] for row in first.train_rows]
    with pytest.raises(InputError, match="0 classes would be left"):
        update_run(first.folder, out=tmp_path / "second", forget=goes)


def folds_of(run: Run) -> dict[str, int]:
    """Give the fold of each training image, as the run stores it."""
    with pq.ParquetFile(run.folder / "rows.parquet") as file:
        table = file.read().to_pydict()
    of_role = zip(table["id"], table["fold"], table["role"], strict=True)
    found = {name: fold for name, fold, role in of_role if role == "train"}
    assert all(isinstance(fold, int) for fold in found.values())
    assert set(table["fold"]) - set(found.values()) <= {None}
    return found


def left_out_error(run: Run, store: FeatureStore) -> float:
    """Refit without each stored fold, and give the squared error of the rows of classes in several folds."""
    cache = store.features("tiny.demo", "pets", version=run.config["dataset_version"])
    X = preprocessed(run, cache, run.train_rows)
    y = np.array([str(cache.manifest.labels[row]) for row in run.train_rows])
    stored = folds_of(run)
    folds = np.array([stored[cache.manifest.ids[row]] for row in run.train_rows])
    spread = [name for name in run.classes if len(set(folds[y == name])) > 1]
    is_validated = np.isin(y, spread)
    estimator = run.head.estimator  # type: ignore[attr-defined]
    total = 0.0
    for fold in set(folds[is_validated]):
        mine, rest = is_validated & (folds == fold), is_validated & (folds != fold)
        fresh: Any = (
            FalkonClassifier(
                centers=estimator.centers_, sigma=estimator.sigma_, penalty=estimator.penalty_, cv=None
            )
            if run.head.name == "falkon"
            else StreamingRidgeClassifier(penalty=estimator.penalty_, cv=None)
        ).fit(X[rest], y[rest])
        targets = (y[mine, None] == fresh.classes_).astype(float)
        total += float(((fresh.scores(X[mine]) - targets) ** 2).sum())
    return total / float(is_validated.sum())


@pytest.mark.parametrize("head", ["falkon", "ridge"])
def test_updates_keep_the_fold_of_every_image_and_deal_new_ones_out_further(
    head: str, build: Build, tmp_path: Path
) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    options = {**OPTIONS, **HEADS[head], "penalty": 1e-3} | ({"sigma": 3.0} if head == "falkon" else {})
    first = train(store, out=tmp_path / "first", **options)
    before = folds_of(first)
    assert first.config["folds"] == {
        "rule": "dealt", "count": 3, "n_left_aside": 0, "digest": first.config["folds"]["digest"],
    }  # fmt: skip
    goes = [cache.manifest.ids[row] for row in first.train_rows[:9]]
    relabeled: dict[str, str | None] = {cache.manifest.ids[row]: "class 1" for row in first.train_rows[20:25]}
    labels = {f"new {number}.png": "class 7" for number in range(20)} | relabeled
    grow(store, "pets", manifest_of(cache, 30, labels=labels))
    fill(store, cache, "pets~2")
    second = update_run(first.folder, out=tmp_path / "second", forget=goes)
    after = folds_of(second)
    assert {name: fold for name, fold in after.items() if name in before} == {
        name: fold for name, fold in before.items() if name not in goes
    }
    of_new = [fold for name, fold in after.items() if labels.get(name) == "class 7"]
    assert len(of_new) > 10
    assert np.ptp(np.bincount(of_new, minlength=3)) <= 1
    assert second.head.report["squared_error"] == pytest.approx(left_out_error(second, store), rel=1e-6)
    # What an update writes can be updated again.
    third = update_run(second.folder, out=tmp_path / "third", forget=list(after)[:4])
    assert folds_of(third) == {name: after[name] for name in list(after)[4:]}
    assert third.head.report["squared_error"] == pytest.approx(left_out_error(third, store), rel=1e-6)


@pytest.mark.parametrize("head", ["falkon", "ridge"])
def test_a_class_enters_and_leaves_cross_validation_by_updates(
    head: str, build: Build, tmp_path: Path
) -> None:
    labels = [f"class {row % 3}" for row in range(90)]
    labels[4] = labels[70] = "class 8"
    labels[33] = "class 9"
    cache = build(labels=labels, splits=["test" if row % 5 == 0 else "train" for row in range(90)])
    store = FeatureStore.open(tmp_path / "store")
    options = {**OPTIONS, **HEADS[head], "penalty": 1e-3} | ({"sigma": 3.0} if head == "falkon" else {})
    first = train(store, out=tmp_path / "first", **options)
    assert first.config["report"]["left_out"]["n_rows"] == len(first.train_rows) - 2
    assert any("2 training rows of 2 of 5 classes" in note for note in first.config["warnings"])
    assert first.config["folds"]["n_left_aside"] == 2
    assert first.head.report["squared_error"] == pytest.approx(left_out_error(first, store), rel=1e-6)
    # Second images of class 9 bring the first one into cross-validation, in the fold that it always had.
    manifest = manifest_of(cache, 2, labels={"new 0.png": "class 9", "new 1.png": "class 9"})
    splits = [*cache.manifest.splits, "train", "train"]
    columns = {"ids": manifest.ids, "labels": manifest.labels, "sizes": manifest.sizes.tolist()}
    grow(store, "pets", Manifest.from_columns(splits=splits, **columns))
    fill(store, cache, "pets~2")
    second = update_run(first.folder, out=tmp_path / "second")
    of_nine = [fold for name, fold in folds_of(second).items()
               if name in ("new 0.png", "new 1.png", cache.manifest.ids[33])]  # fmt: skip
    assert sorted(of_nine) == [0, 1, 2]
    assert second.config["folds"]["n_left_aside"] == 1
    assert any("1 training rows of 1 of 5 classes ('class 8')" in note for note in second.config["warnings"])
    assert second.head.report["squared_error"] == pytest.approx(left_out_error(second, store), rel=1e-6)
    assert_equal_to_scratch(second, store)
    # Forgotten again, they leave the first one aside.
    third = update_run(second.folder, out=tmp_path / "third", forget=["new 0.png", "new 1.png"])
    assert third.config["folds"] == first.config["folds"]
    assert third.head.report["squared_error"] == pytest.approx(first.head.report["squared_error"], rel=1e-8)
    assert_equal_to_scratch(third, store)


def test_new_images_join_the_fold_of_their_group(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    pattern = r"^(g\d+|new \d)"
    first = train(store, out=tmp_path / "first", group_by=pattern, **OPTIONS, **HEADS["ridge"])
    trained = [name for name in folds_of(first) if name.startswith("g")]
    manifest = manifest_of(cache, 40)
    ids = [f"{trained[0].split('/')[0]}/late.png" if name == "new 7.png" else name for name in manifest.ids]
    columns = {"labels": manifest.labels, "sizes": manifest.sizes.tolist(), "splits": [None] * len(ids)}
    grow(store, "pets", Manifest.from_columns(ids=ids, **columns))
    fill(store, cache, "pets~2")
    second = update_run(first, out=tmp_path / "second", store=store)
    after = folds_of(second)
    assert after[ids[ids.index(f"{trained[0].split('/')[0]}/late.png")]] == after[trained[0]]
    groups: dict[str, set[int]] = {}
    for name, fold in after.items():
        groups.setdefault(name[:5] if name.startswith("new") else name.split("/")[0], set()).add(fold)
    assert all(len(folds) == 1 for folds in groups.values())
    assert second.head.report["squared_error"] == pytest.approx(left_out_error(second, store), rel=1e-6)


def test_folds_of_another_run_are_told(build: Build, tmp_path: Path) -> None:
    cache = build()
    first = train(tmp_path / "store", out=tmp_path / "first", **OPTIONS, **HEADS["ridge"])
    # The folds have a digest of their own, for folders whose files were written anew with all checksums.
    config = json.loads((first.folder / "run.json").read_text())
    del config["files"], config["self_sha256"]
    (first.folder / "run.json").write_text(json.dumps(config))
    rows = pq.read_table(first.folder / "rows.parquet")
    at = rows.column_names.index("fold")
    mixed = pa.array([None if fold is None else 2 - fold for fold in rows["fold"].to_pylist()], pa.int32())
    for table, message in ((rows.set_column(at, "fold", mixed), "other folds than run.json names"),
                           (rows.drop_columns("fold"), "has no folds that can be read")):  # fmt: skip
        pq.write_table(table, first.folder / "rows.parquet")
        with pytest.raises(CorruptError, match=f"{message}.*train again"):
            update_run(first.folder, out=tmp_path / "second", forget=[cache.manifest.ids[0]])


def test_new_images_that_failed_are_named_or_left_out(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", **OPTIONS, **HEADS["ridge"])
    grow(store, "pets", manifest_of(cache, 20))
    fill(store, cache, "pets~2", failed={4: "truncated"})
    with pytest.raises(InputError, match=r"new 4.png' \(truncated\)"):
        update_run(first.folder, out=tmp_path / "second")
    second = update_run(first.folder, out=tmp_path / "second", allow_failed=True)
    assert second.config["split"]["n_skipped"] == 1
    assert_equal_to_scratch(second, store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "knn"}, "has no sums"),
        ({"head": "falkon", "solver": "falkon"}, "has no sums"),
        ({"head": "ridge", "keep_sums": False}, "has no sums"),
        ({"head": "ridge", "class_weight": "balanced"}, "balanced"),
        ({"head": "ridge", "cv": "leave-one-group-out", "group_by": "slide"}, "folds are groups"),
    ],
)
def test_runs_that_cannot_be_updated(
    options: dict[str, Any], message: str, build: Build, tmp_path: Path
) -> None:
    cache = build()
    first = train(tmp_path / "store", out=tmp_path / "first", **(OPTIONS | options))
    with pytest.raises(InputError, match=f"cannot be updated.*{message}.*train again"):
        update_run(first.folder, out=tmp_path / "second", forget=[cache.manifest.ids[0]])


def test_bad_ids_and_damaged_sums(build: Build, tmp_path: Path) -> None:
    cache = build()
    first = train(tmp_path / "store", out=tmp_path / "first", **OPTIONS, **HEADS["ridge"])
    with pytest.raises(InputError, match=r"1 of the ids to forget.*'nobody.png'"):
        update_run(first.folder, out=tmp_path / "second", forget=["nobody.png", cache.manifest.ids[0]])
    path = first.folder / "sums.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptError, match=r"sums.safetensors is not the file that was written.*train again"):
        update_run(first.folder, out=tmp_path / "second", forget=[cache.manifest.ids[0]])


def test_a_run_that_was_relabeled_loads_and_keeps_its_labels(build: Build, tmp_path: Path) -> None:
    cache = build()
    first = train(tmp_path / "store", out=tmp_path / "first", **OPTIONS, **HEADS["ridge"])
    config = json.loads((first.folder / "run.json").read_text())
    config["relabelled"] = {"run": "earlier", "labels": "labels.csv"}
    # Such runs are older than checksums.
    del config["files"], config["self_sha256"]
    (first.folder / "run.json").write_text(json.dumps(config))
    rows = pq.read_table(first.folder / "rows.parquet")
    labels = pa.array([f"class {(int(label[-1]) + 1) % 3}" for label in rows["label"].to_pylist()])
    pq.write_table(rows.set_column(2, "label", labels), first.folder / "rows.parquet")
    run = Run.load(first.folder)
    assert first.metrics["accuracy"] > 0.9
    assert evaluate_run(run)["accuracy"] == 0.0
    with pytest.raises(InputError, match=r"cannot be updated.*not those of the data set; train again"):
        update_run(run, out=tmp_path / "second", forget=cache.manifest.ids[:1])


def test_a_misspelled_keyword_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"update_run has no option 'forgot'; did you mean 'forget'\?"):
        update_run(tmp_path / "run", out=tmp_path / "new", forgot=["a"])  # type: ignore[call-overload]
