"""Wrong labels among several an image, and wrong numbers, are found by what left the image out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import make_multilabel_classification

from toptune.errors import InputError
from toptune.store import FeatureStore, Manifest, Recipe
from toptune.train import FalkonClassifier, FalkonRegressor
from toptune.workflows import inspect
from toptune.workflows.inspection.targets import doubtful_numbers

N = 120
Run = Callable[..., tuple[int, str, str]]


def stored(root: Path, values: npt.NDArray[np.floating], **extra: list[Any]) -> FeatureStore:
    """Return a store of rows with further columns."""
    store = FeatureStore.create(root)
    ids = [f"{row}.png" for row in range(len(values))]
    none = [None] * len(ids)
    manifest = Manifest.from_columns(ids=ids, labels=none, splits=none, sizes=[0] * len(ids), extra=extra)
    store.register("pets", manifest)
    recipe = Recipe(
        architecture="tiny", model_kwargs={}, weights="ab" * 32, transform={"input_size": [3, 8, 8]},
        decode="pillow-1", precision="fp32",
    )  # fmt: skip
    cache = store.create_cache(
        "mine", "pets", recipe, unit_rows=len(ids), batch_size=8, backbone={"name": "mine"}
    )
    cache.ensure_array("last.mean", dim=values.shape[1], dtype="float32")
    cache.commit_unit(0, {"last.mean": values.astype(np.float32)}, failed={}, seconds=0.0)
    return store


def test_one_of_several_labels_is_told_by_image_and_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    marks = rng.random((N, 3)) < 0.4
    values = 4 * marks @ np.eye(3, 8) + rng.normal(size=(N, 8))
    marks[7, 0], marks[20, 2] = ~marks[7, 0], ~marks[20, 2]
    names = np.array(["car", "dog", "hat"])
    texts: list[str | None] = ["|".join(names[row]) for row in marks]
    texts[40] = None  # nobody knows
    found = inspect(
        stored(tmp_path / "s", values, labels=texts), dataset="pets", model="mine", out=tmp_path / "look"
    )
    told = {(each.id, each.suggestion): each for each in found.findings if each.kind == "label"}
    words = {True: "without", False: "with"}
    planted = {("7.png", f"{words[bool(marks[7, 0])]} car"), ("20.png", f"{words[bool(marks[20, 2])]} hat")}
    assert planted <= told.keys()
    assert len(told) <= 6
    assert "40.png" not in {image for image, _ in told}
    for each in planted:
        near = [int(image.removesuffix(".png")) for image in told[each].related]
        column = list(names).index(each[1].split()[1])
        # Images beside it have what it is said to lack, or lack what it has.
        assert all(marks[row, column] != marks[int(each[0].removesuffix(".png")), column] for row in near)
    assert found.classes == {name: sum(name in (text or "") for text in texts) for name in names.tolist()}
    page = (tmp_path / "look" / "page.html").read_text(encoding="utf-8")
    assert all(told[each].told in page for each in planted)
    assert "relabel" not in str(found)


def test_numbers_far_from_their_predictions_are_told(tmp_path: Path, run_cli: Run) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(N, 5))
    ages = 40 + 10 * values[:, 0] + rng.normal(size=N)
    ages[11] += 60
    column: list[Any] = ages.tolist()
    column[3] = None
    stored(tmp_path / "s", values, age=column)
    asked = ("inspect", "--store", tmp_path / "s", "--target", "age", "--fail-on", "label")
    code, out, err = run_cli(*asked, "--out", tmp_path / "look")
    assert code == 1, err
    assert "11.png: age=" in out
    assert "3.png,label" not in (tmp_path / "look" / "findings.csv").read_text()
    code, _, err = run_cli(*asked[:3], "--target", "agee", "--out", tmp_path / "other")
    assert (code, "age" in err) == (2, True)
    # Equal numbers teach nothing, and the rest of the data set is looked at.
    store = stored(tmp_path / "flat", values, age=[5.0] * N)
    found = inspect(store, dataset="pets", model="mine", out=tmp_path / "same", target="age")
    assert "there is nothing to learn" in found.not_checked["label"]


def test_residuals_are_measured_side_by_side_of_each_target() -> None:
    rng = np.random.default_rng(2)
    predicted = np.zeros((200, 2))
    residuals = np.stack([rng.normal(size=200), 1000 * rng.normal(size=200)], axis=1)
    residuals[5] = 9, 9
    predicted[9] = np.nan
    found = doubtful_numbers(predicted, residuals, ["age", "price"])
    assert [(each.row, each.suggestion) for each in found if each.row == 5] == [(5, "age=0")]
    assert 9 not in {each.row for each in found}


def test_left_out_answers_of_labels_and_numbers_are_those_of_the_fit() -> None:
    X, Y = make_multilabel_classification(n_samples=150, n_classes=3, random_state=0)
    head = FalkonClassifier(n_centers=30, random_state=0).fit(X, Y)
    left = head.left_out_scores_
    assert left is not None
    assert head.sigmoids_ is not None
    np.testing.assert_allclose(
        head.left_out_probabilities(X, Y)[left.rows], head.sigmoids_.probabilities(left.scores), atol=1e-5
    )
    numbers = X[:, :2] @ [[1.0, 200], [2.0, -500]] + 7
    regressor = FalkonRegressor(n_centers=30, random_state=0).fit(X, numbers)
    left = regressor.left_out_scores_
    assert left is not None
    np.testing.assert_allclose(
        regressor.left_out_predictions(X, numbers)[left.rows], left.scores, rtol=1e-4, atol=1e-3
    )
    with pytest.raises(InputError, match="fit with a number of folds"):
        FalkonRegressor(sigma=1.0, penalty=1e-3, cv=None).fit(X, numbers).left_out_predictions(X, numbers)
