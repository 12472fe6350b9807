"""FalkonML as the last fit: the same problem, the same head, and what is said where it is not installed."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import make_classification
from torch import Tensor

from toptune.store import ArrayBlocks, FeatureCache, InputError, NumericalError
from toptune.train import FalkonClassifier, Run, train
from toptune.train.heads.heads import make_head
from toptune.train.kernels.kernels import Linear, Radial, kernel_of
from toptune.train.kernels.names import KERNELS
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.falkon_lib import library_kernel, solve_library
from toptune.train.solvers.solver_choice import Sizes, choose_solver

Build = Callable[..., FeatureCache]
SIZES = Sizes(
    n=20_000, d=512, n_centers=1000, n_classes=100, n_widths=5, n_penalties=8, n_folds=5, value_bytes=4,
    limit_bytes=8 * 2**30,
)  # fmt: skip


@pytest.fixture
def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("falkon", reason="FalkonML is not installed", exc_type=ImportError)


def data(n: int = 300) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    X, y = make_classification(n, 8, n_informative=7, n_redundant=0, n_classes=3, random_state=0)
    return X, y


def make_rows(weights: npt.NDArray[np.float64] | None = None) -> TrainingRows:
    X, y = data()
    return TrainingRows(
        blocks=ArrayBlocks(X),
        codes=y.astype(np.int64),
        weights=np.ones(len(X)) if weights is None else weights / weights.mean(),
        folds=np.zeros(len(X), dtype=np.int64),
        n_classes=3,
        n_folds=1,
    )


def dense_scores(rows: TrainingRows, kernel: Radial | Linear, centers: Tensor, penalty: float) -> Tensor:
    """Scores of all rows by the system that FalkonML states, its jitter included, in one solve."""
    X = torch.from_numpy(rows.blocks.take(np.arange(rows.n)))
    w = torch.from_numpy(rows.weights)[:, None]
    targets = torch.nn.functional.one_hot(torch.from_numpy(rows.codes), rows.n_classes).double()
    mean = (w * targets).mean(dim=0)
    values, square = kernel(X, centers), kernel(centers, centers)
    square.diagonal().add_(1e-13 * len(centers))
    system = values.T @ (w * values) / rows.n + penalty * square
    dual = torch.linalg.lstsq(system, values.T @ (w * (targets - mean)) / rows.n, driver="gelsd").solution
    scores: Tensor = values @ dual + mean
    return scores


def test_without_the_library_nothing_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: Build
) -> None:
    build()
    monkeypatch.setitem(sys.modules, "falkon", None)
    message = "'falkon-lib' needs FalkonML.*build it from the source of FalkonML/falkon.*use solver 'falkon'"
    with pytest.raises(InputError, match=message):
        FalkonClassifier(solver="falkon-lib").fit([[0.0]], [0])
    with pytest.raises(InputError, match=message):
        train(
            tmp_path / "store",
            dataset="pets",
            model="tiny.demo",
            out=tmp_path / "run",
            solver="falkon-lib",
            allow_failed=True,
        )
    with pytest.raises(InputError, match=message) as refused:
        make_head("falkon", params={"solver": "falkon-lib"}, device="auto")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_other_devices_are_refused() -> None:
    with pytest.raises(InputError, match="runs on the CPU, device is 'cuda'"):
        FalkonClassifier(solver="falkon-lib", device="cuda").fit(*data())


def test_the_copy_of_all_rows_is_counted_before_the_work() -> None:
    roomy = choose_solver("falkon-lib", SIZES)
    assert roomy.solver == "falkon-lib"
    assert roomy.is_cached
    stored = SIZES.n * SIZES.n_centers * 4
    assert roomy.peak_bytes > SIZES.n * SIZES.d * 4 + 2 * stored
    assert "copy of all rows" in str(roomy)
    assert json.loads(json.dumps(roomy.to_dict()))["library_peak_bytes"] == roomy.peak_bytes
    many = Sizes(**{**vars(SIZES), "n": 5_000_000})
    with pytest.raises(
        InputError, match=r"copy of all 5000000 rows, needs about .* and 8.00 GiB may be taken"
    ):
        choose_solver("falkon-lib", many)
    assert choose_solver("falkon", many).library_peak_bytes is None
    square = Sizes(**{**vars(SIZES), "n": 1000})
    assert not choose_solver("falkon-lib", square).is_cached


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_have_the_same_values(library: Any, name: str) -> None:
    X, _ = data()
    rows, centers = torch.from_numpy(X), torch.from_numpy(X[:40])
    ours = kernel_of(name, None if name == "linear" else 1.7)
    theirs = library_kernel(ours, library.FalkonOptions(use_cpu=True, keops_active="no"))
    # Its distance of a row to itself is not quite 0: squares cancel, and the root is taken of what is left.
    torch.testing.assert_close(theirs(rows, centers), ours(rows, centers), atol=1e-6, rtol=0.0)


WEIGHTS: dict[str, Any] = {"equal": None, "two to one": 1.0 + (np.arange(300) % 2)}


@pytest.mark.parametrize("n_centers", [60, 300])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ["gaussian", "laplacian", "linear"])
@pytest.mark.parametrize("is_stored", [False, True])
def test_answers_the_system_it_states(
    library: Any, n_centers: int, weights: str, name: str, is_stored: bool
) -> None:
    rows = make_rows(WEIGHTS[weights])
    chosen = np.random.default_rng(0).permutation(300)[:n_centers]
    centers = torch.from_numpy(rows.blocks.take(chosen))
    kernel = kernel_of(name, None if name == "linear" else 3.0)
    # With is_stored and 300 centers the stored matrix is square: misread, it would be far off.
    found = solve_library(
        rows, kernel, centers, 1e-3, center_rows=chosen, is_stored=is_stored, max_iterations=60
    )
    X = torch.from_numpy(rows.blocks.take(np.arange(300)))
    scores = kernel(X, centers) @ found.dual + found.intercept
    torch.testing.assert_close(scores, dense_scores(rows, kernel, centers, 1e-3), atol=1e-3, rtol=0.0)
    assert found.residual < 1e-3
    assert found.version == library.__version__
    assert found.messages == ()


def test_residual_tells_how_far_the_answer_is(library: Any) -> None:
    rows = make_rows()
    chosen = np.arange(0, 300, 3)
    centers = torch.from_numpy(rows.blocks.take(chosen))
    kernel = kernel_of("gaussian", 3.0)
    X = torch.from_numpy(rows.blocks.take(np.arange(300)))
    exact = dense_scores(rows, kernel, centers, 1e-5)
    residuals, distances = [], []
    for max_iterations in (2, 5, 20, 80):
        found = solve_library(
            rows, kernel, centers, 1e-5, center_rows=chosen, is_stored=False, max_iterations=max_iterations
        )
        residuals.append(found.residual)
        scores = kernel(X, centers) @ found.dual + found.intercept
        distances.append(float((scores - exact).norm() / exact.norm()))
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[0] > 0.01
    assert residuals[-1] < 1e-6
    assert all(
        distance < 3 * residual + 1e-6 for distance, residual in zip(distances, residuals, strict=True)
    )


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_centers", [80, 1000])
def test_the_head_is_the_same_head(
    library: Any, capfd: pytest.CaptureFixture[str], n_centers: int, class_weight: Any
) -> None:
    X, y = data(400)
    options: dict[str, Any] = {"n_centers": n_centers, "class_weight": class_weight, "random_state": 0}
    ours = FalkonClassifier(solver="falkon", **options).fit(X, y)
    capfd.readouterr()
    theirs = FalkonClassifier(solver="falkon-lib", **options).fit(X, y)
    assert capfd.readouterr().out == ""
    assert (theirs.sigma_, theirs.penalty_) == (ours.sigma_, ours.penalty_)
    assert theirs.temperature_ == ours.temperature_
    assert theirs.centers_.shape == (min(n_centers, 400), 8)
    # Features are centered in one and not in the other: near, not equal.
    assert np.abs(theirs.scores(X) - ours.scores(X)).max() < 0.1
    assert (theirs.predict(X) == ours.predict(X)).mean() > 0.98
    report = theirs.report_.to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["solver"] == "falkon-lib"
    assert report["rank"] == min(n_centers, 400)
    account = report["iteration"]
    assert account["version"] == library.__version__
    assert account["max_iterations"] == 20
    assert "returns none" in account["residual_source"]
    assert 0 <= account["residual"] < 0.1
    assert account["is_kernel_cached"] == (n_centers == 80)
    said = any("returns no residual" in warning for warning in report["warnings"])
    assert said == (account["residual"] > account["tolerance"])


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_centers_may_be_given_and_nothing_selected(library: Any, class_weight: Any) -> None:
    X, y = data(400)
    options: dict[str, Any] = {"class_weight": class_weight, "sigma": 3.0, "penalty": 1e-3, "cv": None}
    given: dict[str, Any] = {"centers": X[:60] + 0.01}
    for centers in (given, {"n_centers": 60, "random_state": 0}):
        ours = FalkonClassifier(solver="direct", **centers, **options).fit(X, y)
        theirs = FalkonClassifier(solver="falkon-lib", **centers, **options).fit(X, y)
        if centers is given:
            np.testing.assert_array_equal(theirs.centers_, given["centers"])
            assert theirs.center_indices_ is None
        else:
            np.testing.assert_array_equal(theirs.centers_, X[theirs.center_indices_])
        assert theirs.temperature_ == pytest.approx(ours.temperature_)
        assert theirs.report_.iteration is not None
        assert theirs.report_.iteration["version"] == library.__version__
        assert theirs.report_.iteration["residual"] < 1e-2
        assert theirs.sums_ is None
        assert np.abs(theirs.scores(X) - ours.scores(X)).max() < 0.1


def test_what_the_library_warns_of_is_reported(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data()
    plain = library.Falkon.fit

    def warning(self: Any, *args: Any) -> Any:
        warnings.warn("the moon is full", stacklevel=1)
        return plain(self, *args)

    monkeypatch.setattr(library.Falkon, "fit", warning)
    fitted = FalkonClassifier(solver="falkon-lib", n_centers=50).fit(X, y)
    assert "FalkonML warned: the moon is full" in fitted.report_.warnings

    def failing(self: Any, *args: Any) -> Any:
        raise RuntimeError("no factor")

    monkeypatch.setattr(library.Falkon, "fit", failing)
    with pytest.raises(NumericalError, match=r"FalkonML failed \(no factor\); raise the penalty"):
        FalkonClassifier(solver="falkon-lib", n_centers=50).fit(X, y)


def test_runs_are_saved_and_loaded_without_the_library(
    library: Any, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = build()
    run = train(
        tmp_path / "store", dataset="pets", model="tiny.demo", cv=3, solver="falkon-lib", out=tmp_path / "run"
    )
    assert run.config["report"]["iteration"]["version"] == library.__version__
    assert run.metrics["accuracy"] > 0.7
    monkeypatch.setitem(sys.modules, "falkon", None)
    names = [array.name for array in run.arrays]
    blocks = cache.blocks(names, run.test_rows)
    again = Run.load(tmp_path / "run").predict_blocks(blocks)[1]
    np.testing.assert_array_equal(again, run.predict_blocks(blocks)[1])


MEASURE = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
from toptune.train import FalkonClassifier
def fit(n, d, m, limit):
    X = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    def says(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
    before = says("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    options = {"sigma": 8.0, "penalty": 1e-3, "random_state": 0, "memory_limit_bytes": limit}
    fitted = FalkonClassifier(n_centers=m, solver="falkon-lib", **options).fit(X, np.arange(n) % 10)
    return {"grown": says("VmHWM") - before, "projected": fitted.report_.peak_bytes,
            "stored": fitted.report_.iteration["is_kernel_cached"]}
fit(500, 8, 50, None)
print(json.dumps(fit(*(int(text) for text in sys.argv[1:]))))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("limit", [2**30, 330 * 2**20])
def test_measured_peak_is_below_the_projection(library: Any, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "12000", "64", "600", str(limit)],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["stored"] == (limit == 2**30)
    assert 0.1 * figures["projected"] <= figures["grown"] <= figures["projected"] <= limit
