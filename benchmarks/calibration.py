"""Probabilities of the kernel head: one temperature against isotonic regression, both fitted out of fold.

    python benchmarks/calibration.py STORE --out calibration.jsonl

Every data set and backbone of a store takes part with its last layer. Both calibrations are fitted to the
scores of the left-out rows of five folds. Test rows, which nothing has seen, judge by log-loss and expected
calibration error (15 bins).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from toptune.store import FeatureStore
from toptune.train import (
    FalkonClassifier,
    PreprocessedBlocks,
    choose_arrays,
    fit_preprocessing,
    split_manifest,
)
from toptune.train.figures.metrics import expected_calibration_error
from toptune.train.numerics.calibration import fit_temperature, softmax


def main() -> None:
    """Compare the calibrations on every cache of the store and seed, and print means and wins."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a case and seed")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for cache in FeatureStore.open(options.store).caches():
        array = choose_arrays(cache.arrays(), None, None)[0]
        for seed in range(options.seeds):
            split = split_manifest(cache.manifest, seed=seed, resplit=True)
            labels = np.array([str(label) for label in cache.manifest.labels])
            blocks = cache.blocks([array.name], split.train)
            preprocessing, _ = fit_preprocessing("standardise", blocks, (array.dim,))

            X, X_test = (
                PreprocessedBlocks(cache.blocks([array.name], part), preprocessing).take(np.arange(len(part)))
                for part in (split.train, split.test)
            )
            row: dict[str, Any] = {"dataset": cache.dataset, "model": cache.model, "seed": seed}
            row |= compare(X, labels[split.train], X_test, labels[split.test])
            rows.append(row)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    for name in ("log_loss", "ece"):
        for kind in ("temperature", "isotonic"):
            print(f"{name} {kind}: mean {np.mean([row[f'{name}_{kind}'] for row in rows]):.4f}")
        wins = sum(row[f"{name}_temperature"] < row[f"{name}_isotonic"] for row in rows)
        print(f"{name}: temperature better in {wins} of {len(rows)}")


def compare(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray) -> dict[str, float]:
    """Fit both calibrations to left-out scores and measure them on the test rows."""
    chosen = FalkonClassifier(random_state=0).fit(X, y)
    fixed: dict[str, Any] = {
        "sigma": chosen.sigma_,
        "penalty": chosen.penalty_,
        "cv": None,
        "random_state": 0,
    }
    classes, codes = np.unique(y, return_inverse=True)
    left_out = np.empty((len(y), len(classes)))
    for inside, outside in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        left_out[outside] = FalkonClassifier(**fixed).fit(X[inside], y[inside]).scores(X[outside])
    scores = FalkonClassifier(**fixed).fit(X, y).scores(X_test)
    by_temperature = softmax(scores, fit_temperature(left_out, codes).value)
    # One class against the rest, then normalized, as scikit-learn's CalibratedClassifierCV does.
    columns = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        .fit(left_out[:, k], codes == k)
        .predict(scores[:, k])
        for k in range(len(classes))
    ]
    by_isotonic = np.clip(np.stack(columns, axis=1), 1e-6, None)
    by_isotonic /= by_isotonic.sum(axis=1, keepdims=True)
    figures = {}
    for name, probabilities in (("temperature", by_temperature), ("isotonic", by_isotonic)):
        figures[f"log_loss_{name}"] = float(log_loss(y_test, probabilities, labels=classes))
        figures[f"ece_{name}"] = float(
            expected_calibration_error(
                probabilities.max(axis=1), classes[probabilities.argmax(axis=1)] == y_test
            )
        )
        figures[f"accuracy_{name}"] = float((classes[probabilities.argmax(axis=1)] == y_test).mean())
    return figures


if __name__ == "__main__":
    main()
