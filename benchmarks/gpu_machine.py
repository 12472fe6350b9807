"""Parts of `gpu.py` about the machine: its rates, and the project's own tests on its device."""

import os
import platform
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as Tree
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_part import CORES, GIB, Part, clock
from scipy.linalg import lapack
from torch import Tensor

from toptune.machine.doctor import examine_machine
from toptune.machine.memory import memory_limit_bytes

LIBRARIES = [
    "toptune",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "zarr",
    "pillow",
    "dask",
    "distributed",
]
# Test files of solvers and backbones, the code that meets the device.
TESTS = [
    "test_one_pass",
    "test_falkon",
    "test_kernels",
    "test_single_fit",
    "test_logistic",
    "test_numerical_stress",
    "test_fold_moments",
    "test_group_lasso",
    "test_run_update",
    "test_streamed_heads",
    "test_heads",
    "test_backbone",
    "test_precision",
    "test_extraction",
    "test_several_models",
    "test_finetune_parts",
    "test_classifier",
]
FEW_TESTS = ["test_single_fit", "test_folding"]
# Tests that choose the device themselves, and compare the device with the CPU.
DEVICE_TESTS = ["test_gpu", "test_device_decoder"]


def measure_machine(part: Part) -> None:
    """Measure the highest rates of the machine, and note what toptune finds out about it."""
    put = part.found.put
    versions = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    put("versions", versions | {"python": platform.python_version(), "cuda": torch.version.cuda})
    put("host", {"cores": CORES, "torch_threads": torch.get_num_threads(), "kernel": platform.release()})
    if part.is_cuda:
        with part.attempt("gpu"):
            put("gpu", _describe_gpu())
    with part.attempt("doctor"):
        facts = examine_machine()
        names = ("cuda", "memory limit", "precision auto", "torch threads")
        put("doctor", {name: facts[name] for name in names})
        rows = {f"d={d}, M={m}": part.block_rows(d=d, rank=m) for d, m in ((1024, 2000), (2048, 20000))}
        put("limits", {"memory_limit_gib": round(memory_limit_bytes() / GIB, 1), "block_rows": rows})
    _measure_products(part)
    for n in (500, 1000) if part.is_tiny else (5000, 20000):
        with part.attempt(f"cholesky {n}", 12):
            _measure_cholesky(part, n)
        part.free()
    if part.is_cuda:
        with part.attempt("copies", 8):
            put("copies_gbs", _measure_copies(part))


