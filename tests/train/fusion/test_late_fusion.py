import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from fake_cuda import Counts

from toptune.store import FeatureCache, FeatureStore, IncompleteError, InputError, StoreNotFoundError
from toptune.train import FusedRun, Run, evaluate_run, load_run, report_layers, train

Build = Callable[..., FeatureCache]
Store = Callable[..., FeatureStore]
OPTIONS: dict[str, Any] = {"dataset": "pets", "cv": 3, "head": "ridge", "layers": "all"}
LABELS = [f"class {row % 3}" for row in range(120)]
TRUTH = np.array([row % 3 for row in range(120)])


def seen(noise: float, seed: int, dims: int = 6) -> npt.NDArray[np.float32]:
    """Features in which the classes are as clear as the noise lets them be."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(3, dims))
    values: npt.NDArray[np.float32] = (means[TRUTH] + noise * rng.normal(size=(120, dims))).astype(np.float32)
    return values


@pytest.mark.parametrize("head", ["falkon", "forest", "auto"])
def test_a_run_of_several_models_is_whole(head: str, two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    options = OPTIONS | {"head": head} | ({"budget": 0.01} if head == "auto" else {})
    run = train(store, models=["small", "large"], out=tmp_path / "run", **options)
    assert isinstance(run, FusedRun)
    assert [member.model for member in run.fusion.members] == ["small", "large"]
    assert sum(member.weight for member in run.fusion.members) == pytest.approx(1)
    loaded = load_run(tmp_path / "run")
    assert isinstance(loaded, FusedRun)
    assert loaded.metrics == run.metrics
    # What the folder says of the test rows is what its heads say again.
    blocks = [
        store.features(member.record.model, "pets").blocks(
            [array.name for array in member.arrays], loaded.test_rows
        )
        for member in loaded.members
    ]
    labels, probabilities = loaded.predict_blocks(blocks)
    told = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    assert told["predicted"] == labels.tolist()
    np.testing.assert_allclose(told["confidence"], probabilities.max(axis=1), rtol=1e-9)
    assert (labels == np.array(LABELS)[loaded.test_rows]).mean() == run.metrics["accuracy"]
    # The weighted logarithms of the heads' probabilities, normalized.
    of_heads = [member.predict_blocks(block)[1] for member, block in zip(loaded.members, blocks, strict=True)]
    weights = [member.weight for member in loaded.fusion.members]
    power = np.prod([p**w for p, w in zip(of_heads, weights, strict=True)], axis=0)
    power **= 1 / loaded.fusion.temperature
    np.testing.assert_allclose(probabilities, power / power.sum(axis=1, keepdims=True), atol=1e-9)
    # Each head is a run by itself, on the same rows and folds.
    for member in run.fusion.members:
        alone = Run.load(tmp_path / "run" / member.folder)
        assert alone.train_rows.tolist() == run.train_rows.tolist()
        assert alone.record.folds == run.record.folds
        assert alone.metrics["accuracy"] is not None


def test_heads_on_the_same_rows_equal_those_of_one_model(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    run = train(store, models=["small", "large"], out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    for member, inner in zip(run.fusion.members, run.members, strict=True):
        alone = train(store, model=member.model, out=tmp_path / member.model, **OPTIONS)
        written = json.loads((inner.folder / "metrics.json").read_text())
        assert written["log_loss"] == pytest.approx(alone.metrics["log_loss"])
        assert inner.record.selected == alone.record.selected
        assert inner.record.split == alone.record.split


def test_decisions_are_kept_with_the_whole_and_with_each_head(two_models: Store, tmp_path: Path) -> None:
    decided = tmp_path / "by-hand.csv"
    decided.write_text("id,decision,label\ng0/picture 1.png,exclude,\ng1/picture 3.png,relabel,class 2\n")
    files: dict[str, Any] = {"exclude": str(decided), "relabel_with": str(decided)}
    run = train(two_models(), models=["small", "large"], out=tmp_path / "run", **OPTIONS, **files)
    assert isinstance(run, FusedRun)
    assert not {1} & {*run.train_rows.tolist(), *run.test_rows.tolist()}
    assert run.record.decisions is not None
    assert {*run.record.decisions} == {"exclude", "relabel_with"}
    kept = (tmp_path / "run" / "decisions.csv").read_text()
    assert kept.splitlines()[1:] == [
        "g0/picture 1.png,exclude,,", "g1/picture 3.png,relabel,class 2,",
    ]  # fmt: skip
    for member in run.fusion.members:
        assert (tmp_path / "run" / member.folder / "decisions.csv").read_text() == kept
    # What a run holds serves another training as the files did.
    held = str(tmp_path / "run" / "decisions.csv")
    again = train(
        two_models(root=tmp_path / "second"), models=["small", "large"], out=tmp_path / "again",
        **OPTIONS, exclude=held, relabel_with=held,
    )  # fmt: skip
    assert again.metrics["log_loss"] == run.metrics["log_loss"]


def test_two_views_are_better_than_either(two_models: Store, tmp_path: Path) -> None:
    store = two_models({"small": seen(1.6, 0), "large": seen(1.6, 1)})
    run = train(store, models=["small", "large"], out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    alone = [member.left_out_log_loss for member in run.fusion.members]
    left_out = run.left_out
    assert left_out["log_loss"] < min(value for value in alone if value is not None)
    assert left_out["n_rows"] == run.metrics["n_train"]


def test_a_model_that_weighs_nothing_is_dropped_and_said(two_models: Store, tmp_path: Path) -> None:
    # The second model sees noise that, by this seed, speaks a little against the truth.
    store = two_models({"small": seen(0.8, 0), "large": seen(50, 8)})
    run = train(store, models=["small", "large"], out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    assert run.fusion.dropped == ("large",)
    assert [member.model for member in run.fusion.members] == ["small"]
    assert [path.name for path in (tmp_path / "run" / "members").iterdir()] == ["0-small"]
    assert "model 'large' weighs nothing" in str(run)
    assert load_run(tmp_path / "run").classes == run.classes


def test_rows_that_failed_for_one_model_leave_all(two_models: Store, tmp_path: Path) -> None:
    store = two_models(failed={"small": {4: "truncated JPEG"}}, spoiled={"large": [7]})
    with pytest.raises(InputError, match=r"1 of the images .* not finite: .*4.png.*truncated JPEG"):
        train(store, models=["small", "large"], out=tmp_path / "run", **OPTIONS)
    run = train(store, models=["small", "large"], out=tmp_path / "run", allow_failed=True, **OPTIONS)
    assert isinstance(run, FusedRun)
    assert run.metrics["n_skipped"] == 2
    for member in run.members:
        used = {*member.train_rows.tolist(), *member.test_rows.tolist()}
        assert used == set(range(120)) - {4, 7}


def test_each_model_has_its_own_layers(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    options = OPTIONS | {"layers": {"small": "auto", "*": "last"}}
    run = train(store, models=["small", "large"], out=tmp_path / "run", **options)
    assert isinstance(run, FusedRun)
    small, large = run.members
    assert [array.name for array in large.arrays] == ["last.mean"]
    assert small.record.layer_search is not None
    assert large.record.options["layers"] == "last"
    assert run.record.options["layers"] == {"small": "auto", "large": "last"}


def test_missing_features_are_told_with_the_command(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    with pytest.raises(StoreNotFoundError) as raised:
        train(
            store, models=["small", "vit", "local-dir:a b"], out=tmp_path / "run",
            **OPTIONS | {"layers": {"vit": "blocks.*"}},
        )  # fmt: skip
    told = str(raised.value)
    assert "has features of small over 'pets', and none of vit, local-dir:a b" in told
    assert f"toptune extract DATA --store {store.root} --dataset pets --model vit --layers 'blocks.*'" in told
    assert f"toptune extract DATA --store {store.root} --dataset pets --model 'local-dir:a b'" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fusion", ["late", "join"])
def test_models_that_lack_images_are_told_with_the_command(
    fusion: str, two_models: Store, tmp_path: Path
) -> None:
    store = two_models(missing={"large": [1, 2]})
    with pytest.raises(IncompleteError) as raised:
        train(store, models=["small", "large"], fusion=fusion, out=tmp_path / "run", **OPTIONS)
    assert str(raised.value) == (
        "the features of 'large' over 'pets', version 1, lack some of the 120 images that 'small' has; "
        "extract them with DATA in the place of the images: toptune extract DATA --store "
        f"{store.root} --dataset pets --model large"
    )
    with pytest.raises(IncompleteError, match=r"toptune extract DATA .* --model large"):
        report_layers(store, dataset="pets", models=["small", "large"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fusion", ["late", "join"])
def test_copies_across_the_split_are_told_whichever_model_knows_them(
    fusion: str, two_models: Store, tmp_path: Path
) -> None:
    plain = train(two_models(), models=["small", "large"], fusion=fusion, out=tmp_path / "plain", **OPTIONS)
    # All images have bytes of their own, but for a test image that is a copy of a training image.
    digests = np.random.default_rng(0).integers(256, size=(120, 32), dtype=np.uint8)
    digests[plain.test_rows[0]] = digests[plain.train_rows[0]]
    store = two_models(root=tmp_path / "copied", digests={"large": digests})
    run = train(store, models=["small", "large"], fusion=fusion, out=tmp_path / "run", **OPTIONS)
    told = [note for note in run.record.warnings if note.startswith("leak: 1 test image of 24 has the same")]
    assert len(told) == 1
    assert not any(note.startswith("leak") for note in plain.record.warnings)


def test_small_heads_stay_off_a_gpu(two_models: Store, tmp_path: Path, cuda: Counts) -> None:
    run = train(two_models(), models=["small", "large"], device="auto", out=tmp_path / "run", **OPTIONS)
    assert not cuda.operations
    assert run.record.options["device"] == "cpu"


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (["small", "large"], {"cv": None, "penalty": 1.0}, "cv is None with fusion 'late'"),
        (["small", "large"], {"layers": "upper"}, "model 'small': layers has 'upper', a word of toptune ext"),
        (
            ["small", "large"],
            {"layers": {"large": "lats"}},
            "model 'large': layer 'lats' is not in the store",
        ),
        (["small", "large"], {"memory_limit": "1GiB", "head": "knn"}, "2 heads of 'knn' on .* together"),
    ],
)
def test_what_cannot_be_fused_leaves_no_folder(
    models: list[str], options: dict[str, Any], message: str, two_models: Store, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = two_models()
    if "memory_limit" in options:
        # The limit leaves a few bytes, whatever this process takes.
        monkeypatch.setattr("toptune.train.fusion.members.left_bytes", lambda _limit: 1000)
    with pytest.raises(InputError, match=message):
        train(store, models=models, out=tmp_path / "run", **OPTIONS | options)
    assert not (tmp_path / "run").exists()


def test_the_same_features_under_two_names_are_refused(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    name = store.features("small", "pets").name
    with pytest.raises(InputError, match=r"'small' and 'small@.*' are the same features"):
        train(store, models=["small", name], out=tmp_path / "run", **OPTIONS)


def test_folders_that_were_mixed_are_refused(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    run = train(store, models=["small", "large"], out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    other = train(store, model="small", out=tmp_path / "other", **OPTIONS | {"seed": 1})
    inner = tmp_path / "run" / run.fusion.members[0].folder
    (inner / "run.json").write_bytes((other.folder / "run.json").read_bytes())
    with pytest.raises(OSError, match="is not the file that was written"):
        load_run(tmp_path / "run")


def test_blocks_are_given_for_every_member(two_models: Store, tmp_path: Path) -> None:
    store = two_models()
    run = train(store, models=["small", "large"], out=tmp_path / "run", **OPTIONS)
    assert isinstance(run, FusedRun)
    block = store.features("small", "pets").blocks(["block.mean", "last.mean"], [0, 1])
    with pytest.raises(InputError, match="blocks of 1 models for a run of 2"):
        run.predict_blocks([block])


def test_a_fused_run_is_evaluated_again(two_models: Store, tmp_path: Path) -> None:
    store = two_models(failed={"small": {4: "truncated JPEG"}})
    options = OPTIONS | {"allow_failed": True}
    run = train(store, models=["small", "large"], out=tmp_path / "run", **options)
    again = evaluate_run(tmp_path / "run")
    for name in ("accuracy", "log_loss", "confusion_matrix", "n_train", "n_test"):
        assert again[name] == run.metrics[name], name
    everything = evaluate_run(run, split="all")
    assert (everything["n_test"], everything["n_skipped"]) == (119, 0)
    # Another data set: rows that failed for one of the models are left out.
    two_models(failed={"large": {2: "gone"}}, root=tmp_path / "other")
    other = evaluate_run(run, store=tmp_path / "other", split="test")
    assert other["accuracy"] == run.metrics["accuracy"]
