"""The choice of solver, what it does to scores, and the memory that it promises."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification

from toptune.machine.memory import bytes_of, check_memory, left_bytes
from toptune.store import FeatureCache, InputError
from toptune.train import FalkonClassifier, StreamingRidgeClassifier, train
from toptune.train.heads import options
from toptune.train.passes.kernel_rows import CACHED_ROWS
from toptune.train.solvers.solver_choice import SOLVERS, Sizes, choose_solver

SIZES = Sizes(
    n=20_000, d=512, n_centers=1000, n_classes=100, n_widths=5, n_penalties=8, n_folds=5, value_bytes=4,
    limit_bytes=8 * 2**30,
)  # fmt: skip
Build = Callable[..., FeatureCache]


def data(n: int = 400) -> tuple[Any, Any]:
    X, y = make_classification(n, 8, n_informative=7, n_redundant=0, n_classes=3, random_state=0)
    return X, y


def test_the_options_offer_the_solvers_that_there_are() -> None:
    assert options.SOLVERS == SOLVERS


def test_auto_is_direct_while_the_gram_matrix_is_cheap_and_falkon_beyond() -> None:
    assert choose_solver("auto", SIZES).solver == "direct"
    assert choose_solver("auto", replace(SIZES, n_centers=2000)).solver == "direct"
    large = choose_solver("auto", replace(SIZES, n=200_000, n_centers=10_000, limit_bytes=64 * 2**30))
    assert large.solver == "falkon"
    assert large.falkon_work < large.direct_work
    # A single fit of few classes needs no path: only the centers decide.
    one = replace(SIZES, n_centers=5000, n_classes=10, n_widths=1, n_penalties=1)
    assert choose_solver("auto", one).solver == "falkon"
    many = replace(one, n_classes=1000, n=5000)
    assert choose_solver("auto", many).solver == "direct"


def test_memory_decides_before_work_does() -> None:
    roomy = replace(SIZES, n=200_000, n_centers=8000, limit_bytes=64 * 2**30)
    direct, falkon = (choose_solver(name, roomy) for name in ("direct", "falkon"))
    assert not falkon.is_cached  # 6.4 GB of kernel values
    between = (falkon.falkon_peak_bytes + direct.direct_peak_bytes) // 2
    assert choose_solver("auto", replace(roomy, limit_bytes=between)).solver == "falkon"
    with pytest.raises(
        InputError, match=r"'direct' with 8000 centers needs about [\d.]+ GiB.*and [\d.]+ GiB may be taken"
    ):
        choose_solver("direct", replace(roomy, limit_bytes=between))
    with pytest.raises(InputError, match="--memory-limit"):
        choose_solver("auto", replace(roomy, limit_bytes=2**20))
    small = replace(SIZES, n=50_000, n_centers=4000, n_widths=1, n_penalties=1)
    cached = choose_solver("falkon", small)
    assert cached.is_cached
    tight = choose_solver("falkon", replace(small, limit_bytes=cached.falkon_peak_bytes - 1))
    assert not tight.is_cached
    multiplied = CACHED_ROWS * (4000 + 2 * SIZES.n_classes) * 8
    assert cached.peak_bytes - tight.peak_bytes == 50_000 * 4000 * 4 + multiplied
    assert json.loads(json.dumps(cached.to_dict()))["peak_bytes"] == cached.falkon_peak_bytes


@pytest.mark.parametrize("n_centers", [100, 400, 1000])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear"])
def test_falkon_scores_are_those_of_the_direct_solver(n_centers: int, kernel: str) -> None:
    X, y = data()
    options: dict[str, Any] = {"kernel": kernel, "n_centers": n_centers, "random_state": 0}
    direct = FalkonClassifier(solver="direct", **options).fit(X, y)
    falkon = FalkonClassifier(solver="falkon", **options).fit(X, y)
    assert (falkon.penalty_, falkon.sigma_) == (direct.penalty_, direct.sigma_)
    np.testing.assert_allclose(falkon.decision_function(X), direct.decision_function(X), atol=1e-4)
    np.testing.assert_array_equal(falkon.centers_, direct.centers_)
    report = falkon.report_
    assert report.solver == "falkon"
    assert report.iteration is not None
    assert report.iteration["reason"] == "converged"
    assert report.iteration["history"][-1] <= 2 * report.iteration["tolerance"]
    assert not any("converged" in warning for warning in report.warnings)
    assert direct.report_.iteration is None
    assert direct.report_.plan["solver"] == "direct"


def test_selection_on_fewer_centers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toptune.train.solvers.solver_choice.SELECTION_CENTERS", 50)
    X, y = data()
    falkon = FalkonClassifier(solver="falkon", n_centers=200, random_state=0).fit(X, y)
    direct = FalkonClassifier(
        solver="direct", n_centers=200, random_state=0, sigma=falkon.sigma_, penalty=falkon.penalty_
    ).fit(X, y)
    assert falkon.report_.iteration is not None
    assert falkon.report_.iteration["selected_on_centers"] == 50
    assert falkon.report_.rank > 150
    np.testing.assert_allclose(falkon.decision_function(X), direct.decision_function(X), atol=1e-4)


def test_no_convergence_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        __import__("toptune.train.solvers.falkon", fromlist=["x"]).solve_falkon.__kwdefaults__,
        "max_iterations",
        3,
    )
    X, y = data()
    fitted = FalkonClassifier(solver="falkon", n_centers=50, sigma=1.0, penalty=1e-9).fit(X, y)
    assert any("not converged: iteration-limit after 3" in warning for warning in fitted.report_.warnings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GiB", 2 * 2**30),
        ("500MB", 500_000_000),
        ("1.5 gib", 3 * 2**29),
        ("1024", 1024),
        (77, 77),
        ("3k", 3000),
    ],
)
def test_sizes_are_read_with_their_units(text: str | int, expected: int) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "0", "0.5", "2 GiBs", "GiB", -5, 0])
def test_no_sizes_are_refused(text: str | int) -> None:
    with pytest.raises(InputError, match="no number of bytes from 1; give one such as 2GiB"):
        bytes_of(text)


@pytest.mark.parametrize("text", ["99999999999999999999TiB", "8388608TiB", 2**63, 10**400])
def test_sizes_that_no_system_addresses_are_refused(text: str | int) -> None:
    with pytest.raises(InputError, match="more than systems can address; give less than 8EiB"):
        bytes_of(text)


@pytest.mark.parametrize(("limit", "shown"), [(1, "1 byte"), (1000, "1000 bytes"), (5 << 20, "5.0 MiB")])
def test_a_limit_that_is_too_low_is_told_with_one_that_works(limit: int, shown: str) -> None:
    with pytest.raises(InputError, match=f"the memory limit is {shown}, and this process takes") as refused:
        left_bytes(limit)
    advised = re.search(r"such as (\d+MiB)$", str(refused.value))
    assert advised is not None
    assert left_bytes(bytes_of(advised[1])) >= 200 << 20


def test_small_amounts_are_told_in_small_units() -> None:
    message = r"x needs about 1\.5 MiB of memory, and 2\.0 KiB may be taken; take less"
    with pytest.raises(InputError, match=message):
        check_memory(3 << 19, limit_bytes=2048, what="x", instead="take less")


@pytest.mark.parametrize("head", ["falkon", "falkon-logistic", "ridge", "knn"])
def test_training_refuses_what_exceeds_the_limit(head: str, build: Build, tmp_path: Path) -> None:
    build()
    options: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3, "head": head}
    with pytest.raises(InputError, match=r"the memory limit is .* this process takes .* before the work"):
        train(tmp_path / "store", out=tmp_path / "run", memory_limit="5kB", **options)
    assert not (tmp_path / "run").exists()
    run = train(tmp_path / "store", out=tmp_path / "run", memory_limit="16GiB", **options)
    assert run.config["options"]["memory_limit"] == "16GiB"
    if head != "knn":
        plan = run.config["report"]["plan"]
        # The limit is on the whole process, and what it takes already is not left to the fit.
        assert 0 < plan["peak_bytes"] <= plan["limit_bytes"] < 16 * 2**30 - 50 * 2**20


def test_training_by_falkon(build: Build, tmp_path: Path) -> None:
    build()
    options: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3}
    iterated = train(tmp_path / "store", out=tmp_path / "a", solver="falkon", **options)
    direct = train(tmp_path / "store", out=tmp_path / "b", solver="direct", **options)
    assert iterated.config["report"]["iteration"]["reason"] == "converged"
    assert iterated.metrics["accuracy"] == direct.metrics["accuracy"]
    assert iterated.metrics["log_loss"] == pytest.approx(direct.metrics["log_loss"], abs=1e-4)
    logistic = train(tmp_path / "store", out=tmp_path / "d", head="falkon-logistic", n_centers=50, **options)
    assert logistic.config["report"]["iteration"]["reason"] == "converged"
    assert logistic.metrics["log_loss"] < 1.2 * direct.metrics["log_loss"] + 0.1
    with pytest.raises(InputError, match="solver has no meaning for head 'falkon-logistic'"):
        train(tmp_path / "store", out=tmp_path / "c", head="falkon-logistic", solver="direct", **options)
    with pytest.raises(InputError, match="solver has no meaning"):
        train(tmp_path / "store", out=tmp_path / "c", head="knn", solver="falkon", **options)


# Rows that are made as they are read, so that the process holds nothing that grows with n of its own.
MEASURE = """
import json, os, sys
import numpy as np, torch
torch.set_num_threads(1)
from toptune.train import FalkonClassifier, FalkonLogisticClassifier, StreamingRidgeClassifier
class Made:
    def __init__(self, n, d):
        self.shape, self.dtype = (n, d), np.dtype(np.float32)
    def rows(self, start, stop):
        noise = np.random.default_rng(start // 500).normal(size=(500, self.shape[1])).astype(np.float32)
        return noise[start % 500 : start % 500 + stop - start]
    def iterate(self, block_rows=None):
        step = min(block_rows or 500, 500)
        for start in range(0, self.shape[0], 500):
            for first in range(start, min(start + 500, self.shape[0]), step):
                stop = min(first + step, start + 500, self.shape[0])
                yield slice(first, stop), self.rows(first, stop)
    def take(self, rows):
        return np.concatenate([self.rows(row, row + 1).copy() for row in np.asarray(rows).tolist()])
def fit(n, d, m, solver):
    blocks, y = Made(n, d), np.arange(n) % 10
    if solver == "ridge":
        return StreamingRidgeClassifier(penalty=[1e-3, 1e-1]).fit(blocks, y)
    grids = {"sigma": [4.0, 8.0], "penalty": [1e-3, 1e-1]}
    if solver == "logistic":
        return FalkonLogisticClassifier(n_centers=m, random_state=0, **grids).fit(blocks, y)
    return FalkonClassifier(n_centers=m, solver=solver, random_state=0, **grids).fit(blocks, y)
def kernel_says(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def measured(n, d, m, solver):
    fit(500, 8, 50, solver)  # libraries and their workspaces
    before = kernel_says("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew: ru_maxrss would hold that of the process before the fork
    fitted = fit(n, d, m, solver)
    return {"grown": kernel_says("VmHWM") - before, "projected": fitted.report_.peak_bytes}
for line in sys.stdin:
    # Each fit has a process of its own, which holds nothing of the fits before. Libraries are loaded once.
    process = os.fork()
    if not process:
        print(json.dumps(measured(*json.loads(line))), flush=True)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert status == 0, (line, status)
"""
M_CENTERS = 600
SOLVER_DIMS = {"direct": 64, "falkon": 64, "logistic": 64, "ridge": 600}
N_SMALL, N_LARGE = 12_000, 48_000


@pytest.fixture(scope="module")
def figures() -> dict[tuple[str, int], dict[str, int]]:
    """Measured and projected bytes of fits of each solver to few and to many rows."""
    fits = [(solver, n) for solver in SOLVER_DIMS for n in (N_SMALL, N_LARGE)]
    asked = [json.dumps([n, SOLVER_DIMS[solver], M_CENTERS, solver]) for solver, n in fits]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input="\n".join(asked),
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(fits, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("solver", SOLVER_DIMS)
def test_measured_peak_is_below_the_projection_and_flat_in_n(
    solver: str, figures: dict[tuple[str, int], dict[str, int]]
) -> None:
    small, large = figures[solver, N_SMALL], figures[solver, N_LARGE]
    for each in (small, large):
        assert 0.1 * each["projected"] <= each["grown"] <= each["projected"]
    if solver in ("falkon", "logistic"):
        # The kernel's values are kept here, which the projection says.
        assert large["projected"] - small["projected"] >= (N_LARGE - N_SMALL) * M_CENTERS * 4
    else:
        assert large["projected"] <= 1.1 * small["projected"]
        assert large["grown"] - small["grown"] <= 0.1 * small["projected"]


def test_classifiers_take_the_limit_themselves() -> None:
    X, y = data()
    with pytest.raises(InputError, match="limit"):
        FalkonClassifier(memory_limit_bytes=10_000).fit(X, y)
    with pytest.raises(InputError, match="limit"):
        StreamingRidgeClassifier(memory_limit_bytes=1000).fit(X, y)
