"""Feature maps: from a block of rows to the features phi that ridge regression is linear in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from toptune.train.kernels.kernels import Linear, Radial, ReferenceRows, kernel_blocks, kernel_matrices
from toptune.train.kernels.whitening import Whitening, whiten

# Pivots of K_MM below this share of the largest are lost in the rounding of the kernel's own values.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
# Smallest pivot with which sums may be taken before whitening: their rounding then moves scores by less than
# that of float32 kernel values.
RAW_PIVOT = 1e-4


class Maps(Protocol):
    """Several feature maps that share work on a block of rows.

    A map's features are a linear function of its basis: of kernel values, for instance. Sums and systems are
    taken of features, which condition well; scores of rows are taken from the basis, which costs less.
    """

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

    def whitened(self, index: int, basis: Tensor) -> Tensor:
        """Turn values (b, rank) of the basis into features; the values may be overwritten."""
        ...

    def raw_factor(self, index: int, *, n: int) -> Tensor | None:
        """Give L, of features ``basis L^-T``, where sums over n rows are better taken of the basis."""
        ...

    def take_metric(self, index: int) -> Tensor | None:
        """Give away ``L L^T`` of that L, where it is at hand: to the first that asks."""
        ...

    def basis(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        """Yield the basis (b, rank) in float64 of the wanted maps for rows (b, d)."""
        ...

    def on_basis(self, index: int, beta: Tensor) -> Tensor:
        """Turn coefficients (..., rank, n_targets) of the features into those of the basis."""
        ...


class IdentityMap:
    """The rows themselves: ridge regression in the primal."""

    def __init__(self, n_features: int) -> None:
        self.ranks = (n_features,)
        self.dtype = torch.float64

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        for _ in wanted:
            yield rows

    basis = features

    def whitened(self, index: int, basis: Tensor) -> Tensor:  # noqa: ARG002
        return basis

    def raw_factor(self, index: int, *, n: int) -> Tensor | None:  # noqa: ARG002
        return None

    def take_metric(self, index: int) -> Tensor | None:  # noqa: ARG002
        return None

    def on_basis(self, index: int, beta: Tensor) -> Tensor:  # noqa: ARG002
        return beta


@dataclass(frozen=True)
class NystromMaps:
    """Whitened Nystrom features of several kernels on the same centers (Williams & Seeger 2001).

    ``phi(x) = k(x, C) W`` with ``W W^T = pinv(K_MM)``, so that penalizing coefficients of phi
    penalizes the norm in the kernel's space.
    """

    kernels: tuple[Radial | Linear, ...]
    centers: Tensor
    whitenings: tuple[Whitening, ...]
    factors: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    grams: dict[int, Tensor]

    @classmethod
    def on(
        cls, kernels: Sequence[Radial | Linear], centers: Tensor, *, keep_grams: bool = False
    ) -> "NystromMaps":
        """Whiten every kernel on centers (M, d); the tolerance follows the type of the centers.

        Kernel matrices are kept, if at all, where `raw_factor` may have a use for them: made again from its
        factor, one takes as long as the factorization.
        """
        whitenings: tuple[Whitening, ...] = ()
        grams: dict[int, Tensor] = {}
        for index, values in enumerate(kernel_matrices(kernels, centers)):
            whitenings += (whiten(values.cpu().numpy(), tolerance=TOLERANCE[centers.dtype]),)
            if keep_grams and _may_be_raw(whitenings[-1], centers.dtype):
                grams[index] = values
        return cls(
            tuple(kernels),
            centers,
            whitenings,
            factors=tuple(torch.from_numpy(each.factor).to(centers.device) for each in whitenings),
            kept=tuple(torch.from_numpy(each.kept).to(centers.device) for each in whitenings),
            grams=grams,
        )

    @classmethod
    def of_factor(cls, kernel: Radial | Linear, centers: Tensor, factor: Tensor) -> "NystromMaps":
        """Take the map of an earlier fit: centers (r, d), all of them kept, with the factor (r, r) it had."""
        kept = np.arange(len(centers))
        whitening = Whitening(
            kept=kept, factor=factor.cpu().numpy(), n_dropped=0, smallest_pivot=float(factor.diagonal().min())
        )
        device = centers.device
        return cls(
            (kernel,),
            centers,
            (whitening,),
            factors=(factor.to(device),),
            kept=(torch.from_numpy(kept).to(device),),
            grams={},
        )

    @property
    def ranks(self) -> Sequence[int]:
        return [whitening.rank for whitening in self.whitenings]

    @property
    def dtype(self) -> torch.dtype:
        return self.centers.dtype

    @cached_property
    def reference(self) -> ReferenceRows:
        """The centers as kernels want them for block after block."""
        return ReferenceRows.of(self.centers)

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        for index, values in zip(wanted, self.basis(rows, wanted), strict=True):
            yield self.whitened(index, values)

    def whitened(self, index: int, basis: Tensor) -> Tensor:
        # In float64 whatever the kernel's type: in float32 a substitution this ill-conditioned moves
        # scores ten times as far as the kernel's own rounding does.
        features: Tensor = torch.linalg.solve_triangular(self.factors[index].T, basis, upper=True, left=False)
        return features

    def raw_factor(self, index: int, *, n: int) -> Tensor | None:
        # Whitening sums takes 2 r^3 products, whitening rows n r^2. Rounding of sums is divided by the
        # pivots, so they must not be small; float64 kernel values deserve better at any rate.
        is_better = _may_be_raw(self.whitenings[index], self.dtype) and n > 2 * self.ranks[index]
        return self.factors[index] if is_better else None

    def take_metric(self, index: int) -> Tensor | None:
        return self.grams.pop(index, None)

    def basis(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        blocks = kernel_blocks([self.kernels[index] for index in wanted], rows, self.reference)
        for index, block in zip(wanted, blocks, strict=True):
            chosen = block if self.whitenings[index].is_whole else block[:, self.kept[index]]
            yield chosen.double()

    def on_basis(self, index: int, beta: Tensor) -> Tensor:
        dual: Tensor = torch.linalg.solve_triangular(self.factors[index].T, beta, upper=True)
        return dual

    def coefficients(self, index: int, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Centres kept (r, d) and their weights (r, n_targets), so scores are ``k(x, C) weights``."""
        return self.centers[self.kept[index]], self.on_basis(index, beta)


def _may_be_raw(whitening: Whitening, dtype: torch.dtype) -> bool:
    return dtype == torch.float32 and whitening.is_whole and whitening.smallest_pivot > RAW_PIVOT
