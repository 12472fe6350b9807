"""Networks of other numbers of bands: weights as timm adapts them, features as the network gives them."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from toptune.extract import extract, load_backbone
from toptune.extract.images.kinds.band_image import BandImage
from toptune.store import FeatureStore, InputError
from toptune.train import train
from toptune.workflows import Classifier, export
from toptune.workflows.deploy.network_inputs import network_inputs

MODEL = "resnet10t.toptune_glyphs"
RNG = np.random.default_rng(0)


def folder_of_arrays(folder: Path, *, bands: int, n: int = 12) -> Path:
    rows = ["path,label"]
    for number in range(n):
        values = RNG.normal(500 + 800 * (number % 2), 300, (40, 48, bands)).astype(np.float32)
        np.save(folder / f"{number}.npy", values)
        rows.append(f"{number}.npy,{number % 2}")
    (folder / "m.csv").write_text("\n".join(rows))
    return folder / "m.csv"


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_layer_is_adapted_as_timm_does(channels: int) -> None:
    ours = load_backbone(MODEL, img_size=32, in_chans=channels)
    colors = load_backbone(MODEL, img_size=32)
    theirs = copy.deepcopy(colors.model)
    name, first = next((n, each) for n, each in theirs.named_modules() if isinstance(each, torch.nn.Conv2d))
    adapted = copy.deepcopy(first)
    adapted.in_channels = channels
    # The checkpoint holds float16, and timm rounds what it adapts to the checkpoint's type.
    weight = timm.models.adapt_input_conv(channels, first.weight.data.half()).float()
    adapted.weight = torch.nn.Parameter(weight)
    theirs.set_submodule(name, adapted)
    batch = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(batch)
    found = ours.forward(batch, ["last.none"])["last.none"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert ours.recipe.model_kwargs["in_chans"] == channels
    assert ours.recipe.transform["input_size"] == [channels, 32, 32]
    mean = colors.recipe.transform["mean"]
    assert ours.recipe.transform["mean"] == pytest.approx([sum(mean) / 3] * channels)


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_every_band_is_resized_as_a_gray_image(decode: str) -> None:
    backbone = load_backbone(MODEL, img_size=32, in_chans=4, decode=decode)
    colors = load_backbone(MODEL, img_size=32, decode=decode)
    pixels = RNG.integers(0, 256, (45, 50, 4)).astype(np.uint8)
    image = BandImage(tuple(Image.fromarray(pixels[..., band]) for band in range(4)))
    found = backbone.transform.pixels(image)
    for band in range(4):
        gray = Image.fromarray(pixels[..., band]).convert("RGB")
        np.testing.assert_array_equal(found[..., band], colors.transform.pixels(gray)[..., 0])


def test_bands_are_extracted_trained_and_predicted(tmp_path: Path) -> None:
    file = folder_of_arrays(tmp_path, bands=5)
    options: dict[str, Any] = {"in_chans": 4, "bands": (5, 1, 2, 3), "scale": "0:2500", "img_size": 32}
    done = extract(file, model=MODEL, store=tmp_path / "s", dataset="d", layers="last", **options)
    assert not done.failed
    again = extract(file, model=MODEL, store=tmp_path / "s", dataset="d", layers="last", **options)
    assert again.nothing_to_do
    other = extract(
        file, model=MODEL, store=tmp_path / "s", dataset="d", layers="last", **{**options, "scale": "0:2000"}
    )
    assert other.digest != done.digest
    caches = {cache.digest: cache for cache in FeatureStore.open(tmp_path / "s").caches(dataset="d")}
    recipe = caches[done.digest].recipe
    assert (recipe.transform["bands"], recipe.transform["scale"]) == ([5, 1, 2, 3], "0:2500")
    assert "transform.scale 0:2500 against 0:2000" in recipe.differences(caches[other.digest].recipe)
    run = tmp_path / "run"
    train(store=tmp_path / "s", dataset="d", model=f"{MODEL}@{done.digest[:8]}", head="ridge", out=run)
    classifier = Classifier.load(run)
    assert all(each.error is None for each in classifier.predict([file]))
    # The digits that exports are checked with have one band, and the reason is told.
    with pytest.raises(InputError, match=r"as the run reads images \(.*--bands asks for 5; .*with --check"):
        export(run, tmp_path / "run.onnx")
    described = network_inputs(classifier, is_normalizing=False)[0].describe(is_normalizing=False)
    assert (described["shape"], described["bands"]) == (["N", 4, 32, 32], [5, 1, 2, 3])
    assert (described["scale"], described["values"][:19]) == ("0:2500", "4 bands from 0 to 1")
    backbone = load_backbone(MODEL, decode="fast", precision="fp32", **options)
    values = np.load(tmp_path / "3.npy")[..., [4, 0, 1, 2]]
    scaled = np.clip(np.floor(values.astype(np.float64) * 255 / 2500 + 0.5), 0, 255).astype(np.uint8)
    image = BandImage(tuple(Image.fromarray(scaled[..., band]) for band in range(4)))
    tensor = backbone.transform(image)[None]
    decoded = backbone.transform(backbone.decode((tmp_path / "3.npy").read_bytes()))[None]
    torch.testing.assert_close(decoded, tensor, atol=0, rtol=0)


def test_bands_that_a_network_or_a_route_does_not_take() -> None:
    with pytest.raises(InputError, match="takes colors: to other numbers of bands only networks of timm"):
        load_backbone("random:torchvision:resnet18", in_chans=4)
    for decode in ("gpu", "exact-1", "draft-1"):
        with pytest.raises(InputError, match=f"decode {decode} reads colors of 8 bits alone"):
            load_backbone(MODEL, scale="dtype", decode=decode)
    with pytest.raises(InputError, match="mean has 3 values; give 1 or 4"):
        load_backbone(MODEL, in_chans=4, mean=(0.5, 0.5, 0.5))
    assert load_backbone(MODEL, in_chans=3).recipe.digest == load_backbone(MODEL).recipe.digest
