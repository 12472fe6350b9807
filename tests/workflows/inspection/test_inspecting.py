"""Planted faults are found, and what cannot be looked at is said."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image
from self_contained import check_self_contained

from toptune.errors import InputError
from toptune.extract import extract
from toptune.store import FeatureStore, import_features
from toptune.workflows import Inspection, inspect

MODEL = "resnet10t.toptune_glyphs"
Run = Callable[..., tuple[int, str, str]]


def made(n: int = 120, d: int = 12, seed: int = 0) -> tuple[npt.NDArray[np.float32], list[Any]]:
    """Three classes far apart."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    values = rng.normal(size=(n, d)) + 6 * np.eye(3, d)[codes]
    return values.astype(np.float32), [f"class {code}" for code in codes]


def imported(root: Path, values: npt.NDArray[np.float32], labels: Any, **more: Any) -> FeatureStore:
    store = FeatureStore.create(root)
    ids = [f"{row}.png" for row in range(len(values))]
    import_features(store, {"last": values}, dataset="pets", model="mine", labels=labels, ids=ids, **more)
    return store


def of_kind(found: Inspection, kind: str) -> dict[str, Any]:
    return {each.id: each for each in found.findings if each.kind == kind}


def shown(path: Path) -> dict[str, Any]:
    """Return what the script of a page of findings reads."""
    elements = check_self_contained(path.read_text(encoding="utf-8"))
    (text,) = (each for each in elements.texts if each.startswith('{"images"'))
    values: dict[str, Any] = json.loads(text)
    return values


