"""Parts of `gpu.py` about whole pieces of work: two processes on one device, and fine-tuning."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_part import CORES, GIB, Part, relative_error, save_images, stored_features, watch_gpu

from toptune.extract import extract
from toptune.train import train
from toptune.workflows import Classifier, finetune


def measure_sharing(part: Part) -> None:
    """Share the device, run out of its memory, and continue its work on another device."""
    name = "random:test_resnet" if part.is_tiny else "random:resnet50"
    folder = save_images(part, 160 if part.is_tiny else 1024)
    alone = part.folder("store-alone")
    with part.attempt("two processes", 40):
        shared = _extract_in_two_processes(part, name, folder)
    with part.attempt("one process", 30):
        _extract(folder, name, alone, part.device, batch_size=32)
        differences = _differences(shared, alone, folder.name)
        part.found.put("shared equals alone", {"worst": differences})
    with part.attempt("begun here, ended on the CPU", 30):
        few, mixed, cpu = save_images(part, 96), part.folder("store-mixed"), part.folder("store-cpu")
        _extract(few, name, mixed, part.device, batch_size=16, shard=(0, 2))
        _extract(few, name, mixed, "cpu", batch_size=16, shard=(1, 2))
        _extract(few, name, cpu, "cpu", batch_size=16)
        part.found.put("mixed devices", {"worst": _differences(mixed, cpu, few.name)})
    if part.is_cuda:
        with part.attempt("too large a batch", 40):
            _run_out_of_memory(part, name, folder, alone)
    with part.attempt("trained there, used here", 30):
        _predict_on_both(part, name, folder, alone)


def _extract(folder: Path, name: str, store: Path, device: str, **options: Any) -> None:
    """Extract all layers in float32 into a store."""
    extract(folder, model=name, store=store, device=device, precision="fp32", layers="all", **options)


def _differences(found: Path, expected: Path, dataset: str) -> float:
    """Return the largest relative error of any array of one store against another."""
    a, b = stored_features(found, dataset), stored_features(expected, dataset)
    return max(relative_error(a[name], b[name]) for name in b)


def _extract_in_two_processes(part: Part, name: str, folder: Path) -> Path:
    """Fill a store by two processes at once, and verify it."""
    store = part.folder("store-shared")
    command = [sys.executable, "-m", "toptune.cli", "extract", str(folder), "--store", str(store)]
    command += ["--model", name, "--device", part.device, "--precision", "fp32", "--layers", "all"]
    start = time.perf_counter()
    running = [
        subprocess.Popen(
            [*command, "--batch-size", "32", "--shard", f"{i}/2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    said = [process.communicate()[0].strip().splitlines()[-1:] for process in running]
    seconds = round(time.perf_counter() - start, 1)
    verify = [sys.executable, "-m", "toptune.cli", "store", "verify", "--store", str(store), "--deep"]
    figures = {
        "codes": [process.returncode for process in running],
        "s": seconds,
        "verify": subprocess.run(verify, capture_output=True, check=False).returncode,
        "said": said,
    }
    part.found.put("two processes", figures)
    return store


def _run_out_of_memory(part: Part, name: str, folder: Path, alone: Path) -> None:
    """Extract in batches that do not fit 2.5 GiB: they must be halved, with the same features."""
    part.free()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2.5 * GIB / torch.cuda.mem_get_info()[1]))
    store = part.folder("store-small")
    start = time.perf_counter()
    try:
        _extract(folder, name, store, part.device, batch_size=512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    seconds = round(time.perf_counter() - start, 1)
    figures = {"s": seconds, "worst": _differences(store, alone, folder.name)}
    part.found.put("too large a batch", figures)


def _predict_on_both(part: Part, name: str, folder: Path, store: Path) -> None:
    """Train a run on the device, and predict with it there and on the CPU."""
    run = part.folder("run")
    result = train(store, dataset=folder.name, model=name, layers="last", out=run, device=part.device)
    images = sorted(folder.rglob("*.jpg"))[:8]
    here = Classifier.load(run).predict(images)
    there = Classifier.load(run, device=part.device).predict(images)
    confidences = np.array([[a.confidence, b.confidence] for a, b in zip(here, there, strict=True)])
    figures = {
        "accuracy": result.metrics["accuracy"],
        "confidence_differs_by": float(np.abs(confidences[:, 0] - confidences[:, 1]).max()),
        "same_labels": [a.label for a in here] == [b.label for b in there],
    }
    part.found.put("predict", figures)


def measure_finetuning(part: Part) -> None:
    """Fine-tune one epoch twice: seconds, and whether the loss repeats."""
    name, n, batch = ("test_resnet", 64, 16) if part.is_tiny else ("resnet50", 1024, 64)
    folder = save_images(part, n)
    losses = {}
    for label, precision in (("bf16", "bf16"), ("fp32", "fp32"), ("fp32 again", "fp32")):
        if not part.has_time(label, 6):
            continue
        with part.attempt(label, 30), watch_gpu(part) as gpu:
            start = time.perf_counter()
            run = finetune(
                folder,
                model=f"random:{name}",
                out=part.folder(f"tuned-{label.replace(' ', '-')}"),
                device=part.device,
                precision=precision,
                epochs=1,
                warmup_epochs=0,
                min_epochs=1,
                learning_rates=(1e-3,),
                batch_size=batch,
                workers=CORES,
                validation_fraction=0.1,
            )
            costs, losses[label] = run.metrics["costs"], run.metrics["log_loss"]
            figures = {
                "s": round(time.perf_counter() - start, 1),
                "images_s": costs["images_per_second"],
                "log_loss": losses[label],
                "phases": {key: round(value["wall_seconds"], 2) for key, value in costs["phases"].items()},
            }
        if label in losses:
            part.found.put(label, figures | gpu)
    if len(losses) == 3:
        part.found.put("fp32 repeats", losses["fp32"] == losses["fp32 again"])
