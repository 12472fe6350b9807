"""Extraction: the plain timm loop, a script of forward hooks, and toptune, on the same images.

Usage::

    python benchmarks/extraction.py --data FOLDER [--models resnet50 ...] [--sizes 200 600] [--out FILE.jsonl]
        [--thingsvision PYTHON]

FOLDER holds class folders of images. PYTHON is an interpreter that has thingsvision, which pins an old
torchvision and therefore runs in a process of its own (`extraction_thingsvision.py`), with as many threads.
Models are built with random weights, saved once, and loaded by all contestants. A rate is marginal: the
difference of two sizes in images, over the difference of their times, so that start-up does not count;
start-up is the remaining time. Contestants run in random order. Features of the last layer are compared with
the plain loop's before a rate counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from toptune.extract import extract, load_backbone
from toptune.extract.batch_size import BATCH_SIZES
from toptune.extract.images.decode import decode_image
from toptune.store import FeatureStore

MODELS = ("vit_small_patch16_224", "resnet50", "mobilenetv3_large_100")
BATCH = 32
PEER = Path(__file__).with_name("extraction_thingsvision.py")
SUFFIXES = (".jpg", ".jpeg", ".png")
Run = Callable[[Path, Path], npt.NDArray[Any]]


def save_model(name: str, folder: Path) -> str:
    """Save a model with random weights as timm's local folder, and return the name that loads it."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    folder.mkdir(parents=True)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors"
    )
    config = {
        "architecture": name,
        "num_classes": model.num_classes,
        "pretrained_cfg": {
            key: value
            for key, value in model.pretrained_cfg.items()
            if key not in ("url", "hf_hub_id", "file", "tag", "architecture")
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def link_images(data: Path, folder: Path, n: int) -> None:
    """Make a folder of one class with n images of `data`, which repeat if there are fewer."""
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
    (folder / "pictures").mkdir(parents=True)
    for i in range(n):
        file = files[i % len(files)]
        (folder / "pictures" / f"{i:06d}{file.suffix.lower()}").symlink_to(file.resolve())


def plain_loop(model_name: str, workers: int, *, with_hooks: bool = False) -> Run:
    """Return a contestant: timm, ImageFolder and DataLoader in fp32, features to .npy.

    With hooks, the features of every block are averaged and saved too.
    """

    def run(images: Path, out: Path) -> npt.NDArray[Any]:
        model = timm.create_model(model_name, pretrained=True, num_classes=0).eval()
        transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
        loader = DataLoader(ImageFolder(str(images), transform), batch_size=BATCH, num_workers=workers)
        kept: dict[str, list[npt.NDArray[Any]]] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                body = output.mean(dim=1) if output.ndim == 3 else output.mean(dim=(2, 3))
                kept.setdefault(name, []).append(body.numpy())

            return hook

        if with_hooks:
            modules = dict(model.named_modules())
            for info in model.feature_info:
                modules[info["module"]].register_forward_hook(keep(info["module"]))
        last = []
        with torch.inference_mode():
            for batch, _ in loader:
                last.append(model(batch).numpy())
        for name, parts in kept.items():
            np.save(out / f"{name}.npy", np.concatenate(parts))
        values = np.concatenate(last)
        np.save(out / "last.npy", values)
        return values

    return run


def toptune(model_name: str, **options: Any) -> Run:
    """Return a contestant: `toptune.extract.extract` into a new store."""

    def run(images: Path, out: Path) -> npt.NDArray[Any]:
        summary = extract(images, model=model_name, store=out, dataset="pictures", **options)
        cache = FeatureStore.open(out).cache(summary.model, "pictures")
        return np.asarray(cache.blocks(["last.none"]).take(np.arange(summary.rows)), dtype=np.float32)

    return run


@contextmanager
def thingsvision(python: str, model_name: str, workers: int) -> Iterator[dict[str, Run]]:
    """Start thingsvision and yield its contestants, with its own loader and with torch's."""
    with subprocess.Popen(
        [python, PEER, str(torch.get_num_threads())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:

        def ask(**asked: Any) -> Run:
            def run(images: Path, out: Path) -> npt.NDArray[Any]:
                paths = {"images": str(images), "out": str(out)}
                print(json.dumps(asked | paths), file=peer.stdin, flush=True)
                if not (peer.stdout and peer.stdout.readline()):
                    raise SystemExit("thingsvision failed; what it said stands above")
                return np.asarray(np.load(out / "last" / "features.npy"))

            return run

        yield {
            f"thingsvision{loader}, {what}": ask(model=model_name, batch=BATCH, workers=n, blocks=blocks)
            for loader, n in (("", 0), (" and torch's loader", workers))
            for what, blocks in (("last", False), ("all blocks", True))
        }


def contestants(model_name: str, workers: int) -> dict[str, Run]:
    """Return the contestants that run in this process, by name."""
    return {
        "plain loop": plain_loop(model_name, workers),
        "forward hooks, all blocks": plain_loop(model_name, workers, with_hooks=True),
        "toptune fp32, last": toptune(model_name, precision="fp32", dtype="float32"),
        "toptune auto, last": toptune(model_name, precision="auto"),
        "toptune fp32, all": toptune(model_name, precision="fp32", layers="all"),
        "toptune auto, all": toptune(model_name, precision="auto", layers="all"),
    }


def cpu_seconds(model_name: str, images: Path, precision: str) -> dict[str, float]:
    """Measure CPU seconds per image of decoding (one thread) and of forward passes (all threads) alone.

    The forward passes are those of `extract`, folded and in its batches. Their wall seconds are measured too,
    because cores that wait for each other within a pass are not busy.
    """
    backbone, size = load_backbone(model_name, precision=precision, fold=True), BATCH_SIZES["cpu"]
    files = sorted((images / "pictures").iterdir())[: 4 * BATCH]
    for file in files[:8]:
        backbone.transform.pixels(decode_image(file.read_bytes()))
    start = time.process_time()
    decoded = [backbone.transform.pixels(decode_image(file.read_bytes())) for file in files]
    decoding = (time.process_time() - start) / len(files)
    batches = [torch.from_numpy(np.stack(decoded[i : i + size])) for i in range(0, len(files), size)]
    arrays = backbone.resolve("last")
    backbone.forward(backbone.transform.normalize(batches[0]), arrays)
    start, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        backbone.forward(backbone.transform.normalize(batch), arrays)
    forward, wall = time.process_time() - start, time.perf_counter() - wall
    return {"decoding": decoding, "forward": forward / len(files), "forward_wall": wall / len(files)}


def take_times(
    named: dict[str, Run], root: Path, sizes: list[int], repeats: int
) -> tuple[dict[str, dict[int, list[float]]], dict[str, npt.NDArray[Any]]]:
    """Time every contestant on both sizes, in random order; also return features of the smaller."""
    seconds: dict[str, dict[int, list[float]]] = {name: {n: [] for n in sizes} for name in named}
    features: dict[str, npt.NDArray[Any]] = {}
    rng = np.random.default_rng(0)
    # Every contestant runs once before anything counts: libraries load, and files enter the page cache.
    for run in named.values():
        with tempfile.TemporaryDirectory() as out:
            run(root / str(sizes[0]), Path(out))
    for _ in range(repeats):
        for contestant in rng.permutation(list(named)):
            for n in sizes:
                with tempfile.TemporaryDirectory() as out:
                    start = time.perf_counter()
                    values = named[contestant](root / str(n), Path(out))
                    taken = time.perf_counter() - start
                seconds[contestant][n].append(taken)
                if n == sizes[0]:
                    features[contestant] = values
    return seconds, features


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all contestants with one model."""
    sizes = options.sizes
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        model_name = save_model(name, root / f"{name}.random")
        for n in sizes:
            link_images(options.data, root / str(n), n)
        named = contestants(model_name, options.workers)
        with ExitStack() as stack:
            if options.thingsvision:
                named |= stack.enter_context(thingsvision(options.thingsvision, model_name, options.workers))
            seconds, features = take_times(named, root, sizes, options.repeats)
        alone = {
            precision: cpu_seconds(model_name, root / str(sizes[-1]), precision)
            for precision in ("fp32", "auto")
        }
    row: dict[str, Any] = {
        "model": name,
        "sizes": sizes,
        "repeats": options.repeats,
        "alone": alone,
        "contestants": {},
    }
    truth = features["plain loop"].astype(np.float64)
    for contestant, by_size in seconds.items():
        small, large = (float(np.median(by_size[n])) for n in sizes)
        found = features[contestant].astype(np.float64)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
        each = (large - small) / (sizes[1] - sizes[0])
        row["contestants"][contestant] = {
            "images_per_second": 1 / each,
            "start_up_seconds": small - each * sizes[0],
            "least_cosine": float(((found * truth).sum(axis=1) / norms).min()),
            "relative_error": float(np.linalg.norm(found - truth) / np.linalg.norm(truth)),
            "seconds": {str(n): by_size[n] for n in sizes},
        }
    return row


def show(row: dict[str, Any]) -> None:
    """Print the table of one model."""
    plain = row["contestants"]["plain loop"]["images_per_second"]
    cores = len(os.sched_getaffinity(0))
    small, large = row["sizes"]
    print(f"\n{row['model']}, marginal between {small} and {large} images, median of {row['repeats']}\n")
    print("| | images/s | against the plain loop | start-up, s | least cosine | relative error |")
    print("|---" * 6 + "|")
    for name, found in row["contestants"].items():
        print(
            f"| {name} | {found['images_per_second']:.1f} | {found['images_per_second'] / plain:.2f}x | "
            f"{found['start_up_seconds']:.1f} | {found['least_cosine']:.5f} | {found['relative_error']:.1e} |"
        )
    for precision, alone in row["alone"].items():
        bound = cores / (alone["decoding"] + alone["forward"])
        rate = row["contestants"][f"toptune {precision}, last"]["images_per_second"]
        decoding, forward, wall = (1e3 * alone[key] for key in ("decoding", "forward", "forward_wall"))
        print(f"\n{precision}, CPU an image, alone: decoding {decoding:.1f} ms, forward {forward:.1f} ms")
        print(f"(in {wall:.1f} ms of {cores} cores);", end=" ")
        print(f"at best {bound:.1f} images/s on {cores} cores, wall {bound / rate:.2f} of that")


def main() -> None:
    """Measure every model and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--sizes", nargs=2, type=int, default=[200, 600])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the DataLoader")
    parser.add_argument("--thingsvision", metavar="PYTHON", help="interpreter that has thingsvision")
    parser.add_argument("--out", type=Path, default=Path("extraction.jsonl"))
    options = parser.parse_args()
    # Read when libraries load; the same for all.
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, timm {timm.__version__}", flush=True)
    for name in options.models:
        row = measure(name, options)
        with options.out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        show(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
