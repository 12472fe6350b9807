"""Feature maps: from a block of rows to the features phi that ridge regression is linear in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from toptune.train.kernels import Linear, Radial, kernel_blocks
from toptune.train.whitening import Whitening, whiten

# Pivots of K_MM below this share of the largest are lost in the rounding of the kernel's own values.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Maps(Protocol):
    """Several feature maps that share work on a block of rows."""

    @property
    def ranks(self) -> Sequence[int]:
        """Features of each map."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type that rows are wanted in."""
        ...

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        """Yield phi (b, rank) in float64 of the wanted maps for rows (b, d)."""
        ...


class IdentityMap:
    """The rows themselves: ridge regression in the primal."""

    def __init__(self, n_features: int) -> None:
        self.ranks = (n_features,)
        self.dtype = torch.float64

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        for _ in wanted:
            yield rows


@dataclass(frozen=True)
class NystromMaps:
    """Whitened Nystrom features of several kernels on the same centres (Williams & Seeger 2001).

    ``phi(x) = k(x, C) W`` with ``W W^T = pinv(K_MM)``, so that penalising coefficients of phi
    penalises the norm in the kernel's space.
    """

    kernels: tuple[Radial | Linear, ...]
    centers: Tensor
    whitenings: tuple[Whitening, ...]

    @classmethod
    def on(cls, kernels: Sequence[Radial | Linear], centers: Tensor) -> "NystromMaps":
        """Whiten every kernel on centres (M, d); the tolerance follows the type of the centres."""
        exact = centers.double()
        whitenings = tuple(
            whiten(values.cpu().numpy(), tolerance=TOLERANCE[centers.dtype])
            for values in kernel_blocks(kernels, exact, exact)
        )
        return cls(tuple(kernels), centers, whitenings)

    @property
    def ranks(self) -> Sequence[int]:
        return [whitening.rank for whitening in self.whitenings]

    @property
    def dtype(self) -> torch.dtype:
        return self.centers.dtype

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        blocks = kernel_blocks([self.kernels[index] for index in wanted], rows, self.centers)
        for index, block in zip(wanted, blocks, strict=True):
            whitening = self.whitenings[index]
            kept = torch.from_numpy(whitening.kept).to(block.device)
            factor = torch.from_numpy(whitening.factor).to(block.device)
            values = block[:, kept].double()
            yield torch.linalg.solve_triangular(factor.T, values, upper=True, left=False)

    def coefficients(self, index: int, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Centres kept (r, d) and their weights (r, n_targets), so scores are ``k(x, C) weights``."""
        whitening = self.whitenings[index]
        kept = torch.from_numpy(whitening.kept).to(beta.device)
        factor = torch.from_numpy(whitening.factor).to(beta.device)
        return self.centers[kept], torch.linalg.solve_triangular(factor.T, beta, upper=True)
