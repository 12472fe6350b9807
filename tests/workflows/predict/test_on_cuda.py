"""Prediction on a CUDA device, here a pretended one: the same answers; head and backbone compute there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda
from PIL import Image
from shapes import MODEL, save_shapes

from toptune.extract import extract
from toptune.extract.backbone.transform import EvalTransform
from toptune.store import DeviceMemoryError, FeatureStore, InputError
from toptune.store.features.recipe import ROUTES
from toptune.train import train
from toptune.workflows import Classifier, evaluate, export, finetune

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a run of either kind on them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("on-cuda")
    photos = save_shapes(folder / "photos")
    extract(photos, model=MODEL, store=folder / "store", layers="last", precision="fp32")
    for head in ("falkon", "ridge", "knn"):
        train(folder / "store", dataset="photos", model=MODEL, head=head, cv=3, out=folder / head)
    finetune(
        photos, model=MODEL, out=folder / "tuned", epochs=1, warmup_epochs=0, learning_rates=[1e-3],
        depth="head", precision="fp32",
    )  # fmt: skip
    return folder


def halves(images: list[Path]) -> list[Path | bytes]:
    """Give some of the images as bytes."""
    return [image if place % 2 else image.read_bytes() for place, image in enumerate(images)]


@pytest.mark.parametrize("run", ["falkon", "ridge", "knn", "tuned"])
def test_predictions_are_those_of_the_cpu(folder: Path, run: str) -> None:
    images = [*halves(sorted((folder / "photos").rglob("*.png"))[:10]), b"no image"]
    expected = Classifier.load(folder / run).predict(images, batch_size=4)
    with fake_cuda() as counts:
        classifier = Classifier.load(folder / run, device="cuda")
        classifier.predict(images[0])  # what every pass needs is copied to the device with the first one
        counts.clear()
        found = classifier.predict(images, batch_size=4)
    assert [each.label for each in found] == [each.label for each in expected]
    assert found[-1].error == expected[-1].error
    for one, other in zip(found[:-1], expected, strict=False):
        np.testing.assert_allclose([*one.probabilities.values()], [*other.probabilities.values()], rtol=1e-9)
    # The results of each batch are waited for, and nothing else of the backbone's work.
    of_head = [place for place in counts.places if place.startswith("toptune.train.")]
    assert [each.rpartition(" ")[2] for each in counts.places if each not in of_head] == ["event"]
    assert counts.waits["event"] == 3
    # Linear heads are products of small matrices, which the CPU takes.
    assert bool(of_head) == (run in ("falkon", "knn"))


@pytest.mark.parametrize("run", ["ridge", "tuned"])
def test_a_batch_that_does_not_fit_is_said_once_over_all_images(
    folder: Path, run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = sorted((folder / "photos").rglob("*.png"))[:20]
    expected = Classifier.load(folder / run).predict(images, batch_size=2)
    plain, sizes = EvalTransform.normalize, []

    def small(self: EvalTransform, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, pixels)

    monkeypatch.setattr(EvalTransform, "normalize", small)
    # Encoded images go to the reader in windows of eight batches.
    monkeypatch.setattr("toptune.workflows.predict.windows._WINDOW_BATCHES", 1)
    with fake_cuda():
        found = Classifier.load(folder / run, device="cuda").predict(images, batch_size=4)
    assert sizes == [4, *[2] * 10]
    assert [each.label for each in found] == [each.label for each in expected]
    (said,) = caplog.records
    assert "4 images at once do not fit: the memory of cuda is full" in said.getMessage()


@pytest.mark.parametrize(
    ("command", "place", "said"),
    [
        (
            "evaluate",
            "toptune.extract.backbone.transform.EvalTransform.normalize",
            "a forward pass of 1 image",
        ),
        ("predict", "toptune.workflows.predict.frozen_network.ArrayBlocks", "--batch-size"),
    ],
    ids=["backbone", "head"],
)
@pytest.mark.usefixtures("cuda")
def test_full_memory_is_a_sentence(
    folder: Path, command: str, place: str, said: str, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(place, fail)
    images = (
        [folder / "photos" / "disc" / "000.png"] if command == "predict" else ["--data", folder / "photos"]
    )
    code, _, err = run_cli(command, folder / "ridge", *images, "--device", "cuda")
    assert code == 1
    assert "A fault in toptune" not in err
    for words in (said, "the memory of cuda", "60.0 of 80.0 GiB are free", "--device cpu"):
        assert words in err


def test_an_evaluation_of_images_is_that_of_the_cpu(folder: Path) -> None:
    expected = evaluate(folder / "falkon", data=folder / "photos")
    with fake_cuda() as counts:
        found = evaluate(folder / "falkon", data=folder / "photos", device="cuda")
    assert any(place.startswith("toptune.train.") for place in counts.places)
    assert found["confusion_matrix"] == expected["confusion_matrix"]
    assert found["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-9)


@pytest.mark.parametrize(("run", "step"), [("ridge", "to"), ("tuned", "to"), ("tuned", "load_state_dict")])
def test_what_the_device_lacks_is_no_damage_of_the_run(
    folder: Path, run: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="device 'cuda:99' is not there"):
        Classifier.load(folder / run, device="cuda:99")
    plain = getattr(torch.nn.Module, step)

    def full(module: torch.nn.Module, *given: Any, **options: Any) -> Any:
        if step == "to" or next(module.parameters()).is_cuda:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(module, *given, **options)

    monkeypatch.setattr(torch.nn.Module, step, full)
    with fake_cuda(), pytest.raises(DeviceMemoryError, match=r"loading .* the memory of cuda is full"):
        Classifier.load(folder / run, device="cuda")


def test_a_run_on_images_decoded_there_classifies_there_alone(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "photos").glob("*/00[0-3].png"):
        place = tmp_path / "jpegs" / path.relative_to(folder / "photos").with_suffix(".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(place, quality=95)
    model = "random:test_vit"
    options: dict[str, Any] = {
        "img_size": 32,
        "layers": "last",
        "precision": "fp32",
        "decode": "gpu",
        "device": "cuda",
    }
    with fake_cuda():
        extract(tmp_path / "jpegs", model=model, store=tmp_path / "store", **options)
        run = train(
            tmp_path / "store", dataset="jpegs", model=model, head="ridge", cv=3, out=tmp_path / "run"
        )
        assert run.sources[0].full_recipe().decode == ROUTES["gpu"]
        images = sorted((tmp_path / "jpegs").rglob("*.jpg"))
        images.append(tmp_path / "cut.jpg")
        images[-1].write_bytes(images[0].read_bytes()[:-2])
        found = Classifier.load(tmp_path / "run", device="cuda").predict(images, batch_size=4)
        (cache,) = FeatureStore.open(tmp_path / "store").caches()
        _, expected = run.predict_blocks(cache.blocks(["last.none"]))
    assert [each.error is None for each in found] == [True] * 12 + [False]
    assert "truncated" in str(found[-1].error)
    np.testing.assert_array_equal([[*each.probabilities.values()] for each in found[:-1]], expected)
    with pytest.raises(
        InputError, match="decode gpu decodes and resizes on a CUDA device, and the device is"
    ):
        Classifier.load(tmp_path / "run", device="cpu").predict(images)
    # An export needs no such device: the file computes from pixels.
    report = export(tmp_path / "run", tmp_path / "run.pt2", check=tmp_path / "jpegs")
    assert report.check.difference < 1e-4
    assert report.warnings[-1].startswith("the run's images were decoded on a GPU (decode gpu)")
