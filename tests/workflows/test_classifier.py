"""`Classifier`: the same answers as the store gives, from pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import MODEL, SHAPES, save_shapes

from toptune.extract import decode_image, extract
from toptune.store import FeatureStore, InputError, WeightsError
from toptune.train import train
from toptune.workflows import Classifier, evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    extract(save_shapes(folder / "photos"), model=MODEL, store=folder / "store", layers="all")
    train(folder / "store", dataset="photos", model=MODEL, layers="all", out=folder / "run", cv=3)
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.load(folder / "run")


def test_features_of_pictures_are_those_in_the_store(folder: Path, classifier: Classifier) -> None:
    cache = FeatureStore.open(folder / "store").cache(MODEL, "photos")
    stored = cache.blocks([array.name for array in classifier.run.arrays]).take([0, 20])
    pictures = [folder / "photos" / cache.manifest.ids[row] for row in (0, 20)]
    inputs = [classifier.backbone.transform(decode_image(each.read_bytes())) for each in pictures]
    computed = classifier.features(torch.stack(inputs))
    assert computed.shape == stored.shape
    # Other batch mates may change the last bit of float16, no more.
    np.testing.assert_allclose(computed, stored, rtol=2e-3, atol=2e-3)


def test_one_answer_a_picture_in_the_order_given(folder: Path, classifier: Classifier) -> None:
    paths = [folder / "photos" / shape / "000.png" for shape in ("square", "disc", "cross")]
    answers = classifier.predict([paths[0], paths[1].read_bytes(), str(paths[2])], batch_size=2)
    assert [answer.path for answer in answers] == [str(paths[0]), "image 1", str(paths[2])]
    alone = [classifier.predict(path)[0] for path in paths]
    assert [answer.label for answer in answers] == [answer.label for answer in alone]
    for answer in answers:
        assert set(answer.probabilities) == set(SHAPES)
        assert answer.confidence == max(answer.probabilities.values())
        assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_another_backbone_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="weights"):
        Classifier.load(folder / "run", model=f"random:{MODEL}")


def test_a_picture_that_is_not_there(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        classifier.predict(tmp_path / "none.png")
    with pytest.raises(InputError, match="no file"):
        classifier.predict(tmp_path)


def test_evaluation_of_pictures_needs_known_labels(folder: Path, tmp_path: Path) -> None:
    other = save_shapes(tmp_path / "other", per_class=3)
    (other / "disc").rename(other / "ring")
    with pytest.raises(InputError, match="ring"):
        evaluate(folder / "run", data=other)
    with pytest.raises(InputError, match="--data"):
        evaluate(folder / "run", data=other, dataset="photos")
