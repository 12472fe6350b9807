"""Several backbones in one head: trained from their stores, and used on images that are decoded once."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from selecting_ridge import heads_that_select
from shapes import MODEL, save_shapes

from toptune.cli import toptune
from toptune.extract import decode_image, extract
from toptune.extract.images import decode
from toptune.store import ArrayBlocks, FeatureStore, InputError, StoreNotFoundError, import_features
from toptune.train import Run, evaluate_run, train, update_run
from toptune.train.runs.sources import CacheIdentity, RunSource
from toptune.workflows import Classifier, evaluate
from toptune.workflows.predict.moved import moved_places
from toptune.workflows.report.command_lines import command_of, extraction_of
from toptune.workflows.report.runs import read_run

VIT = "random:test_vit"
MODELS = [MODEL, VIT]
OPTIONS: dict[str, Any] = {"dataset": "photos", "models": MODELS, "fusion": "join", "cv": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of other input sizes and precisions over the same images, in stores of two formats."""
    folder = tmp_path_factory.mktemp("join")
    photos = save_shapes(folder / "photos")
    extract(photos, model=MODEL, store=folder / "store", layers="all", precision="fp32")
    vit: dict[str, Any] = {"layers": "last,-1", "img_size": 64, "precision": "bf16", "format": "hdf5"}
    extract(photos, model=VIT, store=folder / "store", **vit)
    train(
        folder / "store",
        **OPTIONS,
        layers={MODEL: "layer3,last", "*": "last"},
        head="ridge",
        out=folder / "run",
    )
    return folder


def test_images_get_the_probabilities_of_the_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.load(folder / "run")
    assert [array.name for array in run.arrays] == [
        f"{MODEL}/layer3.mean", f"{MODEL}/last.none", f"{VIT}/last.none",
    ]  # fmt: skip
    store = FeatureStore.open(folder / "store")
    manifest = store.manifest("photos")
    images = [folder / "photos" / manifest.ids[row] for row in run.test_rows]
    n_decoded = 0
    plain = decode.decoding

    @contextmanager
    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal n_decoded
        n_decoded += 1
        with plain(*arguments, **options) as decoded:
            yield decoded

    monkeypatch.setattr("toptune.extract.pipeline.reader.decoding", counted)
    classifier = Classifier.load(folder / "run")
    answers = classifier.predict(images)
    assert n_decoded == len(images), "an image is decoded once for all backbones"
    sizes = [backbone.transform.size for backbone in classifier.backbones]
    assert sizes == [(32, 32), (64, 64)]
    members = [store.features(model, "photos") for model in MODELS]
    columns = [members[0].blocks(["layer3.mean", "last.none"]), members[1].blocks(["last.none"])]
    stored = np.concatenate([blocks.take(run.test_rows) for blocks in columns], axis=1)
    expected = run.predict_blocks(ArrayBlocks(stored.astype(np.float32)))[1]
    found = [[answer.probabilities[name] for name in run.classes] for answer in answers]
    np.testing.assert_allclose(found, expected, atol=0.02)
    right = [answer.label == manifest.labels[row] for answer, row in zip(answers, run.test_rows, strict=True)]
    assert np.mean(right) == pytest.approx(run.metrics["accuracy"])
    assert evaluate(folder / "run")["accuracy"] == pytest.approx(run.metrics["accuracy"])
    batches = [
        torch.stack([backbone.transform(decode_image(each.read_bytes())) for each in images[:2]])
        for backbone in classifier.backbones
    ]
    np.testing.assert_allclose(classifier.probabilities(batches), expected[:2], atol=0.02)
    with pytest.raises(InputError, match="1 batches for 2 backbones"):
        classifier.features(batches[0])
    with pytest.raises(InputError, match="has 2 backbones; use backbones"):
        _ = classifier.backbone


def test_the_record_describes_each_backbone(folder: Path) -> None:
    config = json.loads((folder / "run" / "run.json").read_text())
    assert (config["version"], config["kind"], config["model"]) == (3, "join", f"{MODEL} + {VIT}")
    assert [(each["name"], each["model"]) for each in config["sources"]] == [(MODEL, MODEL), (VIT, VIT)]
    assert [each["recipe"]["precision"] for each in config["sources"]] == ["fp32", "bf16"]
    assert (config["options"]["models"], config["options"]["fusion"]) == (MODELS, "join")
    assert [step["name"] for step in config["preprocessing"]["steps"]] == ["standardise", "balance"]
    reported = read_run(folder / "run")
    assert reported.model == f"{MODEL} + {VIT}"
    words = shlex.split(command_of(reported))
    asked = toptune.commands["train"].make_context("train", words[2:]).params
    assert (list(asked["models"]), asked["fusion"]) == (MODELS, "join")
    assert asked["layers"] == {MODEL: "layer3,last", "*": "last"}
    extractions = str(extraction_of(reported, "photos")).split(" && ")
    assert [shlex.split(each)[4] for each in extractions] == MODELS
    costs = Run.load(folder / "run").metrics["costs"]
    alone = [
        train(
            folder / "store", dataset="photos", model=model, layers=layers, head="ridge", cv=3,
            out=folder / f"alone-{place}",
        ).metrics["costs"]
        for place, (model, layers) in enumerate([(MODEL, "layer3,last"), (VIT, "last")])
    ]  # fmt: skip
    assert costs["extract_seconds"] == pytest.approx(sum(each["extract_seconds"] for each in alone))
    assert costs["extract_pictures"] == 36


