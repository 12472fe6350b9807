import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import change, make_run, write_layer_search

from toptune.store import CorruptError, InputError
from toptune.workflows.report import runs as report_runs
from toptune.workflows.report.command_lines import command_of
from toptune.workflows.report.pairs import compare_with_finetuning
from toptune.workflows.report.runs import read_runs
from toptune.workflows.report.settings import make_settings

NO_PROGRESS = lambda _done, _total: None  # noqa: E731


def test_runs_are_found_below_folders_and_once(tmp_path: Path) -> None:
    for name in ("b", "a/deep/one", "a/two", "a/.tmp-three"):
        make_run(tmp_path / name)
    told: list[tuple[int, int]] = []
    found = read_runs(
        [tmp_path / "a", tmp_path / "a/two", tmp_path], progress=lambda *each: told.append(each)
    )
    assert [run.folder.relative_to(tmp_path.resolve()).as_posix() for run in found] == [
        "a/deep/one",
        "a/two",
        "b",
    ]
    assert told == [(1, 3), (2, 3), (3, 3)]
    first = found[0]
    assert (first.dataset, first.model, first.seconds, first.accuracy) == ("pets", "resnet10t.demo", 2.0, 0.9)


@pytest.mark.parametrize(
    ("model", "name"),
    [("net.tag@01234567", "net.tag"), ("local-dir:/x/net.tag", "net.tag"), ("hf-hub:org/net@main", "net")],
)
def test_models_have_the_same_name_wherever_they_lay(tmp_path: Path, model: str, name: str) -> None:
    make_run(tmp_path / "run", model=model)
    assert read_runs([tmp_path], progress=NO_PROGRESS)[0].model == name


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/good")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty is no RUN folder and holds none"):
        read_runs([tmp_path / "runs", tmp_path / "empty"], progress=NO_PROGRESS)
    with pytest.raises(InputError, match=r"absent is no folder"):
        read_runs([tmp_path / "absent"], progress=NO_PROGRESS)
    change(tmp_path / "runs/good", "run.json", format="other")
    with pytest.raises(InputError, match=r"run.json is not of a toptune run"):
        read_runs([tmp_path / "runs"], progress=NO_PROGRESS)


def test_too_many_runs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_runs, "MAX_RUNS", 1)
    for name in ("a", "b"):
        make_run(tmp_path / name)
    with pytest.raises(InputError, match=r"2 runs; a report takes at most 1"):
        read_runs([tmp_path], progress=NO_PROGRESS)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda run: (run / "metrics.json").unlink(), "metrics.json is missing"),
    (lambda run: (run / "metrics.json").write_text("{"), "metrics.json cannot be read"),
    (lambda run: (run / "metrics.json").write_text("[]"), "holds no JSON object"),
    (lambda run: change(run, "run.json", options={}), "no options with a seed"),
    (lambda run: change(run, "run.json", dataset=None), "run.json lacks dataset"),
    (lambda run: change(run, "run.json", model="hf-hub:"), "names no model"),
    (lambda run: change(run, "metrics.json", accuracy=1.5), "no accuracy between 0 and 1"),
    (lambda run: change(run, "metrics.json", accuracy="good"), "accuracy is 'good', where a number"),
    (lambda run: change(run, "metrics.json", seconds={"total": float("nan")}), "NaN is no JSON"),
    (lambda run: change(run, "metrics.json", seconds={"total": 0.0}), "no seconds"),
    (lambda run: change(run, "metrics.json", n_train="many"), "n_train is 'many', where a whole number"),
    (lambda run: change(run, "metrics.json", confusion_matrix=[[1, 2]]), "confusion matrix"),
    (lambda run: change(run, "metrics.json", confusion_matrix=[[1] * 3] * 3), "confusion matrix"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_run_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    make_run(tmp_path / "good")
    damage(make_run(tmp_path / "bad run"))
    with pytest.raises(CorruptError, match=message) as told:
        read_runs([tmp_path], progress=NO_PROGRESS)
    assert "bad run" in str(told.value)
    assert "leave" in str(told.value)


def test_damaged_files_of_many_classes_are_named(tmp_path: Path) -> None:
    classes = [f"class {at}" for at in range(250)]
    folder = make_run(tmp_path / "run", classes=classes)
    (run,) = read_runs([folder], progress=NO_PROGRESS)
    assert run.tables.confusion.sum() == 20
    whole = (folder / "confusion.parquet").read_bytes()
    other = make_run(tmp_path / "other", classes=classes, n_test=19)
    for damaged in ((other / "confusion.parquet").read_bytes(), whole[:100], None):
        (folder / "confusion.parquet").unlink()
        if damaged is not None:
            (folder / "confusion.parquet").write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"the confusion matrix of run .*run .*leave the run out"):
            read_runs([folder], progress=NO_PROGRESS)
        (folder / "confusion.parquet").write_bytes(whole)


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (run,) = read_runs([folder], progress=NO_PROGRESS)
    assert run.layer_search() == []
    write_layer_search(folder)
    assert len(run.layer_search()) == 9
    (folder / "layer_search.csv").write_text("path,arrays,accuracy\nalone,stem,high\n")
    with pytest.raises(CorruptError, match=r"layer_search.csv cannot be read"):
        run.layer_search()
    other = make_run(tmp_path / "other", n_test=19)
    shutil.copy(other / "predictions.parquet", folder)
    with pytest.raises(CorruptError, match=r"its rows are not those of metrics.json"):
        run.predictions()
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match=r"predictions.parquet cannot be read"):
        run.predictions()
    (folder / "predictions.parquet").unlink()
    assert run.predictions() is None


