"""`Classifier`: the same answers as the store gives, from images."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from selecting_ridge import heads_that_select
from shapes import MODEL, SHAPES, save_shapes
from tiny import save_model

from toptune.costs.meter import CostMeter, describe_costs
from toptune.extract import Backbone, TapArray, decode_image, extract, open_source
from toptune.store import FeatureStore, InputError, WeightsError
from toptune.train import Run, train
from toptune.workflows import Classifier, Prediction, describe_metrics, evaluate, save_predictions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    extract(save_shapes(folder / "photos"), model=MODEL, store=folder / "store", layers="all")
    train(folder / "store", dataset="photos", model=MODEL, layers="all", out=folder / "run", cv=3)
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.load(folder / "run")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "models" / "tiny.net", seed=1)


def test_features_of_images_are_those_in_the_store(folder: Path, classifier: Classifier) -> None:
    cache = FeatureStore.open(folder / "store").cache(MODEL, "photos")
    stored = cache.blocks([array.name for array in classifier.run.arrays]).take([0, 20])
    images = [folder / "photos" / cache.manifest.ids[row] for row in (0, 20)]
    inputs = [classifier.backbone.transform(decode_image(each.read_bytes())) for each in images]
    computed = classifier.features(torch.stack(inputs))
    assert computed.shape == stored.shape
    # Other batch mates may change the last bit of float16, no more.
    np.testing.assert_allclose(computed, stored, rtol=2e-3, atol=2e-3)


def test_pixels_in_memory_are_classified_as_their_file(folder: Path, classifier: Classifier) -> None:
    path = folder / "photos" / "disc" / "000.png"
    expected = classifier.predict(path)[0]
    image = Image.open(path)
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for given in (image, pixels, tensor, [image], pixels[None], tensor[None]):
        (answer,) = classifier.predict(given)
        assert answer.path == "image 0"
        assert answer.probabilities == expected.probabilities
    several = classifier.predict([path, pixels, path.read_bytes(), image])
    assert [answer.path for answer in several] == [str(path), "image 1", "image 2", "image 3"]
    # Batch mates may change the last bits.
    for answer in several:
        assert answer.probabilities == pytest.approx(expected.probabilities, rel=1e-6)
    with pytest.raises(InputError, match=r"image 1 \(from 0\).* is of float64"):
        classifier.predict([pixels, pixels / 255])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"image 0 .* is of type int"):
        classifier.predict([3])  # type: ignore[list-item]


def test_one_answer_a_image_in_the_order_given(folder: Path, classifier: Classifier) -> None:
    paths = [folder / "photos" / shape / "000.png" for shape in ("square", "disc", "cross")]
    answers = classifier.predict([paths[0], paths[1].read_bytes(), str(paths[2])], batch_size=2)
    assert [answer.path for answer in answers] == [str(paths[0]), "image 1", str(paths[2])]
    alone = [classifier.predict(path)[0] for path in paths]
    assert [answer.label for answer in answers] == [answer.label for answer in alone]
    for answer in answers:
        assert set(answer.probabilities) == set(SHAPES)
        assert answer.confidence == max(answer.probabilities.values())
        assert sum(answer.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("spec", ["none", "l2", "power", "pca:0.9", "whiten:5", "ternary", "l2,standardise"])
def test_every_preprocessing_is_done_to_images_too(spec: str, folder: Path, tmp_path: Path) -> None:
    run = train(
        folder / "store", dataset="photos", model=MODEL, layers="all", head="ridge", preprocess=spec, cv=3,
        out=tmp_path / "run",
    )  # fmt: skip
    stored = run.predict_blocks(
        FeatureStore.open(folder / "store")
        .cache(MODEL, "photos")
        .blocks([array.name for array in run.arrays], run.test_rows)
    )[1]
    manifest = FeatureStore.open(folder / "store").cache(MODEL, "photos").manifest
    images = [folder / "photos" / manifest.ids[row] for row in run.test_rows]
    answers = Classifier.load(tmp_path / "run").predict(images)
    computed = [[answer.probabilities[name] for name in run.classes] for answer in answers]
    # Ternary values jump where the last bit of float16 does.
    np.testing.assert_allclose(computed, stored, atol=0.05 if spec == "ternary" else 0.01)
    assert evaluate(tmp_path / "run")["accuracy"] == pytest.approx(run.metrics["accuracy"])


def test_only_the_layers_that_the_head_uses_are_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads_that_select(monkeypatch, [0, 3, 20])
    run = train(
        folder / "store", dataset="photos", model=MODEL, layers="all", head="ridge", cv=3,
        preprocess="l2,standardise", out=tmp_path / "run",
    )  # fmt: skip
    assert run.config["saves"]["n_arrays"] < run.config["saves"]["n_arrays_trained_on"]
    few = Classifier.load(tmp_path / "run")
    asked: list[list[str]] = []
    forward = Backbone.forward

    def watch(
        backbone: Backbone, batch: torch.Tensor, arrays: list[TapArray], _: object
    ) -> dict[str, torch.Tensor]:
        asked.append([each.name for each in arrays])
        return forward(backbone, batch, arrays)

    monkeypatch.setattr(Backbone, "forward", watch)
    manifest = FeatureStore.open(folder / "store").cache(MODEL, "photos").manifest
    answers = few.predict([folder / "photos" / manifest.ids[row] for row in run.test_rows])
    assert asked == [[array.name for array in run.arrays]]
    right = [answer.label == manifest.labels[row] for answer, row in zip(answers, run.test_rows, strict=True)]
    assert np.mean(right) == pytest.approx(run.metrics["accuracy"])


def test_another_backbone_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="weights"):
        Classifier.load(folder / "run", model=f"random:{MODEL}")


def test_a_backbone_that_has_moved_is_given_its_place(model_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "before" / "tiny.net"
    shutil.copytree(model_folder, place)
    model = f"local-dir:{place}"
    photos = save_shapes(tmp_path / "photos", per_class=6)
    extract(photos, model=model, store=tmp_path / "store")
    train(tmp_path / "store", dataset="photos", model=model, head="ridge", out=tmp_path / "run", cv=3)
    stored = evaluate(tmp_path / "run", split="all")
    moved = tmp_path / "tiny.net"
    place.rename(moved)
    hint = r"give its place now with --model or --weights\b"
    with pytest.raises(InputError, match=f"config.json.*{hint}") as gone:
        Classifier.load(tmp_path / "run")
    assert isinstance(gone.value.__cause__, InputError)
    with pytest.raises(InputError, match=hint):
        evaluate(tmp_path / "run", data=photos)
    found = evaluate(tmp_path / "run", data=photos, model=f"local-dir:{moved}")
    assert (found["n_test"], found["accuracy"]) == (stored["n_test"], stored["accuracy"])
    # The hint is for a place that was not given, and not for a device that is not there.
    with pytest.raises(InputError, match="nowhere") as wrong:
        Classifier.load(tmp_path / "run", model="local-dir:nowhere")
    assert "give its place" not in str(wrong.value)
    with pytest.raises(InputError, match=r"--device cpu\b"):
        Classifier.load(tmp_path / "run", device="cuda:99")
    place.mkdir()
    shutil.copy(moved / "config.json", place)
    with pytest.raises(WeightsError, match=f"no weights for.*{hint}"):
        Classifier.load(tmp_path / "run")
    weights = moved / "model.safetensors"
    assert evaluate(tmp_path / "run", data=photos, weights=weights)["accuracy"] == found["accuracy"]


def test_a_image_that_is_not_there(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        classifier.predict(tmp_path / "none.png")
    with pytest.raises(InputError, match="holds no image; give"):
        classifier.predict(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match=r"left out: 1 file whose names .* \(1 \.txt such as notes\.txt\)"):
        classifier.predict(tmp_path)


def test_a_folder_is_walked_as_extract_walks_it(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    image = (folder / "photos" / "disc" / "000.png").read_bytes()
    data = tmp_path / "clothes"
    names = ("test/hat/1.PNG", "train/hat/2.png", "train/shoe/3.jpg")
    hidden = (".git/x.png", "train/.thumbs/x.png", "train/hat/.x.png", "__MACOSX/x.png")
    others = ("README.json", "LICENSE", "train/Thumbs.db", "train/desktop.ini", "train/hat/list.csv")
    for name in (*names, *hidden, *others):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(image)
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "more" / "deep" / "4.png").write_bytes(image)
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


def test_evaluation_of_images_needs_known_labels(folder: Path, tmp_path: Path) -> None:
    other = save_shapes(tmp_path / "other", per_class=3)
    (other / "disc").rename(other / "ring")
    with pytest.raises(InputError, match="ring"):
        evaluate(folder / "run", data=other)
    with pytest.raises(InputError, match="--data"):
        evaluate(folder / "run", data=other, dataset="photos")
    with pytest.raises(InputError, match="train"):
        evaluate(folder / "run", data=folder / "photos", split="train")
    for unused in ({"model": MODEL}, {"device": "cuda"}):
        with pytest.raises(InputError, match="--model, --weights and --device are for the backbone"):
            evaluate(folder / "run", **unused)  # type: ignore[arg-type]


def test_evaluation_counts_unreadable_images_and_names_them(folder: Path, tmp_path: Path) -> None:
    data = save_shapes(tmp_path / "other", per_class=3)
    whole = evaluate(folder / "run", data=data)
    assert (whole["n_test"], whole["n_failed"], whole["failed"]) == (9, 0, {})
    figures, *_, costs = describe_metrics(whole).splitlines()
    assert figures.endswith("on 9 images")
    assert costs == describe_costs(whole["costs"])
    (data / "cross" / "broken.png").symlink_to(tmp_path / "nothing")
    (data / "disc" / "a.png").write_text("text")
    found = evaluate(folder / "run", data=data)
    assert found["failed"] == {
        "cross/broken.png": "cannot be read: No such file or directory",
        "disc/a.png": "not an image in a format that toptune reads",
    }
    same = ("n_test", "accuracy", "per_class", "confusion_matrix")
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}
    assert found["n_failed"] == 2
    figures = describe_metrics(found).splitlines()[0]
    assert figures.endswith("on 9 images; 2 could not be read and are left out")


def test_images_that_were_trained_on_are_said_to_be(folder: Path, tmp_path: Path) -> None:
    run, done = Run.load(folder / "run"), []
    found = evaluate(folder / "run", data=folder / "photos", progress=lambda *standing: done.append(standing))
    assert [n for n, _ in done] == [*range(32, found["n_test"], 32), found["n_test"]]
    assert {total for _, total in done} == {found["n_test"]}
    assert found["n_named_as_trained"] == len(run.train_rows)
    figures, note, _ = describe_metrics(found).splitlines()
    assert figures.endswith(f"on {found['n_test']} images")
    assert note.startswith(f"note: {len(run.train_rows)} of them have the names of images")
    ids = open_source(folder / "photos").manifest().ids
    rows = "".join(f"{folder}/photos/{ids[row]},{Path(ids[row]).parent},test\n" for row in run.test_rows[:4])
    rows += "".join(f"{folder}/photos/{ids[row]},{Path(ids[row]).parent},train\n" for row in run.train_rows)
    rows += f"{folder}/photos/../photos/{ids[0]},,test\n"
    (tmp_path / "list.csv").write_text(f"path,label,split\n{rows}")
    part = evaluate(folder / "run", data=tmp_path / "list.csv", split="test")
    assert (part["n_test"], part["n_named_as_trained"], part["n_unlabelled"]) == (4, 0, 1)
    assert "on 4 images; 1 without a label are left out" in describe_metrics(part)
    assert evaluate(folder / "run", data=tmp_path / "list.csv")["n_test"] == 4 + len(run.train_rows)


def test_evaluation_of_nothing_that_can_be_read(folder: Path, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "disc").mkdir(exist_ok=True)
        (tmp_path / "disc" / f"{number}.png").write_text("text")
    with pytest.raises(
        InputError, match=r"none of the 5 images .* read: disc/0\.png: not an image.*disc/2\.png: [^;]*$"
    ):
        evaluate(folder / "run", data=tmp_path)
    empty = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "log_loss"))
    text = describe_metrics(empty | {"n_test": 0, "costs": CostMeter().to_dict()})
    assert text.startswith("accuracy -, balanced accuracy -")


def test_unreadable_images_keep_their_places(classifier: Classifier, folder: Path) -> None:
    image = (folder / "photos" / "disc" / "000.png").read_bytes()
    answers = classifier.predict([image, b"text", b"", image, b"text"], batch_size=2)
    assert [answer.path for answer in answers] == [f"image {number}" for number in range(5)]
    assert [answer.error is None for answer in answers] == [True, False, False, True, False]
    assert answers[1].error == "not an image in a format that toptune reads"
    assert answers[0].probabilities == pytest.approx(answers[3].probabilities, abs=1e-5)
    with pytest.raises(InputError, match="batch_size is 0"):
        classifier.predict(image, batch_size=0)


def test_a_misspelled_keyword_of_evaluate_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate has no option 'datset'; did you mean 'dataset'\?"):
        evaluate(tmp_path / "run", datset="photos")  # type: ignore[call-arg]


def test_a_list_of_images_stands_for_its_images(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    names = ["square/000.png", "disc/001.png"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        shutil.copy(folder / "photos" / name, tmp_path / name)
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(names))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(tmp_path / names[0], names[0])
    done: list[tuple[int, int]] = []
    answers = classifier.predict(
        [tmp_path / "list.csv", tmp_path / "packed.zip"],
        batch_size=2,
        progress=lambda *counts: done.append(counts),
    )
    assert [Path(answer.path).name for answer in answers] == ["000.png", "001.png", "000.png"]
    alone = classifier.predict([tmp_path / name for name in [*names, names[0]]])
    assert [answer.label for answer in answers] == [answer.label for answer in alone]
    assert done == [(2, 3), (3, 3)]


def test_predictions_are_written_with_the_likeliest_classes_and_four_digits(tmp_path: Path) -> None:
    given = {"a": 0.12345, "b": 0.62345, "c": 0.2531}
    predictions = [
        Prediction(path="x.png", label="b", confidence=0.62345, probabilities=given),
        Prediction(path="y.png", error="damaged"),
    ]
    lines = save_predictions(predictions, tmp_path / "p.csv", top=4).read_text().splitlines()
    assert lines[0] == "path,label,confidence,label_2,confidence_2,label_3,confidence_3,label_4,confidence_4"
    assert lines[1:] == ["x.png,b,0.6234,c,0.2531,a,0.1235,,", "y.png,,,,,,,,"]
    text = save_predictions(predictions, tmp_path / "p.jsonl", top=2).read_text().splitlines()
    assert json.loads(text[0])["top"] == [
        {"label": "b", "confidence": 0.6234},
        {"label": "c", "confidence": 0.2531},
    ]
    for out, form, message in (
        ("p.csv", None, "nothing is overwritten"),
        ("new/", None, "is a folder"),
        ("p.txt", None, r"\.csv or \.jsonl"),
        ("q.csv", "jsonl", "leave one out"),
        ("no/where.csv", None, "not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            save_predictions(predictions, f"{tmp_path}/{out}", form=form)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.jsonl"]


def test_predict_says_what_of_the_paths_and_options_it_does_not_use(
    run_cli: Callable[..., tuple[int, str, str]],
    caplog: pytest.LogCaptureFixture,
    folder: Path,
    tmp_path: Path,
) -> None:
    image = (folder / "photos" / "disc" / "000.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("a/1.png", image)
        archive.writestr("a/notes.txt", "text")
    code, out, error = run_cli("predict", folder / "run", tmp_path / "some.zip", "--top", 99)
    assert code == 0
    assert "some.zip: left out: 1 file whose names are not those of images" in caplog.text
    n_classes = len(out.splitlines()[0].split(",")) // 2
    assert f"--top 99 writes all classes: the run has {n_classes} classes" in error
    for own, kind in ((folder / "run", "RUN folder"), (folder / "store", "store")):
        code, _, error = run_cli("predict", folder / "run", own)
        assert (code, f"is a {kind} of toptune and no folder of images" in error) == (2, True)