def test_a_backbone_that_the_head_does_not_use_is_dropped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads_that_select(monkeypatch, [0, 3, 20])
    run = train(folder / "store", **OPTIONS, head="ridge", out=tmp_path / "run")
    assert [source.name for source in run.sources] == [MODEL]
    assert f"the head uses no layer of {VIT!r}: predictions need 1 network of the 2" in str(run)
    classifier = Classifier.load(tmp_path / "run")
    assert [backbone.name for backbone in classifier.backbones] == [MODEL]
    manifest = FeatureStore.open(folder / "store").manifest("photos")
    answers = classifier.predict([folder / "photos" / manifest.ids[row] for row in run.test_rows])
    right = [answer.label == manifest.labels[row] for answer, row in zip(answers, run.test_rows, strict=True)]
    assert np.mean(right) == pytest.approx(run.metrics["accuracy"])
    assert evaluate_run(tmp_path / "run")["accuracy"] == pytest.approx(run.metrics["accuracy"])


@pytest.mark.parametrize("head", ["ridge", "head2toe"])
def test_layers_are_searched_over_all_backbones(folder: Path, tmp_path: Path, head: str) -> None:
    layers: Any = {"ridge": {"*": "auto"}, "head2toe": "all"}[head]
    run = train(folder / "store", **OPTIONS, layers=layers, head=head, out=tmp_path / "run")
    members = {array.member for array in run.arrays}
    assert members == {source.name for source in run.sources}
    if head == "ridge":
        table = (tmp_path / "run" / "layer_search.csv").read_text()
        assert all(f"{model}/last.none" in table for model in MODELS)
        assert f"each,{MODEL}/last.none {VIT}/last.none" in table
    else:
        stored = {layer["name"].split("/")[0] for layer in run.config["report"]["layers"]}
        assert stored == set(MODELS)
    assert evaluate_run(tmp_path / "run")["accuracy"] == pytest.approx(run.metrics["accuracy"])


def test_an_image_is_forgotten_in_all_backbones(folder: Path, tmp_path: Path) -> None:
    # Ridge regression keeps its sums only where there are more images than features.
    run = train(folder / "store", **OPTIONS, n_centers=10, solver="direct", out=tmp_path / "run")
    manifest = FeatureStore.open(folder / "store").manifest("photos")
    gone = manifest.ids[run.train_rows[0]]
    updated = update_run(run, forget=[gone], out=tmp_path / "updated")
    assert updated.metrics["n_train"] == run.metrics["n_train"] - 1
    assert (updated.record.kind, updated.sources) == ("join", run.sources)
    assert evaluate_run(tmp_path / "updated")["accuracy"] == pytest.approx(updated.metrics["accuracy"])


def test_what_cannot_be_joined_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        (
            {"models": [MODEL, "resnet50.b"]}, StoreNotFoundError,
            r"none of resnet50\.b; .*toptune extract DATA --store .* --dataset photos --model resnet50\.b",
        ),
        ({"layers": {VIT: "auto"}}, InputError, "layers auto is given for .* alone"),
        ({"layers": {VIT: "layer9"}}, InputError, "'random:test_vit': layer 'layer9' is not in the store"),
        ({"memory_limit": "1MiB", "layers": "all"}, InputError, "the memory limit is 1.0 MiB"),
    ]  # fmt: skip
    for changes, error, message in refused:
        with pytest.raises(error, match=message):
            train(folder / "store", **OPTIONS | changes, out=out)
        assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_imported_features_are_a_member_that_no_image_has(folder: Path, tmp_path: Path) -> None:
    store = FeatureStore.open(folder / "store")
    manifest = store.manifest("photos")
    values = np.random.default_rng(0).normal(size=(manifest.n_rows, 3)).astype(np.float32)
    import_features(
        store, {"last": values}, dataset="photos", model="mine", ids=list(manifest.ids),
        labels=list(manifest.labels),
    )  # fmt: skip
    options = OPTIONS | {"models": [VIT, "mine"]}
    run = train(store, **options, layers="last", head="ridge", out=tmp_path / "run")
    assert [array.name for array in run.arrays] == [f"{VIT}/last.none", "mine/last.imported"]
    assert evaluate_run(tmp_path / "run")["accuracy"] == pytest.approx(run.metrics["accuracy"])
    with pytest.raises(InputError, match="trained on imported features of 'mine'"):
        Classifier.load(tmp_path / "run")


def test_moved_backbones_are_given_by_their_names() -> None:
    first, second = (
        RunSource(name=name, model=name, cache=CacheIdentity(name=name, digest=""), recipe={}, backbone={})
        for name in ("a", "b=c")
    )
    assert moved_places(None, [first, second], option="model") == [None, None]
    given = ["b=c=local-dir:/x", "a=local-dir:/y=z"]
    assert moved_places(given, [first, second], option="model") == ["local-dir:/y=z", "local-dir:/x"]
    # The one backbone that is left of several may be given with its name or without.
    assert moved_places(["a=/x"], [first], option="model") == moved_places("/x", [first], option="model")
    for wrong, message in [
        (["/x"], "'/x' names no backbone of the run; give NAME=PLACE, with each of a, b=c at most once"),
        (["a=/x", "a=/y"], "gives a a second place"),
    ]:
        with pytest.raises(InputError, match=message):
            moved_places(wrong, [first, second], option="model")
    with pytest.raises(InputError, match="model is given 2 times, and the run has one backbone"):
        moved_places(["/x", "/y"], [first], option="model")
