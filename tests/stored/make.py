"""Make the stored fixture of `test_stored_fixtures.py`: two stores, RUN folders, and what they answer.

This script was run once, with the code of commit db4d69f, and is kept only to say how the fixture came about.
It must never be run again: a fixture made by newer code would not prove that older features and runs stay
readable. It writes into the folder that is given, which must not exist::

    PYTHONPATH=tests OMP_NUM_THREADS=1 python tests/stored/make.py FOLDER
"""

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from shapes import MODEL, SHAPES, draw_shape

from toptune.extract import extract
from toptune.store import CONTENT_ARRAY, FeatureStore
from toptune.train import Run, evaluate_run, train, update_run
from toptune.workflows import Classifier, finetune

LAYERS = "layer1,layer2,last"
EXTRACTION: dict[str, Any] = {"model": MODEL, "layers": LAYERS, "precision": "fp32", "max_failures": 1}
FORGOTTEN = "disc/003.png"
RUNS: dict[str, dict[str, Any]] = {
    "falkon": {"head": "falkon", "n_centers": 12},
    "falkon-first-version": {"head": "falkon", "n_centers": 10, "dataset_version": 1},
    "ridge": {"head": "ridge", "layers": "all", "preprocess": "power,pca:10"},
    "logistic": {"head": "logistic", "preprocess": "l2,standardise"},
    "falkon-logistic": {"head": "falkon-logistic", "n_centers": 12, "kernel": "matern32"},
    "lda": {"head": "lda", "layers": "layer1.mean"},
    "ncm": {"head": "ncm"},
    "knn": {"head": "knn"},
    "head2toe": {"head": "head2toe", "layers": "all", "params": {"fraction": 0.1}},
    "sklearn": {"head": "sklearn:sklearn.naive_bayes.GaussianNB", "layers": "layer2.mean"},
}
# A vision transformer with one narrow block, so that its weights take little room.
NETWORK: dict[str, Any] = {
    "model": "random:test_vit",
    "model_kwargs": {"embed_dim": 16, "depth": 1, "num_heads": 2},
    "img_size": 32,
    "precision": "fp32",
    "epochs": 2,
    "warmup_epochs": 1,
    "learning_rates": [1e-3],
    "augment": "none",
    "max_failures": 1,
    "workers": 1,
}


def main(folder: Path) -> None:
    """Write the fixture; nothing in it names the machine."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    os.chdir(folder)
    place = mock.patch.object(socket, "gethostname", return_value="somewhere")
    with mock.patch.dict(os.environ, LOGNAME="somebody"), place:
        make_stores(Path("photos"))
        make_runs()
        write_answers()
    for image in Path("runs").glob("*/confusion_matrix.png"):
        # One is enough to say that such files do no harm.
        if image.parent.name != "falkon":
            image.unlink()
    for file in Path("runs").glob("*/*.json"):
        file.write_text(file.read_text().replace(f"{Path.cwd()}/", ""))


def make_stores(photos: Path) -> None:
    """Extract into a Zarr store, let the data set grow, and extract the second version into an HDF5 store."""
    for shape in SHAPES:
        (photos / shape).mkdir(parents=True)
        for seed in range(22):
            save(photos, shape, seed)
    (photos / "cross" / "broken.png").write_bytes((photos / "cross" / "000.png").read_bytes()[:300])
    extract(photos, store="zarr", **EXTRACTION)
    for shape in SHAPES:
        for seed in (22, 23):
            save(photos, shape, seed)
    (photos / "disc" / "005.png").unlink()
    (photos / "square" / "007.png").rename(photos / "cross" / "107.png")
    extract(photos, store="zarr", update=True, **EXTRACTION)
    extract(photos, store="hdf5", dataset="others", format="hdf5", **EXTRACTION)


def save(photos: Path, shape: str, seed: int) -> None:
    draw_shape(shape, seed).resize((24, 24), Image.Resampling.BICUBIC).save(photos / shape / f"{seed:03}.png")


def make_runs() -> None:
    """Train a run of every kind, bring one up to date, and fine-tune a network."""
    for name, options in RUNS.items():
        train("zarr", dataset="photos", model=MODEL, out=f"runs/{name}", cv=3, allow_failed=True, **options)
    update_run("runs/falkon-first-version", out="runs/updated", forget=[FORGOTTEN], allow_failed=True)
    finetune("photos", out="runs/finetuned", allow_failed=True, **NETWORK)


def write_answers() -> None:
    """Write features, probabilities and metrics, as the code that made all this gives them."""
    arrays: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    stores = {name: FeatureStore.open(name) for name in ("zarr", "hdf5")}
    for key, dataset, version in (("zarr", "photos", 1), ("zarr", "photos", 2), ("hdf5", "others", 1)):
        stored = stores[key].features(MODEL, dataset, version=version)
        names = [spec.name for spec in stored.arrays() if spec.name != CONTENT_ARRAY]
        for name in names:
            arrays[f"{key}/{version}/{name}"] = stored.blocks([name]).take(np.arange(stored.n_rows))
        metrics[f"{key}/{version}"] = {
            "ids": list(stored.manifest.ids), "labels": list(stored.manifest.labels),
            "failed": [stored.manifest.ids[row] for row in stored.failed_rows()], "arrays": names,
        }  # fmt: skip
    for name in (*RUNS, "updated"):
        run = Run.load(Path("runs") / name)
        stored = stores["zarr"].features(MODEL, "photos", version=run.config["dataset_version"])
        rows = np.sort(np.concatenate([run.train_rows, run.test_rows]))
        blocks = stored.blocks([array.name for array in run.arrays], rows)
        arrays[f"{name}/rows"], arrays[f"{name}/probabilities"] = rows, run.predict_blocks(blocks)[1]
        metrics[name] = {
            "test": lasting(evaluate_run(run)),
            "others": lasting(evaluate_run(run, store="hdf5", dataset="others")),
        }
    images = sorted(Path("photos").glob("*/02*.png"))
    for name in ("finetuned", "falkon"):
        answers = Classifier.load(Path("runs") / name).predict(images)
        arrays[f"{name}/images"] = np.array([[*answer.probabilities.values()] for answer in answers])
    np.savez_compressed("answers.npz", **arrays)
    Path("answers.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")


def lasting(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what differs from call to call."""
    return {name: value for name, value in metrics.items() if name not in ("seconds", "costs")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
