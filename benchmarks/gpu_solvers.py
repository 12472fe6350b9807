"""Parts of `gpu.py` about kernel heads: agreement with the CPU, seconds, memory, and waits for the device."""

import gc
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from gpu_part import GIB, Part

from toptune.store import ArrayBlocks
from toptune.train import FalkonClassifier
from toptune.train.kernels.kernels import Gaussian
from toptune.train.passes.kernel_rows import CenteredRows, KernelRows
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_rows_for, read_ahead

Array = npt.NDArray[Any]
N_IMAGENET = 1_281_167


@contextmanager
def blocks_of(block_bytes: int | None) -> Iterator[None]:
    """Let solvers take blocks of at most so many bytes on a GPU inside; None leaves the usual size."""
    with ExitStack() as stack:
        if block_bytes is not None:
            stack.enter_context(patch("toptune.train.rows.block_reading.CUDA_BLOCK_BYTES", block_bytes))
        yield


def make_rows(part: Part, n: int, d: int, classes: int) -> tuple[Array, Array]:
    """Draw float16 rows around the means of their classes, with a spectrum like that of features."""
    generator = torch.Generator(part.device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": part.device}
    scale = torch.arange(1, d + 1, device=part.device, dtype=torch.float32) ** -0.5
    means = torch.randn(classes, d, **options) * scale * 1.2
    codes = torch.randint(0, classes, (n,), **options)
    values = np.empty((n, d), np.float16)
    for start in range(0, n, 65536):
        some = codes[start : start + 65536]
        noise = torch.randn(len(some), d, **options) * scale
        values[start : start + 65536] = (means[some] + noise).half().cpu().numpy()
    return values, codes.cpu().numpy()


def measure_solvers(part: Part) -> None:
    """Fit the kernel head: agreement with float64 on the CPU, seconds, and memory beside its projection."""
    with part.attempt("agreement", 45):
        part.found.put("agreement", _agreement(part))
    n, d, classes = (2000, 32, 6) if part.is_tiny else (200_000, 1024, 100)
    start = time.perf_counter()
    values, codes = make_rows(part, n, d, classes)
    made = round(time.perf_counter() - start, 1)
    part.found.put("rows", {"n": n, "d": d, "classes": classes, "made_in_s": made})
    with part.attempt("reading alone", 30):
        part.found.put("reading alone", _reading_alone(part, values))
    once: dict[str, Any] = {"cv": None, "sigma": 3.0 if part.is_tiny else 1.5, "penalty": 1e-6}
    direct, falkon = {"solver": "direct"}, {"solver": "falkon"}
    # Label, number of centers M, options, and bytes of a block.
    fits: list[tuple[str, int, dict[str, Any], int | None]] = [
        ("M=100 direct", 100, direct, None),
        ("M=100 direct, small blocks", 100, direct, GIB // 1024),
        ("M=200 falkon, one fit", 200, falkon | once, None),
    ]
    if not part.is_tiny:
        fits = [
            ("M=2000 direct", 2000, direct, None),
            ("M=2000 direct, small blocks", 2000, direct, GIB // 32),
            ("M=5000 direct", 5000, direct, None),
            ("M=20000 falkon, one fit", 20000, falkon | once, None),
            ("M=5000 direct, small blocks", 5000, direct, GIB // 32),
            ("M=10000 direct, one fit", 10000, direct | once, None),
            ("M=20000 direct, one fit", 20000, direct | once, None),
        ]
    for label, m, options, block_bytes in fits:
        with blocks_of(block_bytes):
            _time_fit(part, label, values, codes, n_centers=m, **options)
    m = 100 if part.is_tiny else 20_000
    with part.attempt("falkon passes", 20):
        passes = _falkon_passes(part, values[:20_000], codes[:20_000], m, classes)
        part.found.put(f"falkon passes, M={m}", passes)
    if not part.is_tiny and part.has_time("ImageNet's size", 25):
        values, codes = make_rows(part, N_IMAGENET, 2048, 1000)
        label = "ImageNet's size, M=5000 direct, one fit"
        _time_fit(part, label, values, codes, n_centers=5000, **direct, **once)


def _agreement(part: Part) -> dict[str, Any]:
    """Compare scores of fits on the device with float64 on the CPU, as shares of the largest score."""
    n, d, m = (600, 16, 60) if part.is_tiny else (20000, 256, 1000)
    values, codes = make_rows(part, n + 2000, d, 10)
    train, held = values[:n].astype(np.float64), values[n:].astype(np.float64)
    kinds: dict[str, dict[str, Any]] = {
        "direct": {"solver": "direct"},
        "falkon": {"solver": "falkon"},
        "single": {"solver": "direct", "cv": None, "sigma": 4.0, "penalty": 1e-5},
    }
    result: dict[str, Any] = {}
    for kind, options in kinds.items():
        start = time.perf_counter()
        exact = FalkonClassifier(n_centers=m, random_state=0, **options).fit(train, codes[:n])
        result[kind] = {"cpu_s": round(time.perf_counter() - start, 2)}
        expected = exact.scores(held)
        for dtype in ("float64", "float32"):
            start = time.perf_counter()
            found = FalkonClassifier(n_centers=m, random_state=0, device=part.device, **options)
            found.fit(train.astype(dtype), codes[:n])
            seconds = round(time.perf_counter() - start, 2)
            scores = found.scores(held.astype(dtype))
            off_by = np.abs(scores - expected).max() / np.abs(expected).max()
            result[kind][dtype] = {
                "scores_off_by": float(f"{off_by:.3g}"),
                "same_labels": float((scores.argmax(1) == expected.argmax(1)).mean()),
                "same_choice": bool(np.allclose(_choice(found), _choice(exact), rtol=1e-3, atol=0)),
                "s": seconds,
            }
    return result


def _choice(fitted: FalkonClassifier) -> list[Any]:
    """Return the width and the penalty that a fit has chosen."""
    return [fitted.sigma_, fitted.penalty_]


def _time_fit(part: Part, label: str, values: Array, codes: Array, **options: Any) -> None:
    """Fit once, and note seconds, accuracy, and the peak of memory beside its projection."""
    if not part.has_time(label, 12):
        return
    gc.collect()
    part.free()
    with part.attempt(label, min(30, part.seconds_left - 2)):
        # The limit is the memory of the device; by default it would be half of the host's.
        limit = int(0.85 * torch.cuda.mem_get_info()[1]) if part.is_cuda else None
        estimator = FalkonClassifier(random_state=0, device=part.device, memory_limit_bytes=limit, **options)
        blocks = ArrayBlocks(values)
        start = time.perf_counter()
        estimator.fit(blocks, codes)
        seconds = round(time.perf_counter() - start, 2)
        report = estimator.report_
        some = np.arange(0, len(codes), max(1, len(codes) // 4000))
        right = float((estimator.predict(values[some].astype(np.float32)) == codes[some]).mean())
        iteration = report.iteration
        figures = {
            "s": seconds,
            "train_accuracy": round(right, 4),
            "solver": report.solver,
            "rank": report.rank,
            "peak_gib": part.peak_gib(),
            "projected_gib": round(report.peak_bytes / GIB, 2),
            "passes": report.n_passes,
            "block_rows": part.block_rows(d=blocks.shape[1], rank=options["n_centers"]),
            "phases": {name: round(value, 2) for name, value in report.seconds.items()},
            "iterations": None if iteration is None else iteration["n_iterations"],
        }
        part.found.put(label, figures)


def _reading_alone(part: Part, values: Array) -> dict[str, Any]:
    """Time a pass that only moves rows to the device: the least that any pass of a solver costs."""
    found, device = {}, torch.device(part.device)
    for block in (68, 600, 8192):
        start = time.perf_counter()
        for _, rows in read_ahead(ArrayBlocks(values), block_rows=block, dtype=torch.float32, device=device):
            rows.sum()
        part.synchronize()
        seconds = time.perf_counter() - start
        found[f"blocks of {block}"] = {
            "s": round(seconds, 2),
            "gvalues_a_s": round(values.size / seconds / 1e9, 2),
            "imagenet_pass_s": round(seconds * N_IMAGENET * 2048 / values.size, 1),
        }
    return found


def _falkon_passes(part: Part, values: Array, codes: Array, m: int, classes: int) -> dict[str, Any]:
    """Time a pass of FALKON's iteration for several sizes of blocks, with the identity as factor."""
    n, d = values.shape
    rows = TrainingRows(
        blocks=ArrayBlocks(values),
        codes=codes,
        weights=np.ones(n),
        folds=np.zeros(n, np.int64),
        n_classes=classes,
        n_folds=1,
    )
    centers = torch.from_numpy(values[:m].astype(np.float32)).to(part.device)
    factor = torch.eye(m, dtype=torch.float64, device=part.device)
    columns = torch.randn(m, classes, dtype=torch.float64, device=part.device)
    found = {}
    for block in (block_rows_for(d=d, rank=m), part.block_rows(d=d, rank=m)):
        kernel = KernelRows(rows, Gaussian(3.0), centers, block_rows=block, is_cached=False)
        system = CenteredRows.of(kernel, factor)
        part.synchronize()
        start = time.perf_counter()
        system.product(columns, is_exact=False)
        part.synchronize()
        seconds = time.perf_counter() - start
        found[f"blocks of {block}"] = {"s": round(seconds, 3), "us_a_row": round(1e6 * seconds / n, 2)}
    return found


def count_waits(part: Part) -> None:
    """Count the operations and waits that a block of rows costs, on the pretended device of the tests."""
    once: dict[str, Any] = {"cv": None, "sigma": 3.0, "penalty": 1e-4}
    kinds: dict[str, dict[str, Any]] = {
        "direct, 5 widths and 5 folds": {"solver": "direct"},
        "direct, one fit": {"solver": "direct", **once},
        "falkon, one fit, kernel computed again": {"solver": "falkon", **once},
    }
    for name, options in kinds.items():
        with part.attempt(name, 60):
            n_rows = 2560
            few, waits_few, passes = _counts_of_a_fit(n_rows, n_rows, options)
            many, waits_many, _ = _counts_of_a_fit(n_rows, 128, options)
            pieces = (n_rows // 128 - 1) * passes
            places = (waits_many - waits_few).most_common(9)
            figures = {
                "operations a block": round((many - few) / pieces, 1),
                "waits a block": round((waits_many.total() - waits_few.total()) / pieces, 2),
                "where": {place: round(count / pieces, 2) for place, count in places},
            }
            part.found.put(name, figures)


def _counts_of_a_fit(n: int, block_rows: int, options: dict[str, Any]) -> tuple[int, Counter[str], int]:
    """Return operations, waits by their place in the code, and passes of a fit with such blocks."""
    from fake_cuda import fake_cuda  # of the tests, whose folder `gpu.py` puts on the path of this part

    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, n)
    X = (rng.normal(size=(n, 8)) + y[:, None]).astype(np.float32)
    with ExitStack() as stack:
        stack.enter_context(patch("toptune.train.solvers.kernel_fit.block_rows_for", lambda **_: block_rows))
        stack.enter_context(patch("toptune.train.solvers.solver_choice.CUDA_CACHE_SHARE", 0.0))
        stack.enter_context(patch("toptune.train.estimators.falkon.FLOAT64_WORK", 0.0))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        counts = stack.enter_context(fake_cuda())
        fitted = FalkonClassifier(n_centers=40, random_state=0, device="cuda", **options).fit(X, y)
        return counts.operations.total(), counts.places.copy(), fitted.report_.n_passes
