"""A study trains every cell once, resumes, and its results are those of the runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from shapes import save_shapes

from toptune.extract import extract
from toptune.options import options_of
from toptune.store import FeatureStore, InputError
from toptune.train import make_head, train
from toptune.train.runs.options import TrainOptions
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.study.cells import cells_of
from toptune.workflows.study.file import read_study
from toptune.workflows.study.study import plan_study, run_study

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[3]
MODEL = "resnet10t.toptune_glyphs"


def write(folder: Path, **changes: Any) -> Path:
    """Write a small study beside the images."""
    if not (folder / "photos").exists():
        save_shapes(folder / "photos")
    content: dict[str, Any] = {
        "datasets": {"shapes": {"data": "photos", "test_fraction": 0.25}},
        "models": {"glyphs": MODEL},
        "layers": ["last", "all"],
        "heads": {"ridge": {}, "kernel": {"head": "falkon", "n_centers": 10, "layers": "last"}},
        "seeds": 2,
    } | changes
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_every_cell_once_and_results_are_those_of_the_runs(tmp_path: Path) -> None:
    path = write(tmp_path)
    plan = plan_study(path)
    assert (plan.cells, plan.done, plan.seconds_left, plan.unknown) == (6, 0, None, ("ridge", "kernel"))
    report = run_study(path)
    assert (report.trained, report.done_before, report.failed) == (6, 0, {})
    rows = pq.read_table(tmp_path / "small" / "results.parquet").to_pylist()
    assert [(row["method"], row["layers"], row["seed"]) for row in rows] == [
        (method, layers, seed)
        for seed in (0, 1)
        for method, layers in (("ridge", "last"), ("ridge", "all"), ("kernel", "last"))
    ]
    for row in rows:
        run = tmp_path / "small" / row["run"]
        assert row["accuracy"] == json.loads((run / "metrics.json").read_text())["accuracy"]
        config = json.loads((run / "run.json").read_text())
        assert row["left_out_accuracy"] == config["report"]["left_out"]["accuracy"] > 0.5
        options = config["options"]
        assert (options["seed"], options["test_fraction"]) == (row["seed"], 0.25)
        assert row["extract_seconds"] > 0
        assert min(row["extract_cpu_seconds"], row["extract_joules"]) > 0
        assert min(row["cpu_seconds"], row["energy_joules"], row["peak_memory_bytes"]) > 0
        assert row["co2e_kg"] is None
    assert report.costs["cpu_seconds"] > sum(row["cpu_seconds"] for row in rows)
    again = train(
        tmp_path / "features", dataset="shapes", model=MODEL, head="ridge", layers="all", seed=1,
        test_fraction=0.25, out=tmp_path / "again",
    )  # fmt: skip
    assert again.metrics["log_loss"] == pytest.approx(rows[4]["log_loss"], rel=1e-9)
    assert pyarrow.csv.read_csv(tmp_path / "small" / "results.csv").num_rows == 6
    assert [row.seeds for row in report.summary] == [2, 2, 2]


def test_finished_cells_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, layers=["last"])
    calls: list[str] = []

    def stopped_at_the_third(*arguments: Any, **options: Any) -> Any:
        calls.append(options["out"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr("toptune.workflows.study.study.train", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_study(path)
    assert plan_study(path).done == 2
    assert (plan_study(path).seconds_left or 0) > 0
    report = run_study(path)
    assert (report.trained, report.done_before) == (2, 2)
    assert len(calls) == 5
    assert len(set(calls)) == 4
    # A changed option is another cell.
    write(tmp_path, layers=["last"], heads={"ridge": {"penalty": 0.1}})
    assert plan_study(path).done == 0


def test_studies_share_runs_and_methods_keep_to_their_places(tmp_path: Path) -> None:
    both = {"datasets": {name: {"data": "photos", "test_fraction": 0.25} for name in ("a", "b")}}
    heads = {"ridge": {"only": {"datasets": ["b"]}}, "ncm": {"only": {"seeds": [1], "models": ["glyphs"]}}}
    path = write(tmp_path, **both, heads=heads, layers=["last"], runs="shared")
    cells = cells_of(read_study(path))
    assert [(cell.dataset, cell.method, cell.seed) for cell in cells] == [
        ("b", "ridge", 0), ("a", "ncm", 1), ("b", "ridge", 1), ("b", "ncm", 1),
    ]  # fmt: skip
    assert run_study(path).trained == 4
    assert sorted(pq.read_table(tmp_path / "small" / "results.parquet")["run"].to_pylist()) == sorted(
        str(Path("..", cell.folder.relative_to(tmp_path))) for cell in cells
    )
    other = write(tmp_path, **both, heads={"ridge": {}}, layers=["last"], runs="shared", out="other")
    report = run_study(other)
    assert (report.trained, report.done_before) == (2, 2)


OTHER = "random:test_efficientnet"
BOTH: dict[str, Any] = {"glyphs": MODEL, "other": OTHER}


def test_a_list_of_models_is_late_fusion(tmp_path: Path) -> None:
    short = read_study(write(tmp_path, models=BOTH | {"both": ["glyphs", "other"]}))
    long = read_study(write(tmp_path, models=BOTH | {"both": {"models": ["glyphs", "other"]}}))
    assert short.models == long.models
    assert short.models["both"] == {"models": ("glyphs", "other"), "fusion": "late"}


def test_a_study_that_names_no_layers_takes_the_defaults_of_extract_and_train(tmp_path: Path) -> None:
    path = write(tmp_path, heads={"ncm": {}, "ridge": {"layers": "last"}}, seeds=1)
    path.write_text(path.read_text().replace("layers:\n- last\n- all\n", ""))
    study = read_study(path)
    assert (study.layers, study.extract) == (("all",), {"layers": "upper"})
    assert [(cell.method, cell.layers) for cell in cells_of(study)] == [("ncm", "all"), ("ridge", "last")]
    assert run_study(path).trained == 2
    rows = pq.read_table(tmp_path / "small" / "results.parquet").to_pylist()
    runs = [json.loads((tmp_path / "small" / row["run"] / "run.json").read_text()) for row in rows]
    names = [[array["name"] for array in run["arrays"]] for run in runs]
    extract(tmp_path / "photos", model=MODEL, store=tmp_path / "other")
    (cache,) = FeatureStore.open(tmp_path / "other").caches()
    assert names == [[array.name for array in cache.arrays()], ["last.none"]]
    # Where a head names layers, all blocks are there for it; options of extraction that are given win.
    deep = write(tmp_path, heads={"ridge": {"layers": "auto"}})
    deep.write_text(deep.read_text().replace("layers:\n- last\n- all\n", ""))
    assert read_study(deep).extract == {}
    own = write(tmp_path, extract={"layers": "2"})
    own.write_text(own.read_text().replace("layers:\n- last\n- all\n", ""))
    assert read_study(own).extract == {"layers": "2"}


def test_several_backbones_share_trainings(tmp_path: Path) -> None:
    models = BOTH | {"late": {"models": ["glyphs", "other"]}}
    models["side by side"] = {"models": ["glyphs", "other"], "fusion": "join"}
    only = {"models": ["late", "side by side"]}
    heads = {"ridge": {"layers": {"glyphs": "last", "*": "all"}, "only": only}, "ncm": {"only": only}}
    path = write(tmp_path, models=models, heads=heads, layers=["last"], seeds=1)
    assert plan_study(path).extractions == (("shapes", "glyphs"), ("shapes", "other"))
    report = run_study(path)
    assert (report.trained, report.failed) == (4, {})
    rows = pq.read_table(tmp_path / "small" / "results.parquet").to_pylist()
    assert [(row["model"], row["method"], row["layers"]) for row in rows] == [
        (model, method, layers)
        for model in ("late", "side by side")
        for method, layers in (("ridge", "glyphs=last other=all"), ("ncm", "last"))
    ]
    for row in rows:
        run = tmp_path / "small" / row["run"]
        config = json.loads((run / "run.json").read_text())
        assert config["kind"] == ("late" if row["model"] == "late" else "join")
        names = config["options"]["models"]
        assert [name.partition("@")[0] for name in names] == [MODEL, OTHER]
        if row["method"] == "ridge":
            assert config["options"]["layers"] == dict(zip(names, ("last", "all"), strict=True))
        assert row["left_out_accuracy"] > 0.4
        assert row["extract_seconds"] > 0
    # Both ways read the same columns of each image.
    assert rows[0]["bytes_per_picture"] == rows[2]["bytes_per_picture"] > rows[1]["bytes_per_picture"] > 0
    assert run_study(path).done_before == 4


def test_layers_of_each_backbone_are_those_of_its_own_trainings(tmp_path: Path) -> None:
    heads = {"ridge": {"layers": {"glyphs": "last", "*": "all"}}}
    cells = cells_of(read_study(write(tmp_path, models=BOTH, heads=heads, seeds=1)))
    assert [(cell.model, cell.layers) for cell in cells] == [("glyphs", "last"), ("other", "all")]
    single = cells_of(read_study(write(tmp_path, models=BOTH, heads={"ridge": {}}, layers=["all"], seeds=1)))
    assert cells[1].folder == single[1].folder


def test_other_decisions_about_images_are_another_training(tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    folders = []
    for text in ("a.png\n", "b.png\n"):
        table.write_text(text)
        path = write(tmp_path, seeds=1, datasets={"shapes": {"data": "shapes", "exclude": "out.csv"}})
        cell = cells_of(read_study(path))[0]
        # The path is relative to the file of the study.
        assert cell.options["exclude"] == str(table)
        folders.append(cell.folder)
    assert folders[0] != folders[1]
    table.write_text("")
    with pytest.raises(InputError, match=r"datasets: shapes: .*out.csv holds no decision"):
        cells_of(read_study(path))
    strange = write(tmp_path, seeds=1, heads={"ridge": {"exclude": "out.csv"}})
    with pytest.raises(InputError, match=r"say it under datasets: NAME: \{data: PATH, exclude: FILE\}"):
        cells_of(read_study(strange))


def test_fine_tuning_does_not_depend_on_how_features_are_stored(tmp_path: Path) -> None:
    asked = {"finetune": {"full": {"epochs": 3}}, "seeds": 1}
    folders = [
        [cell.folder for cell in cells_of(read_study(write(tmp_path, **asked, extract={"pooling": pooling})))]
        for pooling in ("mean", "max")
    ]
    assert [a == b for a, b in zip(*folders, strict=True)] == [False, False, False, True]


def test_a_cell_that_fails_is_told_and_the_others_go_on(run_cli: Run, tmp_path: Path) -> None:
    path = write(
        tmp_path, layers=["last"], heads={"ridge": {}, "broken": {"head": "ridge", "memory_limit": 1 << 20}}
    )
    code, out, _ = run_cli("study", path, "--json")
    report = json.loads(out)
    assert code == 1
    assert report["trained"] == 2
    assert [name.split(", ")[2] for name in report["failed"]] == ["broken", "broken"]
    assert run_cli("study", path, "--dry-run")[1].startswith("4 trainings, 2 of them done; 2 left")


def test_what_trainings_note_is_said_at_the_end(run_cli: Run, tmp_path: Path) -> None:
    path = write(tmp_path, layers=["last"], heads={"plain": {"head": "ridge", "penalty": [1e3, 1e4]}})
    code, out, err = run_cli("study", path)
    assert code == 0, err
    assert "\nnotes of 2 of 2 trainings" in out
    assert "\n  2 x plain: the chosen penalty 1e+03 is at the lower edge of its grid" in out
    # Of trainings that were there too.
    notes = json.loads(run_cli("study", path, "--json")[1])["notes"]
    assert (notes["trainings"], notes["noted"], notes["different"][0]["methods"]) == (2, 2, ["plain"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": ["ridge"]}, r"key 'head'; did you mean 'heads'"),
        ({"models": {}}, "names no models"),
        (
            {"datasets": {"shapes": {"data": "photos", "splitt": "x"}}},
            "option 'splitt'; did you mean 'split'",
        ),
        ({"datasets": {"shapes": "$NOT_SET_ANYWHERE/photos"}}, "variable is not set"),
        (
            {"heads": {"ridge": {"penalti": 1.0}}},
            "option 'penalti'; did you mean 'penalty'",
        ),
        (
            {"finetune": {"full": {"epoch": 1}}},
            "'full' has an option 'epoch'; did you mean",
        ),
        (
            {"heads": {"ridge": {"only": {"seed": 1}}}},
            "only has 'seed'; did you mean 'seeds'",
        ),
        (
            {"heads": {"ridge": {"only": {"models": ["vit"]}}}},
            "only names 'vit', which is none of the models",
        ),
        (
            {"seeds": 2, "heads": {"ridge": {"only": {"seeds": [1, 2]}}}},
            "only names 2, .*hoose one of 0, 1",
        ),
        ({"seeds": [1, 1]}, "seeds has 1 twice"),
        ({"heads": ["ridge", "ncm", "ridge"]}, "heads has 'ridge' twice"),
        ({"seeds": [-1]}, r"seeds is \[-1\]; give whole numbers from 0"),
        ({"train_sizes": ["many"]}, "train_sizes"),
        ({"layers": []}, "layers"),
        (
            {"heads": ["ridgee"]},
            "heads: ridgee: head 'ridgee' is unknown; did you mean 'ridge'",
        ),
        (
            {"heads": {"a": {"head": "sklearn:sklearn.svm.SVMM"}}},
            "heads: a: .*sklearn.svm has no class 'SVMM'",
        ),
        ({"heads": {"a": {"head": "sklearn:no_such_package.A"}}}, "heads: a: .*TRUSTED_TYPES"),
        ({"heads": ["sklearn:antigravity.Fly"]}, "names antigravity.Fly.*set TOPTUNE_TRUSTED_TYPES"),
        ({"heads": ["sklearn:sklearn.utils.os._Environ"]}, "'sklearn.utils.os' cannot be imported"),
        ({"heads": {"a": {"head": 3}}}, "heads: a: head is 3; give its name"),
        (
            {"heads": {"knn": {"params": {"k": 3}}}},
            "heads: knn: .*'k'; choose one of n_neighbors",
        ),
        ({"heads": {"knn": {"params": [3]}}}, "heads: knn: params is .*give a mapping"),
        ({"heads": {"knn": {"cv": None}}}, "heads: knn: cv is None"),
        ({"finetune": {"full": {"depth": "deep"}}}, "finetune: full: depth is 'deep'"),
        (
            {"models": {"a": MODEL, "both": {"models": ["a", "b"]}}},
            "models: both: models names 'b', which .*choose one of a\n",
        ),
        ({"models": {"a": MODEL, "both": ["a", "b"]}}, "models: both: models names 'b', which is no single"),
        ({"heads": {"ridge": ["falkon"]}}, "heads: ridge is .*it must be a str"),
        (
            {"models": BOTH | {"both": {"models": ["glyphs"]}}},
            "models: both: models names 1 model; give at least 2",
        ),
        (
            {"models": BOTH | {"both": {"models": ["glyphs", "other"], "fusion": "jion"}}},
            "models: both: fusion is 'jion'; did you mean 'join'",
        ),
        (
            {"models": BOTH | {"both": {"models": ["glyphs", "other"], "weights": "a.pt"}}},
            "models: both has an option 'weights' .*give the option to glyphs, other",
        ),
        (
            {"models": BOTH | {"glyphs": {"model": MODEL, "fusion": "join"}}},
            "models: glyphs has fusion 'join' .*models: .names",
        ),
        ({"heads": {"ridge": {"fusion": "join"}}}, "head 'ridge' has an option 'fusion'.*under models"),
        (
            {"heads": {"ridge": {"layers": {"glyps": "last"}}}},
            "heads: ridge: layers names model 'glyps'.*did you mean 'glyphs'",
        ),
        (
            {"heads": {"ridge": {"layers": {"*": "upper"}}}},
            "heads: ridge: layers has 'upper', a word of toptune",
        ),
        ({"layers": ["last", "upper"]}, "small.yaml: layers: layers has 'upper', a word of toptune extract"),
        (
            {"models": BOTH | {"both": {"models": ["glyphs", "other"]}}, "finetune": {"full": {}}},
            "finetune 'full' .*'both', which are several models; .*only: {models: .glyphs, other.}",
        ),
        ({"finetune": {"full": {"learning_rates": 0.1}}}, "finetune: full: .*float"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells_of(read_study(write(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": {"cats": "fotos"}}, "datasets: cats: .*/fotos' is no folder and no file"),
        ({"datasets": {"cats": {"data": "./fotos"}}}, "datasets: cats: .*/fotos' is no folder and no file"),
        ({"datasets": {"cats": "./shards-{00..02}.tar"}}, "datasets: cats: no file matches"),
        ({"models": {"mine": "local-dir:weights"}}, "models: mine: .*weights"),
        (
            {"models": {"mine": {"model": MODEL, "weights": "a.pt"}}},
            "models: mine: weights .*a.pt is no file",
        ),
        ({"heads": {"ridge": {}, "ridgee": {}}}, "heads: ridgee: .*is unknown"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_what_is_not_there_is_refused_before_anything_is_done(
    run_cli: Run, tmp_path: Path, arguments: tuple[str, ...], changes: dict[str, Any], message: str
) -> None:
    code, out, err = run_cli("study", write(tmp_path, **changes), *arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "small.yaml"]


def test_a_finished_study_needs_no_images(tmp_path: Path) -> None:
    path = write(tmp_path, layers=["last"], heads={"ncm": {}}, seeds=1)
    run_study(path)
    (tmp_path / "photos").rename(tmp_path / "away")
    assert plan_study(path).done == 1
    assert run_study(path).done_before == 1


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(InputError, match="cannot be read"):
        read_study(tmp_path / "broken.yaml")


@pytest.mark.usefixtures("warm_workers")
def test_dask_workers_give_the_same(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    path = write(tmp_path, layers=["last"])
    run_study(path)
    serial = pq.read_table(tmp_path / "small" / "results.parquet").to_pylist()
    (tmp_path / "small").rename(tmp_path / "serial")
    report = run_study(path, dask="local:2")
    assert (report.trained, report.failed) == (4, {})
    for mine, theirs in zip(
        pq.read_table(tmp_path / "small" / "results.parquet").to_pylist(), serial, strict=True
    ):
        assert (mine["method"], mine["seed"]) == (theirs["method"], theirs["seed"])
        assert mine["log_loss"] == pytest.approx(theirs["log_loss"], rel=1e-6)


def test_fine_tuning_stands_beside_the_heads(tmp_path: Path) -> None:
    tuning = {"epochs": 1, "warmup_epochs": 0, "learning_rates": [1e-3], "crop_scale": 0.5}
    path = write(tmp_path, heads={"ridge": {}}, layers=["last"], seeds=1, finetune={"full": tuning})
    report = run_study(path)
    assert (report.trained, report.failed) == (2, {})
    head, tuned = pq.read_table(tmp_path / "small" / "results.parquet").to_pylist()
    assert (head["kind"], tuned["kind"]) == ("train", "finetune")
    assert (head["n_train"], head["n_test"]) == (tuned["n_train"], tuned["n_test"])
    assert tuned["seconds"] > 0
    assert run_study(path).done_before == 2


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_ready_made_studies_are_whole(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASSETS", str(tmp_path))
    study = read_study(path)
    cells = cells_of(study)
    assert len({cell.folder for cell in cells}) == len(cells) > 10
    for cell in cells:
        if cell.kind == "finetune":
            options_of(FineTuneOptions, cell.options, call="finetune")
        elif "/" not in cell.options["head"] and ":" not in cell.options["head"]:
            make_head(cell.options["head"], params=cell.options.get("params"))


def test_what_no_training_uses_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    datasets = {name: {"data": "photos"} for name in ("a", "b")}
    heads = {"ridge": {"only": {"datasets": ["b"]}}, "ncm": {"only": {"datasets": ["b"]}}}
    cells_of(read_study(write(tmp_path, datasets=datasets, heads=heads, layers=["last"], seeds=1)))
    assert "1 data set not used, because `only` leaves no training for it: a" in caplog.text


def test_remarks_on_a_data_set_are_said_once_in_a_study(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from toptune.extract.images.remarks import Remarks, each_said_once, say_remarks

    remarks = Remarks()
    remarks.add("image", "beside the class folders", "a.png", code="TT003")
    with each_said_once():
        say_remarks(remarks, "photos")
        say_remarks(remarks, "photos")
        say_remarks(remarks, "others")
    say_remarks(remarks, "photos")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "photos",
        "others",
        "photos",
    ]


def test_a_method_may_choose_head_layers_and_fusion_by_itself(tmp_path: Path) -> None:
    models = {"glyphs": MODEL, "tiny": "random:test_efficientnet", "both": {"models": ["glyphs", "tiny"]}}
    heads = {"best": {"best": True, "layers": "all", "budget": 5}, "ridge": {}}
    cells = cells_of(read_study(write(tmp_path, models=models, heads=heads, layers=["last"], seeds=1)))
    best = [cell for cell in cells if cell.method == "best"]
    assert [cell.model for cell in best] == ["glyphs", "tiny", "both"]
    for cell in best:
        options = options_of(TrainOptions, cell.options, call="train")
        assert options.head.best
        assert options.fusion is None
    assert [cell.options.get("fusion") for cell in cells if cell.method == "ridge"] == [None, None, "late"]


def with_numbers(folder: Path) -> None:
    """Write a manifest of the images with several labels each, and with a number."""
    images = sorted((folder / "photos").rglob("*.png"))
    lines = ["path,label,labels,size,grade"]
    for row, image in enumerate(images):
        kind = image.parent.name
        lines.append(f"{image},{kind},{kind}{'|odd' * (row % 2)},{len(kind) + row / 100},{len(kind)}")
    (folder / "photos.csv").write_text("\n".join(lines))


def test_tables_show_the_figures_of_the_task(tmp_path: Path, run_cli: Run) -> None:
    heads = {
        "labels": {"head": "ridge", "threshold": "0.5"},
        "size": {"head": "ridge", "target": "size"},
        "grade": {"head": "knn", "target": "grade", "ordinal": True},
        "classes": {"head": "ncm", "label_column": "label"},
    }
    path = write(tmp_path, heads=heads, layers=["last"], datasets={"shapes": "photos.csv"})
    with_numbers(tmp_path)
    code, out, err = run_cli("study", path, "--json")
    assert code == 0, err
    summary = {row["method"]: row for row in json.loads(out)["summary"]}
    table = pyarrow.csv.read_csv(tmp_path / "small" / "results.csv").to_pylist()
    rows = pq.read_table(tmp_path / "small" / "results.parquet").to_pylist()
    assert [*table[0]] == [*rows[0]]
    tasks = {"labels": "multilabel", "size": "regression", "grade": "regression"}
    for row in rows:
        metrics = json.loads((tmp_path / "small" / row["run"] / "metrics.json").read_text())
        assert row["task"] == tasks.get(row["method"], "classification")
        for name in ("accuracy", "mean_average_precision", "subset_accuracy", "r2", "mae", "quadratic_kappa"):
            assert row[name] == metrics.get(name)
    for method, leading in (("labels", "mean_average_precision"), ("size", "r2"), ("grade", "r2")):
        values = [row[leading] for row in rows if row["method"] == method]
        assert summary[method][leading] == pytest.approx(sum(values) / 2, rel=1e-5)
        assert (summary[method]["seeds"], summary[method]["task"]) == (2, tasks[method])
    assert "accuracy" in summary["classes"]
    assert summary["size"]["left_out_squared_error"] > 0
    code, out, err = run_cli("study", path)
    assert "0 trained, 8 were there" in out
    assert re.search(r"size +method +layers +task +seeds +r2 +mae +rmse +spearman", out)
    code, out, err = run_cli("report", tmp_path / "small", "--out", tmp_path / "page.html")
    assert code == 0, err
    page = (tmp_path / "page.html").read_text()
    assert "mean average precision" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "ncm", "task": "multilabel"}, "heads: odd: head 'ncm' does not know --task multilabel"),
        ({"head": "svm", "target": "size"}, "heads: odd: head 'svm' does not know --task regression"),
        ({"head": "ridge", "task": "regression"}, "heads: odd: --task regression needs --target COLUMN"),
        ({"head": "ridge", "ordinal": True}, "heads: odd: ordinal has a meaning for --task regression only"),
        ({"head": "ridge", "task": "many"}, "heads: odd: task 'many' is unknown"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_before_anything(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan_study(write(tmp_path, heads={"odd": options}, layers=["last"]))
