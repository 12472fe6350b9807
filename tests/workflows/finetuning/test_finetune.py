"""Fine-tuning from images to a run: what is learnt, what is frozen, what is written, what is refused."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file
from shapes import MODEL, SHAPES, save_shapes

from toptune.cli import toptune
from toptune.costs.meter import describe_costs
from toptune.extract import ImageSource, extract, load_backbone, open_source
from toptune.machine.memory import shown_bytes
from toptune.store import InputError, Manifest, NumericalError
from toptune.train import Run, train
from toptune.workflows import Classifier, FineTunedRun, evaluate, finetune, plan_finetune, write_report
from toptune.workflows.finetuning import plan as tuning_plan
from toptune.workflows.report.command_lines import command_of
from toptune.workflows.report.runs import read_run

Cli = Callable[..., tuple[int, str, str]]
QUICK: dict[str, Any] = {
    "model": MODEL, "epochs": 2, "warmup_epochs": 1, "learning_rates": [1e-3], "batch_size": 16,
    "crop_scale": 0.5, "precision": "fp32", "workers": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a network that learned them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finetune")
    save_shapes(folder / "photos", per_class=20)
    options = QUICK | {"epochs": 12, "learning_rates": [1e-3, 3e-3], "batch_size": 8}
    finetune(folder / "photos", out=folder / "run", **options)
    return folder


def epochs_of(run: Path) -> list[dict[str, str]]:
    with (run / "selection.csv").open() as file:
        return [*csv.DictReader(file)]


def test_a_separable_problem_is_learnt(folder: Path) -> None:
    run = FineTunedRun.load(folder / "run")
    assert run.metrics["accuracy"] >= 0.95
    assert run.metrics["n_train"] == 48
    assert run.metrics["n_test"] == 12
    assert run.config["split"]["n_validation"] == len(run.config["split"]["validation_ids"]) == 9


def test_rows_are_those_of_training_a_head(folder: Path, tmp_path: Path) -> None:
    extract(folder / "photos", model=MODEL, store=tmp_path / "store")
    head = train(tmp_path / "store", dataset="photos", model=MODEL, head="ridge", out=tmp_path / "head")
    run = FineTunedRun.load(folder / "run")
    assert run.config["split"]["rows_digest"] == head.config["split"]["rows_digest"]
    assert run.config["split"]["rule"] == head.config["split"]["rule"]
    # A head also keeps the fold of each row; a network that is fine-tuned has none.
    theirs = pq.read_table(tmp_path / "head" / "rows.parquet").drop_columns(["fold"])
    assert pq.read_table(folder / "run" / "rows.parquet") == theirs
    assert head.metrics.keys() <= run.metrics.keys()
    assert set(run.config["split"]["validation_ids"]) <= {
        open_source(folder / "photos").manifest().ids[row] for row in head.train_rows
    }
    told = pq.read_table(folder / "run" / "predictions.parquet").to_pydict()
    assert told["row"] == head.test_rows.tolist()
    right = [label == predicted for label, predicted in zip(told["label"], told["predicted"], strict=True)]
    assert np.mean(right) == run.metrics["accuracy"]
    write_report([folder / "run", tmp_path / "head"], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "times faster than fine-tuning" in page
    assert "This run kept no predictions" not in page


def test_a_sample_and_decisions_about_images_are_those_of_training_a_head(
    photos: Path, tmp_path: Path
) -> None:
    extract(photos, model=MODEL, store=tmp_path / "store")
    table = tmp_path / "decisions.csv"
    table.write_text("id,decision,label\ndisc/003.png,exclude,\ndisc/004.png,relabel,square\n")
    together = tmp_path / "groups.csv"
    together.write_text("id,group\nsquare/001.png,1\nsquare/002.png,1\n")
    options: dict[str, Any] = {"shots": 6, "seed": 3, "exclude": str(table), "relabel_with": str(table)}
    options["keep_together"] = str(together)
    head = train(
        tmp_path / "store", dataset="photos", model=MODEL, head="ridge", out=tmp_path / "head", **options
    )
    run = finetune(photos, out=tmp_path / "run", **QUICK, **options)
    assert run.metrics["n_train"] == 18
    assert run.config["split"]["rows_digest"] == head.config["split"]["rows_digest"]
    rows = {name: pq.read_table(tmp_path / name / "rows.parquet") for name in ("run", "head")}
    assert rows["run"] == rows["head"].drop_columns(["fold"])
    labels = dict(zip(rows["run"]["id"].to_pylist(), rows["run"]["label"].to_pylist(), strict=True))
    assert "disc/003.png" not in labels
    assert labels["disc/004.png"] == "square"
    assert run.record.decisions == head.record.decisions
    written = [(tmp_path / name / "decisions.csv").read_text() for name in ("run", "head")]
    assert written[0] == written[1] != ""
    assert "1 image relabeled by" in " ".join(run.record.warnings)


def test_the_network_is_one_of_timms(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder / 'run'}", pretrained=True).eval()
    config = timm.data.resolve_data_config(model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    classifier = Classifier.load(folder / "run")
    paths = [folder / "photos" / shape / "003.png" for shape in SHAPES]
    with torch.no_grad():
        inputs = torch.stack([transform(classifier.backbone.decode(each.read_bytes())) for each in paths])
        expected = model(inputs).softmax(dim=1).numpy()
    answers = classifier.predict(paths)
    names = json.loads((folder / "run" / "config.json").read_text())["label_names"]
    assert names == classifier.classes == sorted(SHAPES)
    found = np.array([[each.probabilities[name] for name in names] for each in answers])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [each.label for each in answers] == [names[i] for i in expected.argmax(axis=1)]


def test_what_is_saved_scores_what_was_measured(folder: Path, tmp_path: Path) -> None:
    run = FineTunedRun.load(folder / "run")
    table = pq.read_table(folder / "run" / "rows.parquet").to_pylist()
    for row in table:
        if row["role"] == "test":
            target = tmp_path / "test" / row["id"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folder / "photos" / row["id"]).read_bytes())
    again = evaluate(folder / "run", data=tmp_path / "test")
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss"):
        assert again[name] == pytest.approx(run.metrics[name], abs=1e-5)
    assert again["confusion_matrix"] == run.metrics["confusion_matrix"]


def test_what_was_said_of_each_test_image_is_kept(folder: Path) -> None:
    said = pq.read_table(folder / "run" / "predictions.parquet").to_pylist()
    answers = Classifier.load(folder / "run").predict([folder / "photos" / each["id"] for each in said])
    assert [each["predicted"] for each in said] == [each.label for each in answers]
    assert [each["label"] for each in said] == [each["id"].split("/")[0] for each in said]
    np.testing.assert_allclose(
        [each["confidence"] for each in said], [each.confidence or 0 for each in answers], atol=1e-5
    )
    assert json.loads((folder / "run" / "run.json").read_text())["data"] == str(folder / "photos")


def test_the_best_epoch_is_the_one_that_is_kept(folder: Path) -> None:
    run = FineTunedRun.load(folder / "run")
    rows = epochs_of(folder / "run")
    best = max(rows, key=lambda row: (float(row["validation_accuracy"]), -float(row["validation_loss"])))
    (chosen,) = [row for row in rows if row["is_chosen"] == "True"]
    assert chosen == best
    assert run.config["selected"]["learning_rate"] == float(best["learning_rate"])
    ids = run.config["split"]["validation_ids"]
    answers = Classifier.load(folder / "run").predict([folder / "photos" / name for name in ids])
    loss = -np.mean([np.log(each.probabilities[name.split("/")[0]])
                     for name, each in zip(ids, answers, strict=True)])  # fmt: skip
    assert loss == pytest.approx(float(best["validation_loss"]), abs=1e-5)


def test_the_report_spells_the_command_that_repeats_it(folder: Path) -> None:
    words = shlex.split(command_of(read_run(folder / "run")))
    assert words[:3] == ["toptune", "finetune", str(folder / "photos")]
    context = toptune.commands["finetune"].make_context("finetune", words[2:])
    assert context.params["learning_rates"] == [1e-3, 3e-3]
    assert context.params["cache_memory_bytes"] == 4 * 2**30


def test_costs_are_told_by_phase(folder: Path) -> None:
    run = FineTunedRun.load(folder / "run")
    metrics, rows = run.metrics, epochs_of(folder / "run")
    costs = metrics["costs"]
    assert str(run).splitlines()[-2:] == [describe_costs(costs), f"written to {run.folder}"]
    assert {"read", "train", "validate", "test", "write"} == costs["phases"].keys()
    assert costs["epochs"] == len(rows)
    assert costs["phases"]["train"]["images"] == len(rows) * 39
    assert costs["phases"]["test"]["images"] == 12
    assert costs["n_parameters"] == costs["n_trained_parameters"] > 10**6
    assert costs["images_per_second"] == pytest.approx(
        costs["phases"]["train"]["images"] / costs["phases"]["train"]["wall_seconds"]
    )
    assert sum(each["wall_seconds"] for each in costs["phases"].values()) <= costs["wall_seconds"]
    assert metrics["seconds"]["total"] == costs["wall_seconds"]
    assert costs["peak_memory_bytes"] > 10**8
    assert costs["sessions"] == 1


@pytest.mark.parametrize(
    ("depth", "changed"),
    [("head", {"fc"}), ("last:1", {"layer4", "fc"}), ("full", {"conv1", "bn1", "layer2", "layer4", "fc"})],
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_parts_stay_as_they_are_to_the_bit(
    photos: Path, tmp_path: Path, depth: str, changed: set[str], optimizer: str
) -> None:
    finetune(photos, out=tmp_path / "run", **QUICK | {"depth": depth, "optimizer": optimizer})
    before, after = load_backbone(MODEL).model.state_dict(), load_file(tmp_path / "run" / "model.safetensors")
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved | {"fc"} >= changed
    if depth != "full":
        assert moved | {"fc"} == changed
    # Statistics of batch norms belong to what is trained, and to what is frozen.
    statistics = "layer4.0.bn1.running_mean"
    assert torch.equal(before[statistics], after[statistics]) == (depth == "head")


class Watched:
    """A source that notes which rows are read, and what was being done."""

    def __init__(self, source: ImageSource) -> None:
        self.name, self._source = source.name, source
        self.reads: list[tuple[int, str]] = []
        self.doing = ""

    def manifest(self) -> Manifest:
        return self._source.manifest()

    def read(self, row: int) -> bytes:
        self.reads.append((row, self.doing))
        return self._source.read(row)


@pytest.mark.parametrize("cache_memory_bytes", [0, 10**9])
def test_test_rows_are_read_once_and_only_in_the_end(
    photos: Path, tmp_path: Path, cache_memory_bytes: int
) -> None:
    source = Watched(open_source(photos))
    n_epochs_before_test: list[int] = []

    def progress(report: Any) -> None:
        if report.doing in ("reading the test images", "testing"):
            n_epochs_before_test.append(len(done))
        elif report.doing == "training" and report.done == report.total:
            done.append(report.epoch)
        source.doing = report.doing

    done: list[int] = []
    run = finetune(
        source, out=tmp_path / "run", progress=progress, cache_memory_bytes=cache_memory_bytes, **QUICK
    )
    table = pq.read_table(tmp_path / "run" / "rows.parquet").to_pylist()
    test = {row["row"] for row in table if row["role"] == "test"}
    assert len(test) == run.metrics["n_test"] == 6
    assert set(n_epochs_before_test) == {2}
    first = min(i for i, (row, _) in enumerate(source.reads) if row in test)
    # All that came before are training rows, and the epochs were done by then.
    assert {row for row, _ in source.reads[:first]} == {row["row"] for row in table} - test
    assert {row for row, _ in source.reads[first:]} == test
    assert source.reads[first][1] == "training"
    if cache_memory_bytes:
        assert len(source.reads) == 36


def test_early_stopping_ends_a_rates_training(photos: Path, tmp_path: Path) -> None:
    options = QUICK | {
        "epochs": 30,
        "min_epochs": 2,
        "patience": 1,
        "learning_rates": [0.3],
        "clip_grad": 0.0,
    }
    run = finetune(photos, out=tmp_path / "run", **options)
    rows = epochs_of(tmp_path / "run")
    assert 2 <= len(rows) < 30
    assert len(rows) == max(2, run.config["selected"]["epoch"] + 1)


def test_a_refit_trains_on_all_training_rows(photos: Path, tmp_path: Path) -> None:
    options = QUICK | {"epochs": 3, "refit": True}
    run = finetune(photos, out=tmp_path / "run", **options)
    rows = epochs_of(tmp_path / "run")
    again = [row for row in rows if row["trial"] == "1"]
    assert len(again) == run.config["selected"]["epoch"]
    assert all(row["validation_loss"] == "" for row in again)
    assert run.metrics["costs"]["phases"]["train"]["images"] == 3 * 24 + len(again) * 30
    assert run.metrics["n_train"] == 30


def test_without_validation_the_last_epoch_is_taken(photos: Path, tmp_path: Path) -> None:
    run = finetune(photos, out=tmp_path / "run", **QUICK | {"validation_fraction": 0.0, "augment": "none"})
    assert run.config["selected"] == {"learning_rate": 1e-3, "epoch": 2}
    assert run.config["warnings"] == []
    assert run.metrics["costs"]["phases"]["train"]["images"] == 2 * 30


def test_bf16_trains_float32_weights(photos: Path, tmp_path: Path) -> None:
    run = finetune(photos, out=tmp_path / "run", **QUICK | {"precision": "bf16", "label_smoothing": 0.1})
    assert run.config["precision"] == "bf16"
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    answers = Classifier.load(tmp_path / "run").predict(photos)
    assert sum(each.confidence or 0 for each in answers) > 36 / 3


def test_a_rate_that_diverges_is_reported_and_others_go_on(photos: Path, tmp_path: Path) -> None:
    options = QUICK | {"optimizer": "sgd", "clip_grad": 0.0, "learning_rates": [1e-3, 1e30]}
    run = finetune(photos, out=tmp_path / "run", **options)
    assert run.config["selected"]["learning_rate"] == 1e-3
    assert "learning rate 1e+30 diverged in epoch" in run.config["warnings"][0]
    assert np.isfinite(run.metrics["log_loss"])
    with pytest.raises(NumericalError, match=r"with learning rate 1e\+30; give smaller ones"):
        finetune(photos, out=tmp_path / "none", **options | {"learning_rates": [1e30]})
    assert not (tmp_path / "none").exists()


def test_images_that_fail_are_refused_by_name_unless_allowed(photos: Path, tmp_path: Path) -> None:
    sound = finetune(photos, out=tmp_path / "sound", **QUICK)
    table = pq.read_table(sound.folder / "rows.parquet").to_pylist()
    fitted = {row["id"] for row in table if row["role"] == "train"} - {
        *sound.config["split"]["validation_ids"]
    }
    train_id, test_id = min(fitted), next(row["id"] for row in table if row["role"] == "test")
    (photos / train_id).write_bytes(b"no image")
    with pytest.raises(InputError, match=rf"'{train_id}' \(not an image .*--max-failures 1"):
        finetune(photos, out=tmp_path / "run", **QUICK)
    run = finetune(photos, out=tmp_path / "run", max_failures=1, **QUICK)
    assert (run.metrics["n_skipped"], run.metrics["n_train"], run.metrics["n_test"]) == (1, 29, 6)
    (photos / test_id).write_bytes(b"")
    with pytest.raises(
        InputError, match=rf"'{test_id}' \(the file is empty\).*what was trained so far stays"
    ):
        finetune(photos, out=tmp_path / "two", max_failures=1, **QUICK)
    # Nothing is trained again.
    run = finetune(photos, out=tmp_path / "two", allow_failed=True, **QUICK)
    assert (run.metrics["n_skipped"], run.metrics["n_test"]) == (2, 5)
    assert run.metrics["costs"]["phases"]["train"]["images"] == 2 * 23
    assert run.metrics["costs"]["sessions"] == 2


def test_what_failed_must_leave_every_class_a_image(photos: Path, tmp_path: Path) -> None:
    for path in (photos / "cross").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="1 of 3 classes have no image left to train on: 'cross'"):
        finetune(photos, out=tmp_path / "run", allow_failed=True, **QUICK)


def test_all_of_the_validation_part_may_not_fail(photos: Path, tmp_path: Path) -> None:
    for name in finetune(photos, out=tmp_path / "run", **QUICK).config["split"]["validation_ids"]:
        (photos / name).write_bytes(b"no image")
    with pytest.raises(InputError, match="all 6 validation images failed"):
        finetune(photos, out=tmp_path / "other", allow_failed=True, **QUICK)


def test_a_class_of_test_rows_alone_is_refused(tmp_path: Path) -> None:
    save_shapes(tmp_path / "photos" / "train", per_class=6)
    save_shapes(tmp_path / "photos" / "test", per_class=1)
    (tmp_path / "photos" / "test" / "star").mkdir()
    (tmp_path / "photos" / "test" / "disc" / "000.png").rename(
        tmp_path / "photos" / "test" / "star" / "0.png"
    )
    with pytest.raises(InputError, match=r"1 class of the test rows without a training row: 'star'"):
        finetune(tmp_path / "photos", out=tmp_path / "run", **QUICK)


def test_a_plan_says_what_would_be_done_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    options = QUICK | {
        "learning_rates": [1e-4, 1e-3],
        "epochs": 5,
        "min_epochs": 2,
        "patience": 2,
        "depth": "head",
    }
    said: list[str] = []
    plan = plan_finetune(photos, progress=said.append, **options)
    assert (plan.n_fitted, plan.n_validation, plan.n_test, plan.n_classes) == (24, 6, 6, 3)
    assert (plan.least_epochs, plan.epochs, plan.steps_per_epoch) == (3, 5, 2)
    assert plan.n_trained_parameters == 771
    assert plan.score_seconds > 0
    expected = (
        36 * plan.read_seconds
        + 6 * plan.score_seconds
        + 2 * 5 * (24 * plan.train_seconds + 6 * plan.score_seconds)
    )
    assert plan.most_seconds == pytest.approx(expected)
    assert 0 < plan.least_seconds < plan.most_seconds
    assert json.loads(json.dumps(plan.to_dict()))["most_seconds"] == plan.most_seconds
    assert plan.cache_bytes == 30 * 48 * 48 * 3
    (line,) = said
    assert shown_bytes(plan.step_bytes) in line
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_the_memory_of_a_step_is_told_before_it_is_taken(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_head, of_all, of_more = (
        plan_finetune(photos, **QUICK | each).step_bytes
        for each in ({"depth": "head"}, {"depth": "full"}, {"depth": "full", "batch_size": 24})
    )
    # A head alone keeps nothing of the blocks below; twice the images keep twice as much.
    assert 10 * of_head < of_all < of_more < 3 * of_all
    monkeypatch.setattr(tuning_plan, "memory_limit_bytes", lambda: of_all // 4)
    with pytest.raises(InputError, match=r"a step of fine-tuning .* needs about .* smaller --batch-size"):
        plan_finetune(photos, **QUICK)


def test_store_commands_say_that_a_fine_tuned_run_is_no_head(folder: Path) -> None:
    with pytest.raises(InputError, match=r"is a fine-tuned network.*evaluate RUN --data DATA"):
        Run.load(folder / "run")
    with pytest.raises(InputError, match="fine-tuned network"):
        evaluate(folder / "run")
    with pytest.raises(InputError, match="--model and --weights say where a frozen"):
        Classifier.load(folder / "run", model=MODEL)
    with pytest.raises(
        InputError, match="fine-tuned network, which has no run of its own; use record, predict"
    ):
        _ = Classifier.load(folder / "run").run
    with pytest.raises(InputError, match="no RUN folder of a fine-tuned network"):
        FineTunedRun.load(folder / "photos")


def test_the_command_line(photos: Path, tmp_path: Path, run_cli: Cli) -> None:
    words = ["finetune", photos, "--model", MODEL, "--out", tmp_path / "run", "--depth", "last:1", "--json"]
    words += ["--epochs", 2, "--warmup-epochs", 1, "--learning-rate", "1e-3,3e-3", "--cache-memory", "10MiB"]
    code, out, _ = run_cli(*words, "--dry-run")
    assert code == 0
    assert json.loads(out)["learning_rates"] == [1e-3, 3e-3]
    assert not (tmp_path / "run").exists()
    code, out, _ = run_cli(*words)
    assert code == 0
    assert json.loads(out)["metrics"]["n_test"] == 6
    code, out, _ = run_cli("predict", tmp_path / "run", photos / "disc", "--probabilities")
    assert code == 0
    assert out.splitlines()[0] == "path,label,confidence,cross,disc,square"
    assert len(out.splitlines()) == 13
    code, out, _ = run_cli("evaluate", tmp_path / "run", "--data", photos, "--json")
    assert code == 0
    assert json.loads(out)["n_test"] == 36


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet5000"], "knows no model 'resnet5000'"),
        (["--model", MODEL, "--depth", "last:7"], "N may be up to 4"),
        (["--model", MODEL, "--validation-fraction", "0"], "give one --learning-rate and no --refit"),
        (["--model", MODEL, "--device", "cuda:77"], "is not there"),
        (["--model", MODEL, "--out", "photos"], "exists and is not empty"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    photos: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Cli, words: list[str], message: str
) -> None:
    monkeypatch.chdir(photos.parent)
    place = [] if "--out" in words else ["--out", "run"]
    code, _, err = run_cli("finetune", photos, *place, *words)
    assert code == 2
    # The usage stands before a message about an option; the message itself is one line.
    lines = [line for line in err.strip().splitlines() if not line.startswith("device auto takes ")]
    *usage, last = lines
    assert message in last
    assert not usage or usage[0].startswith("Usage: ")
