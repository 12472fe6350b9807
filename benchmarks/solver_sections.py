"""The other sections of `solvers.py`: a whole selection, scikit-learn's classifiers, rows beyond memory."""

import tempfile
import time
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from solver_fits import (
    N_TEST,
    WARM_UP,
    Problem,
    Size,
    fit_falkonml,
    has_falkonml,
    made_rows,
    make_rows,
    memory_of,
    reset_peak,
)

from toptune.store import FeatureStore
from toptune.store.arrays.stored_layers import choose_arrays
from toptune.train import FalkonClassifier
from toptune.train.kernels.kernels import median_distance

FOLDS = 5
WIDTHS = (0.5, 1.0, 2.0)
PENALTIES = tuple(np.logspace(-9, -3, 10).tolist())
# FalkonML's fits that are timed, as (width, penalty): a sample of those that a selection would take.
TIMED = ((0, 2), (1, 4), (1, 7), (2, 5))
# FalkonML's fits whose accuracy is compared: these penalties with every width.
TRIED = (0, 3, 6, 9)
Keep = Callable[[dict[str, Any]], None]
IsDone = Callable[[str, str, str | None], bool]


def selection_rows(size: Size, repeats: int, is_done: IsDone, keep: Keep) -> None:
    """Select among 3 widths and 10 penalties by 5 folds: toptune fully, FalkonML by 4 of its 150 fits."""
    problem = Problem(size)
    if not is_done("selection", str(size), "toptune"):
        keep(_our_selection(problem, repeats))
    if has_falkonml() and not is_done("selection", str(size), "FalkonML tuned"):
        keep(_falkonml_selection(problem))


def _our_selection(problem: Problem, repeats: int) -> dict[str, Any]:
    """Time toptune's whole selection."""
    size, seconds = problem.size, []
    for _ in range(repeats):
        start = time.perf_counter()
        fitted = FalkonClassifier(
            sigma=_widths(problem), penalty=PENALTIES, n_centers=size.m, cv=FOLDS, random_state=0
        ).fit(problem.X, problem.y)
        seconds.append(time.perf_counter() - start)
    report = fitted.report_.to_dict()
    return {
        "section": "selection",
        "size": str(size),
        "name": "toptune",
        "seconds": float(np.median(seconds)),
        "accuracy": problem.accuracy(fitted.scores(problem.X_test)),
        "note": f"{report['solver']}, width {fitted.sigma_:.3g}, penalty {fitted.penalty_:.1e}; "
        f"left-out accuracy {report['accuracy']:.4f}; the fit on all rows included",
        "report": {"seconds": report["seconds"], "all_seconds": seconds},
    }


def _widths(problem: Problem) -> list[float]:
    """Return the widths that a selection tries."""
    return [multiple * problem.sigma for multiple in WIDTHS]


def _falkonml_selection(problem: Problem) -> dict[str, Any]:
    """Estimate the seconds of a selection with FalkonML from a few fits, and try some settings."""
    size, widths = problem.size, _widths(problem)
    inner = np.arange(size.n) % FOLDS > 0
    part = copy(problem)
    part.X, part.y = problem.X[inner], problem.y[inner]
    left_out = problem.X[~inner]
    fit_falkonml(Problem(WARM_UP), tuned=True)
    seconds = []
    for at_width, at_penalty in TIMED:
        start = time.perf_counter()
        scores, _ = fit_falkonml(part, tuned=True, sigma=widths[at_width], penalty=PENALTIES[at_penalty])
        scores(left_out)
        seconds.append(time.perf_counter() - start)
    tried = {}
    for width in widths:
        for at in TRIED:
            setting = f"{width:.3g}, {PENALTIES[at]:.1e}"
            try:
                scores, _ = fit_falkonml(problem, tuned=True, sigma=width, penalty=PENALTIES[at])
            except RuntimeError as error:
                print(f"FalkonML at {setting}: {error}", flush=True)
                continue
            tried[setting] = problem.accuracy(scores(problem.X_test))
    best = max(tried, key=tried.__getitem__)
    n_fits = len(WIDTHS) * len(PENALTIES) * FOLDS
    return {
        "section": "selection",
        "size": str(size),
        "name": "FalkonML tuned",
        "seconds": float(np.mean(seconds)) * n_fits,
        "accuracy": tried[best],
        "note": f"estimated: mean of {len(seconds)} fits on 4/5 of the rows "
        f"({np.mean(seconds):.2f} s) times {n_fits}; accuracy is the best on the test rows "
        f"of {len(tried)} settings (at {best})",
        "report": {"all_seconds": seconds, "tried": tried},
    }


