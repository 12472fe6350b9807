"""Several labels an image: heads of toptune against scikit-learn's one-vs-rest, cross-validated.

    toptune extract ASSETS/datasets/grocery_store --model local-dir:ASSETS/weights/mobilenetv2_100.tf2_in1k \
        --layers last --store STORE --dataset grocery_store
    python benchmarks/several_labels.py STORE --out several_labels.jsonl

Two sets of labels: made ones (1,500 rows of 40 columns, twelve labels of which each is a halfspace of three
hidden directions with noise), and attributes of the 26 kinds of grocery_store (kind of thing, color, shape),
on stored features. On each of five splits (a third tests) every classifier is fitted to the same standardized
rows and chooses its parameters over five folds. The test rows judge by mean average precision over labels;
seconds are of the fit with its selection, on one thread.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from toptune.store import FeatureStore
from toptune.train import (
    FalkonClassifier,
    FalkonLogisticClassifier,
    StreamingLogisticClassifier,
    StreamingRidgeClassifier,
)

Values = npt.NDArray[np.float64]
ATTRIBUTES = {
    "fruit": "Anjou Avocado Banana Cantaloupe Conference Golden-Delicious Granny-Smith Honeydew-Melon Kiwi "
    "Lemon Nectarine Orange Peach Pink-Lady Red-Delicious Red-Grapefruit Royal-Gala Satsumas Watermelon",
    "vegetable": "Brown-Cap-Mushroom Carrots Regular-Tomato Vine-Tomato Yellow-Onion",
    "carton": "Arla-Natural-Yoghurt Garant-Ecological-Medium-Fat-Milk",
    "citrus": "Lemon Orange Red-Grapefruit Satsumas",
    "apple": "Golden-Delicious Granny-Smith Pink-Lady Red-Delicious Royal-Gala",
    "green": "Anjou Avocado Conference Granny-Smith Kiwi Watermelon",
    "red": "Pink-Lady Red-Delicious Regular-Tomato Royal-Gala Vine-Tomato Nectarine",
    "yellow": "Banana Golden-Delicious Honeydew-Melon Lemon Yellow-Onion",
    "orange": "Cantaloupe Carrots Orange Peach Red-Grapefruit Satsumas",
    "round": "Cantaloupe Golden-Delicious Granny-Smith Honeydew-Melon Nectarine Orange Peach Pink-Lady "
    "Red-Delicious Red-Grapefruit Regular-Tomato Royal-Gala Satsumas Vine-Tomato Watermelon Yellow-Onion",
    "long": "Banana Carrots Conference",
}


def made() -> tuple[Values, Values]:
    """Return rows and labels of known structure."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 40))
    hidden = X @ rng.normal(size=(40, 3)) / 6
    scores = hidden @ rng.normal(size=(3, 12)) + 0.3 * rng.normal(size=(1500, 12)) - 0.6
    return X, (scores > 0).astype(float)


def groceries(store: Path) -> tuple[Values, Values]:
    """Return stored features and the attributes of each image."""
    features = FeatureStore.open(store).features("mobilenetv2_100.tf2_in1k", "grocery_store")
    kinds = [str(label) for label in features.manifest.labels]
    X = np.concatenate([np.asarray(features.blocks([array.name])) for array in features.arrays()], axis=1)
    Y = np.array([[kind in names.split() for names in ATTRIBUTES.values()] for kind in kinds], float)
    return X.astype(np.float64), Y


def heads(seed: int) -> dict[str, Any]:
    """Return the classifiers to compare, each with its selection."""
    logistic = LogisticRegressionCV(Cs=5, cv=5, max_iter=300)
    svc = GridSearchCV(SVC(), {"C": [1.0, 10.0], "gamma": ["scale", 1e-4]}, cv=5)
    return {
        "falkon": FalkonClassifier(random_state=seed),
        "falkon-logistic": FalkonLogisticClassifier(random_state=seed),
        "ridge": StreamingRidgeClassifier(random_state=seed),
        "logistic": StreamingLogisticClassifier(random_state=seed),
        "one-vs-rest LogisticRegressionCV": OneVsRestClassifier(logistic),
        "one-vs-rest RBF SVC": OneVsRestClassifier(svc),
    }


def scores_of(head: Any, X: Values) -> Values:
    """Return what ranks the rows for each label."""
    found: Values = np.asarray(head.decision_function(X), np.float64)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1), given.out.open("w", encoding="utf-8") as out:
        sets = {"made": made(), "grocery_store": groceries(given.store)}
        for seed in range(given.seeds):
            for name, (X, Y) in sets.items():
                train, test = train_test_split(np.arange(len(X)), test_size=1 / 3, random_state=seed)
                scaler = StandardScaler().fit(X[train])
                A, B = scaler.transform(X[train]), scaler.transform(X[test])
                for what, head in heads(seed).items():
                    start = time.perf_counter()
                    head.fit(A, Y[train])
                    seconds = time.perf_counter() - start
                    precision = float(average_precision_score(Y[test], scores_of(head, B), average="macro"))
                    row = {"data": name, "seed": seed, "head": what, "map": precision, "seconds": seconds}
                    out.write(json.dumps(row) + "\n")
                    out.flush()
                    print(row)


if __name__ == "__main__":
    main()
