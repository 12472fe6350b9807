"""Parts of `gpu.py` about images: accuracy of features, rates of extraction and of decoding."""

import gc
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gpu_part import CORES, Part, clock, relative_error, save_images, watch_gpu
from torch import Tensor
from torchvision.io import decode_jpeg

from toptune.extract import extract, load_backbone
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.transform import EvalTransform
from toptune.extract.images.decode import decode_image

# One model of each family of architectures whose layers need code of their own.
MODELS: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "vit_base_patch16_224": {},
    "convnext_tiny": {},
    "swin_tiny_patch4_window7_224": {},
    "efficientnet_b0": {},
    "regnety_016": {},
    "mobilenetv3_large_100": {},
    "vit_small_patch14_reg4_dinov2": {"img_size": 224},
}
ARITHMETICS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp32_folded": {"precision": "fp32", "fold": True},
    "bf16_folded": {"precision": "bf16", "fold": True},
}


def measure_accuracy(part: Part) -> None:
    """Compare features on the device with float32 on the CPU, for all layers of several architectures."""
    models: dict[str, dict[str, Any]] = {"test_resnet": {}, "test_vit": {}} if part.is_tiny else MODELS
    for name, options in models.items():
        if part.has_time(name, 8):
            with part.attempt(name, 25):
                part.found.put(name, _errors_of(part, name, options))
            gc.collect()
            part.free()


def _errors_of(part: Part, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Measure the errors of a model's features in every arithmetic, and whether a pass repeats exactly."""
    plain = load_backbone(f"random:{name}", **options)
    arrays = [array.name for array in plain.resolve("all")]
    pixels = _random_pixels(plain, 6, "cpu")
    expected = _features(plain, pixels, arrays)
    result: dict[str, Any] = {"layers": len(arrays)}
    for label, arithmetic in ARITHMETICS.items():
        backbone = load_backbone(f"random:{name}", device=part.device, **options, **arithmetic)
        found, again, half = (_features(backbone, pixels.to(part.device)[:n], arrays) for n in (6, 6, 3))
        errors = {array: relative_error(found[array], expected[array]) for array in arrays}
        worst = max(errors, key=errors.__getitem__)
        batch = max(relative_error(half[array], found[array][:3]) for array in arrays)
        result[label] = {
            "worst": float(f"{errors[worst]:.3g}"),
            "layer": worst,
            "last": float(f"{errors[arrays[-1]]:.3g}"),
            "run_to_run_equal": all((found[array] == again[array]).all() for array in arrays),
            "batch_of_3_differs_by": float(f"{batch:.2g}"),
        }
    return result


def _random_pixels(backbone: Backbone, n: int, device: str) -> Tensor:
    """Draw n images of random pixels on the device."""
    shape, generator = (n, *backbone.transform.size, 3), torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)


def _features(backbone: Backbone, pixels: Tensor, arrays: list[str]) -> dict[str, npt.NDArray[Any]]:
    """Compute some arrays of features for pixels, in main memory."""
    found = backbone.forward(backbone.transform.normalize(pixels), arrays)
    return {name: values.cpu().numpy() for name, values in found.items()}


