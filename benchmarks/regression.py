"""Numbers as targets: `FalkonRegressor` against scikit-learn's KernelRidge and SVR, both cross-validated.

    python benchmarks/regression.py --out regression.jsonl

Three data sets, which need no download: diabetes (442 rows of 10 columns), Friedman's first function (1,500
rows of 10 columns, noise of deviation 1), and by how many degrees a digit of 8 x 8 pixels was turned (1,500
images). On each of five splits every regressor is fitted to the same standardized rows and chooses its
parameters over five folds. The test rows judge by R2; seconds are of the fit with its selection, on one
thread.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import rotate
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_digits, make_friedman1
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from toptune.train import FalkonRegressor, RidgeRegressor

Values = npt.NDArray[np.float64]
N_TURNED = 1500
PEERS = ("KernelRidge", "SVR")


def turned_digits() -> tuple[Values, Values]:
    """Return digits that are turned by up to 45 degrees either way, and by how many."""
    images = load_digits().images[:N_TURNED]
    angles = np.random.default_rng(0).uniform(-45, 45, len(images))
    turned = [
        rotate(image, angle, reshape=False, order=1) for image, angle in zip(images, angles, strict=True)
    ]
    return np.stack(turned).reshape(len(images), -1), angles


def peer(estimator: Any, grid: dict[str, list[Any]]) -> Any:
    """Return a regressor of scikit-learn whose parameters are cross-validated, on standardized targets."""
    search = GridSearchCV(estimator, grid, cv=5, scoring="neg_mean_squared_error")
    return TransformedTargetRegressor(search, transformer=StandardScaler())


def regressors(d: int, seed: int) -> dict[str, Callable[[], Any]]:
    """Return what is compared; the peers' widths are multiples of one over the number of columns."""
    gammas = [multiple / d for multiple in (0.01, 0.03, 0.1, 0.3, 1.0)]
    return {
        "FalkonRegressor": lambda: FalkonRegressor(random_state=seed),
        "RidgeRegressor": lambda: RidgeRegressor(random_state=seed),
        "KernelRidge": lambda: peer(
            KernelRidge(kernel="rbf"), {"alpha": [1e-3, 1e-2, 1e-1, 1.0, 10.0], "gamma": gammas}
        ),
        "SVR": lambda: peer(SVR(), {"C": [0.1, 1.0, 10.0, 100.0], "gamma": gammas, "epsilon": [0.01, 0.1]}),
    }


def main() -> None:
    """Compare on every data set and split, and print means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a regressor and split")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets: dict[str, tuple[Values, Values]] = {
        "diabetes": load_diabetes(return_X_y=True),
        "friedman1": make_friedman1(1500, noise=1.0, random_state=0),
        "turned digits": turned_digits(),
    }
    rows = []
    with threadpool_limits(1):
        for name, (X, y) in sets.items():
            for seed in range(options.seeds):
                rows += compared(name, X, y, seed)
                with options.out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows[-len(regressors(1, 0)) :])
    for name in sets:
        told(name, [row for row in rows if row["data"] == name])


def compared(name: str, X: Values, y: Values, seed: int) -> list[dict[str, Any]]:
    """Fit every regressor to one split."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=seed)
    scaler = StandardScaler().fit(X_train)
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
    rows = []
    for head, make in regressors(X.shape[1], seed).items():
        start = time.perf_counter()
        fitted = make().fit(X_train, y_train)
        seconds = time.perf_counter() - start
        r2 = float(r2_score(y_test, fitted.predict(X_test)))
        rows.append({"data": name, "seed": seed, "head": head, "r2": r2, "seconds": seconds})
        print(rows[-1], flush=True)
    return rows


def told(name: str, rows: list[dict[str, Any]]) -> None:
    """Print mean R2 and median seconds, and FalkonRegressor against the better peer."""
    by_head = {head: [row for row in rows if row["head"] == head] for head in regressors(1, 0)}
    r2 = {head: np.array([row["r2"] for row in mine]) for head, mine in by_head.items()}
    seconds = {head: float(np.median([row["seconds"] for row in mine])) for head, mine in by_head.items()}
    for head, values in r2.items():
        print(f"{name:<14} {head:<16} R2 {values.mean():.4f}  {seconds[head]:.2f} s")
    best = max(PEERS, key=lambda head: r2[head].mean())
    lead = r2["FalkonRegressor"] - r2[best]
    error = lead.std(ddof=1) / np.sqrt(len(lead))
    print(
        f"{name:<14} lead over {best}: {lead.mean():+.4f}, standard error {error:.4f}, "
        f"time ratio {seconds['FalkonRegressor'] / seconds[best]:.2f}"
    )


if __name__ == "__main__":
    main()
