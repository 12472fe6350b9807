"""What `solvers.py` compares: synthetic problems, fits of one size by every contestant, and their reference.

All contestants of a problem have the same rows, centers, width, penalty and targets.
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from toptune.train import FalkonClassifier
from toptune.train.kernels.centers import choose_centers
from toptune.train.kernels.kernels import median_distance

N_TEST = 2000
PENALTY = 1e-6
ITERATIONS = 20
_CHUNK = 10_000
Scores = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Size:
    """Rows n, columns d, centers m and classes c of a problem."""

    n: int
    d: int
    m: int
    c: int

    @classmethod
    def read(cls, text: str) -> "Size":
        """Read ``n,d,M,classes``."""
        return cls(*(int(part) for part in text.split(",")))

    def __str__(self) -> str:
        return ",".join(map(str, astuple(self)))


# This size is fitted once before anything counts, so that libraries load and make their workspaces.
WARM_UP = Size(300, 8, 50, 3)


def made_rows(
    size: Size, n: int, *, seed: int
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Yield chunks of n rows: each class is a few Gaussian blobs, with deviations like 1/sqrt(column).

    The spread was tuned so that heads on 2,000 centers classify 85 to 95 rows in 100 correctly, and more
    centers help.
    """
    per_class = max(1, round(40 / np.sqrt(size.c)))
    spread = 0.4 * (512 / size.d) ** 0.34 * max(1.0, 20_000 / size.n) ** 0.2
    of_means = np.random.default_rng(0)
    means = spread * of_means.standard_normal((size.c * per_class, size.d), dtype=np.float32)
    deviations = np.arange(1, size.d + 1, dtype=np.float32) ** -0.5
    rng = np.random.default_rng(seed)
    for start in range(0, n, _CHUNK):
        count = min(_CHUNK, n - start)
        blobs = rng.integers(len(means), size=count)
        values = rng.standard_normal((count, size.d), dtype=np.float32)
        values += means[blobs]
        values *= deviations
        yield values, blobs % size.c


