"""`--device auto` is said in the first line and recorded; without a GPU it is the same as `--device cpu`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toptune.commands import COMMANDS
from toptune.store.features.feature_store import FeatureStore

RunCli = Callable[..., tuple[int, str, str]]
SAID = "device auto takes cpu: torch sees no GPU here"
MODEL = ("--model", "random:test_vit", "--img-size", "32")


def test_auto_on_a_cpu_is_the_cpu(
    photos: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = {name: tmp_path / name for name in ("auto", "cpu")}
    command = ["extract", photos, *MODEL, "--store"]
    code, out, err = run_cli(*command, stores["auto"], "--json")
    assert (code, err.splitlines()[0]) == (0, SAID)
    assert json.loads(out)["plan"]["device"] == "cpu"
    code, _, err = run_cli(*command, stores["cpu"], "--device", "cpu")
    assert (code, "device auto" in err) == (0, False)
    found = []
    for root in stores.values():
        (cache,) = FeatureStore.open(root).caches()
        # Notes of finished requests are named by their keys.
        names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        found.append((cache.digest, names, cache.blocks(["last.none"]).take(range(36)).tobytes()))
    assert found[0] == found[1]
    # Either store answers either command from its notes, before torch is looked at for devices.
    monkeypatch.setattr("toptune.machine.devices.choose_device", lambda *_: pytest.fail("looked for devices"))
    monkeypatch.setattr("toptune.extract.jobs.run_jobs", lambda *_: pytest.fail("loaded the model"))
    for root in stores.values():
        for device in ("auto", "cpu"):
            code, out, err = run_cli(*command, root, "--device", device, "--json")
            assert (code, json.loads(out)["nothing_to_do"], err) == (0, True, "")


def test_runs_record_what_auto_took(photos: Path, tmp_path: Path, run_cli: RunCli) -> None:
    store = ("--store", tmp_path / "s")
    code, _, err = run_cli("extract", photos, *MODEL, *store, "--json-logs")
    assert (code, json.loads(err.splitlines()[0])) == (0, {"device": "cpu", "reason": SAID.split(": ")[1]})
    named = (*store, "--dataset", "photos", *MODEL[:2])
    for head, reason in (("ridge", "torch sees no GPU here"), ("forest", "head 'forest' is scikit-learn's")):
        code, out, err = run_cli("train", *named, "--head", head, "--out", tmp_path / head, "--json")
        assert (code, err.splitlines()[0]) == (0, f"device auto takes cpu: {reason}")
        assert json.loads(out)["device"] == "cpu"
        assert json.loads((tmp_path / head / "run.json").read_text())["options"]["device"] == "cpu"
    code, out, err = run_cli("predict", tmp_path / "ridge", photos, "--json")
    assert (code, err.splitlines()[0], json.loads(out)["device"]) == (0, SAID, "cpu")
    code, out, err = run_cli("evaluate", tmp_path / "ridge", "--data", photos, "--json")
    assert (code, err.splitlines()[0], json.loads(out)["device"]) == (0, SAID, "cpu")
    # A comparison that was begun when no device was recorded, or on another one, goes on.
    compared = ["compare", *store, "--heads", "ncm", "--seeds", 1, "--out", tmp_path / "c"]
    assert run_cli(*compared)[0] == 0
    assert json.loads((tmp_path / "c" / "compare.json").read_text())["config"]["options"]["device"] == "cpu"
    assert run_cli(*compared, "--device", "cpu")[0] == 0


def test_every_device_option_is_auto_by_default() -> None:
    commands = [command for section in COMMANDS.values() for command in section]
    commands += [each for command in commands for each in getattr(command, "commands", {}).values()]
    found = {
        str(command.name): option.default
        for command in commands
        for option in command.params
        if "--device" in option.opts
    }
    assert set(found) >= {
        "extract", "train", "finetune", "predict", "evaluate", "compare", "layers-report", "advise", "slurm",
    }  # fmt: skip
    assert set(found.values()) == {"auto"}


@pytest.mark.parametrize("name", ["xpu", "meta", "auto,cpu"])
def test_what_no_device_is_called_is_refused_at_once(
    name: str, photos: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    code, _, err = run_cli("extract", photos, *MODEL, "--store", tmp_path / "s", "--device", name)
    assert code == 2
    assert "--device" in err
    assert name in err
    assert not (tmp_path / "s").exists()
