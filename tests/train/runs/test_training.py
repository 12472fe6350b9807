import csv
import importlib
import json
import shutil
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from toptune.costs.meter import describe_costs
from toptune.store import (
    CorruptError,
    FeatureCache,
    FeatureStore,
    FormatVersionError,
    InputError,
    StoreNotFoundError,
)
from toptune.store.features.recipe import ROUTES
from toptune.train import HEADS, Run, evaluate_run, train

Build = Callable[..., FeatureCache]
OPTIONS: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3}
FILES = {
    "confusion_matrix.png", "head.json", "metrics.json", "predictions.parquet", "rows.parquet", "run.json",
    "selection.csv", "preprocessing.safetensors", "novelty.safetensors",
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_run_holds_all_that_is_promised(head: str, build: Build, tmp_path: Path) -> None:
    cache = build()
    run = train(tmp_path / "store", out=tmp_path / "new" / "run", head=head, layers="all", **OPTIONS)
    payload = {
        "falkon": {"head.safetensors", "sums.safetensors"},
        "ridge": {"head.safetensors", "sums.safetensors"},
        "svm": {"head.skops"},
        "forest": {"head.skops"},
    }.get(head, {"head.safetensors"})
    # A forest is fitted once by itself, and leaves out no rows.
    payload |= {"left_out.parquet"} if head != "forest" else set()
    assert {path.name for path in run.folder.iterdir()} == FILES | payload
    assert [path.name for path in run.folder.parent.iterdir()] == ["run"]
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.8
    assert (metrics["n_train"], metrics["n_test"]) == (72, 18)
    assert metrics.keys() >= {
        "balanced_accuracy", "macro_f1", "log_loss", "per_class", "confusion_matrix", "seconds",
        "costs",
    }  # fmt: skip
    costs = metrics["costs"]
    assert costs["phases"].keys() == {"preprocess", "fit", "test"}
    assert costs["cpu_seconds"] > 0
    assert costs["energy_joules"] > 0
    assert costs["extract_pictures"] == cache.n_rows
    loaded = Run.load(run.folder)
    (source,) = loaded.sources
    assert source.full_recipe().digest == cache.digest
    assert source.backbone == {"name": "tiny.demo"}
    assert loaded.classes == ["class 0", "class 1", "class 2"]
    used = [layer["n_kept"] > 0 for layer in loaded.config["report"].get("layers", [])] or [True] * 3
    assert [array.name for array in loaded.arrays] == list(
        compress([spec.name for spec in cache.arrays()], used)
    )
    assert not set(loaded.train_rows) & set(loaded.test_rows)
    names = [array.name for array in loaded.arrays]
    labels, probabilities = loaded.predict_blocks(cache.blocks(names, loaded.test_rows))
    truth = np.array(cache.manifest.labels)[loaded.test_rows]
    assert (labels == truth).mean() == pytest.approx(metrics["accuracy"])
    assert probabilities.shape == (18, 3)
    told = pq.read_table(run.folder / "predictions.parquet").to_pydict()
    assert told["row"] == loaded.test_rows.tolist()
    assert told["id"] == [cache.manifest.ids[row] for row in told["row"]]
    assert (told["label"], told["predicted"]) == (truth.tolist(), labels.tolist())
    np.testing.assert_allclose(told["confidence"], probabilities.max(axis=1), rtol=1e-9)
    again = evaluate_run(run.folder)
    assert {key: again[key] for key in ("accuracy", "log_loss", "confusion_matrix")} == {
        key: metrics[key] for key in ("accuracy", "log_loss", "confusion_matrix")
    }
    with (run.folder / "selection.csv").open() as file:
        assert sum(row["is_chosen"] == "True" for row in csv.DictReader(file)) == 1
    assert json.loads(json.dumps(loaded.to_dict()))["metrics"]["accuracy"] == metrics["accuracy"]
    assert "18 test images" in str(run)
    assert str(run).splitlines()[-2:] == [describe_costs(metrics["costs"]), f"written to {run.folder}"]
    rows = pq.read_table(run.folder / "rows.parquet").to_pydict()
    assert rows["id"][0] == cache.manifest.ids[rows["row"][0]]


def test_all_that_is_whole_is_taken_by_default_and_the_choice_is_told(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="toptune.train.plan")
    cache, options = build(), OPTIONS | {"head": "ncm"}

    def trained(name: str, **more: Any) -> tuple[list[str], str]:
        caplog.clear()
        run = train(tmp_path / "store", out=tmp_path / name, **options, **more)
        return [array.name for array in run.arrays], caplog.text

    names, said = trained("default")
    assert names == ["block.cls", "block.mean", "last.mean"]
    assert "layers of tiny.demo: all 3 stored arrays, 19 columns; --layers auto" in said
    names, said = trained("narrow", layers="last")
    assert names == ["last.mean"]
    assert "1 of 3 stored arrays, 8 of 19 columns; --layers all takes all of them" in said
    # Layers that are being added are left out, and told.
    cache.ensure_array("more.mean", dim=4, dtype="float16")
    names, said = trained("beside")
    assert names == ["block.cls", "block.mean", "last.mean"]
    assert "3 of 4 stored arrays, 19 of 23 columns; the others lack images" in said


@pytest.mark.parametrize("head", ["falkon", "svm"])
def test_test_rows_have_no_part_in_training(head: str, build: Build, tmp_path: Path) -> None:
    clean = build(root=tmp_path / "clean")
    first = train(tmp_path / "clean", out=tmp_path / "one", head=head, **OPTIONS)
    names = [spec.name for spec in clean.arrays()]
    features = {name: np.concatenate([part for _, part in clean.blocks([name]).iterate()]) for name in names}
    for values in features.values():
        values[first.test_rows] = np.random.default_rng(5).normal(size=values[first.test_rows].shape) * 1e3
    labels = [f"class {i % 3}" for i in range(90)]
    for row in first.test_rows:
        labels[row] = "class 0"
    splits = ["test" if row in set(first.test_rows) else "train" for row in range(90)]
    build(root=tmp_path / "poisoned", features=features, labels=labels, splits=splits)
    second = train(tmp_path / "poisoned", out=tmp_path / "two", head=head, **OPTIONS)
    assert (second.test_rows == first.test_rows).all()
    assert second.config["selected"] == first.config["selected"]
    assert (tmp_path / "one" / "selection.csv").read_bytes() == (
        tmp_path / "two" / "selection.csv"
    ).read_bytes()
    probe = clean.blocks(names)
    np.testing.assert_array_equal(first.predict_blocks(probe)[1], second.predict_blocks(probe)[1])


def test_same_command_gives_the_same_head(build: Build, tmp_path: Path) -> None:
    build()
    runs = [train(tmp_path / "store", out=tmp_path / name, seed=3, **OPTIONS) for name in "ab"]
    assert (runs[0].folder / "head.safetensors").read_bytes() == (
        runs[1].folder / "head.safetensors"
    ).read_bytes()
    assert runs[0].config["split"] == runs[1].config["split"]


def test_failed_images_are_refused_by_name_or_left_out(build: Build, tmp_path: Path) -> None:
    build(failed={4: "truncated JPEG", 50: "not an image"})
    with pytest.raises(
        InputError, match=r"2 of the images.*picture 4\.png' \(truncated JPEG\).*--skip-failed"
    ):
        train(tmp_path / "store", out=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()
    run = train(tmp_path / "store", out=tmp_path / "run", allow_failed=True, **OPTIONS)
    assert run.metrics["n_train"] + run.metrics["n_test"] == 88
    assert run.metrics["n_skipped"] == 2
    assert not {4, 50} & {*run.train_rows, *run.test_rows}


def test_groups_stay_together(build: Build, tmp_path: Path) -> None:
    build(labels=[f"class {i // 3 % 3}" for i in range(90)])
    for number, group_by in enumerate(["slide", "^(g[0-9]+)/"]):
        run = train(tmp_path / "store", out=tmp_path / f"run {number}", group_by=group_by, **OPTIONS)
        sides = [{row // 3 for row in rows} for rows in (run.train_rows, run.test_rows)]
        assert not set.intersection(*sides)
        assert f"note: groups by {group_by!r}: {len(sides[0])} train, {len(sides[1])} test" in str(run)


def test_another_data_set_is_scored_whole(build: Build, tmp_path: Path) -> None:
    build()
    run = train(tmp_path / "store", out=tmp_path / "run", **OPTIONS)
    build(dataset="more pets", labels=[None, *[f"class {i % 3}" for i in range(1, 60)]])
    metrics = evaluate_run(run, dataset="more pets")
    assert (metrics["n_test"], metrics["n_unlabelled"]) == (59, 1)
    build(
        dataset="named", labels=[f"class {i % 3}" for i in range(60)], splits=["train"] * 45 + ["test"] * 15
    )
    assert evaluate_run(run, dataset="named")["n_test"] == 60
    assert evaluate_run(run, dataset="named", split="test")["n_test"] == 15
    with pytest.raises(InputError, match=r"no row .* belongs to split 'test'; its splits are none"):
        evaluate_run(run, dataset="more pets", split="test")
    build(dataset="birds", labels=["class 0", "owl"] * 10)
    with pytest.raises(InputError, match="'owl'"):
        evaluate_run(run, dataset="birds")
    build(dataset="older", labels=[f"class {i % 3}" for i in range(60)], decode="pillow-rgb-upright-1")
    with pytest.raises(
        InputError, match=r"decode pillow-1 against pillow-rgb-upright-1.*with --decode pillow-1"
    ):
        evaluate_run(run, dataset="older")
    labels = [f"class {i % 3}" for i in range(60)]
    build(dataset="older", labels=labels, decode=ROUTES["fast"], forward="folded-1")
    both = (
        r"demo@\w{8}: decode pillow-1 against \S+ \(--decode fast\); forward .*, and tiny.demo@\w{8}: decode "
        r"pillow-1 against .*with --decode pillow-1 --no-fold adds features like those"
    )
    with pytest.raises(InputError, match=both):
        evaluate_run(run, dataset="older")
    assert evaluate_run(run, split="train")["n_test"] == 72
    with pytest.raises(InputError, match="split 'half' is unknown"):
        evaluate_run(run, split="half")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "layer9"}, r"layer9.*last\.mean"),
        ({"layers": "block"}, "cls, mean"),
        ({"head": "perceptron"}, "perceptron"),
        ({"kernel": "tophat"}, "tophat"),
        ({"preprocess": "standardice"}, "standardice.*standardise, l2"),
        (
            {"preprocess": "pca", "memory_limit": 1000},
            r"memory limit is 1000 bytes, and this process takes [\d.]+ [MG]iB.*such as \d+MiB",
        ),
        ({"params": {"deph": 3}}, "deph.*n_centers"),
        ({"head": "svm", "sigma": 1.0}, "sigma has no meaning for head 'svm'"),
        ({"head": "knn", "n_centers": 10}, "n_centers has no meaning"),
        ({"head": "ridge", "penalty": 0.1, "params": {"penalty": 1.0}}, "penalty is given twice, as 0.1 and"),
        ({"head": "knn", "class_weight": "balanced"}, "cannot weigh"),
        ({"test_fraction": 0.0}, "test_fraction is 0"),
        ({"cv": 1}, "cv is 1"),
        ({"penalty": -1.0}, "-1"),
    ],
)
def test_bad_options_leave_nothing_behind(
    options: dict[str, Any], message: str, build: Build, tmp_path: Path
) -> None:
    build()
    with pytest.raises(InputError, match=message):
        train(tmp_path / "store", out=tmp_path / "run", **{**OPTIONS, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["one"] * 90}, "one class only, 'one'"),
        (
            {"labels": ["a"] * 88 + ["rare"] * 2, "splits": ["train"] * 89 + ["test"]},
            "1 of 2 classes have training rows in more than one fold",
        ),
        (
            {"labels": [None, *["a", "b"] * 44, "a"], "splits": ["train"] * 60 + ["test"] * 30},
            "1 training rows have no label",
        ),
        (
            {"labels": ["a", "b"] * 30 + ["new"] * 30, "splits": ["train"] * 60 + ["test"] * 30},
            "'new'",
        ),
    ],
)
def test_bad_labels_leave_nothing_behind(
    changes: dict[str, Any], message: str, build: Build, tmp_path: Path
) -> None:
    build(**changes)
    phases: list[str] = []
    with pytest.raises(InputError, match=message):
        train(tmp_path / "store", out=tmp_path / "run", progress=phases.append, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    # What labels tell is refused before the first pass over the features.
    assert phases == []


def test_many_classes_are_scored_a_part_of_the_rows_at_a_time(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    labels = [f"class {at % 210}" for at in range(840)]
    build(labels=labels)
    monkeypatch.setattr("toptune.train.runs.scoring._PROBABILITY_BYTES", 1)
    monkeypatch.setattr("toptune.train.runs.scoring._LEAST_ROWS", 50)
    options = OPTIONS | {"head": "ncm", "cv": 2, "test_fraction": 0.5}
    run = train(tmp_path / "store", out=tmp_path / "run", **options)
    names = [array.name for array in run.arrays]
    cache = FeatureStore.open(tmp_path / "store").features("tiny.demo", "pets")
    whole, _ = run.predict_blocks(cache.blocks(names, run.test_rows))
    told = pq.read_table(run.folder / "predictions.parquet")
    assert told["predicted"].to_pylist() == whole.tolist()
    assert {"per_class.parquet", "confusion.parquet"} <= {path.name for path in run.folder.iterdir()}
    assert (run.folder / "metrics.json").stat().st_size < 10_000
    pairs = pq.read_table(run.folder / "confusion.parquet")
    assert sum(pairs["count"].to_pylist()) == 420
    # evaluate says that it does not list the classes, and how to get them.
    code, out, err = run_cli("evaluate", run.folder)
    assert (code, err) == (0, "")
    assert "evaluate --out FOLDER writes" in out
    code, out, _ = run_cli("evaluate", run.folder, "--out", tmp_path / "scored", "--json")
    assert (code, json.loads(out)["confusion_file"]) == (0, "confusion.parquet")
    assert pq.read_table(tmp_path / "scored" / "confusion.parquet") == pairs
    assert (
        json.loads((tmp_path / "scored" / "metrics.json").read_text())["accuracy"] == run.metrics["accuracy"]
    )
    code, _, err = run_cli("evaluate", run.folder, "--out", tmp_path / "scored")
    assert (code, "exists and is not empty" in err) == (2, True)


def test_out_that_exists_is_never_overwritten(build: Build, tmp_path: Path) -> None:
    build()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        train(tmp_path / "store", out=tmp_path / "run", **OPTIONS)
    with pytest.raises(InputError, match="exists and is a file"):
        train(tmp_path / "store", out=tmp_path / "run" / "precious", **OPTIONS)
    assert (tmp_path / "run" / "precious").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert train(tmp_path / "store", out=tmp_path / "empty", **OPTIONS).folder == tmp_path / "empty"
    # These would be found out only when the run is put into its place, after the work.
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    assert train(tmp_path / "store", out=tmp_path / "link", **OPTIONS).folder == tmp_path / "behind"
    assert train(tmp_path / "store", out=tmp_path / ("long" * 62), **OPTIONS).metrics["n_test"] == 18


def test_failure_while_writing_leaves_nothing_behind(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toptune.train.figures.metrics.save_confusion_image", full)
    with pytest.raises(OSError, match="No space"):
        train(tmp_path / "store", out=tmp_path / "run", **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_damaged_runs_are_refused(build: Build, tmp_path: Path) -> None:
    build()
    run = train(tmp_path / "store", out=tmp_path / "run", **OPTIONS)
    for name in (
        "metrics.json",
        "rows.parquet",
        "preprocessing.safetensors",
        "head.safetensors",
        "head.json",
    ):
        broken = tmp_path / f"broken {name}"
        shutil.copytree(run.folder, broken)
        (broken / name).write_bytes(b"{")
        with pytest.raises(CorruptError, match=name):
            Run.load(broken)
        (broken / name).unlink()
        with pytest.raises(CorruptError, match=name):
            Run.load(broken)
    with pytest.raises(InputError, match="no RUN folder"):
        Run.load(tmp_path)
    config = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps({**config, "version": 99}))
    with pytest.raises(FormatVersionError, match="99"):
        Run.load(run.folder)
    with pytest.raises(StoreNotFoundError):
        train(tmp_path / "nowhere", out=tmp_path / "x", **OPTIONS)


def test_import_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, toptune.train; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_front_door_is_what_it_says() -> None:
    front = importlib.import_module("toptune.train")
    for name in front.__all__:
        assert name == "HEADS" or getattr(front, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = front.nothing