def measure_throughput(part: Part) -> None:
    """Compare `extract` over JPEGs with the forward pass alone, in images per second."""
    vit, resnet = ("test_vit", "test_resnet") if part.is_tiny else ("vit_base_patch16_224", "resnet50")
    pure = {}
    for name in (vit, resnet):
        with part.attempt(f"forward {name}", 25):
            rates = _forward_rates(part, name)
            part.found.put(f"forward {name}", rates)
            pure[name] = max(value for label, value in rates.items() if label.isdigit())
        gc.collect()
        part.free()
    n = 96 if part.is_tiny else 8192
    small: dict[str, Any] = {"batch_size": 16} if part.is_tiny else {}
    # Label, model, options, and divisor of the number of images.
    runs: list[tuple[str, str, dict[str, Any], int]] = [
        ("default", vit, small, 2),
        ("workers=cores", vit, small | {"workers": CORES}, 1),
        ("workers=cores, resnet50", resnet, small | {"workers": CORES}, 1),
    ]
    if not part.is_tiny:
        runs += [
            ("workers=cores, batch 256", vit, {"workers": CORES, "batch_size": 256}, 1),
            ("workers=cores, all layers", vit, {"workers": CORES, "layers": "all"}, 2),
            ("workers=2*cores", vit, {"workers": 2 * CORES}, 2),
            ("batch auto", resnet, {"workers": CORES, "batch_size": "auto"}, 2),
        ]
    if part.is_cuda:
        runs += [
            (f"workers=cores, decode {route}", vit, small | {"workers": CORES, "decode": route}, 1)
            for route in ("fast", "gpu")
        ]
    for label, name, options, share in runs:
        if part.has_time(f"extract {label}", 10):
            with part.attempt(f"extract {label}", 40):
                _time_extraction(part, f"extract {label}", name, options, n // share, pure.get(name))
    if part.has_time("extract, processes", 10):
        with part.attempt("extract, processes", 45):
            _time_processes(part, vit, n, pure.get(vit))


def _forward_rates(part: Part, name: str) -> dict[str, float]:
    """Measure images per second of the forward pass by batch size, and the time to launch a pass."""
    backbone = load_backbone(f"random:{name}", device=part.device, precision="bf16", fold=True)
    arrays, rates = backbone.resolve("last"), {}
    for size in (8, 16) if part.is_tiny else (64, 128, 256, 512):
        pixels = _random_pixels(backbone, size, part.device)

        def once(pixels: Tensor = pixels) -> None:
            backbone.forward(backbone.transform.normalize(pixels), arrays)

        rates[str(size)] = float(round(size / clock(once, part, seconds=0.5)))
        start = time.perf_counter()
        for _ in range(10):
            once()
        rates[f"{size}, ms to launch"] = round(100 * (time.perf_counter() - start), 2)
        part.synchronize()
    return rates


def _time_extraction(
    part: Part, label: str, name: str, options: dict[str, Any], n: int, pure: float | None
) -> None:
    """Time one extraction, and compare its rate with that of the forward pass alone (`pure`)."""
    folder, store = save_images(part, n), part.folder("store")
    with watch_gpu(part) as gpu:
        summary = extract(
            folder, model=f"random:{name}", store=store, device=part.device, precision="bf16", **options
        )
    rate = summary.images_per_second
    figures = {
        "model": name,
        "images_s": round(rate),
        "busy": round(rate / pure, 3) if pure else None,
        "read_s": round(summary.seconds_read, 2),
        "compute_s": round(summary.seconds_compute, 2),
        "write_s": round(summary.seconds_write, 2),
        "total_s": round(summary.seconds_total, 2),
        "rows": summary.rows,
        "batch": summary.plan.batch_size if summary.plan else None,
    }
    part.found.put(label, figures | gpu)
    shutil.rmtree(store, ignore_errors=True)


def _time_processes(part: Part, name: str, n: int, pure: float | None) -> None:
    """Extract several shards at once on the one device, with an interpreter per shard."""
    count = 2 if part.is_tiny else 4
    folder, store = save_images(part, 128 if part.is_tiny else 4 * n), part.folder("store-processes")
    command = [sys.executable, "-m", "toptune.cli", "extract", str(folder), "--store", str(store), "--json"]
    command += ["--model", f"random:{name}", "--device", part.device, "--precision", "bf16"]
    command += ["-j", str(max(1, CORES // count)), "--batch-size", "16" if part.is_tiny else "128"]
    with watch_gpu(part) as gpu:
        running = [
            subprocess.Popen([*command, "--shard", f"{i}/{count}"], stdout=subprocess.PIPE, text=True)
            for i in range(count)
        ]
        try:
            told = [json.loads(process.communicate()[0]) for process in running]
        finally:
            for process in running:
                process.kill()
    rate = sum(summary["images_per_second"] for summary in told)
    seconds = {
        f"{phase}_s": round(sum(summary[f"seconds_{phase}"] for summary in told) / count, 2)
        for phase in ("read", "compute", "write")
    }
    busy = round(rate / pure, 3) if pure else None
    figures = {"model": name, "processes": count, "images_s": round(rate), "busy": busy}
    part.found.put("extract, processes", figures | seconds | gpu)
    shutil.rmtree(store, ignore_errors=True)


def measure_decoding(part: Part) -> None:
    """Measure how fast images are decoded and resized, by threads and by the GPU's JPEG decoder."""
    paths = sorted(save_images(part, 48 if part.is_tiny else 512).rglob("*.jpg"))
    config = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    transform = EvalTransform(config | {"mean": (0.5,) * 3, "std": (0.5,) * 3})

    def make_ready(path: Path) -> npt.NDArray[np.uint8]:
        return transform.pixels(decode_image(path.read_bytes()))

    with part.attempt("threads", 12):
        rates = {}
        for count in sorted({1, 4, 8, CORES, 2 * CORES}):
            n = 24 if part.is_tiny else 256 if count == 1 else 2048
            with ThreadPoolExecutor(count) as pool:
                start = time.perf_counter()
                for _ in pool.map(make_ready, (paths[i % len(paths)] for i in range(n))):
                    pass
                rates[count] = round(n / (time.perf_counter() - start))
        part.found.put("images_s_by_threads", rates)
    if part.is_cuda:
        with part.attempt("nvjpeg", 15):
            part.found.put("nvjpeg", _measure_nvjpeg(part, paths[:256]))


def _measure_nvjpeg(part: Part, paths: list[Path]) -> dict[str, Any]:
    """Measure the rates of the GPU's decoder, and how many gray levels its pixels are off Pillow's."""
    data = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in paths]
    rates = {}
    for size in (16, 64, 256):
        taken = clock(lambda n=size: decode_jpeg(data[:n], device=part.device), part, seconds=0.6, warm=2)  # type: ignore[misc]
        rates[size] = round(size / taken)
    differences = []
    for path, decoded in zip(paths[:8], decode_jpeg(data[:8], device=part.device), strict=True):
        pixels = np.asarray(decode_image(path.read_bytes())).astype(np.int16)
        differences.append(np.abs(decoded.permute(1, 2, 0).cpu().numpy().astype(np.int16) - pixels))
    return {
        "images_s_by_batch": rates,
        "most": max(int(difference.max()) for difference in differences),
        "mean": round(float(np.mean([difference.mean() for difference in differences])), 3),
    }
