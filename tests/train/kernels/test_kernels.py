import numpy as np
import pytest
import torch
from sklearn.gaussian_process import kernels as sklearn_kernels
from sklearn.metrics import pairwise

from toptune.store import InputError
from toptune.train.kernels.kernels import (
    kernel_blocks,
    kernel_of,
    median_distance,
    squared_distances,
)
from toptune.train.kernels.names import KERNELS

SIGMA = 2.3


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(60, 7)))


@pytest.mark.parametrize("name", KERNELS)
class TestEveryKernel:
    def test_is_symmetric_and_positive_semi_definite(self, name: str, rows: torch.Tensor) -> None:
        values = kernel_of(name, SIGMA)(rows, rows)
        assert torch.allclose(values, values.T, atol=1e-12)
        assert torch.linalg.eigvalsh(values).min() > -1e-10 * values.max()

    def test_chunking_either_side_changes_nothing(self, name: str, rows: torch.Tensor) -> None:
        kernel = kernel_of(name, SIGMA)
        whole = kernel(rows, rows)
        chunked = torch.cat([
            torch.cat([kernel(x, c) for c in torch.split(rows, 17)], dim=1) for x in torch.split(rows, 13)
        ])  # fmt: skip
        assert torch.allclose(whole, chunked, atol=1e-12)

    def test_float32_is_near_float64_far_from_the_origin(self, name: str, rows: torch.Tensor) -> None:
        shifted = rows + (0 if name == "linear" else 1000)
        exact = kernel_of(name, SIGMA)(shifted.float().double(), shifted.float().double())
        single = kernel_of(name, SIGMA)(shifted.float(), shifted.float()).double()
        assert single.dtype == torch.float64
        assert torch.allclose(single, exact, atol=2e-5)

    def test_is_frozen_and_equal_by_value(self, name: str) -> None:
        kernel = kernel_of(name, SIGMA)
        assert kernel == kernel_of(name, SIGMA)
        assert hash(kernel) == hash(kernel_of(name, SIGMA))
        with pytest.raises(AttributeError):
            kernel.sigma = 1.0  # type: ignore[misc]


def test_values_are_those_of_scikit_learn(rows: torch.Tensor) -> None:
    x = rows.numpy()
    expected = {
        "gaussian": pairwise.rbf_kernel(x, gamma=1 / (2 * SIGMA**2)),
        "laplacian": np.exp(-pairwise.euclidean_distances(x) / SIGMA),
        "matern12": sklearn_kernels.Matern(SIGMA, nu=0.5)(x),
        "matern32": sklearn_kernels.Matern(SIGMA, nu=1.5)(x),
        "matern52": sklearn_kernels.Matern(SIGMA, nu=2.5)(x),
        "linear": x @ x.T,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(kernel_of(name, SIGMA)(rows, rows).numpy(), values, atol=1e-7)


def test_several_widths_share_distances(rows: torch.Tensor) -> None:
    kernels = [kernel_of("gaussian", 1.0), kernel_of("matern32", 2.0), kernel_of("linear")]
    for kernel, block in zip(kernels, kernel_blocks(kernels, rows, rows[:9]), strict=True):
        assert torch.equal(block, kernel(rows, rows[:9]))


def test_equal_rows_are_at_distance_zero_in_float32() -> None:
    x = torch.randn(200, 300, generator=torch.Generator().manual_seed(0)) * 1e3 + 1e4
    assert squared_distances(x, x).diagonal().max() == 0
    near = x + 1e-1
    expected = ((x.double() - near.double()) ** 2).sum(dim=1)
    assert torch.allclose(squared_distances(near, x).diagonal().double(), expected, rtol=1e-3)


def test_median_distance() -> None:
    assert median_distance(torch.tensor([[0.0], [3.0], [7.0]])) == pytest.approx(4.0)
    assert median_distance(torch.zeros(5, 2)) == 1.0
    assert median_distance(torch.zeros(1, 2)) == 1.0


def test_bad_options() -> None:
    with pytest.raises(InputError, match=r"tophat.*gaussian"):
        kernel_of("tophat", 1.0)
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="sigma is"):
            kernel_of("gaussian", sigma)
    with pytest.raises(InputError, match="needs a width"):
        kernel_of("gaussian")
