import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from toptune.extract import load_backbone
from toptune.store import WeightsError

ARCHITECTURE = "test_efficientnet"


@pytest.fixture
def state(model_folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(model_folder / "model.safetensors"))


@pytest.fixture
def digest(model_folder: Path) -> str:
    return load_backbone(f"local-dir:{model_folder}").recipe.weights


def wrapped(state: dict[str, torch.Tensor], how: str) -> object:
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    return {
        "plain": state,
        "module": prefixed,
        "state_dict": {"epoch": 3, "state_dict": prefixed},
        "model": {"model": state, "optimizer": {}},
        "ema": {"model": {name: tensor * 0 for name, tensor in state.items()}, "model_ema": state},
    }[how]


@pytest.mark.parametrize("how", ["plain", "module", "state_dict", "model", "ema"])
def test_torch_files_in_the_usual_wrappings(
    state: dict[str, torch.Tensor], digest: str, tmp_path: Path, how: str
) -> None:
    torch.save(wrapped(state, how), tmp_path / "w.pth")
    backbone = load_backbone(ARCHITECTURE, weights=tmp_path / "w.pth")
    assert backbone.recipe.weights == digest
    assert backbone.spec["weights"] == str(tmp_path / "w.pth")


@pytest.mark.parametrize("n_classes", [0, 3, 1000])
def test_a_head_of_any_size_is_dropped(
    state: dict[str, torch.Tensor], digest: str, tmp_path: Path, n_classes: int
) -> None:
    del state["classifier.weight"], state["classifier.bias"]
    if n_classes:
        state["classifier.weight"], state["classifier.bias"] = (
            torch.ones(n_classes, 256),
            torch.ones(n_classes),
        )
    save_file(state, tmp_path / "w.safetensors")
    assert load_backbone(ARCHITECTURE, weights=tmp_path / "w.safetensors").recipe.weights == digest


def test_missing_unexpected_and_mismatched_are_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def refused(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, tmp_path / "w.safetensors")
        with pytest.raises(WeightsError, match="does not fit the architecture") as error:
            load_backbone(ARCHITECTURE, weights=tmp_path / "w.safetensors")
        return str(error.value)

    some = dict(state)
    del some["conv_stem.weight"]
    assert "1 missing (conv_stem.weight)" in refused(some)
    assert "1 unexpected (extra.weight)" in refused(state | {"extra.weight": torch.ones(1)})
    message = refused(some | {"conv_head.weight": torch.ones(2), "extra.bias": torch.ones(1)})
    assert "1 missing (conv_stem.weight)" in message
    assert "1 unexpected (extra.bias)" in message
    assert "1 tensors of another shape (conv_head.weight [2], needed [256, 64, 1, 1])" in message
    other = timm.create_model("test_resnet").state_dict()
    assert "missing (conv_stem.weight, " in refused({k: v.contiguous() for k, v in other.items()})


def test_a_folder_with_foreign_weights_is_refused(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "m")
    save_file({"x": torch.ones(1)}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing .*unexpected \(x\)"):
        load_backbone(f"local-dir:{tmp_path / 'm'}")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no weights for"):
        load_backbone(f"local-dir:{tmp_path / 'm'}")


class Payload:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.target, "w")


def test_no_code_is_run(state: dict[str, torch.Tensor], tmp_path: Path, model_folder: Path) -> None:
    torch.save(state | {"x": Payload(str(tmp_path / "ran"))}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="run code"):
        load_backbone(ARCHITECTURE, weights=tmp_path / "w.pth")
    shutil.copytree(model_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    shutil.copy(tmp_path / "w.pth", tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="run code"):
        load_backbone(f"local-dir:{tmp_path / 'm'}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_and_absent_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"{name} do not exist"):
        load_backbone(ARCHITECTURE, weights=tmp_path / name)
    (tmp_path / name).write_bytes(b"nonsense" * 10)
    with pytest.raises(WeightsError, match=name):
        load_backbone(ARCHITECTURE, weights=tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="no named tensors"):
        load_backbone(ARCHITECTURE, weights=tmp_path / "list.pth")


def test_never_random_by_accident() -> None:
    name = next(
        name
        for name in timm.list_models()
        if not timm.get_pretrained_cfg(name, allow_unregistered=True).has_weights
    )
    with pytest.raises(WeightsError, match=f"no weights for {name}.*random:{name}"):
        load_backbone(name)


SCRIPT = """
import json, sys, torch
from toptune.extract import load_backbone
from toptune.store import WeightsError
found = []
for name in sys.argv[1:]:
    try:
        found.append(load_backbone(name).recipe.weights)
    except WeightsError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_local_hub_cache_without_a_network(model_folder: Path, digest: str, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    for repository in ("models--lab--tiny.net", "models--timm--test_efficientnet.r160_in1k"):
        shutil.copytree(model_folder, tmp_path / repository / "snapshots" / commit)
        (tmp_path / repository / "refs").mkdir()
        (tmp_path / repository / "refs" / "main").write_text(commit)
    names = [
        "hf-hub:lab/tiny.net",
        f"hf-hub:lab/tiny.net@{commit}",
        "test_efficientnet.r160_in1k",
        "hf-hub:lab/absent",
        "resnet18.a1_in1k",
        "random:hf-hub:lab/absent",
    ]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    *good, absent, registry, untrained = json.loads(run.stdout)
    assert good == [digest] * 3
    reason = "could not be loaded: HF_HUB_OFFLINE is on, and its checkpoint is not in the local hub cache"
    assert absent == untrained
    assert absent.startswith(f"hf-hub:lab/absent {reason} {tmp_path};")
    assert registry == f"resnet18.a1_in1k {reason} {tmp_path}; give --weights FILE or local-dir:FOLDER"
    for step in ("local-dir:FOLDER", "timm's own name of the architecture with --weights FILE"):
        assert step in absent


def test_a_network_that_fails_is_told_from_one_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise LocalEntryNotFoundError("Check your connection.\nMore about it.")

    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        WeightsError, match=r"Check your connection\. Without a network: set HF_HUB_OFFLINE=1"
    ):
        load_backbone("resnet18.a1_in1k")
