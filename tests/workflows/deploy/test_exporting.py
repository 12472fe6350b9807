"""Exported files against `Classifier.predict`, run as other programs run them."""

import functools
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from shapes import MODEL, save_shapes
from timm.data import create_transform
from torchvision.transforms import v2

from toptune.extract import extract, load_backbone
from toptune.store import InputError, NumericalError
from toptune.train import train
from toptune.workflows import Classifier, ExportReport, export, finetune
from toptune.workflows.deploy.model_card import describe_export, write_card
from toptune.workflows.deploy.network import trace
from toptune.workflows.deploy.network_inputs import network_inputs

Values = npt.NDArray[np.float32]
Exported = Callable[..., tuple[Path, ExportReport]]


@pytest.fixture
def onnxruntime() -> Any:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name}, of the extra export, is not installed")
    return pytest.importorskip("onnxruntime", reason="onnxruntime, of the extra export, is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an inner layer only, on images of which every third has a wrong label: never sure."""
    folder = tmp_path_factory.mktemp("export")
    save_shapes(folder / "photos", per_class=16)
    for number, file in enumerate(sorted((folder / "photos" / "disc").iterdir())):
        if number % 3 == 0:
            file.rename(folder / "photos" / "square" / f"wrong-{number}.png")
    where: dict[str, Any] = {"model": MODEL, "layers": "all", "precision": "fp32"}
    extract(folder / "photos", store=folder / "store", **where)
    extract(folder / "photos", store=folder / "exact", decode="exact", **where)
    options: dict[str, Any] = {"dataset": "photos", "model": MODEL, "cv": 3}
    train(
        folder / "store", **options, layers="layer1,layer2", preprocess="l2,standardise", out=folder / "run"
    )
    train(folder / "store", **options, head="svm", out=folder / "svm")
    train(folder / "exact", **options, layers="layer1,layer2", out=folder / "exact-run")
    return folder


@pytest.fixture(scope="module")
def fine_tuned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("fine-tuned") / "run"
    finetune(
        folder / "photos", model=MODEL, out=run, precision="bf16", epochs=2, warmup_epochs=0,
        learning_rates=[1e-3], min_epochs=1,
    )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a run once for all tests that ask for the same file: tracing a network takes seconds."""

    @functools.cache
    def make(run: str, suffix: str, *, normalize: bool) -> tuple[Path, ExportReport]:
        out = tmp_path_factory.mktemp("exported") / f"run{suffix}"
        return out, export(folder / run, out, check=folder / "photos", normalize=normalize)

    return make


@pytest.fixture(scope="module")
def images(folder: Path) -> list[Path]:
    return sorted((folder / "photos").rglob("*.png"))[::7][:5]


@pytest.fixture(scope="module")
def predicted(folder: Path, images: list[Path]) -> npt.NDArray[np.float64]:
    classifier = Classifier.load(folder / "run")
    answers = classifier.predict(images)
    probabilities = np.array([[each.probabilities[name] for name in classifier.classes] for each in answers])
    assert (probabilities.max(axis=1) < 0.9).any(), "a sure head would hide differences"
    return probabilities


def prepared(images: list[Path], *, by_torch: bool = True, **changes: Any) -> Values:
    """Images as torchvision alone prepares them, or as timm does."""
    config = load_backbone(MODEL).transform.config | changes
    transform = create_transform(**config)
    if by_torch:
        resize, crop = transform.transforms[:2]
        how = v2.InterpolationMode(config["interpolation"])
        values = [v2.PILToTensor(), v2.Resize(resize.size, interpolation=how, antialias=True), crop]
        values += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])]
        transform = v2.Compose(values)
    return torch.stack([transform(Image.open(each).convert("RGB")) for each in images]).numpy()


def test_onnx_runs_in_onnxruntime_and_gives_what_predict_gives(
    exported: Exported, images: list[Path], predicted: Values, onnxruntime: Any
) -> None:
    out, report = exported("run", ".onnx", normalize=False)
    assert report.check.difference < 1e-4
    assert report.check.batch_sizes == (1, 5)
    assert report.check.n_other_labels == 0
    assert not report.warnings
    assert sorted(path.name for path in out.parent.iterdir()) == ["run.onnx", "run.onnx.md"]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    inputs = prepared(images)
    for batch in (slice(0, 1), slice(0, 5)):
        probabilities, logits = session.run(None, {"pictures": inputs[batch]})
        np.testing.assert_allclose(probabilities, predicted[batch], atol=1e-4)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(
            probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-5
        )
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["classes"] == ["cross", "disc", "square"]
    assert facts["input"]["shape"] == ["N", 3, *inputs.shape[2:]]
    assert facts["backbone"]["layers"] == ["layer1.mean", "layer2.mean"]


def test_pt2_runs_in_torch_and_holds_no_layer_behind_the_last_used(
    exported: Exported, images: list[Path], predicted: Values
) -> None:
    out, report = exported("run", ".pt2", normalize=False)
    assert report.check.difference < 1e-4
    extra = {"classes": ""}
    with out.open("rb") as file:
        program = torch.export.load(file, extra_files=extra)
    assert json.loads(extra["classes"]) == ["cross", "disc", "square"]
    names = set(program.state_dict)
    assert any("layer2" in name for name in names)
    assert not any("layer3" in name or "layer4" in name for name in names)
    inputs = torch.from_numpy(prepared(images))
    for batch in (slice(0, 1), slice(0, 5)):
        outputs = program.module()(inputs[batch])
        np.testing.assert_allclose(outputs["probabilities"].numpy(), predicted[batch], atol=1e-4)


def test_normalizing_inside_takes_values_from_0_to_1(
    folder: Path, images: list[Path], predicted: Values, tmp_path: Path
) -> None:
    report = export(
        folder / "run", tmp_path / "run.pt2", check=folder / "photos", normalize=True, head_dtype="float32"
    )
    assert report.inputs[0]["is_normalized_inside"]
    with (tmp_path / "run.pt2").open("rb") as file:
        network = torch.export.load(file).module()
    plain = torch.from_numpy(prepared(images, mean=(0, 0, 0), std=(1, 1, 1)))
    np.testing.assert_allclose(network(plain)["probabilities"].numpy(), predicted, atol=1e-4)
    card = (tmp_path / "run.pt2.md").read_text()
    assert "v2.Normalize" not in card


def test_the_card_says_what_it_is_and_how_to_use_it(folder: Path, exported: Exported) -> None:
    _, report = exported("run", ".pt2", normalize=False)
    card = Path(report.card).read_text()
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    for expected in (
        "`cross`, `disc`, `square`", "photos, version 1", f"accuracy: {metrics['accuracy']:.4f}", MODEL,
        "apache-2.0", "layer1.mean, layer2.mean", "l2,standardise", "Limits", "training, fit",
        f"{report.check.difference:.1e}",
    ):  # fmt: skip
        assert expected in card, expected
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("toptune", "image-classification")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("*cat* <b> $x$", "`*cat* <b> $x$`"),
        ("a `b` c", "`` a `b` c ``"),
        ("a\n## Title", "`a ## Title`"),
        ("{{ name }}", "`{{ name }}`"),
    ],
)
def test_names_of_classes_cannot_change_the_card(name: str, shown: str, folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    for file in run.glob("*.json"):
        file.write_text(file.read_text().replace('"disc"', json.dumps(name)))
    # A run without checksums, as older ones are, may be edited.
    config = json.loads((run / "run.json").read_text())
    del config["files"], config["self_sha256"]
    (run / "run.json").write_text(json.dumps(config))
    classifier = Classifier.load(run)
    inputs = network_inputs(classifier, is_normalizing=False)
    metadata = describe_export(classifier, inputs, is_normalizing=False, head_dtype="float64")
    metadata["created"] = {"when": "2026-01-01T00:00:00"}
    check = {"n_pictures": 1, "data": "digits", "batch_sizes": (1,), "difference": 0.0}
    check |= {"difference_from_predict": 0.0, "n_other_labels": 0}
    report = {"out": "run.pt2", "check": check, "warnings": []}
    write_card(tmp_path / "card.md", classifier, metadata, report, tolerance=1e-4)
    lines = (tmp_path / "card.md").read_text().splitlines()
    (listed,) = (line for line in lines if line.startswith("In the order of the outputs' columns: "))
    assert sorted(listed.removesuffix(".").partition(": ")[2].split(", ")) == sorted(
        ["`cross`", shown, "`square`"]
    )
    assert "## Title" not in lines


@pytest.mark.parametrize(
    ("run", "suffix", "is_normalizing"),
    [
        ("run", ".onnx", False),
        ("run", ".pt2", True),
        ("exact-run", ".pt2", False),
        ("exact-run", ".onnx", True),
    ],
)
def test_the_program_in_the_card_runs(
    run: str,
    suffix: str,
    is_normalizing: bool,
    folder: Path,
    exported: Exported,
    images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    onnxruntime: Any,
) -> None:
    out, report = exported(run, suffix, normalize=is_normalizing)
    prepare, use = re.findall(r"```python\n(.*?)```", Path(report.card).read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(prepare, names)
    names["pictures"] = torch.stack([names["transform"](Image.open(each)) for each in images])
    if suffix == ".onnx":
        names["pictures"] = names["pictures"].numpy()
    monkeypatch.chdir(out.parent)
    exec(use, names)
    classifier = Classifier.load(folder / run)
    for found, expected in zip(names["probabilities"], classifier.predict(images), strict=True):
        assert list(found) == pytest.approx(
            [expected.probabilities[each] for each in classifier.classes], abs=1e-4
        )


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("falkon", {"kernel": "matern52", "preprocess": "power,whiten:5,ternary"}),
        ("knn", {"params": {"n_neighbors": 3, "weights": "similarity"}}),
        ("head2toe", {"params": {"final": "falkon"}}),
    ],
)
def test_other_heads_and_steps_run_in_onnxruntime_too(
    head: str, options: dict[str, Any], folder: Path, tmp_path: Path, onnxruntime: Any
) -> None:
    run, out = tmp_path / "run", tmp_path / "run.onnx"
    where: dict[str, Any] = {"dataset": "photos", "model": MODEL, "layers": "layer1,layer2"}
    train(folder / "store", **where, head=head, out=run, cv=3, **options)
    assert export(run, out, check=folder / "photos").check.difference < 1e-4


def test_features_in_bf16_are_said_to_differ(folder: Path, tmp_path: Path) -> None:
    extract(folder / "photos", model=MODEL, store=tmp_path / "store", precision="bf16")
    train(tmp_path / "store", dataset="photos", model=MODEL, head="ridge", out=tmp_path / "run", cv=3)
    report = export(tmp_path / "run", tmp_path / "run.pt2", check=folder / "photos")
    assert report.check.difference < 1e-4 < report.check.difference_from_predict
    assert "the run computes in bf16, the file in float32" in report.warnings[0]
    assert "computes in bf16" in Path(report.card).read_text()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_fine_tuned_network_is_exported_whole(
    suffix: str, fine_tuned: Path, folder: Path, images: list[Path], tmp_path: Path, onnxruntime: Any
) -> None:
    out = tmp_path / f"run{suffix}"
    report = export(fine_tuned, out, check=folder / "photos")
    assert report.check.difference < 1e-4 < report.check.difference_from_predict
    assert "the run computes in bf16, the file in float32" in report.warnings[0]
    inputs = prepared(images, by_torch=False)
    network = timm.create_model(f"local-dir:{fine_tuned}", pretrained=True).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).softmax(dim=1).numpy()
    if suffix == ".onnx":
        found = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).run(
            ["probabilities"], {"pictures": inputs}
        )[0]
    else:
        with out.open("rb") as file:
            found = (
                torch.export.load(file).module()(torch.from_numpy(inputs))["probabilities"].detach().numpy()
            )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    card = Path(report.card).read_text()
    for line in ("- head: fine-tuned (full), ", "- arithmetic: float32\n", "own, not calibrated", MODEL):
        assert line in card, line
    assert "frozen" not in card


def test_images_that_show_little_are_said_to(folder: Path, tmp_path: Path) -> None:
    gray = tmp_path / "gray"
    gray.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (128, 128, 128)).save(gray / f"{number}.png")
    (gray / "broken.png").write_bytes(b"no image")
    report = export(folder / "run", tmp_path / "run.pt2", check=gray)
    assert report.check.n_pictures == 3
    assert "shows little; give other images with --check" in report.warnings[0]


def test_a_network_for_one_batch_size_is_refused() -> None:
    class Pairs(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.reshape(2, -1)[:, : int(images.shape[0])]

    with pytest.raises(InputError, match=r"cannot be traced with a free batch size: .*toptune predict"):
        trace(Pairs(), [(3, 8, 8)])


def test_what_differs_by_more_than_is_accepted_is_not_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"differ from the run's by up to .*Nothing was written"):
        export(folder / "run", tmp_path / "run.pt2", check=folder / "photos", tolerance=1e-15)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("run", "out", "options", "message"),
    [
        ("run", "run.tflite", {}, r"suffix '.tflite'.*\.onnx, \.pt2"),
        ("run", "there.pt2", {}, "there.pt2 exists; nothing is overwritten"),
        ("svm", "svm.pt2", {}, "head 'svm' cannot be exported.*falkon, falkon-logistic, ridge"),
        ("run", "run.pt2", {"head_dtype": "float16"}, "head_dtype 'float16' is unknown"),
        ("run", "run.pt2", {"tolerance": 0}, "tolerance is 0"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    folder: Path, tmp_path: Path, run: str, out: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "there.pt2").touch()
    with pytest.raises(InputError, match=message):
        export(folder / run, tmp_path / out, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]


def test_packages_that_are_missing_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else found(name)
    )
    with pytest.raises(
        InputError, match=r"needs onnx, onnxscript, onnxruntime.*pip install 'toptune\[export\]'"
    ):
        export(folder / "run", tmp_path / "run.onnx")


def test_the_command_reports_in_json_on_built_in_images_whatever_lies_here(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits" / "runs").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "digits" / "runs" / "confusion_matrix.png")
    out = tmp_path / "run.pt2"
    code, printed, _ = run_cli("export", folder / "run", "--out", out, "--json")
    assert code == 0
    report = json.loads(printed)
    assert report["out"] == str(out)
    assert report["n_bytes"] == out.stat().st_size
    assert (report["check"]["data"], report["check"]["n_pictures"]) == ("digits", 16)
    assert run_cli("export", folder / "run", "--out", out)[0] == 2


def test_the_difference_from_predict_is_that_of_images_as_the_card_reads_them(
    folder: Path, tmp_path: Path
) -> None:
    """Drafts of large JPEGs differ from whole ones, and the card's program knows no drafts."""
    large = tmp_path / "large"
    for number, file in enumerate(sorted((folder / "photos").rglob("*.png"))[::3]):
        (large / file.parent.name).mkdir(parents=True, exist_ok=True)
        image = Image.open(file).resize((600, 600))
        image.save(large / file.parent.name / f"{number}.jpg", quality=60)
    extract(large, model=MODEL, store=tmp_path / "store", decode="draft", precision="fp32")
    train(tmp_path / "store", dataset="large", model=MODEL, head="ridge", out=tmp_path / "run", cv=3)
    report = export(tmp_path / "run", tmp_path / "run.pt2", check=large)
    (said,) = report.warnings
    assert said.startswith("the run decodes large JPEGs at a fraction of their size")
    card = Path(report.card).read_text()
    assert "decode route of its images: draft" in card
    prepare, _ = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(prepare, names)
    files = sorted(large.rglob("*.jpg"))
    pixels = torch.stack([names["transform"](Image.open(each)) for each in files])
    with (tmp_path / "run.pt2").open("rb") as stream:
        found = torch.export.load(stream).module()(pixels)["probabilities"].detach().numpy()
    classifier = Classifier.load(tmp_path / "run")
    answers = classifier.predict(files)
    predicted = np.array([[each.probabilities[name] for name in classifier.classes] for each in answers])
    largest = np.abs(found - predicted).max()
    assert 1e-4 < largest == pytest.approx(report.check.difference_from_predict, rel=0.01)


@pytest.mark.parametrize(
    ("fusion", "suffix", "is_normalizing"), [("join", ".onnx", False), ("late", ".pt2", True)]
)
def test_several_backbones_are_one_file(
    fusion: str,
    suffix: str,
    is_normalizing: bool,
    folder: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    onnxruntime: Any,
) -> None:
    """Two networks of other input sizes; the program in the card feeds both."""
    vit = "random:test_vit"
    # The second case finds the features in the store.
    extract(folder / "photos", model=vit, img_size=64, store=folder / "store", precision="fp32")
    train(
        folder / "store", dataset="photos", models=[MODEL, vit], fusion=fusion, cv=3, head="ridge",
        layers={MODEL: "layer1,layer2"}, out=tmp_path / "run",
    )  # fmt: skip
    out = tmp_path / f"run{suffix}"
    report = export(tmp_path / "run", out, check=folder / "photos", normalize=is_normalizing)
    assert report.check.difference < 1e-4
    assert [each["name"] for each in report.inputs] == ["pictures_32x32", "pictures_64x64"]
    card = Path(report.card).read_text()
    for line in (f"- backbone: {MODEL} (", f"- backbone: {vit} (", "- layers: layer1.mean, layer2.mean\n"):
        assert line in card, line
    prepare, use = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(prepare, names)
    for size in ("32x32", "64x64"):
        batch = torch.stack([names[f"transform_{size}"](Image.open(each)) for each in images])
        names[f"pictures_{size}"] = batch.numpy() if suffix == ".onnx" else batch
    monkeypatch.chdir(tmp_path)
    exec(use, names)
    classifier = Classifier.load(tmp_path / "run")
    for found, expected in zip(names["probabilities"], classifier.predict(images), strict=True):
        assert list(found) == pytest.approx(
            [expected.probabilities[each] for each in classifier.classes], abs=1e-4
        )