def make_rows(size: Size, n: int, *, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Draw n rows with their classes at once."""
    chunks = list(made_rows(size, n, seed=seed))
    return np.concatenate([values for values, _ in chunks]), np.concatenate([codes for _, codes in chunks])


class Problem:
    """Training and test rows of one size, with the centers, width and penalty of all contestants."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.X, self.y = make_rows(size, size.n, seed=1)
        self.X_test, self.y_test = make_rows(size, N_TEST, seed=2)
        seed = int(check_random_state(0).randint(2**31 - 1))
        self.center_rows = choose_centers(self.y, size.m, how="uniform", seed=seed)
        self.sigma = median_distance(torch.from_numpy(self.centers[:1000]))

    @cached_property
    def centers(self) -> npt.NDArray[np.float32]:
        """The rows that are centers."""
        return self.X[self.center_rows]

    @property
    def target_mean(self) -> Tensor:
        """Share of each class among the training rows."""
        return torch.from_numpy(np.bincount(self.y, minlength=self.size.c) / len(self.y))

    def accuracy(self, scores: npt.NDArray[Any]) -> float:
        """Return the accuracy of scores of the test rows."""
        return float((scores.argmax(axis=1) == self.y_test).mean())


def fit_toptune(problem: Problem, *, solver: str) -> tuple[Scores, dict[str, Any]]:
    """Fit toptune's head at one width and penalty; random_state 0 draws the problem's centers."""
    fitted = FalkonClassifier(
        sigma=problem.sigma,
        penalty=PENALTY,
        n_centers=problem.size.m,
        solver=solver,
        cv=None,
        random_state=0,
    ).fit(problem.X, problem.y)
    return fitted.scores, fitted.report_.to_dict()


def fit_falkonml(
    problem: Problem, *, tuned: bool, sigma: float | None = None, penalty: float = PENALTY
) -> tuple[Scores, dict[str, Any]]:
    """Fit FalkonML with its defaults or, if tuned, storing the kernel values in single precision.

    The centers are the same in random order, which is how FalkonML's own selector draws them.
    """
    import falkon

    more = {"store_kernel_d_threshold": 0, "no_single_kernel": False} if tuned else {}
    options = falkon.FalkonOptions(use_cpu=True, keops_active="no", **more)
    centers = torch.from_numpy(np.random.default_rng(0).permutation(problem.centers))
    mean = problem.target_mean.float()
    targets = torch.nn.functional.one_hot(torch.from_numpy(problem.y), problem.size.c).float() - mean
    model = falkon.Falkon(
        kernel=falkon.kernels.GaussianKernel(sigma or problem.sigma, options),
        penalty=penalty,
        M=problem.size.m,
        center_selection=falkon.center_selection.FixedSelector(centers),
        maxiter=ITERATIONS,
        error_fn=None,
        options=options,
    )
    model.fit(torch.from_numpy(problem.X), targets)

    def scores(X: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = (model.predict(torch.from_numpy(X)) + mean).numpy()
        return values

    return scores, {}


def contestants() -> dict[str, Callable[[Problem], tuple[Scores, dict[str, Any]]]]:
    """Return every way of one fit that this environment has, by name."""
    named: dict[str, Callable[[Problem], tuple[Scores, dict[str, Any]]]] = {
        "toptune direct": lambda problem: fit_toptune(problem, solver="direct"),
        "toptune falkon": lambda problem: fit_toptune(problem, solver="falkon"),
    }
    if has_falkonml():
        named["FalkonML default"] = lambda problem: fit_falkonml(problem, tuned=False)
        named["FalkonML tuned"] = lambda problem: fit_falkonml(problem, tuned=True)
    return named


def has_falkonml() -> bool:
    """Tell whether FalkonML is installed."""
    try:
        import falkon  # noqa: F401
    except ImportError:
        return False
    return True


def reference_scores(problem: Problem) -> dict[str, npt.NDArray[np.float64]]:
    """Compute test scores of both problems from float64 sums and Cholesky factors.

    toptune centers the features and FalkonML does not, so that each is measured against its own reference.
    """
    centers = torch.from_numpy(problem.centers).double()

    def kernel(rows: npt.NDArray[np.float32]) -> Tensor:
        squared = torch.cdist(torch.from_numpy(rows).double(), centers).square_()
        values: Tensor = squared.mul_(-0.5 / problem.sigma**2).exp_()
        return values

    factor = torch.linalg.cholesky(kernel(problem.centers))

    def features(values: npt.NDArray[np.float32]) -> Tensor:
        whitened: Tensor = torch.linalg.solve_triangular(factor.T, kernel(values), upper=True, left=False)
        return whitened

    m, n, mean = len(centers), problem.size.n, problem.target_mean
    gram = torch.zeros((m, m), dtype=torch.float64)
    cross = torch.zeros((m, problem.size.c), dtype=torch.float64)
    feature_mean = torch.zeros(m, dtype=torch.float64)
    for start in range(0, n, 2000):
        where = slice(start, start + 2000)
        phi = features(problem.X[where])
        codes = torch.from_numpy(problem.y[where])
        gram.addmm_(phi.T, phi)
        cross.addmm_(phi.T, torch.nn.functional.one_hot(codes, problem.size.c).double() - mean)
        feature_mean += phi.sum(dim=0)
    gram, cross, feature_mean = gram.div_(n), cross.div_(n), feature_mean.div_(n)
    gram.diagonal().add_(PENALTY)
    phi = features(problem.X_test)
    plain = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
    gram.addr_(feature_mean, feature_mean, alpha=-1)
    centered = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
    return {
        "FalkonML": (phi @ plain + mean).numpy(),
        "toptune": ((phi - feature_mean) @ centered + mean).numpy(),
    }


def memory_of(name: str) -> int | None:
    """Return the bytes that Linux's /proc names for this process, or None on other systems."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if name in line)


def reset_peak() -> None:
    """Restart the measurement of this process's peak memory."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