def sklearn_rows(
    size: Size, source: tuple[Path, str, str] | None, threads: int, is_done: IsDone, keep: Keep
) -> None:
    """Time whole classifiers with their own selection, on synthetic rows or the last layer of a store."""
    if source is None:
        X, y = make_rows(size, size.n, seed=1)
        X_test, y_test = make_rows(size, N_TEST, seed=2)
        what = str(size)
    else:
        X, X_test, y, y_test = stored_rows(*source)
        what = f"{source[1]} {source[2]} {X.shape[0]},{X.shape[1]}"
    # Columns are not scaled here: synthetic ones differ in scale on purpose, stored ones are standardized
    # already.
    sigma = median_distance(torch.from_numpy(X[:1000]))
    m = min(size.m, len(X) * (FOLDS - 1) // FOLDS)
    for name, estimator in sklearn_contestants(sigma, m, threads).items():
        if is_done("sklearn", what, name):
            continue
        start = time.perf_counter()
        estimator.fit(X, y)
        seconds = time.perf_counter() - start
        chosen = getattr(estimator, "best_params_", None)
        keep(
            {
                "section": "sklearn",
                "size": what,
                "name": name,
                "seconds": seconds,
                "accuracy": float((estimator.predict(X_test) == y_test).mean()),
                "note": "" if chosen is None else str(chosen),
            }
        )


def sklearn_contestants(sigma: float, m: int, threads: int) -> dict[str, Any]:
    """Return toptune's and scikit-learn's classifiers; the jobs of a search share the threads."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    gammas = [0.5 / (multiple * sigma) ** 2 for multiple in WIDTHS]
    nystroem = make_pipeline(
        Nystroem(n_components=m, random_state=0), RidgeClassifierCV(alphas=np.logspace(-6, 2, 9))
    )
    logistic = LogisticRegressionCV(
        Cs=np.logspace(-3, 1, 5),
        cv=folds,
        max_iter=1000,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
        scoring="accuracy",
        n_jobs=threads,
    )
    return {
        "toptune, 3 widths": FalkonClassifier(
            sigma=[multiple * sigma for multiple in WIDTHS], n_centers=m, cv=FOLDS, random_state=0
        ),
        "toptune, defaults": FalkonClassifier(n_centers=m, random_state=0),
        "Nystroem + RidgeClassifierCV": GridSearchCV(nystroem, {"nystroem__gamma": gammas}, cv=folds),
        "LogisticRegressionCV": make_pipeline(StandardScaler(), logistic),
        "SVC": GridSearchCV(SVC(), {"C": [1.0, 10.0], "gamma": gammas}, cv=folds, n_jobs=threads),
    }


def stored_rows(root: Path, dataset: str, model: str) -> tuple[Any, ...]:
    """Read standardized last-layer features and labels, with a fifth of each class to test."""
    features = FeatureStore.open(root).features(model, dataset)
    names = [array.name for array in choose_arrays(features.arrays(), None, None)]
    failed = features.failed_rows(names)
    labels = features.manifest.labels
    rows = np.array([row for row, label in enumerate(labels) if label is not None and row not in failed])
    values = features.blocks(names, rows).take(np.arange(len(rows)))
    classes = np.array([labels[row] for row in rows])
    parts = train_test_split(values, classes, test_size=0.2, random_state=0, stratify=classes)
    scaler = StandardScaler().fit(parts[0])
    return (
        scaler.transform(parts[0]).astype(np.float32),
        scaler.transform(parts[1]).astype(np.float32),
        *parts[2:],
    )


class MappedRows:
    """`Blocks` over the first n rows of an .npy file.

    The file is mapped anew for each block, so that pages that were read do not count as memory of the
    process.
    """

    def __init__(self, path: Path, n: int) -> None:
        self.path = path
        whole = np.load(path, mmap_mode="r")
        self.shape, self.dtype = (n, whole.shape[1]), whole.dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield ``(rows, values)`` of consecutive rows."""
        step = block_rows or 4000
        for start in range(0, self.shape[0], step):
            where = slice(start, min(start + step, self.shape[0]))
            yield where, np.array(np.load(self.path, mmap_mode="r")[where])

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the values of some rows."""
        return np.array(np.load(self.path, mmap_mode="r")[np.asarray(rows)])


def scale_rows(
    size: Size, counts: list[int], is_done: IsDone, keep: Keep, child: Callable[[list[str]], Any]
) -> None:
    """Fit with five folds to ever more rows of one file, each fit in a process of its own."""
    sizes = {n: str(Size(n, size.d, size.m, size.c)) for n in sorted(counts)}
    if all(is_done("scale", text, "toptune") for text in sizes.values()):
        return
    with tempfile.TemporaryDirectory() as scratch:
        n = max(counts)
        values = np.lib.format.open_memmap(
            Path(scratch) / "X.npy", mode="w+", dtype=np.float32, shape=(n, size.d)
        )
        labels, start = np.empty(n, dtype=np.int64), 0
        for chunk, codes in made_rows(size, n, seed=1):
            values[start : start + len(chunk)], labels[start : start + len(chunk)] = chunk, codes
            start += len(chunk)
        values.flush()
        del values
        np.save(Path(scratch) / "y.npy", labels)
        for n, text in sizes.items():
            if not is_done("scale", text, "toptune"):
                found = child(["--scale-child", scratch, str(n), "--size", str(size)])
                keep({"section": "scale", "size": text, "name": "toptune", **found})


def scale_child(folder: Path, n: int, size: Size) -> dict[str, Any]:
    """Fit once with the default grids; return seconds, peak memory and accuracy."""
    y = np.load(folder / "y.npy")[:n]
    blocks = MappedRows(folder / "X.npy", n)
    X_test, y_test = make_rows(size, N_TEST, seed=2)
    small = FalkonClassifier(n_centers=20, random_state=0)
    small.fit(*make_rows(WARM_UP, WARM_UP.n, seed=0))  # libraries and their workspaces
    before = memory_of("VmRSS")
    reset_peak()
    start = time.perf_counter()
    fitted = FalkonClassifier(n_centers=size.m, cv=FOLDS, random_state=0).fit(blocks, y)
    seconds = time.perf_counter() - start
    peak = memory_of("VmHWM")
    report = fitted.report_.to_dict()
    return {
        "seconds": seconds,
        "peak_bytes": None if before is None or peak is None else peak - before,
        "accuracy": float((fitted.predict(X_test) == y_test).mean()),
        "note": f"{report['solver']}, {len(report['table'])} candidates, {report['n_passes']} passes",
        "report": {"seconds": report["seconds"]},
    }