def test_runs_that_differ_by_seed_are_one_setting(tmp_path: Path) -> None:
    for seed, wrong in enumerate((2, 4, 3)):
        make_run(tmp_path / f"last{seed}", seed=seed, wrong=wrong, device="cuda" if seed else None)
        make_run(tmp_path / f"all{seed}", seed=seed, wrong=1, layers="all", n_centers=10)
        make_run(tmp_path / f"forest{seed}", seed=seed, wrong=8, head="forest")
    make_run(tmp_path / "spelt", seed=3, layers="last", wrong=3)
    settings, repeated = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert repeated == []
    assert [(each.method, len(each.runs)) for each in settings] == [
        ("ridge, layers all, n centers 10", 3),
        ("ridge, layers last", 4),
        ("forest", 3),
    ]
    assert settings[1].accuracy is not None
    assert settings[1].accuracy.mean == pytest.approx(np.mean([0.9, 0.8, 0.85, 0.85]))
    assert [run.options["seed"] for run in settings[1].runs] == [0, 1, 2, 3]


def test_options_of_data_sets_are_in_no_method(tmp_path: Path) -> None:
    make_run(tmp_path / "a", dataset="pets", val="train")
    make_run(tmp_path / "b", dataset="cells", val="test")
    settings, _ = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert [(each.dataset, each.method) for each in settings] == [("cells", "ridge"), ("pets", "ridge")]


def test_how_a_data_set_is_split_is_in_names_where_its_runs_differ(tmp_path: Path) -> None:
    make_run(tmp_path / "a", head="ridge", test_fraction=0.5)
    make_run(tmp_path / "b", head="lda", test_fraction=0.2)
    make_run(tmp_path / "c", dataset="cells", head="knn", test_fraction=0.4)
    tuned = make_run(tmp_path / "d", dataset="cells", kind="finetune", test_fraction=0.4)
    change(tmp_path / "c", "run.json", dataset_version=1)
    change(make_run(tmp_path / "e", dataset="cells", head="svm"), "run.json", dataset_version=2)
    change(tuned, "run.json", model="other")
    settings, _ = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert {each.method for each in settings} == {
        "ridge, test fraction 0.5", "lda, test fraction 0.2", "fine-tuning, test fraction 0.4",
        "knn, dataset version 1, test fraction 0.4", "svm, dataset version 2, test fraction 0.2",
    }  # fmt: skip


