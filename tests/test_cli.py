"""Every command, through `main`, on images made here."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import MODEL, SHAPES, save_shapes

ROOT = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos``, ``store`` and ``run``."""
    from toptune.extract import extract
    from toptune.train import train

    folder = tmp_path_factory.mktemp("trained")
    extract(save_shapes(folder / "photos"), model=MODEL, store=folder / "store", layers="all")
    train(folder / "store", dataset="photos", model=MODEL, out=folder / "run", cv=3)
    return folder


def test_extract_then_nothing_to_do(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    command = ("extract", photos, "--model", MODEL, "--store", tmp_path / "s", "--json")
    code, out, _ = run_cli(*command)
    first = json.loads(out)
    assert code == 0
    assert (first["rows"], first["failed"], first["nothing_to_do"]) == (36, {}, False)
    code, out, _ = run_cli(*command)
    assert code == 0
    assert json.loads(out)["nothing_to_do"] is True


def test_dry_run_prints_a_plan_and_writes_nothing(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    code, out, _ = run_cli("extract", photos, "--model", MODEL, "--store", tmp_path / "s", "--dry-run")
    assert code == 0
    assert "36" in out
    assert not (tmp_path / "s").exists()


def test_shards_together_make_the_whole(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    common = ("extract", photos, "--model", MODEL, "--store", tmp_path / "s", "-b", "4")
    for index in range(5):
        assert run_cli(*common, "--shard", f"{index}/5")[0] == 0
    assert run_cli("store", "verify", "--deep", "--store", tmp_path / "s")[0] == 0


@pytest.mark.parametrize(
    "head",
    ["falkon", "logistic", "lda", "ncm", "knn", "svm", "forest", "auto", "sklearn:sklearn.svm.LinearSVC"],
)
def test_every_head_trains_and_predicts(run_cli: Run, trained: Path, tmp_path: Path, head: str) -> None:
    common = ("--store", trained / "store", "--dataset", "photos", "--model", MODEL, "--cv", "3")
    code, out, _ = run_cli("train", *common, "--head", head, "--out", tmp_path / "run", "--json")
    assert code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert json.loads(out)["metrics"]["accuracy"] == metrics["accuracy"]
    assert metrics["accuracy"] >= 2 / 3
    assert metrics["n_train"] + metrics["n_test"] == 36
    code, out, _ = run_cli("predict", tmp_path / "run", trained / "photos", "--probabilities")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert set(rows[0]) == {"path", "label", "confidence", *SHAPES}
    assert sum(Path(row["path"]).parent.name == row["label"] for row in rows) >= 30
    assert all(abs(sum(float(row[shape]) for shape in SHAPES) - 1) < 1e-3 for row in rows)


def test_evaluate_agrees_with_training_and_with_images(run_cli: Run, trained: Path) -> None:
    stored = json.loads((trained / "run" / "metrics.json").read_text())
    code, out, _ = run_cli("evaluate", trained / "run", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == stored["accuracy"]
    everything = json.loads(run_cli("evaluate", trained / "run", "--split", "all", "--json")[1])
    code, out, _ = run_cli("evaluate", trained / "run", "--data", trained / "photos", "--json")
    assert code == 0
    assert json.loads(out)["n_test"] == everything["n_test"] == 36
    assert json.loads(out)["log_loss"] == pytest.approx(everything["log_loss"], abs=1e-3)


def test_predict_jsonl_and_unreadable_images(run_cli: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no image")
    image = next((trained / "photos" / "disc").iterdir())
    code, out, err = run_cli("predict", trained / "run", image, tmp_path / "notes.jpg", "--format", "jsonl")
    good, bad = map(json.loads, out.splitlines())
    assert code == 4
    assert good["label"] in SHAPES
    assert bad["label"] is None
    assert "notes.jpg" in err


def test_store_commands(run_cli: Run, trained: Path) -> None:
    code, out, _ = run_cli("store", "ls", "--store", trained / "store", "--json")
    (cache,) = json.loads(out)["caches"]
    assert code == 0
    assert cache["n_rows"] == 36
    assert cache["is_complete"] is True
    assert run_cli("store", "ls", "--store", trained / "store")[1].count("photos") == 1
    code, out, _ = run_cli("store", "show", "--store", trained / "store", "--json")
    assert code == 0
    assert "resnet10t" in out
    code, out, _ = run_cli("store", "verify", "--deep", "--store", trained / "store", "--json")
    assert code == 0
    assert json.loads(out)["damaged"] == []


def test_layers_lists_shapes_and_bytes(run_cli: Run) -> None:
    code, out, _ = run_cli("layers", MODEL, "--json")
    rows = {row["name"]: row for row in json.loads(out)["layers"]}
    assert code == 0
    assert "last" in rows
    assert len(rows) >= 5
    assert run_cli("layers", MODEL)[1].count("\n") >= 5


def test_models_lists_the_embedded_one_first(run_cli: Run) -> None:
    code, out, _ = run_cli("models", "resnet10t*")
    assert code == 0
    assert out.splitlines()[0] == MODEL
    assert "resnet10t.c3_in1k" in out


def test_doctor(run_cli: Run) -> None:
    from toptune.machine.doctor import EXTRAS

    code, out, _ = run_cli("doctor", "--json")
    assert code == 0
    facts = json.loads(out)
    assert {"torch", "timm", "cuda", "cpu cores", "memory limit", "precision auto"} <= facts.keys()
    assert facts["device auto"].split(": ")[0] in ("cpu", "cuda", "mps")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name.removeprefix("extra ") for name in facts if name.startswith("extra ")}
    assert named == extras.keys() - {"bench", "dev", "docs"}
    for name in named:
        packages = {re.split(r"[\[>]", each)[0] for each in extras[name]}
        with_dask = {"dask", "distributed"} if "dask" in packages else set()
        assert set(EXTRAS[name]) == packages | with_dask, name


def test_doctor_says_what_of_an_extra_lacks_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from toptune.machine import doctor

    there = {"tifffile": "2026.3.3", "pydicom": "3.0.2"}
    monkeypatch.setattr(doctor, "installed_version", lambda name: there.get(name, "not installed"))
    facts = doctor.examine_machine()
    assert facts["extra dicom"] == "pydicom 3.0.2"
    assert facts["extra heif"] == "pillow-heif not installed; pip install 'toptune[heif]'"
    # One package of an extra is not the extra.
    assert facts["extra tiff"] == (
        "imagecodecs not installed, tifffile 2026.3.3; pip install 'toptune[tiff]'"
    )


def test_a_misspelt_embedded_model_is_told_its_name(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    _, _, err = run_cli("extract", photos, "--model", MODEL.removesuffix("s"), "--store", tmp_path / "s")
    assert MODEL.partition(".")[2] in err


def test_usage_errors_exit_2_and_failures_speak_json(run_cli: Run, tmp_path: Path) -> None:
    assert run_cli("extract", "x")[0] == 2
    code, out, err = run_cli("extract", "--json")
    assert (code, json.loads(out)["exit_code"]) == (2, 2)
    assert "Missing" in err
    assert run_cli("store", "show", "--store", tmp_path, "--model", "x")[0] == 2
    assert run_cli("models", "no-such-model")[0] == 2
    assert run_cli("extract", tmp_path, "--model", MODEL, "--store", tmp_path / "s", "--shard", "4/4")[0] == 2
    code, out, err = run_cli("store", "ls", "--store", tmp_path / "none", "--json")
    assert code == 2
    assert json.loads(out)["exit_code"] == 2
    assert "none" in err


def test_a_failing_command_exits_cleanly(trained: Path) -> None:
    # As a process: threads of the libraries must not abort it while it exits.
    command = ["train", "--store", str(trained / "store"), "--dataset", "photos", "--model", MODEL]
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-m", "toptune.cli", *command, "--layers", "none", "--out", str(trained / "no")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert "terminate" not in done.stderr


def test_the_same_backbone_under_another_name(run_cli: Run, photos: Path, tmp_path: Path) -> None:
    import tiny

    one = tiny.save_model(tmp_path / "one", seed=1)
    two = tmp_path / "two"
    shutil.copytree(one, two)
    for model in (one, two):
        code, _, err = run_cli("extract", photos, "--model", f"local-dir:{model}", "--store", tmp_path / "s")
        assert code == 0, err
    assert len(list((tmp_path / "s" / "features").iterdir())) == 1
    for name in (f"local-dir:{one}", f"local-dir:{two}", "two"):
        out = tmp_path / "run"
        common = ("--store", tmp_path / "s", "--dataset", "photos", "--cv", "3", "--head", "ridge")
        code, _, err = run_cli("train", *common, "--model", name, "--out", out)
        assert code == 0, err
        shutil.rmtree(out)
