"""The whole of advise: on images with the embedded backbone, and its rules on a study's runs."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from shapes import MODEL, SHAPES, draw_shape, save_shapes

from toptune.extract import extract
from toptune.machine.memory import shown_bytes
from toptune.store import FeatureStore, InputError
from toptune.train import train
from toptune.workflows import advise, finetune, plan_finetune
from toptune.workflows.advice import rules
from toptune.workflows.advice.evidence import Evidence
from toptune.workflows.advice.rules import advise_on
from toptune.workflows.study.study import run_study

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[3]
# Enough for every kind of trial, and a search of three subsets.
LAYERS = "layer4,last"
TUNING: dict[str, Any] = {"epochs": 1, "warmup_epochs": 0, "learning_rates": [1e-3], "crop_scale": 0.5}


def named_split(folder: Path, *, test_is_noise: bool) -> Path:
    """Write images with a split of their own; the test images are of shapes, or of nothing."""
    rng = np.random.default_rng(0)
    for split, seeds in (("train", range(10)), ("test", range(100, 105))):
        for shape in SHAPES:
            (folder / split / shape).mkdir(parents=True)
            for seed in seeds:
                image = draw_shape(shape, seed)
                if split == "test" and test_is_noise:
                    image = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
                image.save(folder / split / shape / f"{seed:03}.png")
    return folder


def test_advice_rests_on_what_train_and_finetune_would_do(photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    table = tmp_path / "decisions.csv"
    table.write_text("id,decision,label\ndisc/003.png,exclude,\ndisc/004.png,relabel,square\n")
    decided: dict[str, Any] = {"exclude": str(table), "relabel_with": str(table)}
    report = advise(
        photos, model=MODEL, store=tmp_path / "features", finetune=TUNING, seed=3, test_fraction=0.25,
        progress=lines.append, **decided,
    )  # fmt: skip
    assert [each.layers for each in report.trials] == ["last"] * 3 + ["all"] * 2 + ["searched"]
    assert not report.not_tried
    assert list(report.costs["phases"]) == ["sample", "extract", "time fine-tuning", "heads"]
    assert report.plan is not None
    assert len(lines) == 5
    # What a step takes is said before steps are timed in full.
    assert lines[2:4] == [
        "timing a few steps of fine-tuning",
        f"a step of fine-tuning on 21 images takes about {shown_bytes(report.plan.step_bytes)} of memory",
    ]
    # Left-out figures are those of training by itself with these options.
    options: dict[str, Any] = {"dataset": "photos", "model": MODEL, "seed": 3, "test_fraction": 0.25}
    options |= decided
    for at, layers in ((1, "last"), (3, "all")):
        trial = report.trials[at]
        run = train(
            tmp_path / "features", **options, head=trial.head, layers=layers, out=tmp_path / f"run-{at}"
        )
        left_out = run.config["report"]["left_out"]
        assert trial.accuracy == left_out["accuracy"]
        # A minimum is known to the root of the rounding of its function, and so is what is taken at it.
        assert trial.log_loss == pytest.approx(left_out["log_loss"], rel=1e-7)
    evidence = report.evidence
    assert (evidence.n_train, evidence.n_classes, evidence.pictures_per_class) == (26, 3, 9)
    accuracies = [each.accuracy or 0.0 for each in report.trials]
    assert (evidence.last_accuracy, evidence.inner_accuracy) == (max(accuracies[:3]), max(accuracies[3:]))
    assert report.best is report.trials[int(np.argmax(accuracies))]
    plan = plan_finetune(photos, model=MODEL, seed=3, test_fraction=0.25, **decided, **TUNING)
    assert (report.plan.n_fitted, report.plan.n_test) == (plan.n_fitted, plan.n_test)
    assert evidence.finetune_seconds == (report.plan.least_seconds, report.plan.most_seconds)
    assert json.loads(json.dumps(report.to_dict()))["recommendation"] == report.advice.recommendation


def test_the_commands_that_come_next_run_as_they_are(
    photos: Path, tmp_path: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tuning = json.dumps(TUNING)
    # A second backbone's features lie beside them.
    extract(photos, model="random:test_efficientnet", store="features")
    code, out, err = run_cli(
        "advise", "photos", "--model", MODEL, "--finetune", tuning, "--seed", 1, "--layers", LAYERS, "--json"
    )
    assert code == 0, err
    commands = json.loads(out)["commands"]
    for name, folder in (("train", "photos-frozen"), ("best", "photos-best"), ("finetune", "photos-tuned")):
        assert run_cli(*commands[name].split()[1:])[0] == 0
        assert json.loads((tmp_path / folder / "run.json").read_text())["options"]["seed"] == 1
    digests = {
        json.loads((tmp_path / f"photos-{each}" / "run.json").read_text())["split"]["rows_digest"]
        for each in ("frozen", "best", "tuned")
    }
    assert len(digests) == 1
    code, out, _ = run_cli(
        "advise", "photos", "--model", MODEL, "--finetune", tuning, "--seed", 1, "--layers", LAYERS
    )
    assert code == 0
    assert out.startswith("advice: ")
    assert "\ncertainty " in out
    assert commands["train"] in out


def test_what_test_images_show_changes_nothing(tmp_path: Path) -> None:
    reports = [
        advise(
            named_split(tmp_path / name / "photos", test_is_noise=test_is_noise),
            model=MODEL, store=tmp_path / name / "features", finetune=TUNING, layers="last",
        )
        for name, test_is_noise in (("a", False), ("b", True))
    ]  # fmt: skip
    first, second = (
        [(each.accuracy, each.log_loss, each.arrays) for each in report.trials] for report in reports
    )
    assert first == second
    assert reports[0].evidence.n_train == 30


def test_features_of_test_rows_are_not_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(photos, model=MODEL, store=tmp_path / "features", layers=LAYERS)
    cache = FeatureStore.open(tmp_path / "features").cache(MODEL, "photos")
    read: set[int] = set()
    blocks = type(cache).blocks

    def recorded(self: Any, names: Any, rows: Any = None) -> Any:
        read.update(range(self.n_rows) if rows is None else np.asarray(rows).tolist())
        return blocks(self, names, rows)

    monkeypatch.setattr(type(cache), "blocks", recorded)
    report = advise(photos, model=MODEL, store=tmp_path / "features", finetune=TUNING, layers=LAYERS)
    monkeypatch.undo()
    assert len(read) == report.evidence.n_train == 30
    run = train(tmp_path / "features", dataset="photos", model=MODEL, head="ridge", out=tmp_path / "run")
    assert read == set(run.train_rows.tolist())


def test_an_extraction_beyond_the_budget_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.workflows.advice.advising.measure_rate", lambda *_, **__: 0.05)
    with pytest.raises(InputError, match=r"extracting 36 images takes about 12 min at 0\.1 images/s"):
        advise(photos, model=MODEL, store=tmp_path / "features")
    assert not (tmp_path / "features").exists()
    with pytest.raises(InputError, match=r"of the budget of 0\.1 s"):
        advise(photos, model=MODEL, store=tmp_path / "features", budget=0.1)


def test_what_the_budget_does_not_reach_is_said(photos: Path, tmp_path: Path) -> None:
    extract(photos, model=MODEL, store=tmp_path / "features", layers=LAYERS)
    report = advise(photos, model=MODEL, store=tmp_path / "features", budget=1e-6, layers=LAYERS)
    done = [each for each in report.trials if each.skipped is None]
    assert [(each.head, each.layers) for each in done] == [("ridge", "last")]
    assert report.plan is None
    assert report.not_tried[0].startswith("timing fine-tuning: about ")
    assert len(report.not_tried) == len(report.trials)
    assert report.evidence.inner_accuracy is None
    for words in (
        "no head on inner layers was tried",
        "fine-tuning was not timed",
        "not tried: falkon on all",
    ):
        assert words in str(report)


def test_samples_and_one_layer(photos: Path, tmp_path: Path) -> None:
    report = advise(
        photos, model=MODEL, store=tmp_path / "features", layers="last", shots=6, finetune=TUNING,
    )  # fmt: skip
    assert {each.layers for each in report.trials} == {"last"}
    assert (report.evidence.n_train, report.evidence.pictures_per_class) == (18, 6)
    assert "--shots 6" in report.train_command
    assert "--shots 6" in report.finetune_command
    assert report.notes == ()


def test_rows_that_are_left_out_of_the_figures_are_told(tmp_path: Path) -> None:
    """One image of a class takes no part in the figures that the advice rests on."""
    folder = named_split(tmp_path / "photos", test_is_noise=False)
    (folder / "train" / "rare").mkdir()
    draw_shape(SHAPES[0], 77).save(folder / "train" / "rare" / "one.png")
    report = advise(folder, model=MODEL, store=tmp_path / "store", layers="last", finetune=TUNING)
    (note,) = report.notes
    assert "1 training rows of 1 of 4 classes ('rare')" in note
    assert f"note: {note}" in str(report)
    assert report.to_dict()["notes"] == [note]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget is 0 seconds"),
        ({"margin": 1.0}, "margin is 1"),
        ({"finetune": {"epoch": 1}}, "option 'epoch'; did you mean 'epochs'"),
        ({"finetune": {"seed": 1}}, "'seed', which must be the same for heads"),
        ({"finetune": {"epochs": 0}}, "epochs is 0"),
        ({"shots": 1000}, "fewer than 1000 training rows"),
        ({"shots": 1}, "more than one fold"),
    ],
)
def test_bad_input(photos: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        advise(photos, model=MODEL, store=tmp_path / "features", **options)
    assert not (tmp_path / "features").exists()


def test_unreadable_training_images(photos: Path, tmp_path: Path) -> None:
    (photos / "disc" / "000.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"disc/000\.png"):
        advise(photos, model=MODEL, store=tmp_path / "features", layers="last")
    report = advise(
        photos, model=MODEL, store=tmp_path / "features", allow_failed=True, finetune=TUNING, layers="last"
    )
    assert (report.n_skipped, report.evidence.n_train) == (1, 29)
    assert "--skip-failed" in report.train_command


def test_the_rules_replayed_on_a_study(tmp_path: Path) -> None:
    save_shapes(tmp_path / "photos")
    save_shapes(tmp_path / "others", per_class=14)
    study = {
        "datasets": {name: {"data": name, "test_fraction": 0.25} for name in ("photos", "others")},
        "models": {"glyphs": MODEL},
        "heads": {"ridge": {}, "forest": {"layers": "last", "only": {"datasets": ["photos"]}}},
        "layers": ["last", "all"],
        "finetune": {"full": TUNING},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    assert run_study(path).failed == {}
    replayed = runpy.run_path(str(ROOT / "benchmarks" / "advice.py"))
    classes = {"photos": 3, "others": 3}
    results = tmp_path / "small" / "results.csv"
    cases = replayed["left_out"](replayed["read_cases"]([results], classes=classes, margin=0.01))
    assert [case.place[0] for case in cases] == ["photos", "others"]
    rows = {
        (row["dataset"], row["method"], row["layers"]): row
        for row in map(dict, _results(tmp_path / "small" / "results.parquet"))
    }
    for case in cases:
        name = case.place[0]
        # A forest says nothing of left-out rows.
        ridges = [rows[name, "ridge", layers] for layers in ("last", "all")]
        assert case.evidence.last_accuracy == ridges[0]["left_out_accuracy"]
        assert case.evidence.inner_accuracy == ridges[1]["left_out_accuracy"]
        chosen = max(ridges, key=lambda row: float(row["left_out_accuracy"]))
        assert case.frozen_test == chosen["accuracy"]
        assert case.tuned_test == rows[name, "full", ""]["accuracy"]
        assert case.truth == ("fine-tune" if case.gain > 0.01 else "stay-frozen")
        assert case.regret(case.truth) <= 0.01
        assert case.regret("fine-tune") - case.regret("stay-frozen") == pytest.approx(-case.gain)
        assert case.seconds("fine-tune") > case.seconds("stay-frozen") > 0
    advised = replayed["advisers"](cases)
    right = sum(case.truth == "stay-frozen" for case in cases)
    assert replayed["told"](cases, advised["always stay frozen"])[0].startswith(f"{right} of 2, ")
    assert replayed["told"](cases, advised["who knows the test rows"])[0].startswith("2 of 2, 100 %")


def test_shares_are_written_from_the_other_data_sets_alone() -> None:
    replayed = runpy.run_path(str(ROOT / "benchmarks" / "advice.py"))
    few = Evidence(n_train=60, n_classes=6, pictures_per_class=10.0, last_accuracy=0.5, inner_accuracy=0.5)

    def case(name: str, tuned: float) -> Any:
        figures = {"frozen_test": 0.5, "tuned_test": tuned, "frozen_seconds": 1.0, "tuned_seconds": 9.0}
        return replayed["Case"](
            place=(name, "tiny", "10 a class", 0), evidence=few, shipped=advise_on(few), **figures
        )

    found = replayed["left_out"]([case("a", 0.6), case("b", 0.4), case("b", 0.3), case("c", 0.5)])
    gains = [each.left_out.gain for each in found]
    # Shares of the error of a half are 0.2, -0.2, -0.4 and 0.
    assert gains[0] == pytest.approx((-0.2, -0.1, 0.0))
    assert gains[1] == gains[2] == pytest.approx((0.0, 0.05, 0.1))
    assert gains[3] == pytest.approx((-0.2, -0.1, 0.1))
    # What is shipped is there again afterwards.
    assert advise_on(few).gain == case("a", 0.6).shipped.gain


def test_the_report_says_how_often_the_rules_are_right() -> None:
    replayed = runpy.run_path(str(ROOT / "benchmarks" / "advice.py"))
    paths = sorted((ROOT / "docs" / "studies" / "results").glob("*/results.csv"))
    read = replayed["read_cases"](paths, classes=replayed["CLASSES"], margin=0.01)
    cases = replayed["left_out"](read)
    advised = replayed["advisers"](cases)
    names = ("rules, written from other data sets", "always stay frozen")
    right = [
        sum(case.truth == advice for case, advice in zip(cases, advised[name], strict=True)) for name in names
    ]
    assert (len(cases), *right) == (rules.N_CASES, rules.N_RIGHT, rules.N_FROZEN_RIGHT)


def _results(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of images with several labels each, and a number."""
    folder = tmp_path_factory.mktemp("listed")
    rng = np.random.default_rng(0)
    lines = ["path,labels,age"]
    for row in range(40):
        labels = [name for name in ("bright", "wide") if rng.random() < 0.5]
        values = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8) + 130 * ("bright" in labels)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{row}.png")
        lines.append(f"{folder / f'{row}.png'},{'|'.join(labels)},{values.mean():.3f}")
    (folder / "listed.csv").write_text("\n".join(lines))
    return folder / "listed.csv"