def test_a_run_that_was_relabeled_has_a_name_of_its_own_and_no_command(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    change(tmp_path / "b", "run.json", relabelled={"run": "earlier", "labels": "odd.csv"})
    runs = read_runs([tmp_path], progress=NO_PROGRESS)
    assert [each.method for each in make_settings(runs)[0]] == ["ridge", "ridge, labels odd.csv"]
    assert [command_of(run).split(" ")[0] for run in runs] == ["toptune", "#"]


def test_a_backbones_own_options_are_compared_within_it(tmp_path: Path) -> None:
    for model, weights in (("a", "a.pt"), ("b", "b.pt")):
        make_run(tmp_path / model, model=model, kind="finetune", weights=weights)
    settings, _ = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert [each.method for each in settings] == ["fine-tuning", "fine-tuning"]
    make_run(tmp_path / "c", model="b", kind="finetune", weights="c.pt")
    settings, _ = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert [each.method for each in settings] == [f"fine-tuning, weights {name}.pt" for name in "abc"]


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ([{}, {}], ["lda", "ridge"]),
        ([{"shots": 5}, {"shots": 5}], ["lda", "ridge"]),
        ([{"shots": 5}, {}], ["lda, 5 a class", "ridge, all images"]),
        ([{"train_size": 2000}, {"shots": 5}], ["lda, 2000 images", "ridge, 5 a class"]),
    ],
)
def test_names_say_their_size_where_sizes_differ(
    tmp_path: Path, sizes: list[dict[str, Any]], names: list[str]
) -> None:
    make_run(tmp_path / "a", head="lda", **sizes[0])
    make_run(tmp_path / "b", head="ridge", dataset="cells", **sizes[1])
    settings, _ = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert sorted(each.method for each in settings) == names


def test_of_equal_runs_the_later_counts(tmp_path: Path) -> None:
    make_run(tmp_path / "z", wrong=10, when="2026-01-01T00:00:00+00:00")
    make_run(tmp_path / "a", wrong=0, when="2026-01-02T00:00:00+00:00")
    (setting,), repeated = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert [run.accuracy for run in setting.runs] == [1.0]
    assert [run.folder.name for run in repeated] == ["z"]


def test_costs_count_only_where_every_run_has_them(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, costs={"energy_joules": 3600, "extract_seconds": 8, "phases": {}})
    make_run(tmp_path / "b", seed=1, costs={"energy_joules": 7200})
    (setting,), _ = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    assert setting.watt_hours == 1.5
    assert setting.cost("extract_seconds") is None
    assert setting.cost("phases") is None


def test_a_fine_tuning_is_on_the_data_set_that_has_its_images(tmp_path: Path) -> None:
    for name, kind, dataset, digest in (
        ("a", None, "trash", "1"), ("b", "finetune", "trashnet", "1"), ("c", "finetune", "others", "2"),
    ):  # fmt: skip
        folder = make_run(tmp_path / name, dataset=dataset, kind=kind)
        change(folder, "run.json", manifest={"pictures_digest": digest})
    found = read_runs([tmp_path], progress=NO_PROGRESS)
    assert [run.dataset for run in found] == ["trash", "trash", "others"]


def test_pairs_share_data_set_backbone_size_and_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        costs = {"extract_seconds": 3.0} if seed else None
        make_run(tmp_path / f"head{seed}", seed=seed, seconds=2, wrong=3, costs=costs)
        make_run(tmp_path / f"tuned{seed}", seed=seed, seconds=100 * (1 + seed), wrong=2, kind="finetune")
    make_run(tmp_path / "alone", seed=2, seconds=1)
    make_run(tmp_path / "small", seed=0, seconds=1, train_size=30)
    make_run(tmp_path / "other", seed=0, dataset="cells", kind="finetune")
    settings, _ = make_settings(read_runs([tmp_path], progress=NO_PROGRESS))
    (found,) = compare_with_finetuning(settings)
    assert (found.method, found.finetuning) == ("ridge, all images", "fine-tuning, all images")
    assert found.speedups.tolist() == [50, 100]
    assert found.speedups_with_extraction.tolist() == [40]
    np.testing.assert_allclose(found.differences, [-0.05, -0.05])
    assert {json.dumps(each.is_finetuned) for each in settings} == {"true", "false"}
