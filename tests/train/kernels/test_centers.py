"""Centers by k-means++: they are spread, reproducible for any size of blocks, and within memory."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from small_store import write_all

from toptune.store import ArrayBlocks, InputError
from toptune.train import FalkonClassifier
from toptune.train.kernels.centers import choose_centers

CODES = np.zeros(400, dtype=np.int64)


def clusters() -> npt.NDArray[np.float64]:
    """Draw ten clusters far from each other, one of 310 rows and nine of ten rows."""
    rng = np.random.default_rng(0)
    which = np.repeat(np.arange(10), [310] + [10] * 9)
    return rng.permutation(100.0 * np.eye(10)[which] + rng.standard_normal((400, 10)))


def covered(X: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> int:
    return len(np.unique(X[rows].argmax(axis=1)))


def test_rare_clusters_are_found() -> None:
    X = clusters()
    spread = [
        choose_centers(CODES, 100, how="kmeans++", seed=seed, blocks=ArrayBlocks(X))[:] for seed in range(5)
    ]
    few = [choose_centers(CODES, 12, how="kmeans++", seed=seed, blocks=ArrayBlocks(X)) for seed in range(20)]
    uniform = [choose_centers(CODES, 12, seed=seed) for seed in range(20)]
    assert all(covered(X, rows) == 10 for rows in spread)
    assert np.mean([covered(X, r) for r in few]) > np.mean([covered(X, r) for r in uniform]) + 2
    for rows in [*spread, *few]:
        assert (np.diff(rows) > 0).all()


def test_reproducible_and_complete() -> None:
    X = clusters()
    first = choose_centers(CODES, 30, how="kmeans++", seed=3, blocks=ArrayBlocks(X))
    again = choose_centers(CODES, 30, how="kmeans++", seed=3, blocks=ArrayBlocks(X))
    other = choose_centers(CODES, 30, how="kmeans++", seed=4, blocks=ArrayBlocks(X))
    assert (first == again).all()
    assert set(first) != set(other)
    assert (choose_centers(CODES, 400, how="kmeans++", blocks=ArrayBlocks(X)) == np.arange(400)).all()
    same = np.ones((400, 3))  # equal rows: nothing to spread, as many centers all the same
    assert len(choose_centers(CODES, 30, how="kmeans++", blocks=ArrayBlocks(same))) == 30


def test_from_a_store(tmp_path: Path) -> None:
    cache = write_all(tmp_path / "store")
    rows = np.array([row for row in range(27) if row != 13])
    blocks = cache.blocks(["layer4.mean", "last.cls"], rows)
    values = np.concatenate([block for _, block in blocks.iterate(4)])
    codes = np.zeros(len(rows), dtype=np.int64)
    ours = choose_centers(codes, 5, how="kmeans++", blocks=blocks)
    assert (ours == choose_centers(codes, 5, how="kmeans++", blocks=ArrayBlocks(values))).all()


def test_refusals() -> None:
    X = clusters()
    with pytest.raises(InputError, match=r"choose one of uniform, class-balanced, kmeans\+\+(\n\[TT\d+\])?$"):
        choose_centers(CODES, 5, how="leverage-scores")
    with pytest.raises(InputError, match="needs the rows themselves"):
        choose_centers(CODES, 5, how="kmeans++")
    with pytest.raises(InputError, match=r"choosing 100 centers by k-means\+\+ needs about"):
        choose_centers(CODES, 100, how="kmeans++", blocks=ArrayBlocks(X), limit_bytes=1000)
    X[:] = np.nan
    with pytest.raises(InputError, match="NaN or infinity in row 0"):
        choose_centers(CODES, 100, how="kmeans++", blocks=ArrayBlocks(X))


def test_a_classifier_with_few_spread_centers() -> None:
    X = clusters()
    y = X.argmax(axis=1)
    spread = FalkonClassifier(n_centers=30, centers="kmeans++", random_state=0).fit(X, y)
    assert spread.score(X, y) > 0.99
    assert spread.report_.n_centers == 30