@pytest.mark.parametrize(
    ("words", "task", "figure"),
    [((), "multilabel", "accuracy of labels"), (("--target", "age"), "regression", "R2")],
    ids=["multilabel", "regression"],
)
def test_of_another_task_heads_are_measured_and_nothing_is_fine_tuned(
    listed: Path, tmp_path: Path, run_cli: Run, words: tuple[str, ...], task: str, figure: str
) -> None:
    options = ("--model", MODEL, "--store", tmp_path / "features", "--layers", "last", "--cv", "2")
    code, told, err = run_cli("advise", listed, *options, *words)
    assert code == 0, err
    assert "advice: stay frozen (rule: task)" in told
    assert f"fine-tuning learns one class an image and does not know --task {task}" in told
    assert "studies of classification alone" in told
    assert figure in told
    assert "not tried: timing fine-tuning" in told
    (command,) = [line for line in told.splitlines() if line.startswith("  toptune ")]
    assert f"--task {task}" in command
    assert command.count("--target age") == len(words) / 2
    # The command is taken as it stands.
    line = [*command.split()[1:-1], str(tmp_path / "run")]
    code, _, err = run_cli(*line)
    assert code == 0, err


def test_fine_tuning_refuses_other_tasks_with_what_can_be_done(listed: Path, tmp_path: Path) -> None:
    for options in ({"target": "age"}, {"task": "multilabel"}, {"label_column": "a,b"}):
        given: dict[str, Any] = dict(options)
        with pytest.raises(InputError, match=r"fine-tuning learns one class an image.*toptune train --ta"):
            finetune(listed, model=MODEL, out=tmp_path / "tuned", **given)
