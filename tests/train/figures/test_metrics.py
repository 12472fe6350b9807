import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from sklearn import metrics as reference

from toptune.train import compute_metrics
from toptune.train.figures.confusion_plot import draw_confusion, save_confusion_image
from toptune.train.figures.metrics import (
    Answers,
    ClassTables,
    codes_of,
    expected_calibration_error,
    figures_of,
)
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.writing import write_metrics


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


@pytest.mark.parametrize("n_classes", [200, 201, 700])
def test_many_classes_lie_beside_the_metrics(n_classes: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(n_classes)
    classes = [f"class {at}" for at in range(n_classes)]
    truth = rng.choice(classes[:-1], 900).tolist()
    probabilities = rng.dirichlet(np.full(n_classes, 0.01), 900)
    answers = Answers.of(codes_of(truth, classes), probabilities)
    tables = ClassTables.of(answers, classes)
    figures = figures_of(answers, tables)
    predicted = [classes[code] for code in answers.guesses]
    counts = {"n_train": 1, "seconds": {"total": 1.0}}
    write_metrics(tmp_path, figures | tables.files | counts, tables)
    is_listed = n_classes == 200
    assert ("confusion_matrix" in figures) == ("per_class" in figures) == is_listed
    assert (tmp_path / "metrics.json").stat().st_size < 400_000
    assert len([*tmp_path.iterdir()]) == (1 if is_listed else 3)
    read = RunMetrics.read(tmp_path / "metrics.json", advice="train again").tables(tmp_path)
    assert list(read.classes) == classes
    labels = {"labels": classes, "zero_division": 0.0}
    expected = reference.precision_recall_fscore_support(truth, predicted, **labels)
    for found, right in zip((read.precision, read.recall, read.f1, read.support), expected, strict=True):
        np.testing.assert_array_equal(found, right)
    matrix = reference.confusion_matrix(truth, predicted, labels=classes)
    np.testing.assert_array_equal(read.confusion.toarray(), matrix)
    loss = reference.log_loss(codes_of(truth, classes), probabilities, labels=range(n_classes))
    assert figures["log_loss"] == pytest.approx(loss, rel=1e-12)
    if not is_listed:
        told = pq.read_table(tmp_path / "per_class.parquet").to_pylist()[7]
        assert (told["class"], told["recall"]) == ("class 7", expected[1][7])


def test_ten_thousand_classes_take_little_memory(tmp_path: Path) -> None:
    classes = [f"class {at}" for at in range(10_000)]
    codes = np.arange(10_000).repeat(2)
    guesses, sure = (codes * 7 + 1) % 10_000, np.full(20_000, 0.5)
    answers = Answers(codes=codes, guesses=guesses, confidence=sure, likelihood=sure)
    tracemalloc.start()
    tables = ClassTables.of(answers, classes)
    write_metrics(tmp_path, {**figures_of(answers, tables), **tables.files}, tables)
    pooled = draw_confusion(Figure().add_subplot(), tables.confusion, classes).get_array()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pooled is not None
    assert pooled.shape == (1000, 1000)
    # A dense matrix takes 800 MB, and as JSON 600 MB.
    assert peak < 100e6
    assert (tmp_path / "metrics.json").stat().st_size < 10_000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1e6


def test_a_cell_of_many_classes_is_the_sum_of_neighbors() -> None:
    counts = np.zeros((1003, 1003), int)
    counts[0, 0], counts[0, 1], counts[1, 3], counts[1002, 1002] = 3, 1, 4, 5
    axes = Figure().add_subplot()
    image = draw_confusion(axes, counts, [f"class {at}" for at in range(1003)])
    shares = image.get_array()
    assert shares is not None
    assert shares.shape == (502, 502)
    assert (shares[0, 0], shares[0, 1], shares[501, 501]) == (0.5, 0.5, 1)
    assert axes.get_xlabel() == "predicted class (a cell is 2 classes)"


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
def test_image_is_written(n: int, tmp_path: Path) -> None:
    counts = np.diag(np.arange(n)) + np.eye(n, k=1, dtype=int)
    names = [f"$class_{i} with rather a long name, longer still" for i in range(n)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_confusion_image(tmp_path / "c.png", counts, names, title="$x")
    with Image.open(tmp_path / "c.png") as image:
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image.convert("L")))) > 3


@pytest.mark.parametrize("n", [5, 30, 31, 100, 1000])
def test_image_shows_shares_of_the_true_class_counts_and_names(n: int) -> None:
    counts = np.zeros((n, n), dtype=int)
    counts[0, 0], counts[1, :2], counts[2, 3] = 7, (3, 1), 9
    axes = Figure().add_subplot()
    image = draw_confusion(axes, counts, [f"$class_{row}" for row in range(n)], ink="red")
    shares = np.zeros((n, n))
    shares[0, 0], shares[1, :2], shares[2, 3] = 1, (0.75, 0.25), 1
    np.testing.assert_array_equal(image.get_array(), shares)
    shades = image.to_rgba(np.array([0.0, 0.25, 0.75, 1.0]))
    np.testing.assert_allclose(shades[:, 3], [0, 0.25, 0.75, 1], atol=0.01)
    cells = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    expected = {(0, 0): "7", (0, 1): "3", (1, 1): "1", (3, 2): "9"} if n <= 30 else {}
    assert cells == {place: (count, "red") for place, count in expected.items()}
    step = {5: 1, 30: 1, 31: 1, 100: 3, 1000: 25}[n]
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == [
            f"$class_{row}" for row in range(0, n, step)
        ]


@pytest.mark.parametrize("n", [5, 40, 1000])
def test_every_row_can_be_seen_in_the_image(n: int, tmp_path: Path) -> None:
    """Each class of a diagonal takes some dots of its own, of the full color."""
    save_confusion_image(tmp_path / "c.png", np.eye(n, dtype=int), [f"{row}" for row in range(n)])
    with Image.open(tmp_path / "c.png") as opened:
        dots = np.asarray(opened.convert("RGB")).astype(int)
    # Blue that is as deep as half of a class; the scale of the colors takes the right sixth.
    rows, columns = np.nonzero(dots[:, : dots.shape[1] * 5 // 6, 0] < 170)
    is_blue = dots[rows, columns, 2] - dots[rows, columns, 0] > 60
    assert len(np.unique(rows[is_blue])) >= n
    assert len(np.unique(columns[is_blue])) >= n
    assert dots.size < 20e6


def test_a_number_stands_for_a_name_that_the_font_cannot_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def watch(axes: Axes, confusion: npt.ArrayLike, names: list[str]) -> AxesImage:
        shown.extend(names)
        return draw_confusion(axes, confusion, names)

    monkeypatch.setattr("toptune.train.figures.confusion_plot.draw_confusion", watch)
    names = ["one", "日本", "Ångström", "two\nlines", "", "rather a long name, longer than fits"]
    save_confusion_image(tmp_path / "c.png", np.eye(6, dtype=int), names, title="日本 $x\n")
    assert shown == ["one", "#1", "Ångström", "#3", "", "rather a long name, longer …"]


def test_drawing_leaves_no_state_and_is_imported_late() -> None:
    code = (
        "import sys\nimport toptune.train.runs.writing\nassert 'matplotlib' not in sys.modules\n"
        "from toptune.train.figures.confusion_plot import save_confusion_image\n"
        "import tempfile, pathlib\n"
        "save_confusion_image(pathlib.Path(tempfile.mkdtemp()) / 'c.png', [[1, 0], [1, 2]], ['a', 'b'])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
