"""Run toptune on a GPU and measure it with one call, in eight parts and about six minutes.

    python benchmarks/gpu.py --out found                      # on a machine with a GPU
    python benchmarks/gpu.py --out found --device cpu --tiny  # a rehearsal without one, in about two minutes
    python benchmarks/gpu.py --list                           # the parts, with the seconds that they may take
    python benchmarks/gpu.py --out found --only machine,solvers

Every part is a process with a time limit, and writes its findings after every measurement: a part that
crashes, hangs or runs out of time costs only what it had not measured yet. The result is ``gpu.json`` and a
table of all measurements, ``gpu.txt``, which is also printed. Parts import toptune from ``--repo``, so
toptune need not be installed; they need what toptune needs, and the part `tests` needs pytest.

A ninth part, `waits`, is only run by ``--only waits``. Without a GPU, it counts the operations and waits that
a block of rows costs a solver, on the pretended device of the tests.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_part import Part


@dataclass(frozen=True)
class Share:
    """The share of the time that a part gets; parts of one phase run side by side."""

    name: str
    phase: int
    seconds: int
    what: str
    is_asked_for: bool = False


# The most important parts come first. `tests` and `accuracy` measure no times and run side by side.
SHARES = (
    Share("machine", 0, 35, "rates of the machine, and what toptune believes of it"),
    Share("tests", 1, 65, "the project's tests of solvers and backbones on the device"),
    Share("accuracy", 1, 65, "features on the device against float32 on the CPU"),
    Share("throughput", 2, 90, "extraction against the forward pass alone"),
    Share("solvers", 3, 105, "fits of the kernel head: agreement, seconds, memory"),
    Share("sharing", 4, 40, "two processes, too large a batch, two devices for one store"),
    Share("finetune", 5, 30, "an epoch of fine-tuning, and whether it repeats"),
    Share("decode", 6, 25, "decoding by threads and by the GPU"),
    Share(
        "waits", 7, 200, "operations and waits that a block of rows costs; needs no GPU", is_asked_for=True
    ),
)


def work_of(name: str) -> Callable[["Part"], None]:
    """Find the function of a part; only the process of a part can import toptune."""
    from gpu_extraction import measure_accuracy, measure_decoding, measure_throughput
    from gpu_machine import measure_machine, run_tests
    from gpu_solvers import count_waits, measure_solvers
    from gpu_workflows import measure_finetuning, measure_sharing

    return {
        "machine": measure_machine,
        "tests": run_tests,
        "accuracy": measure_accuracy,
        "throughput": measure_throughput,
        "solvers": measure_solvers,
        "sharing": measure_sharing,
        "finetune": measure_finetuning,
        "decode": measure_decoding,
        "waits": count_waits,
    }[name]


# A rehearsal may take longer than the measurement: it may run on few, busy cores.
TINY_PATIENCE = 4


def run_part(options: argparse.Namespace) -> int:
    """Do the work of a part in its own process."""
    start = time.perf_counter()  # importing torch takes some of the part's time
    from gpu_part import Findings, Part

    found = Findings(options.work / f"part-{options.part}.json")
    deadline = start + options.seconds
    part = Part(options.device, options.tiny, options.repo, options.work, deadline, found)
    try:
        work_of(options.part)(part)
    except Exception as error:  # noqa: BLE001 (the part that started this process reads what is written)
        at = traceback.format_exc().splitlines()[-15:]
        found.put("!", {"error": f"{type(error).__name__}: {error}"[:800], "at": at})
        return 1
    return 0


def make_importable(repo: Path, work: Path) -> Path:
    """Make a folder from which ``import toptune`` finds the repository; return it with the version."""
    version = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["version"]
    site = work / "site"
    info = site / f"toptune-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toptune\nVersion: {version}\n")
    if not (site / "toptune").exists():
        (site / "toptune").symlink_to(repo)
    return site


@dataclass(frozen=True)
class Running:
    """A part that is running."""

    share: Share
    process: subprocess.Popen[bytes]
    log: Path
    start: float
    seconds: float


def start_part(share: Share, options: argparse.Namespace, seconds: float) -> Running:
    """Start the process of a part."""
    log = options.work / f"part-{share.name}.log"
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--part",
        share.name,
        "--seconds",
        f"{seconds:.0f}",
    ]
    command += ["--repo", str(options.repo), "--work", str(options.work), "--device", options.device]
    command += ["--tiny"] if options.tiny else []
    site = make_importable(options.repo, options.work)
    places = [str(site), str(options.repo / "tests"), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    return Running(share, process, log, time.perf_counter(), seconds)


def finish_part(running: Running, work: Path) -> dict[str, Any]:
    """Wait for a part, end it when its time is over, and read its findings."""
    name, process = running.share.name, running.process
    try:
        code = process.wait(timeout=max(1.0, running.start + running.seconds + 6 - time.perf_counter()))
        status = "ok" if code == 0 else f"exit {code}"
    except subprocess.TimeoutExpired:
        status = "out of time"
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=5)
    path = work / f"part-{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    said = running.log.read_text(errors="replace").splitlines()
    if status != "ok":
        found["log!"] = said[-25:]
    print(f"== {name}: {status}", flush=True)
    for line in said[-200:]:
        if line.startswith("  "):
            print(line[:260], flush=True)
    return {"status": status, "seconds": round(time.perf_counter() - running.start, 1), "found": found}


def table(parts: dict[str, dict[str, Any]]) -> list[str]:
    """Write how each part went, and every measurement on a line."""
    lines = []
    for name, part in parts.items():
        wrong = [key for key in part["found"] if key.endswith("!")]
        went = f"{len(wrong)} wrong {', '.join(wrong)}"
        lines.append(f"{name:<11} {part['status']:<12} {part['seconds']:6.1f} s  {went}"[:200])
    for name, part in parts.items():
        lines += ["", f"{name}:"]
        for key, value in part["found"].items():
            if not key.endswith("!"):
                lines.append(f"  {key}: {json.dumps(value)}"[:200])
    return lines


def measure(shares: list[Share], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run the parts, phase by phase, and save the findings after every part."""
    start = time.perf_counter()
    asked = ["git", "-C", str(options.repo), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    parts: dict[str, dict[str, Any]] = {}
    patience = TINY_PATIENCE if options.tiny else 1
    for _, phase in groupby(shares, key=lambda share: share.phase):
        left = start + patience * options.budget - time.perf_counter()
        if left < 10:
            break
        for running in [
            start_part(share, options, min(patience * share.seconds, left - 4)) for share in phase
        ]:
            parts[running.share.name] = finish_part(running, options.work)
            values = {"commit": commit, "device": options.device, "tiny": options.tiny, "parts": parts}
            (options.out / "gpu.json").write_text(json.dumps(values, indent=1))
    return parts


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, default=Path(__file__).parents[1], help="repository to measure")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of gpu.json and gpu.txt")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small everything, to see that the program runs")
    parser.add_argument(
        "--budget", type=float, default=355.0, help="seconds of all parts; a rehearsal may take more"
    )
    parser.add_argument("--only", help="parts to run, with commas between them")
    parser.add_argument("--list", action="store_true", help="name the parts, and end")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.repo = options.repo.resolve()
    return options


