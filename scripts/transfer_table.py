"""Print how well the embedded backbone's last layer serves data sets it was not trained on.

For each built-in data set: an RBF SVC (C = 10) on standardized features, stratified 2/3-1/3 splits with five
seeds, for the shipped weights and for the untrained architecture (another initialization with each seed).
Nothing is selected here. Run it after the weights are final: ``python scripts/transfer_table.py``.
"""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from toptune.extract.sources.builtin import BUILTINS, open_builtin

SEEDS = range(5)


def load(stem: Path, *, seed: int | None) -> nn.Module:
    """Return the backbone without its classifier: shipped weights, or untrained with ``seed``."""
    config = json.loads(stem.with_name(f"{stem.name}.json").read_text(encoding="utf-8"))
    torch.manual_seed(seed or 0)
    model: Any = timm.create_model(
        config["architecture"],
        num_classes=config["num_classes"],
        pretrained_cfg=config["pretrained_cfg"],
        **config["model_args"],
    )
    if seed is None:
        model.load_state_dict(load_file(stem.with_name(f"{stem.name}.safetensors")), strict=True)
    model.reset_classifier(0)
    network: nn.Module = model.eval()
    return network


def features(name: str, model: nn.Module) -> tuple[Any, Any]:
    """Return last-layer features (n, d) and labels (n,) of a built-in data set."""
    source = open_builtin(name)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    images = [Image.open(io.BytesIO(source.read(row))).convert("RGB") for row in range(source.n)]
    with torch.inference_mode():
        values = model(torch.stack([transform(image) for image in images])).numpy()
    return values, np.array(source.manifest().labels)


def accuracy(x: Any, y: Any, *, seed: int) -> float:
    """Return the test accuracy of one split."""
    a, b, ya, yb = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=seed)
    return float(make_pipeline(StandardScaler(), SVC(C=10.0)).fit(a, ya).score(b, yb))


def main() -> None:
    """Write one line a data set to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path(__file__).parent.parent / "extract" / "backbone")
    torch.set_num_threads(1)
    stem = next(parser.parse_args().weights.glob("*.toptune_glyphs.safetensors")).with_suffix("")
    for name in BUILTINS:
        x, y = features(name, load(stem, seed=None))
        trained = [accuracy(x, y, seed=seed) for seed in SEEDS]
        untrained = [accuracy(*features(name, load(stem, seed=seed)), seed=seed) for seed in SEEDS]
        sys.stdout.write(
            f"{name}: pretrained {np.mean(trained):.4f} +- {np.std(trained, ddof=1):.4f} "
            f"(least {min(trained):.4f}), "
            f"untrained {np.mean(untrained):.4f} +- {np.std(untrained, ddof=1):.4f}\n"
        )


if __name__ == "__main__":
    main()
