import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from toptune.train import compute_metrics
from toptune.train.confusion_picture import save_confusion_picture
from toptune.train.metrics import expected_calibration_error


def test_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    classes = ["a", "b", "c"]
    truth, predicted = rng.choice(classes, 60).tolist(), rng.choice(classes, 60).tolist()
    probabilities = rng.dirichlet(np.ones(3), 60)
    result = compute_metrics(truth, predicted, probabilities, classes)
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    assert result["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, predicted))
    assert result["macro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    assert result["log_loss"] == pytest.approx(reference.log_loss(truth, probabilities))
    assert result["confusion_matrix"] == reference.confusion_matrix(truth, predicted).tolist()
    assert result["per_class"]["b"]["support"] == truth.count("b")
    assert result["n_test"] == 60


def test_classes_without_test_rows_do_not_count_as_wrong() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    result = compute_metrics(["a", "b"], ["a", "b"], probabilities, ["a", "b", "c"])
    assert result["balanced_accuracy"] == result["macro_f1"] == 1.0
    assert result["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_no_rows_give_no_figures() -> None:
    result = compute_metrics([], [], np.zeros((0, 2)), ["a", "b"])
    assert (result["accuracy"], result["n_test"]) == (None, 0)
    assert result["confusion_matrix"] == [[0, 0], [0, 0]]


@pytest.mark.parametrize("n", [2, 30, 130])
def test_picture_is_written(n: int, tmp_path: Path) -> None:
    counts = np.diag(np.arange(n)) + np.eye(n, k=1, dtype=int)
    names = [f"$class_{i} with rather a long name, longer still" for i in range(n)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_confusion_picture(tmp_path / "c.png", counts, names, title="$x")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 300
        assert len(np.unique(np.asarray(picture.convert("L")))) > 3


def test_picture_shows_shares_of_the_true_class_and_names_its_fonts_letters(tmp_path: Path) -> None:
    names = ["one", "two", "日本", "Ångström", ""]
    for size in (5, 40):
        counts = np.zeros((size, size), dtype=int)
        counts[0, 0], counts[1, :2], counts[2, 3] = 7, (3, 1), 9
        save_confusion_picture(tmp_path / f"{size}.png", counts, [*names, *map(str, range(size - 5))])
        with Image.open(tmp_path / f"{size}.png") as opened:
            picture = np.asarray(opened.convert("RGB")).astype(int)
        least, most = np.array([247, 251, 255]), np.array([8, 48, 107])
        # The matrix is the one large square that holds the lightest blue; its frame is next to it.
        rows, columns = (
            np.flatnonzero((picture == least).all(axis=2).sum(axis=axis) > 100) for axis in (1, 0)
        )
        side = rows[-1] - rows[0] + 1
        assert side == columns[-1] - columns[0] + 1
        assert side % size == 0
        cell = side // size
        corners = picture[rows[0] + 2 :: cell, columns[0] + 2 :: cell][:size, :size]
        np.testing.assert_array_equal(corners[0, 0], most)
        np.testing.assert_array_equal(corners[2, 3], most)
        np.testing.assert_array_equal(corners[3:], np.broadcast_to(least, (size - 3, size, 3)))
        np.testing.assert_array_equal(corners[1, 0], [33, 113, 181])  # three quarters of the way
        assert (np.diff([corners[1, 1, 2], corners[1, 0, 2], most[2]]) < 0).all()
        beside = picture[rows[0] : rows[-1], : columns[0] - 2].min(axis=(1, 2)) < 128
        named = [beside[row * cell : (row + 1) * cell].any() for row in range(5)]
        assert named == [True] * 4 + [False]


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.6 and 0.7 with one right, 0.95 twice with both right."""
    confidence = np.array([0.6, 0.66, 0.95, 0.95])
    is_right = np.array([True, False, True, True])
    # Of fifteen bins, 0.6 and 0.66 lie in the ninth and tenth.
    expected = (abs(0.6 - 1) + abs(0.66 - 0) + abs(1.9 - 2)) / 4
    assert expected_calibration_error(confidence, is_right) == pytest.approx(expected)
    together = abs(0.6 + 0.66 - 1) + abs(1.9 - 2)
    assert expected_calibration_error(confidence, is_right, n_bins=4) == pytest.approx(together / 4)


def test_calibrated_predictions_have_little_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 50_000)
    is_right = rng.uniform(size=50_000) < confidence
    assert expected_calibration_error(confidence, is_right) < 0.01
    assert expected_calibration_error(confidence, np.ones(50_000, bool)) == pytest.approx(0.25, abs=0.01)
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