def _describe_gpu() -> dict[str, Any]:
    """Return name, capability and memory of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "sms": properties.multi_processor_count,
        "free_gib": round(free / GIB, 1),
        "total_gib": round(total / GIB, 1),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def _measure_products(part: Part) -> None:
    """Note the rate of a product of square matrices in every arithmetic."""
    size = 512 if part.is_tiny else 8192
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32, "fp64": torch.float64}
    for name, dtype in kinds.items():
        with part.attempt(f"product {name}", 8):
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            n = size // 2 if name == "fp64" else size
            square = torch.randn(n, n).to(part.device, dtype)
            seconds = clock(lambda square=square: square @ square, part, seconds=0.4)  # type: ignore[misc]
            part.found.put(f"product_{name}_tflops", round(2 * n**3 / seconds / 1e12, 2))
    torch.set_float32_matmul_precision("highest")


def _measure_cholesky(part: Part, n: int) -> None:
    """Note the seconds of a factor and its triangular solves, on the device and with LAPACK."""
    part.free()
    matrix = torch.randn(n, n, dtype=torch.float64, device=part.device)
    matrix = matrix @ matrix.T / n
    matrix.diagonal().add_(1.0)
    seconds = clock(lambda: torch.linalg.cholesky_ex(matrix), part, seconds=0.1, warm=1)
    factor, _ = torch.linalg.cholesky_ex(matrix)

    def solve(rows: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(factor.T, rows, upper=True, left=False)
        return solved

    figures: dict[str, Any] = {"seconds": round(seconds, 4)}
    for n_rows in (68, 2048):
        rows = torch.randn(n_rows, n, dtype=torch.float64, device=part.device)
        taken = clock(lambda rows=rows: solve(rows), part, seconds=0.2, warm=1)  # type: ignore[misc]
        figures[f"whiten_us_a_row_{n_rows}"] = round(1e6 * taken / n_rows, 1)
    # The factor takes the memory of the matrix, as in toptune.
    view = matrix.clone().mT
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(view, out=(view, info))
    figures["in_place_error"] = float((view - factor).abs().max())
    figures["peak_gib"] = part.peak_gib()
    if n <= 5000:
        on_host = matrix.cpu()
        start = time.perf_counter()
        torch.linalg.cholesky_ex(on_host)
        figures["host_seconds"] = round(time.perf_counter() - start, 3)
        start = time.perf_counter()
        lapack.dpstrf(on_host.numpy(), lower=1, tol=1e-12)
        figures["host_pivoted_seconds"] = round(time.perf_counter() - start, 3)
    part.found.put(f"cholesky_{n}", figures)


def _measure_copies(part: Part) -> dict[str, float]:
    """Measure GB/s of copies to and from the device, for page-locked memory and other memory."""
    size = 256 * 2**20
    there = torch.empty(size, dtype=torch.uint8, device=part.device)
    rates = {}
    for name in ("pageable", "pinned"):
        here = torch.ones(size, dtype=torch.uint8, pin_memory=name == "pinned")
        for way, target, source in (("to", there, here), ("from", here, there)):
            seconds = clock(
                lambda target=target, source=source: target.copy_(source, non_blocking=True),  # type: ignore[misc]
                part,
                seconds=0.2,
            )
            rates[f"{way} the device, {name}"] = round(size / seconds / 1e9, 2)
    return rates


def run_tests(part: Part) -> None:
    """Run the tests that compare the device with the CPU, and then tests whose default device it is."""
    files = {path.stem: str(path) for path in (part.repo / "tests").rglob("test_*.py")}
    wanted = FEW_TESTS if part.is_tiny else TESTS
    part.found.put("missing", [name for name in (*DEVICE_TESTS, *wanted) if name not in files])
    # Without a GPU the pretended one rehearses the tests.
    kind = "not pretended" if part.is_cuda else "pretended"
    _run_files(part, "device", [files[name] for name in DEVICE_TESTS if name in files], ["-k", kind])
    options = ["-k", "not dask", "--on", part.device.partition(":")[0]]
    _run_files(part, "default", [files[name] for name in wanted if name in files], options)


def _run_files(part: Part, name: str, files: list[str], options: list[str]) -> None:
    """Run test files, and note how each of their tests that did not pass ended."""
    put = part.found.put
    report, log = part.work / f"{name}.xml", part.work / f"{name}.log"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    command += [*options, f"--junitxml={report}", f"--basetemp={part.work / f'pytest-{name}'}"]
    if find_spec("xdist") and not part.is_tiny:
        command += ["-n", str(max(2, min(8, CORES - 4))), "--dist", "worksteal"]
    start = time.perf_counter()
    put(f"{name}: exit", _run_for([*command, *files], log, part))
    put(f"{name}: seconds", round(time.perf_counter() - start, 1))
    put(f"{name}: tail", log.read_text(errors="replace").splitlines()[-6:])
    if report.exists():
        with part.attempt(f"{name}: report"):
            counts, failures = _read_report(report)
            put(f"{name}: counts", counts)
            put(f"{name}: failures{'!' if failures else ''}", failures)


def _run_for(command: list[str], log: Path, part: Part) -> int | str:
    """Run pytest, and interrupt it in time to write its report."""
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=part.repo, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(timeout=max(5, part.seconds_left - 5))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=4)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return "out of time"


def _read_report(report: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Count the tests that passed, and note what pytest said about each failure."""
    counts, failures = {"passed": 0, "failed": 0, "skipped": 0}, {}
    for case in Tree.parse(report).getroot().iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error")]
        is_skipped = case.find("skipped") is not None
        counts["failed" if bad else "skipped" if is_skipped else "passed"] += 1
        if bad:
            said = [line for line in (bad[0].text or "").splitlines() if line.startswith("E ")][:3]
            failures[f"{case.get('classname')}::{case.get('name')}"] = " | ".join(said)[:300]
    return counts, failures
