"""How new a row is to a kernel head: the share of the row that no combination of the centers explains.

With features phi of Nystrom centers C, the kernel's space splits a row x into the part within the span of
the centers, of squared norm ``|phi(x)|^2``, and the residual ``k(x, x) - |phi(x)|^2``, which is the squared
distance of x from that span. A Gaussian process without noise has this as its variance (Rasmussen & Williams
2006, eq. 2.24). Of a center the residual is 0 by construction, which says nothing; left out of the others it
is ``1 / (K^-1)_ii`` (ibid., eq. 5.12), so that all residuals are those of rows that were left out.
"""

import torch
from torch import Tensor

from toptune.train.kernels.kernels import Linear
from toptune.train.kernels.maps import NystromMaps


def residuals(maps: NystromMaps, index: int, rows: Tensor) -> Tensor:
    """Return the residual of each row as a share of its squared norm, from 0 to 1.

    Parameters
    ----------
    maps : NystromMaps
    index : int
        Number of the map.
    rows : Tensor, shape (b, d)
        Rows that are no centers; of centers see `left_out_residuals`.

    Returns
    -------
    Tensor of float64, shape (b,)

    Examples
    --------
    >>> from toptune.train.kernels.kernels import Gaussian
    >>> centers = torch.tensor([[0.0], [1.0]]).double()
    >>> maps = NystromMaps.on([Gaussian(1.0)], centers)
    >>> near, far = residuals(maps, 0, torch.tensor([[0.5], [9.0]]).double()).tolist()
    >>> near < 0.1, far > 0.99
    (True, True)
    """
    (features,) = maps.features(rows, [index])
    kernel = maps.kernels[index]
    norms = rows.double().square().sum(dim=1) if isinstance(kernel, Linear) else features.new_ones(len(rows))
    explained = features.square().sum(dim=1) / norms.clamp_min(torch.finfo(torch.float64).tiny)
    # Rounding may explain a little more than all.
    return (1 - explained).clamp(0, 1)


def left_out_residuals(maps: NystromMaps, index: int) -> Tensor:
    """Return the residual that each center has without itself among the centers, as a share of its norm.

    Parameters
    ----------
    maps : NystromMaps
    index : int
        Number of the map.

    Returns
    -------
    Tensor of float64, shape (rank,)
        One for each center that the map keeps, in the order of `NystromMaps.kept`.

    Examples
    --------
    >>> from toptune.train.kernels.kernels import Gaussian
    >>> centers = torch.tensor([[0.0], [0.1], [9.0]]).double()
    >>> found = left_out_residuals(NystromMaps.on([Gaussian(1.0)], centers), 0)
    >>> [round(value, 3) for value in found.tolist()]
    [0.01, 0.01, 1.0]
    """
    factor = maps.factors[index]
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    norms = factor.square().sum(dim=1)
    shares: Tensor = 1 / inverse.square().sum(dim=0) / norms
    return shares.clamp(0, 1)
