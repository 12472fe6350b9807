"""FALKON's iteration against dense float64 answers and against the direct solve."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import make_classification
from torch import Tensor

from toptune.store import ArrayBlocks, NumericalError
from toptune.train.kernels.kernels import kernel_of
from toptune.train.kernels.maps import NystromMaps
from toptune.train.numerics.conjugate_gradient import conjugate_gradient
from toptune.train.passes.passes import accumulate
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.falkon import FalkonSolution, solve_falkon
from toptune.train.solvers.ridge import CenteredSystem

CPU = torch.device("cpu")
Matrix = npt.NDArray[np.float64]


def make_rows(X: Matrix, codes: npt.NDArray[Any], weights: Matrix | None = None) -> TrainingRows:
    return TrainingRows(
        blocks=ArrayBlocks(X),
        codes=codes.astype(np.int64),
        weights=np.ones(len(X)) if weights is None else weights,
        folds=np.zeros(len(X), dtype=np.int64),
        n_classes=int(codes.max()) + 1,
        n_folds=1,
    )


def blobs(n: int = 300, d: int = 6) -> tuple[Matrix, npt.NDArray[Any]]:
    X, y = make_classification(n, d, n_informative=d - 1, n_redundant=0, n_classes=4, random_state=0)
    return X, y


def dense(matrix: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda v, _numbers: matrix @ v


def spd(condition: float, r: int = 60, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64))[0]
    eigenvalues = torch.logspace(0, -float(np.log10(condition)), r, dtype=torch.float64)
    product: Tensor = basis * eigenvalues @ basis.T
    return product


def direct(rows: TrainingRows, maps: NystromMaps, penalty: float) -> Tensor:
    (sums,) = accumulate(rows, maps, [0], block_rows=64, device=CPU)
    return CenteredSystem.of(sums.gram.sum(dim=0), sums.cross.sum(dim=0)).solve(penalty)[0]


def scores_of(maps: NystromMaps, X: Matrix, beta: Tensor) -> Matrix:
    (phi,) = maps.features(torch.from_numpy(X), [0])
    result: Matrix = (phi @ beta[:-1] + beta[-1]).numpy()
    return result


@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e6])
def test_equals_the_dense_answer_over_condition_numbers(condition: float) -> None:
    matrix = spd(condition)
    right = torch.randn(60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tolerance = 1e-14 * max(condition, 10.0)  # rounding allows no less of a relative residual
    found = conjugate_gradient(
        dense(matrix), lambda v, _: v.clone(), right, tolerance=tolerance, max_iterations=2000
    )
    assert found.reason == "converged"
    assert (found.residuals <= 2 * tolerance).all()
    expected = torch.linalg.solve(matrix, right)
    assert (found.value - expected).norm() <= 2 * tolerance * condition * expected.norm()
    assert len(found.history) >= found.n_iterations
    exact = torch.linalg.inv(spd(condition))
    assert (
        conjugate_gradient(dense(matrix), dense(exact), right, tolerance=1e-9, max_iterations=50).n_iterations
        <= 4
    )


def test_what_stops_short_says_so() -> None:
    matrix, right = spd(1e6), torch.ones(60, 2, dtype=torch.float64)
    plain: Callable[[Tensor, Tensor], Tensor] = lambda v, _: v.clone()  # noqa: E731
    short = conjugate_gradient(dense(matrix), plain, right, tolerance=1e-12, max_iterations=7)
    assert short.reason == "iteration-limit"
    assert short.n_iterations <= 7
    true = (right - matrix @ short.value).norm(dim=0) / right.norm(dim=0)
    torch.testing.assert_close(short.residuals, true)
    # No float64 answer has a residual of 1e-19: the iteration must notice and stop by itself.
    deaf = conjugate_gradient(dense(matrix), plain, right, tolerance=1e-19, max_iterations=5000)
    assert deaf.reason == "stagnated"
    assert deaf.n_iterations < 5000
    with pytest.raises(NumericalError, match="not finite"):
        conjugate_gradient(dense(matrix * float("nan")), plain, right, tolerance=1e-6, max_iterations=9)


def test_columns_have_their_own_matrix_and_zero_columns_cost_nothing() -> None:
    matrix, shifts = spd(1e3), torch.tensor([1e-3, 1.0, 10.0, 1.0], dtype=torch.float64)
    right = torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right[:, 3] = 0
    widths: list[int] = []

    def product(v: Tensor, numbers: Tensor) -> Tensor:
        widths.append(v.shape[1])
        return matrix @ v + shifts[numbers] * v

    found = conjugate_gradient(product, lambda v, _: v.clone(), right, tolerance=1e-11, max_iterations=500)
    for column, shift in enumerate(shifts.tolist()):
        expected = torch.linalg.solve(matrix + shift * torch.eye(60, dtype=torch.float64), right[:, column])
        torch.testing.assert_close(found.value[:, column], expected, atol=1e-9, rtol=1e-9)
    assert max(widths) == 3
    assert 1 in widths  # columns that are done are not multiplied any more
    again = conjugate_gradient(
        product, lambda v, _: v.clone(), right, start=found.value, tolerance=1e-10, max_iterations=500
    )
    assert again.n_iterations == 1
    assert again.reason == "converged"


def widen(X: Matrix) -> Matrix:
    return np.column_stack([X, X @ np.ones((6, 3))])


CASES: dict[str, Callable[[Matrix], tuple[Matrix, Matrix]]] = {
    "some centers": lambda X: (X, X[::4]),
    "M = n": lambda X: (X, X),
    "duplicated rows": lambda X: (np.repeat(X[:50], 6, axis=0), np.repeat(X[:20], 6, axis=0)),
    "rank-deficient": lambda X: (widen(X), widen(X)[::4]),
    "one column": lambda X: (X[:, :1], X[::4, :1]),
    "far away": lambda X: (X + 1e4, X[::4] + 1e4),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("penalty", [1e-9, 1e-5, 1e-1])
def test_scores_equal_those_of_the_direct_solve(case: str, kernel: str, penalty: float) -> None:
    X, y = blobs()
    X, C = CASES[case](X)
    y = np.repeat(y[:50], 6) if case == "duplicated rows" else y
    rows = make_rows(X, y, np.random.default_rng(0).uniform(0.5, 1.5, len(X)))
    maps = NystromMaps.on([kernel_of(kernel, None if kernel == "linear" else 2.0)], torch.from_numpy(C))
    found = solve_falkon(rows, maps, 0, [penalty], block_rows=64, is_cached=False, tolerance=1e-10)
    expected = scores_of(maps, X, direct(rows, maps, penalty))
    # Beyond its own rounding at the smallest penalty, the direct solve is the worse of the two.
    assert np.abs(scores_of(maps, X, found.beta[0]) - expected).max() < 1e-5
    assert found.reason in ("converged", "stagnated")


def solve_small(**options: Any) -> tuple[TrainingRows, NystromMaps, FalkonSolution]:
    X, y = blobs()
    rows = make_rows(X, y)
    maps = NystromMaps.on([kernel_of("gaussian", 2.0)], torch.from_numpy(X[::3]))
    settings: dict[str, Any] = {"block_rows": 64, "is_cached": False, "tolerance": 1e-9, **options}
    return rows, maps, solve_falkon(rows, maps, 0, settings.pop("penalties", [1e-4]), **settings)


def test_block_size_order_and_cache_change_nothing() -> None:
    _, _, plain = solve_small()
    for options in ({"block_rows": 7}, {"is_cached": True}, {"block_rows": 10_000}):
        torch.testing.assert_close(solve_small(**options)[2].beta, plain.beta, atol=1e-6, rtol=1e-6)
    assert solve_small(is_cached=True)[2].n_passes == 1
    assert plain.n_passes == plain.n_iterations + 1


def test_penalties_share_passes_and_later_groups_start_warm() -> None:
    penalties = [10.0**-exponent for exponent in range(1, 7)]
    rows, maps, together = solve_small(penalties=penalties)
    assert together.penalties == tuple(penalties)
    alone = [solve_small(penalties=[penalty])[2] for penalty in penalties]
    assert together.n_passes < 0.5 * sum(each.n_passes for each in alone)
    _, _, grouped = solve_small(penalties=penalties, columns=1)
    assert grouped.n_passes <= sum(each.n_passes for each in alone)
    for at, penalty in enumerate(penalties):
        expected = direct(rows, maps, penalty)
        torch.testing.assert_close(together.beta[at], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(grouped.beta[at], expected, atol=1e-5, rtol=1e-4)


def test_preconditioner_makes_iterations_few() -> None:
    _, _, found = solve_small(penalties=[1e-3], tolerance=1e-6)
    assert found.reason == "converged"
    assert found.n_iterations <= 20
    assert max(found.residuals) <= 2e-6
    X, y = blobs()
    whole = NystromMaps.on([kernel_of("gaussian", 2.0)], torch.from_numpy(X))
    assert solve_falkon(
        make_rows(X, y), whole, 0, [1e-6], block_rows=64, is_cached=True, tolerance=1e-8
    ).n_iterations <= 6  # M = n: the preconditioner is the system itself  # fmt: skip


def test_iterations_that_run_out_are_named() -> None:
    _, _, found = solve_small(penalties=[1e-9], tolerance=1e-12, max_iterations=4)
    assert found.reason == "iteration-limit"
    assert max(found.residuals) > 1e-12


class Reversed:
    """Blocks that come in another order, as they would from several workers."""

    def __init__(self, values: Matrix) -> None:
        self.inner = ArrayBlocks(values)
        self.shape, self.dtype, self.take = self.inner.shape, self.inner.dtype, self.inner.take

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        yield from reversed(list(self.inner.iterate(11)))


def test_order_of_blocks_changes_nothing() -> None:
    rows, maps, plain = solve_small()
    X, _ = blobs()
    other = TrainingRows(
        blocks=Reversed(X), codes=rows.codes, weights=rows.weights, folds=rows.folds, n_classes=4, n_folds=1
    )
    again = solve_falkon(other, maps, 0, [1e-4], block_rows=64, is_cached=False, tolerance=1e-9)
    torch.testing.assert_close(again.beta, plain.beta, atol=1e-6, rtol=1e-6)
