"""The demo is a genuine transfer, and its commands are the ones that it ran."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from toptune.workflows.demonstration import TARGETS

Run = Callable[..., tuple[int, str, str]]


def test_demo(run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    code, text, err = run_cli("demo", "--out", out, "--json")
    report = json.loads(text)
    assert code == 0
    assert err.count("$ toptune") == 8
    assert report["n_test"]["digits"] == 599
    assert report["accuracy"]["digits"] >= 0.97
    assert report["accuracy"]["digits"] - report["accuracy_untrained"]["digits"] >= 0.015
    assert report["accuracy"]["greek"] - report["accuracy_untrained"]["greek"] >= 0.2
    assert len(report["predictions"]) == 10
    assert (out / "runs" / "digits" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "predictions.csv").read_text().startswith("path,label,confidence")

    # What somebody put beside its own things survives another demo, here of the smaller data set alone.
    monkeypatch.setattr("toptune.workflows.demonstration.TARGETS", {"greek": TARGETS["greek"]})
    (out / "runs" / "mine").mkdir()
    (out / "pictures" / "mine.png").write_bytes(b"mine")
    assert run_cli("demo", "--out", out)[0] == 0
    assert (out / "runs" / "mine").is_dir()
    assert (out / "pictures" / "mine.png").read_bytes() == b"mine"

    # Its commands, typed in another folder, give the same run.
    lines = (out / "commands.sh").read_text().splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("toptune") and "greek" in line]
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.chdir(again)
    for command in commands[:2]:
        assert run_cli(*command[1:])[0] == 0
    metrics = json.loads((again / "runs" / "greek" / "metrics.json").read_text())
    assert metrics["accuracy"] == report["accuracy"]["greek"]


def test_demo_leaves_other_folders_alone(run_cli: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run_cli("demo", "--out", tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
