"""Residuals of rows and of left-out centers are those of dense algebra."""

import pytest
import torch

from toptune.train.kernels.kernels import Gaussian, Linear
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.novelty import left_out_residuals, residuals


@pytest.mark.parametrize("kernel", [Gaussian(2.0), Linear()])
def test_a_left_out_center_has_the_residual_of_a_row(kernel: Gaussian | Linear) -> None:
    centers = torch.randn(7, 9, generator=torch.Generator().manual_seed(0)).double()
    found = left_out_residuals(NystromMaps.on([kernel], centers), 0)
    for at in range(7):
        others = torch.cat([centers[:at], centers[at + 1 :]])
        expected = residuals(NystromMaps.on([kernel], others), 0, centers[at : at + 1])
        assert found[at].item() == pytest.approx(expected.item(), rel=1e-8)


def test_residuals_are_the_distance_from_the_span_of_the_centers() -> None:
    generator = torch.Generator().manual_seed(1)
    centers, rows = (torch.randn(n, 3, generator=generator).double() for n in (5, 4))
    gram = torch.exp(-(torch.cdist(centers, centers) ** 2) / 8)
    cross = torch.exp(-(torch.cdist(rows, centers) ** 2) / 8)
    expected = 1 - (cross @ torch.linalg.inv(gram) * cross).sum(dim=1)
    found = residuals(NystromMaps.on([Gaussian(2.0)], centers), 0, rows)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        residuals(NystromMaps.on([Gaussian(2.0)], centers), 0, centers), torch.zeros(5).double()
    )
