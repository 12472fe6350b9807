"""`Classifier`: the same answers as the store gives, from pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import MODEL, SHAPES, save_shapes

from toptune.extract import decode_image, extract, open_source
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
    with pytest.raises(InputError, match="holds no picture; give"):
        classifier.predict(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match="only 1 files without a picture's suffix"):
        classifier.predict(tmp_path)


def test_a_folder_is_walked_as_extract_walks_it(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    picture = (folder / "photos" / "disc" / "000.png").read_bytes()
    data = tmp_path / "clothes"
    names = ("test/hat/1.PNG", "train/hat/2.png", "train/shoe/3.jpg")
    hidden = (".git/x.png", "train/.thumbs/x.png", "train/hat/.x.png", "__MACOSX/x.png")
    others = ("README.json", "LICENSE", "train/Thumbs.db", "train/desktop.ini", "train/hat/list.csv")
    for name in (*names, *hidden, *others):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(picture)
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "more" / "deep" / "4.png").write_bytes(picture)
    (data / "train" / "shoe" / "link").symlink_to(tmp_path / "more")
    (data / "train" / "shoe" / "up").symlink_to(data)
    (data / "train" / "shoe" / "gone.png").symlink_to(tmp_path / "nothing")
    answers = classifier.predict(data)
    found = {Path(answer.path).relative_to(data).as_posix(): answer.error for answer in answers}
    unreadable = {"train/shoe/gone.png": "cannot be read: No such file or directory"}
    assert found == dict.fromkeys([*names, "train/shoe/link/deep/4.png"]) | unreadable
    assert [answer.path for answer in answers] == sorted(answer.path for answer in answers)
    (data / "train" / "hat" / "list.csv").unlink()
    assert open_source(data).manifest().ids == sorted(found)
    # What is named is tried, whatever it is called.
    (named,) = classifier.predict(data / "LICENSE")
    assert named.label is not None


def test_evaluation_of_pictures_needs_known_labels(folder: Path, tmp_path: Path) -> None:
    other = save_shapes(tmp_path / "other", per_class=3)
    (other / "disc").rename(other / "ring")
    with pytest.raises(InputError, match="ring"):
        evaluate(folder / "run", data=other)
    with pytest.raises(InputError, match="--data"):
        evaluate(folder / "run", data=other, dataset="photos")