def chosen(only: str | None) -> list[Share]:
    """Return the parts that were named, or all parts but those that must be named."""
    if only is None:
        return [share for share in SHARES if not share.is_asked_for]
    names = only.split(",")
    if unknown := set(names) - {share.name for share in SHARES}:
        known = ", ".join(share.name for share in SHARES)
        raise SystemExit(f"--only names {', '.join(sorted(unknown))}; the parts are {known}")
    return [share for share in SHARES if share.name in names]


def main() -> int:
    """Measure, print the table, and exit with 0 only if every part ended well."""
    options = parse()
    if options.list:
        for share in SHARES:
            print(f"{share.name:<12} {share.seconds:>4} s  {share.what}")
        return 0
    if options.part:
        return run_part(options)
    shares = chosen(options.only)
    options.out.mkdir(parents=True, exist_ok=True)
    options.work = Path(tempfile.mkdtemp(prefix="toptune-gpu-"))
    start = time.perf_counter()
    try:
        parts = measure(shares, options)
    finally:
        shutil.rmtree(options.work, ignore_errors=True)
    lines = table(parts)
    (options.out / "gpu.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(["", *lines]))
    print(f"\n{time.perf_counter() - start:.0f} s; all figures are in {options.out / 'gpu.json'}")
    return 0 if len(parts) == len(shares) and all(part["status"] == "ok" for part in parts.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
