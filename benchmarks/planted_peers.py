"""What cleanlab and imagededup find of the faults that benchmarks/planted.py planted.

    python benchmarks/planted.py STORE WORK ... --keep KEPT
    PEERS/bin/python benchmarks/planted_peers.py KEPT

PEERS is an environment of its own with cleanlab and imagededup; nothing of toptune is imported. Each is given
the features and the left-out probabilities that toptune's own search was given. Labels: average precision of
cleanlab's scores, and precision and recall of its `find_label_issues`. Strangers: average precision of
cleanlab's `OutOfDistribution` on the features. Copies: recall of planted pairs, and other new pairs, of
cleanlab's rule (a distance below 0.13 of the median distance to the nearest neighbor) and of imagededup's
default (a cosine of 0.9).
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

Pairs = set[tuple[int, int]]
_KINDS = ("jpeg", "resize", "mirror", "bright")


def main() -> None:
    """Print one JSON object a data set."""
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.npz")):
        kept = np.load(path)
        seeds = range(sum(name.startswith("given") for name in kept.files))
        found = {
            "dataset": path.stem,
            "labels": over([label_issues(kept, seed) for seed in seeds]),
            "strangers": over([strangers(kept, seed) for seed in seeds]),
            "copies": {
                "cleanlab": copies(kept, below_the_median, seeds),
                "imagededup": copies(kept, above_09, seeds),
            },
        }
        print(json.dumps(found), flush=True)


def over(seeds: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the mean of each figure over the seeds, and its standard error."""
    found = {}
    for name in seeds[0]:
        figures = np.array([each[name] for each in seeds], dtype=float)
        error = figures.std(ddof=1) / len(figures) ** 0.5 if len(figures) > 1 else float("nan")
        found[name] = [round(float(figures.mean()), 4), round(float(error), 4)]
    return found


def label_issues(kept: "np.lib.npyio.NpzFile", seed: int) -> dict[str, float]:
    """Return average precisions of cleanlab's scores, and what it tells as issues."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    given, probabilities = kept[f"given{seed}"], kept[f"probabilities{seed}"].astype(np.float64)
    is_flipped = given != kept["codes"]
    found = {}
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        for adjusts in (False, True):
            if adjusts and method == "confidence_weighted_entropy":
                continue
            scores = get_label_quality_scores(given, probabilities, method=method, adjust_pred_probs=adjusts)
            found[method + ", adjusted" * adjusts] = float(average_precision_score(is_flipped, -scores))
    told = find_label_issues(given, probabilities)
    return found | {
        "precision": float(is_flipped[told].mean()),
        "recall": float(told[is_flipped].mean()),
    }


def strangers(kept: "np.lib.npyio.NpzFile", seed: int) -> dict[str, float]:
    """Return how well images of another set are found by cleanlab's outlier scores, of which 1 % are told."""
    from cleanlab.outlier import OutOfDistribution

    values = kept[f"with_strangers{seed}"]
    scores = OutOfDistribution().fit_score(features=values, verbose=False)
    is_strange = np.arange(len(values)) >= len(kept["values"])
    told = scores < np.quantile(scores, 0.01)
    return {
        "average_precision": float(average_precision_score(is_strange, -scores)),
        "precision": float(is_strange[told].mean()),
        "recall": float(told[is_strange].mean()),
    }


def copies(
    kept: "np.lib.npyio.NpzFile", find: Callable[[np.ndarray], Pairs], seeds: Sequence[int]
) -> dict[str, object]:
    """Return the recall of each kind of copies, and pairs that neither were planted nor there before."""
    values = kept["values"]
    before = find(values)
    found: dict[str, object] = {"there_before": len(before)}
    for kind in _KINDS:
        figures = []
        for seed in seeds:
            new = find(np.concatenate([values, kept[f"{kind}{seed}"]])) - before
            planted = {(row, len(values) + at) for at, row in enumerate(kept[f"planted{seed}"].tolist())}
            figures.append(
                {
                    "recall": len(new & planted) / len(planted),
                    "others": len(new - planted),
                    "precision": len(new & planted) / max(len(new), 1),
                }
            )
        found[kind] = over(figures)
    return found


def below_the_median(values: np.ndarray) -> Pairs:
    """Return near-duplicates by the rule of cleanlab's Datalab: 0.13 of the median nearest distance."""
    distances = 1 - _cosines(values)
    np.fill_diagonal(distances, np.inf)
    return _pairs(distances < 0.13 * np.median(distances.min(axis=1)))


def above_09(values: np.ndarray) -> Pairs:
    """Return near-duplicates by imagededup's cosines and its default threshold."""
    from imagededup.handlers.search.retrieval import get_cosine_similarity

    return _pairs(get_cosine_similarity(values) >= 0.9)


def _cosines(values: np.ndarray) -> np.ndarray:
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosines: np.ndarray = unit @ unit.T
    return cosines


def _pairs(is_near: np.ndarray) -> Pairs:
    left, right = np.nonzero(np.triu(is_near, 1))
    return set(zip(left.tolist(), right.tolist(), strict=True))


if __name__ == "__main__":
    main()
