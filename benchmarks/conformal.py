"""Sets of labels, against MAPIE and crepes: coverage on test rows, sizes, and how many sets are the same.

    python benchmarks/conformal.py STORE --out conformal.jsonl

Every data set and backbone of a store is trained with several seeds, each with its own split. The left-out
probabilities that a run keeps calibrate the sets of `toptune evaluate --coverage`. Both peers get the same
probabilities: MAPIE's split conformal classifier with the score ``lac``, and crepes' conformal classifier
with the score ``1 - p``, smoothed and not. A peer that is not installed is left out and named; neither is a
dependency of toptune.
"""

import argparse
import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store import FeatureStore
from toptune.train import train
from toptune.train.answers.conformal import label_sets, threshold_of
from toptune.train.answers.left_out import LeftOut
from toptune.train.fusion.evaluation import find_rows

Values = npt.NDArray[np.float64]
Sets = npt.NDArray[np.bool_]


def main() -> None:
    """Compare the sets on every cache of the store and seed, and print means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a case, seed and coverage")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--head", default="falkon")
    options = parser.parse_args()
    rows = []
    for cache in FeatureStore.open(options.store).caches():
        for seed in range(options.seeds):
            for row in compared(options.store, cache.dataset, cache.model, head=options.head, seed=seed):
                rows.append(row)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    for (dataset, model, coverage), of_case in grouped(rows).items():
        told = [f"{dataset}, {model}, {coverage:g}:"]
        for name in ("toptune", "mapie", "crepes", "crepes_smoothed"):
            if name in of_case[0]:
                covered = np.array([row[name]["coverage"] for row in of_case])
                sizes = np.array([row[name]["mean_size"] for row in of_case])
                same = np.mean([row[name]["same"] for row in of_case])
                told.append(f"{name} {covered.mean():.4f} ({sizes.mean():.2f} labels, {same:.4f} the same)")
        within = np.mean([abs(row["z"]) <= 2 for row in of_case])
        print(*told, f"within 2 standard errors {within:.2f}", flush=True)


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str, float], list[dict[str, Any]]]:
    """Return the rows of each data set, model and coverage."""
    found: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["model"], row["asked"]), []).append(row)
    return found


def compared(store: Path, dataset: str, model: str, *, head: str, seed: int) -> list[dict[str, Any]]:
    """Train once, and return a row for each coverage."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            store, dataset=dataset, model=model, head=head, seed=seed, resplit=True, out=Path(folder) / "run",
            keep_sums=False,
        )  # fmt: skip
        said = LeftOut.read(run.folder, advice="train again")
        assert said is not None, f"head {head} leaves out no rows"
        found = find_rows(run, store=store, dataset=None, split="test")
    probabilities = found.probabilities(found.blocks(found.usable))
    labels = found.of_heads[0].labels or {}
    codes = np.array([run.classes.index(labels[row]) for row in found.usable.tolist()])
    rows = []
    for asked in (0.8, 0.9, 0.95):
        ours = label_sets(probabilities, threshold_of(said.likelihood, asked))
        deviation = np.sqrt(asked * (1 - asked) * (1 / len(codes) + 1 / len(said.likelihood)))
        row: dict[str, Any] = {
            "dataset": dataset, "model": model, "seed": seed, "asked": asked, "n_test": len(codes),
            "n_left_out": len(said.likelihood), "toptune": figures(ours, ours, codes),
            "z": float((ours[np.arange(len(codes)), codes].mean() - asked) / deviation),
        }  # fmt: skip
        for name, sets in peers(said.likelihood, probabilities, asked, seed=seed).items():
            row[name] = figures(sets, ours, codes)
        rows.append(row)
    return rows


def figures(sets: Sets, ours: Sets, codes: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return coverage and mean size of sets, and the share that is the same as ours."""
    return {
        "coverage": float(sets[np.arange(len(codes)), codes].mean()),
        "mean_size": float(sets.sum(axis=1).mean()),
        "same": float((sets == ours).all(axis=1).mean()),
    }


def peers(likelihood: Values, probabilities: Values, asked: float, *, seed: int) -> dict[str, Sets]:
    """Return the sets of the peers that are installed."""
    found: dict[str, Sets] = {}
    try:
        mapie = import_module("mapie.classification")
    except ImportError:
        print("mapie is not installed, and is left out")
    else:
        # The score lac looks at the true class alone: what a row says of the others is spread evenly.
        k = probabilities.shape[1]
        spread = np.repeat(((1 - likelihood) / (k - 1))[:, None], k, axis=1)
        true = np.arange(len(likelihood)) % k
        spread[np.arange(len(likelihood)), true] = likelihood
        conformal = mapie.SplitConformalClassifier(Given(k), confidence_level=asked, conformity_score="lac")
        conformal.conformalize(spread, true)
        found["mapie"] = conformal.predict_set(probabilities)[1][:, :, 0].astype(bool)
    try:
        crepes = import_module("crepes")
    except ImportError:
        print("crepes is not installed, and is left out")
    else:
        fitted = crepes.ConformalClassifier().fit(1 - likelihood, seed=seed)
        for name, smoothing in (("crepes", False), ("crepes_smoothed", True)):
            sets = fitted.predict_set(1 - probabilities, confidence=asked, smoothing=smoothing, seed=seed)
            found[name] = np.asarray(sets).astype(bool)
    return found


class Given:
    """A classifier whose rows are the probabilities themselves, as scikit-learn's classifiers are asked."""

    def __init__(self, n_classes: int) -> None:
        self.classes_ = np.arange(n_classes)
        self.n_features_in_ = n_classes

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Values, y: object) -> "Given":  # noqa: ARG002
        """Nothing is to be fitted."""
        return self

    def predict_proba(self, X: Values) -> Values:
        """Return the rows as they are, (n, n_classes)."""
        return X

    def predict(self, X: Values) -> npt.NDArray[np.int64]:
        """Return the likeliest class of each row (n,)."""
        codes: npt.NDArray[np.int64] = X.argmax(axis=1)
        return codes


if __name__ == "__main__":
    main()
