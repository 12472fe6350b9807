"""Centres by leverage scores: near the exact scores, fair to rare rows, reproducible, within memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from toptune.store import ArrayBlocks, InputError
from toptune.train import FalkonClassifier, FalkonLogisticClassifier
from toptune.train.centers import choose_centers
from toptune.train.kernels import Gaussian, Laplacian, Linear, Radial
from toptune.train.leverage_centers import approximate_scores, bottom_up

Matrix = npt.NDArray[np.float64]
N, RARE = 1500, 15


def cloud() -> Matrix:
    """One dense region and a hundredth of the rows far from it."""
    rng = np.random.default_rng(0)
    dense, rare = rng.normal(size=(N - RARE, 4)), 8 + 1.5 * rng.normal(size=(RARE, 4))
    return np.concatenate([dense, rare])


def choose(X: Matrix, n_centers: int, **options: Any) -> npt.NDArray[np.int64]:
    codes = np.zeros(len(X), dtype=np.int64)
    settings: dict[str, Any] = {"how": "leverage-scores", "blocks": ArrayBlocks(X), **options}
    return choose_centers(codes, n_centers, **settings)


def exact_scores(kernel: Radial | Linear, X: Tensor, ridge: float) -> Tensor:
    gram = kernel(X, X)
    shifted = gram + ridge * torch.eye(len(X), dtype=torch.float64)
    scores: Tensor = torch.linalg.solve(shifted, gram).diagonal()
    return scores


@pytest.mark.parametrize("kernel", [Gaussian(1.5), Gaussian(4.0), Laplacian(4.0), Linear()])
@pytest.mark.parametrize("floor", [1e-2, 1e-3])
def test_scores_are_within_a_factor_of_the_exact_ones(kernel: Radial | Linear, floor: float) -> None:
    X = torch.from_numpy(cloud())
    for seed in range(3):
        dictionary = bottom_up(X, kernel, n_centers=10**6, floor=floor, seed=seed)
        assert dictionary is not None
        exact = exact_scores(kernel, X, dictionary.ridge)
        ratio = approximate_scores(X, kernel, dictionary) / exact
        # All within a factor of 3 and all but a twentieth within 2; their sum, the dimension, within 1.5.
        assert float(ratio.min()) > 1 / 3
        assert float(ratio.max()) < 3
        assert float(((ratio > 0.5) & (ratio < 2)).double().mean()) > 0.95
        dimension = float(exact.sum())
        assert 1 / 1.5 < float((ratio * exact).sum()) / dimension < 1.5
        assert len(dictionary.values) < 8 * dimension + 150


def test_the_penalty_stops_at_the_dimension_that_centres_can_carry() -> None:
    X = torch.from_numpy(cloud())
    few = bottom_up(X, Gaussian(2.0), n_centers=10, floor=1e-9, seed=0)
    many = bottom_up(X, Gaussian(2.0), n_centers=80, floor=1e-9, seed=0)
    assert few is not None
    assert many is not None
    assert few.ridge > many.ridge > 1e-9 * N
    assert 5 < float(exact_scores(Gaussian(2.0), X, few.ridge).sum()) < 30


def test_rare_rows_are_chosen_more_often_than_by_chance() -> None:
    X = cloud()
    chosen = [int((choose(X, 60, sigma=1.5, seed=seed) >= N - RARE).sum()) for seed in range(10)]
    by_chance = 60 * RARE / N
    assert np.mean(chosen) > 5 * by_chance
    assert min(chosen) > by_chance


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "matern32", "linear"])
def test_reproducible_complete_and_distinct(kernel: str) -> None:
    X = cloud()
    first, again, other = (choose(X, 50, kernel=kernel, seed=seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert set(first) != set(other)
    assert (np.diff(first) > 0).all()
    assert len(first) == 50
    assert (choose(X, N, kernel=kernel) == np.arange(N)).all()
    assert (choose(X, N + 5, kernel=kernel) == np.arange(N)).all()


@pytest.mark.parametrize("X", [np.ones((200, 3)), np.zeros((200, 3)), np.repeat(np.eye(4), 50, axis=0)])
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_rows_without_differences_still_give_as_many_centres(X: Matrix, kernel: str) -> None:
    rows = choose(X, 30, kernel=kernel, penalty=1e-8)
    assert len(np.unique(rows)) == 30


class Cut:
    """Blocks cut otherwise than asked."""

    def __init__(self, values: Matrix, step: int) -> None:
        self.inner, self.step = ArrayBlocks(values), step
        self.shape, self.dtype, self.take = self.inner.shape, self.inner.dtype, self.inner.take

    def iterate(self, _block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        yield from self.inner.iterate(self.step)


def test_blocks_of_any_size_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    X = cloud()
    whole = choose(X, 50)
    for step in (1, 7, 333):
        assert (choose(X, 50, blocks=Cut(X, step)) == whole).all()
    monkeypatch.setattr("toptune.train.leverage_centers.POOL", 300)
    pooled = choose(X, 50, sigma=1.5)
    assert (choose(X, 50, sigma=1.5, blocks=Cut(X, 7)) == pooled).all()
    assert (pooled >= N - RARE).sum() > 2  # scored against a pool, drawn from all rows


def test_refusals() -> None:
    X = cloud()
    with pytest.raises(InputError, match="'leverage-scores' needs the rows themselves"):
        choose(X, 5, blocks=None)
    with pytest.raises(InputError, match="choosing 50 centres by leverage scores needs about"):
        choose(X, 50, limit_bytes=1000)
    X[77] = np.nan
    with pytest.raises(InputError, match="NaN or infinity in row 77 "):
        choose(X, 50)


@pytest.mark.parametrize("estimator", [FalkonClassifier, FalkonLogisticClassifier])
def test_classifiers_take_them(estimator: Any) -> None:
    X = cloud()
    y = (np.arange(N) >= N - RARE).astype(int) + 2 * (X[:, 0] > 0)
    fitted = estimator(
        n_centers=60, centers="leverage-scores", sigma=[1.5, 3.0], penalty=[1e-5, 1e-4], random_state=0
    )
    assert fitted.fit(X, y).score(X, y) > 0.95
    assert fitted.report_.n_centers == 60
