"""Networks that code makes: a function to import, and entries of a folder's ``hubconf.py``."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from shapes import save_shapes

from toptune.extract import extract, list_taps, load_backbone
from toptune.extract.backbone.model_name import parse_model_name
from toptune.store import FeatureStore, InputError
from toptune.train import train
from toptune.workflows import Classifier, similar

Run = Callable[..., tuple[int, str, str]]
CODE = """
import torch
from torch import nn
from torchvision import transforms

TRANSFORM = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])

def network(width=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
"""
MODULE = f"""{CODE}
from toptune.extract import Custom

def make():
    return Custom(network().eval(), TRANSFORM, name="made")

def pair():
    return network().eval(), TRANSFORM

def training():
    return network(), TRANSFORM

def wrong():
    return network()

def fails():
    raise RuntimeError("no weights here")

number = 5
"""
HUBCONF = f"""{CODE}
dependencies = ["torch"]

def plain():
    return network()

def plain_transform():
    return TRANSFORM

def both():
    return network(), TRANSFORM

def broken():
    raise OSError("gone")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/own_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield "custom:own_networks"
    sys.modules.pop("own_networks", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/hubconf.py").write_text(HUBCONF)
    return tmp_path / "hub"


def own_features() -> torch.Tensor:
    scope: dict[str, object] = {}
    exec(CODE, scope)
    network = scope["network"]
    assert callable(network)
    with torch.inference_mode():
        return torch.as_tensor(network().eval()(BATCH))


BATCH = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_code(module: str, folder: Path) -> None:
    names = [f"{module}:make", f"{module}:pair", f"torchhub:{folder}/plain", f"torchhub:{folder}/both"]
    backbones = [load_backbone(name) for name in names]
    for backbone in backbones:
        found = backbone.forward(BATCH, ["last.none"])["last.none"]
        assert torch.allclose(found, own_features(), atol=1e-5)
    assert [each.name for each in backbones] == [
        "custom-own_networks.make", "custom-own_networks.pair", "torchhub-hub.plain", "torchhub-hub.both"
    ]  # fmt: skip
    # The same weights by another function or entry are the same backbone.
    assert backbones[0].recipe.digest == backbones[1].recipe.digest
    assert backbones[2].recipe.digest == backbones[3].recipe.digest
    assert list_taps(names[2])[-1].name == "last"


def test_a_record_that_names_code_does_not_run_it(
    tmp_path: Path,
    folder: Path,
    run_cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos, store, run = save_shapes(tmp_path / "photos"), tmp_path / "store", tmp_path / "run"
    name = f"torchhub:{folder}/plain"
    done = extract(photos, model=name, store=store)
    assert extract(photos, model=name, store=store).nothing_to_do
    assert done.digest == FeatureStore.open(store).cache(name, "photos").digest
    train(store, dataset="photos", model=name, out=run, cv=3, head="ridge")
    image = next(photos.rglob("*.png"))
    with pytest.raises(InputError, match=r"names code as its backbone, .* code that a file names is not run"):
        Classifier.load(run)
    found = Classifier.load(run, model=name).predict(image)[0].label
    monkeypatch.setenv("TOPTUNE_TRUSTED_CODE", f"other, {name}")
    assert Classifier.load(run).predict(image)[0].label == found
    monkeypatch.delenv("TOPTUNE_TRUSTED_CODE")
    code, out, _ = run_cli("predict", str(run), str(image), "--model", name, "--json")
    assert code == 0
    assert json.loads(out)["predictions"][0]["label"] == found
    code, _, err = run_cli("predict", str(run), str(image))
    assert (code, "--model torchhub:" in err) == (2, True)


def test_commands_know_the_names(tmp_path: Path, module: str, run_cli: Run) -> None:
    photos, name = save_shapes(tmp_path / "photos"), f"{module}:make"
    store = str(tmp_path / "store")
    code, out, _ = run_cli("layers", name)
    assert (code, "last" in out) == (0, True)
    code, out, _ = run_cli("extract", str(photos), "--model", name, "--store", store, "--dry-run")
    assert (code, "custom-own_networks.make" in out) == (0, True)
    assert run_cli("extract", str(photos), "--model", name, "--store", store)[0] == 0
    assert run_cli("extract", str(photos), "--model", name, "--store", store, "--update")[0] == 0
    assert run_cli("store", "verify", "--store", store)[0] == 0
    code, out, _ = run_cli(
        "jobs", "slurm", str(photos), "--model", name, "--store", f"{store}2", "--out", f"{tmp_path}/jobs",
        "--images-per-second", "100", "--no-train",
    )  # fmt: skip
    assert code == 0
    assert f"--model {name}" in (tmp_path / "jobs/extract.sbatch").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "custom:no_such_place:make",
            r"cannot be imported in this process: ModuleNotFoundError.*PYTHONPATH, here",
        ),
        ("custom:own_networks:absent", "cannot be imported in this process: AttributeError"),
        ("custom:own_networks:wrong", "gives a Sequential; it must return a Custom"),
        ("custom:own_networks:training", r"training mode \(the module\)"),
        ("custom:own_networks:fails", "failed: RuntimeError: no weights here"),
        ("custom:own_networks:number", "is a int; name a function"),
    ],
)
def test_functions_that_make_no_network(module: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_backbone(name)


def test_folders_and_entries_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    for name, message in (
        (f"torchhub:{tmp_path}/absent/plain", "hubconf.py is not there; write torchhub:FOLDER/ENTRY"),
        ("torchhub:plain", "names no entry of a folder"),
        (f"torchhub:{folder}/plane", "has no entry 'plane'; name a function of it"),
        (f"torchhub:{folder}/broken", "failed: OSError: gone"),
    ):
        with pytest.raises(InputError, match=message):
            load_backbone(name)
    (folder / "hubconf.py").write_text(HUBCONF.replace("def plain_transform", "def other"))
    with pytest.raises(InputError, match="nothing says its transform; let the entry return"):
        load_backbone(f"torchhub:{folder}/plain")
    (folder / "hubconf.py").write_text("1 / 0")
    with pytest.raises(InputError, match="failed: ZeroDivisionError"):
        load_backbone(f"torchhub:{folder}/plain")


def test_a_name_alone_runs_nothing(folder: Path) -> None:
    (folder / "hubconf.py").write_text("raise SystemExit")
    assert parse_model_name(f"torchhub:{folder}/plain").plain == "torchhub-hub.plain"


def test_a_study_that_names_code_is_refused(tmp_path: Path, folder: Path, run_cli: Run) -> None:
    photos = save_shapes(tmp_path / "photos")
    models = f"models: {{a: 'torchhub:{folder}/plain'}}"
    text = f"datasets: {{photos: {photos}}}\n{models}\nheads: [ridge]\nseeds: 1\n"
    (tmp_path / "study.yaml").write_text(text)
    code, _, err = run_cli("study", str(tmp_path / "study.yaml"))
    assert code == 2
    # A study has no --model that could name it.
    assert "name it yourself in the variable TOPTUNE_TRUSTED_CODE" in err


def test_images_like_given_ones_are_found_by_code_that_the_user_names(tmp_path: Path, module: str) -> None:
    photos, name, store = save_shapes(tmp_path / "photos"), f"{module}:make", tmp_path / "store"
    extract(photos, model=name, store=store)
    image = next(photos.rglob("*.png"))
    with pytest.raises(InputError, match="code that a file names is not run"):
        similar(image, store=store, dataset="photos")
    (found,) = similar(image, store=store, dataset="photos", model=name, k=1).images
    assert found.found[0].value == pytest.approx(1)
    train(store, dataset="photos", model=name, out=tmp_path / "run", cv=3, head="falkon", n_centers=9)
    with pytest.raises(InputError, match=f"name it yourself with --model {name}"):
        similar(image, run=tmp_path / "run")
    (found,) = similar(image, run=tmp_path / "run", model=name, k=1).images
    assert found.predicted == Classifier.load(tmp_path / "run", model=name).predict(image)[0].label
    with pytest.raises(InputError, match="ids of stored images need none; leave it out"):
        similar(ids=["a"], run=tmp_path / "run", model=name)


def test_advice_on_a_network_that_is_not_fine_tuned_is_refused_at_once(
    tmp_path: Path, module: str, run_cli: Run
) -> None:
    photos = save_shapes(tmp_path / "photos")
    code, _, err = run_cli("advise", str(photos), "--model", f"{module}:make", "--store", f"{tmp_path}/s")
    assert (code, "is a network of custom, and fine-tuning" in err) == (2, True)
    assert not (tmp_path / "s").exists()
