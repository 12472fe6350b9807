"""A run of several models answers images as it answers stored features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import save_shapes
from tiny import save_model

from toptune.errors import WeightsError
from toptune.extract import decode_image, extract
from toptune.store import FeatureStore, InputError
from toptune.train import FusedRun, load_run, train
from toptune.workflows import Classifier, evaluate, verify_run
from toptune.workflows.predict.fused_network import FusedNetwork


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two backbones whose images have 32 and 48 pixels a side."""
    folder = tmp_path_factory.mktemp("fused")
    places = [save_model(folder / "models" / f"tiny{seed}.net", seed=seed) for seed in (1, 2)]
    config = json.loads((places[1] / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 48, 48]
    (places[1] / "config.json").write_text(json.dumps(config))
    models = [f"local-dir:{place}" for place in places]
    for model in models:
        extract(save_shapes(folder / "photos"), model=model, store=folder / "store", layers="all")
    train(
        folder / "store",
        dataset="photos",
        models=models,
        layers="all",
        head="ridge",
        out=folder / "run",
        cv=3,
    )
    return folder


def test_images_are_answered_as_stored_features_are(folder: Path) -> None:
    run = load_run(folder / "run")
    assert isinstance(run, FusedRun)
    store = FeatureStore.open(folder / "store")
    caches = [store.cache(member.cache.name, "photos") for member in run.members]
    assert caches[0].recipe.transform["input_size"] != caches[1].recipe.transform["input_size"]
    blocks = [
        cache.blocks([array.name for array in member.arrays], run.test_rows)
        for cache, member in zip(caches, run.members, strict=True)
    ]
    _, expected = run.predict_blocks(blocks)
    images = [folder / "photos" / caches[0].manifest.ids[row] for row in run.test_rows]
    classifier = Classifier.load(folder / "run")
    broken = folder / "broken.png"
    broken.write_bytes(b"no image")
    answers = classifier.predict([*images[:3], broken, *images[3:]], batch_size=4)
    assert answers[3].error
    answers.pop(3)
    computed = [[answer.probabilities[name] for name in run.classes] for answer in answers]
    np.testing.assert_allclose(computed, expected, atol=0.01)
    assert evaluate(folder / "run", data=folder / "photos", split="all")["accuracy"] > 0.6
    assert evaluate(folder / "run")["log_loss"] == pytest.approx(run.metrics["log_loss"])


def test_each_backbone_transforms_the_images_itself(folder: Path) -> None:
    classifier = Classifier.load(folder / "run")
    image = decode_image((folder / "photos" / "disc" / "000.png").read_bytes())
    network = classifier.network
    assert isinstance(network, FusedNetwork)
    batches = [torch.stack([member.backbone.transform(image)]) for member in network.members]
    assert [batch.shape[-1] for batch in batches] == [
        member.backbone.transform.size[0] for member in network.members
    ]
    (found,) = classifier.probabilities(batches)
    (answer,) = classifier.predict(folder / "photos" / "disc" / "000.png")
    np.testing.assert_allclose(found, list(answer.probabilities.values()), atol=1e-6)
    with pytest.raises(InputError, match="1 batches for 2 backbones"):
        classifier.probabilities(batches[0])


def test_what_one_backbone_has_is_refused_of_several(folder: Path) -> None:
    classifier = Classifier.load(folder / "run")
    with pytest.raises(InputError, match="holds a run of several models, which has no run of its own"):
        _ = classifier.run


def test_moved_backbones_are_given_by_their_names(folder: Path, tmp_path: Path) -> None:
    image = folder / "photos" / "disc" / "000.png"
    (before,) = Classifier.load(folder / "run").predict(image)
    with pytest.raises(InputError, match=r"'resnet18' names no backbone .*of tiny1.net, tiny2.net at most"):
        Classifier.load(folder / "run", model="resnet18")
    place = folder / "models" / "tiny2.net"
    place.rename(tmp_path / "moved")
    try:
        with pytest.raises(InputError, match=r"now with --model or --weights \(tiny2.net=PLACE\)"):
            Classifier.load(folder / "run")
        moved = Classifier.load(folder / "run", model=f"tiny2.net=local-dir:{tmp_path / 'moved'}")
    finally:
        (tmp_path / "moved").rename(place)
    (after,) = moved.predict(image)
    assert after.probabilities == before.probabilities
    with pytest.raises(WeightsError, match="is not the backbone"):
        Classifier.load(folder / "run", model=f"tiny2.net=local-dir:{folder / 'models' / 'tiny1.net'}")


def test_a_changed_file_of_a_member_is_found(folder: Path, tmp_path: Path) -> None:
    assert verify_run(folder / "run").exit_code == 0
    run = load_run(folder / "run")
    assert isinstance(run, FusedRun)
    head = folder / "run" / run.fusion.members[1].folder / "head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        check = verify_run(folder / "run")
        assert list(check.faults) == [f"{run.fusion.members[1].folder}/head.safetensors"]
        with pytest.raises(OSError, match="is not the file that was written"):
            Classifier.load(folder / "run")
    finally:
        head.write_bytes(whole)