def test_planted_faults_are_found(tmp_path: Path) -> None:
    values, labels = made()
    labels[10], labels[50] = "class 0", "class 1"  # their own are "class 1" and "class 2"
    values[61] = 1.01 * values[31] + 0.01  # class 1
    values[7] = -30 * np.eye(12)[11]
    splits = ["train" if row < 60 else "test" for row in range(120)]
    store = imported(tmp_path / "s", values, labels, splits=splits)
    found = inspect(store, dataset="pets", model="mine", out=tmp_path / "look")
    near = of_kind(found, "near-duplicate")
    assert {"31.png", "61.png"} <= near.keys()
    assert (near["31.png"].related, near["31.png"].leak) == (("61.png",), "test|train")
    # An image of the test split is kept, so that figures on the test images stay comparable.
    assert (near["31.png"].suggestion, near["61.png"].suggestion) == ("exclude", "keep")
    wrong = of_kind(found, "label")
    assert (wrong["10.png"].suggestion, wrong["50.png"].suggestion) == ("class 1", "class 2")
    assert wrong["10.png"].score > 0.9
    assert set(wrong) <= {"10.png", "50.png", "7.png"}
    assert "7.png" in of_kind(found, "outlier")
    assert found.counts["leak"] == 2
    assert any("no digests" in note for note in found.notes)
    with (tmp_path / "look" / "findings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "kind", "score", "related", "suggestion", "leak"]
    assert len(rows) == len(found.findings)
    written = json.loads((tmp_path / "look" / "findings.json").read_text())
    assert written["counts"] == found.counts
    assert written["groups"][0]["crosses"] == ["split"]
    assert found.failures(["leak", "duplicate"]) == {"leak": 2}
    page = shown(tmp_path / "look" / "page.html")
    ids = page["images"]["ids"]
    cards = {(card["kind"], ids[card["ids"][0]]): card for card in page["cards"]}
    copies = cards["near-duplicate", "61.png"]
    assert (copies["proposals"], copies["leak"]) == ([["keep", ""], ["exclude", ""]], "test and train")
    assert cards["label", "10.png"]["proposals"] == [["relabel", "class 1"]]
    assert cards["outlier", "7.png"]["proposals"] == [None]
    assert len(page["points"]["x"]) == 120
    assert not page["images"]["thumbnails"]
    table: list[dict[str, Any]] = pq.read_table(tmp_path / "look" / "atlas.parquet").to_pylist()
    told = {row["id"]: row for row in table}
    assert (told["10.png"]["predicted"], told["10.png"]["findings"]) == ("class 1", "label")
    assert told["10.png"]["probability"] > 0.9
    assert told["31.png"]["neighbors"]["ids"][0] == 61
    assert told["31.png"]["split"] == "train"
    assert "--x x --y y --neighbors neighbors --text id" in str(found)


def test_the_same_is_found_on_a_device(tmp_path: Path, gpu: str) -> None:
    values, labels = made(n=60)
    values[31] = values[20] * 1.01
    labels[10] = "class 0"
    store = imported(tmp_path / "s", values, labels)
    there, here = (
        inspect(store, dataset="pets", model="mine", out=tmp_path / device, device=device)
        for device in (gpu, "cpu")
    )
    assert [(each.id, each.kind) for each in there.findings] == [
        (each.id, each.kind) for each in here.findings
    ]
    assert here.counts["label"] >= 1


def test_copies_do_not_vouch_for_a_wrong_label(tmp_path: Path) -> None:
    values, labels = made()
    values[13], labels[10] = values[10] * 1.001, "class 0"
    labels[13] = "class 0"
    found = inspect(
        imported(tmp_path / "s", values, labels), dataset="pets", model="mine", out=tmp_path / "look"
    )
    assert {"10.png", "13.png"} <= of_kind(found, "label").keys()


def test_what_cannot_be_looked_at_is_said(tmp_path: Path, run_cli: Run) -> None:
    values, _ = made(n=40)
    values[3, 0] = np.nan
    values[30] = values[20]
    labels: list[Any] = [None] * 40
    found = inspect(
        imported(tmp_path / "s", values, labels, allow_failed=True),
        dataset="pets",
        model="mine",
        out=tmp_path / "a",
    )
    assert of_kind(found, "image")["3.png"].suggestion == "exclude"
    assert {"20.png", "30.png"} <= of_kind(found, "near-duplicate").keys()
    told = " ".join(found.notes)
    assert "labels were not checked: 0 labeled images" in told
    assert "no split to leak across" in told
    assert found.not_checked.keys() == {"leak", "duplicate", "label", "image"}
    # A kind that nobody could look for does not pass as absent.
    code, _, err = run_cli(
        "inspect", "--store", tmp_path / "s", "--fail-on", "label,outlier", "--out", tmp_path / "d"
    )
    assert (code, "--fail-on label: labels were not checked: 0 labeled images" in err) == (1, True), err
    assert "or leave label out of --fail-on" in err
    page = shown(tmp_path / "a" / "page.html")
    assert page["classes"] == []
    # The image without finite features has no point.
    assert len(page["points"]["x"]) == 39
    found = inspect(
        imported(tmp_path / "few", *made(n=40)),
        dataset="pets",
        model="mine",
        out=tmp_path / "c",
        group_by="(png)",
    )
    assert any("train could not draw a split: no group is small enough" in note for note in found.notes)
    one = imported(tmp_path / "one", values, ["cat"] * 40, allow_failed=True)
    found = inspect(one, dataset="pets", model="mine", out=tmp_path / "b")
    assert any("39 labeled images of 1 class" in note for note in found.notes)


@pytest.mark.parametrize(("n", "advice"), [(2, "extract more images"), (3, "repair the others")])
def test_too_few_images_are_refused_with_what_helps(tmp_path: Path, n: int, advice: str) -> None:
    values, labels = made(n=40)
    few = values[:n].copy()
    few[2:] = np.nan
    store = imported(tmp_path / "s", few, labels[: len(few)], allow_failed=True)
    with pytest.raises(InputError, match=f"2 images of {len(few)} .* at least 3 are needed .*; {advice}"):
        inspect(store, dataset="pets", model="mine", out=tmp_path / "look")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"false_alarms": 0.7}, "must lie between 0 and 0.5"),
        ({"map": "tsne"}, "'tsne' is unknown"),
        ({"outliers": 0}, "must lie between 0 and 0.5"),
        ({"neighbors": 1}, "at least 2"),
        ({"memory_limit": "20MiB"}, "higher --memory-limit"),
        ({"layers": "lost"}, "'lost' is not in the store"),
        ({"group_by": "nobody"}, "no column"),
        ({"label_column": "nobody"}, "no column 'nobody'"),
        ({"dataset_version": 4}, "version"),
        ({"nieghbors": 3}, "did you mean 'neighbors'"),
    ],
)
def test_a_refusal_leaves_no_folder(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    store = imported(tmp_path / "s", *made(n=30))
    with pytest.raises((InputError, OSError), match=said):
        inspect(store, dataset="pets", model="mine", out=tmp_path / "look", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_images_are_measured_and_copies_found_by_their_bytes(
    tmp_path: Path, photos: Path, run_cli: Run
) -> None:
    first, path = sorted((photos / "disc").iterdir())[:2]
    with Image.open(path) as opened:
        second = opened.convert("RGB")
    (photos / "square" / "copy.png").write_bytes(first.read_bytes())
    (photos / "disc" / "again5.png").write_bytes(first.read_bytes())
    Image.new("RGB", second.size, (90, 90, 90)).save(photos / "disc" / "blank.png")
    second.resize((400, 30)).save(photos / "disc" / "wide.png")
    second.convert("L").save(photos / "disc" / "gray.png")
    (photos / "disc" / "broken.png").write_bytes(b"no image")
    extract(photos, model=MODEL, store=tmp_path / "s", max_failures=1)
    asked = ("inspect", "--store", tmp_path / "s", "--data", photos, "--fail-on", "duplicate")
    code, out, err = run_cli(*asked, "--out", tmp_path / "look", "--json")
    assert (code, "--fail-on: findings of images: duplicate of 3" in err) == (1, True), err
    assert json.loads(out)["counts"]["duplicate"] == 3
    with (tmp_path / "look" / "findings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    page = shown(tmp_path / "look" / "page.html")
    images, (group,) = page["images"], (each for each in page["cards"] if each["kind"] == "duplicate")
    assert {images["ids"][at] for at in group["ids"]} >= {"disc/again5.png", "square/copy.png"}
    assert {str(at) for at in group["ids"]} <= images["thumbnails"].keys()
    assert group["proposals"] == [None] * 3
    broken = images["ids"].index("disc/broken.png")
    assert "not an image" in images["reasons"][str(broken)]
    copies = {row["id"]: row["suggestion"] for row in rows if row["kind"] == "duplicate"}
    assert copies == dict.fromkeys(
        (f"disc/{first.name}", "disc/again5.png", "square/copy.png"), "check the labels"
    )
    told = {(row["id"], row["suggestion"]) for row in rows if row["kind"] == "image"}
    assert {
        ("disc/blank.png", "blank"),
        ("disc/wide.png", "elongated"),
        ("disc/gray.png", "mode L"),
        ("disc/broken.png", "exclude"),
    } <= told
    is_leak = any(row["leak"] == "test|train" for row in rows if row["kind"] == "duplicate")
    assert is_leak
    # Training says by itself that copies cross the split that it draws.
    trained = ("train", "--store", tmp_path / "s", "--head", "ncm", "--skip-failed")
    code, out, err = run_cli(*trained, "--out", tmp_path / "run")
    assert (code, "same bytes as a training image" in out) == (0, True), err
    code, _, err = run_cli(*asked[:-1], "copies", "--out", tmp_path / "other")
    assert (code, "'copies' is unknown" in err, (tmp_path / "other").exists()) == (2, True, False)
    code, _, err = run_cli(*asked[:3], "--data", tmp_path / "look", "--out", tmp_path / "other")
    assert (code, (tmp_path / "other").exists()) == (2, False), err
