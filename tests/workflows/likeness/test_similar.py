"""Similar images are the exact nearest ones, and shares of training images add up to the score."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from self_contained import Elements
from shapes import MODEL, save_shapes

from toptune.errors import InputError
from toptune.extract import extract
from toptune.store import ArrayBlocks, FeatureStore, import_features
from toptune.train import Run, train
from toptune.workflows import Similarity, similar
from toptune.workflows.likeness import search
from toptune.workflows.likeness.search import nearest_rows

Cli = Callable[..., tuple[int, str, str]]


def imported(root: Path, n: int = 60, **more: Any) -> tuple[FeatureStore, npt.NDArray[np.float32]]:
    """Features of three classes far apart."""
    codes = np.arange(n) % 3
    values = (np.random.default_rng(0).normal(size=(n, 8)) + 4 * np.eye(3, 8)[codes]).astype(np.float32)
    store = FeatureStore.create(root)
    ids, labels = [f"{row}.png" for row in range(n)], [f"class {code}" for code in codes]
    import_features(store, {"last": values}, dataset="pets", model="mine", labels=labels, ids=ids, **more)
    return store, values


def cosines_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    unit = values.astype(np.float64) / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = unit @ unit.T
    return found


@pytest.mark.parametrize(("block", "tile"), [(7, 3), (100, 100), (2, 50)])
def test_the_nearest_rows_are_those_of_the_whole_product(
    block: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_BLOCK_ROWS", block)
    monkeypatch.setattr(search, "_TILE_ROWS", tile)
    values = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    own = np.array([3, -1, 39, 0])
    cosines = cosines_of(values)[[3, 5, 39, 0]]
    cosines[[0, 2, 3], [3, 39, 0]] = -np.inf
    found, rows = nearest_rows(values[[3, 5, 39, 0]], ArrayBlocks(values), 4, own=own)
    expected = np.argsort(-cosines, axis=1)[:, :4]
    assert rows.tolist() == expected.tolist()
    # A row that is given as no stored one finds itself.
    assert rows[1, 0] == 5
    np.testing.assert_allclose(found, np.take_along_axis(cosines, expected, 1), atol=1e-6)
    with pytest.raises(InputError, match="k is 40, and there are 39 other images"):
        nearest_rows(values[:1], ArrayBlocks(values), 40, own=np.array([0]))
    with pytest.raises(InputError, match="raise --memory-limit, give fewer images"):
        nearest_rows(values, ArrayBlocks(values), 4, limit_bytes=100)


def test_ids_find_their_neighbors_and_unusable_ones_are_told(tmp_path: Path) -> None:
    store, values = imported(tmp_path / "s")
    cosines = cosines_of(values)
    np.fill_diagonal(cosines, -1)
    found = similar(store=store, ids=["7.png", "20.png"], k=2)
    assert (found.measure, found.dataset, found.model) == ("cosine", "pets", "mine")
    for each, row in zip(found.images, (7, 20), strict=True):
        nearest = np.argsort(-cosines[row])[:2]
        assert [like.id for like in each.found] == [f"{at}.png" for at in nearest]
        assert [like.label for like in each.found] == [f"class {at % 3}" for at in nearest]
        assert each.found[0].value == pytest.approx(cosines[row, nearest[0]], abs=1e-6)
    assert "59 images are told of each, and 99 were asked for" in str(
        similar(store=store, ids=["7.png"], k=99)
    )


def test_an_image_without_features_is_told_and_none_is_found_in_its_place(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    values[2] = np.nan
    store = FeatureStore.create(tmp_path / "s")
    ids = [f"{row}.png" for row in range(6)]
    import_features(store, {"last": values}, dataset="pets", model="mine", ids=ids, allow_failed=True)
    found = similar(store=store, ids=["2.png", "1.png"], k=10)
    assert [each.error is None for each in found.images] == [False, True]
    assert "2.png" in found.failed
    assert {like.id for like in found.images[1].found} == {"0.png", "3.png", "4.png", "5.png"}


@pytest.mark.parametrize("head", ["falkon", "falkon-logistic"])
def test_shares_of_centers_add_up_to_the_score(tmp_path: Path, head: str) -> None:
    store, _ = imported(tmp_path / "s", splits=["train"] * 48 + ["test"] * 12)
    run = train(store, dataset="pets", model="mine", head=head, out=tmp_path / "run", n_centers=20)
    assert isinstance(run, Run)
    features = store.features("mine", "pets")
    blocks = features.blocks(["last.imported"], [50, 3])
    scores = run.head.decision_function(run.preprocessing.apply(blocks.take([0, 1])))
    labels, probabilities = run.predict_blocks(blocks)
    found = similar(run=tmp_path / "run", ids=["50.png", "3.png"], k=5)
    assert found.measure == "share"
    for at, each in enumerate(found.images):
        assert each.score == pytest.approx(scores[at].max(), abs=1e-6)
        shares = [like.value for like in each.found]
        assert sum(shares) + (each.others or 0) + (each.intercept or 0) == pytest.approx(each.score)
        assert shares == sorted(shares, key=lambda value: -abs(value))
        assert each.predicted == labels[at]
        assert each.confidence == pytest.approx(probabilities[at].max())
    assert not found.notes
    assert (
        similar(run=tmp_path / "run", ids=["50.png"], k=99).notes[0].startswith("20 images are told of each")
    )
    # Each center is a training image, and its share is its kernel value times its coefficient.
    everything = similar(run=tmp_path / "run", ids=["50.png"], k=20).images[0]
    assert everything.others == pytest.approx(0, abs=1e-9)
    estimator: Any = run.head.estimator  # type: ignore[attr-defined]
    rows = run.train_rows[estimator.center_indices_]
    assert {like.id for like in everything.found} == {f"{row}.png" for row in rows}
    row = int(everything.found[0].id.removesuffix(".png"))
    centers = run.preprocessing.apply(features.blocks(["last.imported"], [row]).take([0]))
    np.testing.assert_allclose(estimator.centers_[rows.tolist().index(row)], centers[0], rtol=1e-5, atol=1e-6)
    assert everything.found[0].label == f"class {row % 3}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "neither images nor ids are given"),
        ({"ids": ["x.png"]}, r"no image 'x.png' in version 1; its ids look like '0.png'"),
        ({"ids": ["1.png"], "k": 0}, "k is 0"),
        ({"ids": ["1.png"], "layers": "lost"}, "'lost' is not in the store"),
        ({"ids": ["1.png"], "dataset": "cars"}, "cars"),
        ({"ids": ["1.png"], "dataset_version": 3}, "version"),
        ({"images": b"no image"}, "were imported: there is no backbone"),
        ({"images": "absent.png"}, "absent.png does not exist"),
        ({"ids": ["1.png"], "memory_limit": "1MiB"}, "memory-limit"),
        ({"ids": ["1.png"], "store": None}, "no store is given"),
        ({"ids": ["1.png"], "kk": 3}, "unknown|did you mean"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    store, _ = imported(tmp_path / "s", n=12)
    with pytest.raises((InputError, OSError), match=said):
        similar(**({"store": store} | options))


def test_a_run_of_another_head_is_refused(tmp_path: Path) -> None:
    store, _ = imported(tmp_path / "s")
    train(store, dataset="pets", model="mine", head="ridge", out=tmp_path / "run")
    with pytest.raises(InputError, match="head ridge, whose scores are no sums over training images"):
        similar(run=tmp_path / "run", ids=["1.png"])
    with pytest.raises(InputError, match="but a run has its own; leave it out"):
        similar(run=tmp_path / "run", ids=["1.png"], layers="last")


def of_two_models(root: Path) -> tuple[FeatureStore, npt.NDArray[np.float32]]:
    """The features of `imported`, of which another model holds some columns doubled."""
    store, values = imported(root, splits=["train"] * 48 + ["test"] * 12)
    manifest = store.features("mine", "pets").manifest
    columns: dict[str, Any] = {"ids": manifest.ids, "labels": manifest.labels, "splits": manifest.splits}
    import_features(store, {"last": 2 * values[:, :5]}, dataset="pets", model="other", **columns)
    return store, values


def test_centers_of_a_run_of_joined_models_are_its_training_images(tmp_path: Path) -> None:
    store, values = of_two_models(tmp_path / "s")
    models = ["mine", "other"]
    run = train(store, dataset="pets", models=models, fusion="join", head="falkon", out=tmp_path / "run",
                n_centers=20)  # fmt: skip
    assert isinstance(run, Run)
    both = np.concatenate([values, 2 * values[:, :5]], axis=1)
    scores = run.head.decision_function(run.preprocessing.apply(both[[50, 3]]))
    found = similar(run=tmp_path / "run", ids=["50.png", "3.png"], k=20)
    estimator: Any = run.head.estimator  # type: ignore[attr-defined]
    rows = run.train_rows[estimator.center_indices_]
    for at, each in enumerate(found.images):
        assert each.score == pytest.approx(scores[at].max(), abs=1e-6)
        assert sum(like.value for like in each.found) + (each.intercept or 0) == pytest.approx(each.score)
        assert {like.id for like in each.found} == {f"{row}.png" for row in rows}
        assert all(like.label == f"class {int(like.id.removesuffix('.png')) % 3}" for like in each.found)
    with pytest.raises(InputError, match=r"imported features: there is no backbone.* \(--id\)"):
        similar(b"no image", run=tmp_path / "run")


def test_a_run_of_several_heads_is_refused_with_its_members(tmp_path: Path) -> None:
    store, _ = of_two_models(tmp_path / "s")
    train(store, dataset="pets", models=["mine", "other"], head="falkon", out=tmp_path / "run", n_centers=20)
    with pytest.raises(InputError, match=r"2 heads, each .* name one of them: '.*members/0-mine', '.*other'"):
        similar(run=tmp_path / "run", ids=["50.png"])
    (head,) = (tmp_path / "run" / "members").glob("0-*")
    assert len(similar(run=head, ids=["50.png"], k=20).images[0].found) == 20


def test_images_find_themselves_and_tables_and_pages_are_written(tmp_path: Path, run_cli: Cli) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=6)
    extract(photos, model=MODEL, store=tmp_path / "s")
    image, name = photos / "disc" / "000.png", "disc/000.png"
    (tmp_path / "broken.png").write_bytes(b"no image")
    asked = ("similar", image, tmp_path / "broken.png", "--store", tmp_path / "s", "-k", "3")
    code, out, err = run_cli(*asked, "--id", name, "--max-failures", "1")
    assert (code, "not an image" in out) == (0, True), err
    assert f"1.0000  {name}" in out
    assert run_cli(*asked)[0] == 4
    more = (*asked, "--max-failures", "1", "--out")
    code, _, err = run_cli(*more, tmp_path / "a.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert code == 0, err
    assert [(row["rank"], row["id"]) for row in rows[:1]] == [("1", name)]
    assert list(rows[0]) == ["image", "rank", "id", "label", "split", "cosine"]
    assert run_cli(*more, tmp_path / "a.jsonl")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [len(line["found"]) for line in lines] == [3, 0]
    assert run_cli(*more, tmp_path / "a.html", "--data", photos)[0] == 0
    elements = Elements((tmp_path / "a.html").read_text())
    shown = [attributes["src"] or "" for tag, attributes in elements.found if tag == "img"]
    assert len(shown) == 4
    assert all(each.startswith("data:image/jpeg;base64,") for each in shown)
    assert not [tag for tag, _ in elements.found if tag in ("script", "link")]
    code, _, err = run_cli(*more, tmp_path / "a.csv")
    assert (code, "exists; nothing is overwritten" in err) == (2, True)
    code, _, err = run_cli(*more, tmp_path / "a.txt")
    assert (code, "no ending of a format" in err) == (2, True)
    # What a page would not show is refused, and what it shows in part is said.
    code, _, err = run_cli(*more, tmp_path / "b.csv", "--data", photos)
    assert (code, "only a page shows images; give --out FILE.html" in err) == (2, True)
    (tmp_path / "strangers").mkdir()
    (tmp_path / "strangers" / "other.png").write_bytes(image.read_bytes())
    code, _, err = run_cli(*more, tmp_path / "b.html", "--data", tmp_path / "strangers")
    assert (code, "data has none of the 3 stored images to show" in err) == (2, True), err
    found = similar(image, store=tmp_path / "s", k=17)
    for each in photos.glob("*/00[1-5].png"):
        each.unlink()
    found.write(tmp_path / "b.html", data=photos)
    assert "are named only, because --data lacks them" in (tmp_path / "b.html").read_text()
    code, out, err = run_cli("similar", "--id", name, "--store", tmp_path / "s", "-k", "99", "--out",
                             tmp_path / "c.csv")  # fmt: skip
    assert (code, "and 99 were asked for: there are no more" in out) == (0, True), err
    code, _, err = run_cli(*asked, "--format", "csv")
    assert (code, "name the file with --out" in err) == (2, True)


def test_a_page_of_shares_keeps_hostile_names_as_text(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    store = FeatureStore.create(tmp_path / "s")
    values = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    ids = [f"{evil}{row}" for row in range(8)]
    import_features(store, {"last": values}, dataset="pets", model="mine", ids=ids, labels=[evil] * 8)
    found = similar(store=store, ids=ids[:1], k=2)
    assert isinstance(found, Similarity)
    found.write(tmp_path / "page.html")
    elements = Elements((tmp_path / "page.html").read_text())
    assert elements.text.count(evil) >= 5
    assert not elements.scripts
    assert "--data PATH gives the images" in elements.text
