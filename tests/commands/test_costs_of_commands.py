"""Every command that does work says in one form what it cost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from shapes import MODEL

from toptune.costs.meter import CostMeter

Run = Callable[..., tuple[int, str, str]]


def test_every_command_says_what_it_cost(
    run_cli: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    features = ("--store", "s", "--dataset", "photos", "--model", MODEL)
    study: dict[str, Any] = {
        "datasets": {"photos": {"data": str(photos)}},
        "models": {"glyphs": MODEL},
        "heads": {"ridge": {}},
        "seeds": 1,
        "store": "s",
    }
    Path("small.yaml").write_text(yaml.safe_dump(study))
    commands: list[tuple[object, ...]] = [
        ("extract", photos, *features[:2], "--model", MODEL),
        ("train", *features, "--head", "ridge", "--out", "run"),
        ("inspect", *features, "--out", "look"),
        ("evaluate", "run"),
        ("evaluate", "run", "--data", photos),
        ("predict", "run", photos / "disc"),
        ("layers-report", *features, "--short-list", 0, "--out", "layers"),
        ("compare", *features, "--heads", "ridge", "--seeds", 1, "--out", "heads"),
        ("report", "run", "--out", "report.html"),
        ("study", "small.yaml"),
        ("advise", photos, *features[:2], "--model", MODEL, "--layers", "last"),
    ]
    expected = CostMeter().to_dict().keys()
    for command in commands:
        before = CostMeter()
        code, out, err = run_cli(*command, "--json")
        assert code == 0, (command, err)
        answer = json.loads(out)
        costs = answer["metrics"]["costs"] if command[0] == "train" else answer["costs"]
        assert costs.keys() >= expected, command
        spent = before.to_dict()
        assert 0 < costs["cpu_seconds"] <= spent["cpu_seconds"], command
        assert 0 < costs["wall_seconds"] <= spent["wall_seconds"], command
        assert costs["energy_joules"] > 0, command
        if command[0] == "train":
            # Paid once, told by every run.
            assert costs["extract_joules"] > 0
    for command in (("evaluate", "run"), ("report", "run", "--out", "again.html")):
        code, out, _ = run_cli(*command)
        assert (code, "\ncost " in out, " MB of memory at most" in out) == (0, True, True)


def test_an_unknown_country_is_wrong_usage(run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPTUNE_COUNTRY", "ATLANTIS")
    code, _, err = run_cli("evaluate", Path(__file__).parents[1] / "stored" / "runs" / "ridge")
    assert (code, "TOPTUNE_COUNTRY" in err) == (2, True)
