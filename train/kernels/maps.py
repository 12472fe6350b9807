"""Feature maps: from a block of rows to the features phi that ridge regression is linear in.

Kernel ridge regression on M centers is linear ridge regression on the features ``phi(x) = k(x, C) L^-T`` (see
`whitening`). Here ``k(x, C)`` is called the *basis* of the map and phi its *features*. Several maps, one per
width, share the distances of each block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from toptune.train.kernels.kernels import Linear, Radial, ReferenceRows, kernel_blocks, kernel_matrices
from toptune.train.kernels.whitening import Whitening, whiten

# Pivots of K_MM below this share of the largest are no more than rounding of the kernel's values.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
# Sums may be taken before whitening if the smallest pivot is above this: whitening divides their rounding by
# the pivots, and down to here it moves scores by less than the rounding of float32 kernel values does.
RAW_PIVOT = 1e-4


class Maps(Protocol):
    """Several feature maps that share work on a block of rows.

    Features of a map are a linear function of its basis, such as kernel values: ``phi = basis L^-T``. Systems
    are solved in terms of features, which are well conditioned; rows are scored from the basis, which is
    cheaper.
    """

    @property
    def ranks(self) -> Sequence[int]:
        """Number of features of each map."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the maps want rows."""
        ...

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        """Yield the features phi (b, rank), in float64, of the `wanted` maps for rows (b, d)."""
        ...

    def whitened(self, index: int, basis: Tensor) -> Tensor:
        """Turn values (b, rank) of the basis of one map into features; the values may be overwritten."""
        ...

    def raw_factor(self, index: int, *, n: int) -> Tensor | None:
        """Return L if sums over n rows are better taken of the basis and whitened afterwards, else None."""
        ...

    def take_metric(self, index: int) -> Tensor | None:
        """Hand over ``L L^T`` if it is in memory: the first caller gets it, later callers get None."""
        ...

    def basis(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        """Yield the basis (b, rank), in float64, of the `wanted` maps for rows (b, d)."""
        ...

    def on_basis(self, index: int, beta: Tensor) -> Tensor:
        """Turn coefficients (..., rank, n_targets) of the features into coefficients of the basis."""
        ...

    def to(self, device: torch.device) -> "Maps":
        """Return maps for rows on a device, without what only `take_metric` hands over."""
        ...

    def bare(self) -> "Maps":
        """Return maps of which only `basis`, `ranks` and `to` may be used, to be sent elsewhere."""
        ...


class IdentityMap:
    """The map that leaves rows as they are, for ridge regression on the columns themselves.

    Parameters
    ----------
    n_features : int
        Columns d of the rows.
    """

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

    def to(self, device: torch.device) -> "IdentityMap":  # noqa: ARG002
        return self

    def bare(self) -> "IdentityMap":
        return self


@dataclass(frozen=True)
class NystromMaps:
    """Whitened Nystrom features of several kernels on the same centers (Williams & Seeger 2001).

    ``phi(x) = k(x, C) W`` with ``W W^T = pinv(K_MM)``. The squared norm of coefficients of phi is then the
    squared norm of the function in the kernel's space, so that a plain ridge penalty on them is kernel ridge
    regression's.

    Attributes
    ----------
    kernels : tuple of kernels
        One for each map.
    centers : Tensor, shape (M, d)
        C, in the type in which kernel values are computed.
    whitenings : tuple of Whitening
        One for each map.
    kept : tuple of Tensor
        Centers that each whitening keeps, on the device of the centers.
    grams : dict of int to Tensor
        Kernel matrices K_MM that are still in memory, by the number of the map.
    """

    kernels: tuple[Radial | Linear, ...]
    centers: Tensor
    whitenings: tuple[Whitening, ...]
    kept: tuple[Tensor, ...]
    grams: dict[int, Tensor]

    @classmethod
    def on(
        cls, kernels: Sequence[Radial | Linear], centers: Tensor, *, keep_grams: bool = False
    ) -> "NystromMaps":
        """Whiten every kernel on centers (M, d); pivots are dropped by the `TOLERANCE` of the centers' type.

        Parameters
        ----------
        keep_grams : bool
            Keep the kernel matrices that `take_metric` may be asked for. Making one again from its factor
            takes as long as the factorization.

        Examples
        --------
        Inner products of features are kernel values, exactly so for rows that are centers.

        >>> from toptune.train.kernels.kernels import Gaussian
        >>> centers = torch.tensor([[0.0], [2.0]]).double()
        >>> (phi,) = NystromMaps.on([Gaussian(2.0)], centers).features(centers, [0])
        >>> [[round(value, 4) for value in row] for row in (phi @ phi.T).tolist()]
        [[1.0, 0.6065], [0.6065, 1.0]]
        """
        whitenings: tuple[Whitening, ...] = ()
        grams: dict[int, Tensor] = {}
        for index, values in enumerate(kernel_matrices(kernels, centers)):
            whitenings += (whiten(values, tolerance=TOLERANCE[centers.dtype]),)
            if keep_grams and _may_be_raw(whitenings[-1], centers.dtype):
                grams[index] = values
        return cls(
            tuple(kernels),
            centers,
            whitenings,
            kept=tuple(torch.from_numpy(each.kept).to(centers.device) for each in whitenings),
            grams=grams,
        )

    @classmethod
    def of_factor(cls, kernel: Radial | Linear, centers: Tensor, factor: Tensor) -> "NystromMaps":
        """Restore the map of an earlier fit from the centers (r, d) that it kept and its factor L (r, r)."""
        kept, device = np.arange(len(centers)), centers.device
        whitening = Whitening(
            kept=kept, factor=factor.to(device), n_dropped=0, smallest_pivot=float(factor.diagonal().min())
        )
        return cls(
            (kernel,),
            centers,
            (whitening,),
            kept=(torch.from_numpy(kept).to(device),),
            grams={},
        )

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """Factor L (rank, rank) of each whitening, on the device of the centers."""
        return tuple(whitening.factor for whitening in self.whitenings)

    @property
    def ranks(self) -> Sequence[int]:
        """Number of features of each map: its centers that were kept."""
        return [whitening.rank for whitening in self.whitenings]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the centers."""
        return self.centers.dtype

    @cached_property
    def reference(self) -> ReferenceRows:
        """The centers, prepared for distances to block after block."""
        return ReferenceRows.of(self.centers)

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        for index, values in zip(wanted, self.basis(rows, wanted), strict=True):
            yield self.whitened(index, values)

    def whitened(self, index: int, basis: Tensor) -> Tensor:
        # In float64 whatever the kernel's type: in float32 a substitution as ill-conditioned as this one
        # moves scores ten times as far as the rounding of the kernel's values does.
        features: Tensor = torch.linalg.solve_triangular(self.factors[index].T, basis, upper=True, left=False)
        return features

    def raw_factor(self, index: int, *, n: int) -> Tensor | None:
        # Whitening the sums takes 2 r^3 products, whitening n rows takes n r^2. Rounding of the sums is
        # divided by the pivots, so that these must not be small; beside float64 kernel values that rounding
        # would show, so there the rows are whitened.
        is_better = _may_be_raw(self.whitenings[index], self.dtype) and n > 2 * self.ranks[index]
        return self.factors[index] if is_better else None

    def take_metric(self, index: int) -> Tensor | None:
        return self.grams.pop(index, None)

    def basis(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        blocks = kernel_blocks([self.kernels[index] for index in wanted], rows, self.reference)
        for index, block in zip(wanted, blocks, strict=True):
            # Picking columns copies the block, so a block that is needed whole is passed on as it is.
            chosen = block if self.whitenings[index].is_whole else block[:, self.kept[index]]
            yield chosen.double()

    def on_basis(self, index: int, beta: Tensor) -> Tensor:
        dual: Tensor = torch.linalg.solve_triangular(self.factors[index].T, beta, upper=True)
        return dual

    def to(self, device: torch.device) -> "NystromMaps":
        return replace(
            self,
            centers=self.centers.to(device),
            whitenings=tuple(replace(each, factor=each.factor.to(device)) for each in self.whitenings),
            kept=tuple(kept.to(device) for kept in self.kept),
            grams={},
        )

    def bare(self) -> "NystromMaps":
        # Factors are as large as the sums of a fold, and a basis does not need them.
        none = self.centers.new_zeros((0, 0), dtype=torch.float64)
        return replace(
            self, whitenings=tuple(replace(each, factor=none) for each in self.whitenings), grams={}
        )

    def coefficients(self, index: int, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centers kept (r, d) and weights (r, n_targets): scores are ``k(x, centers) weights``."""
        return self.centers[self.kept[index]], self.on_basis(index, beta)


def _may_be_raw(whitening: Whitening, dtype: torch.dtype) -> bool:
    """Tell whether sums of float32 kernel values may be whitened after they are taken."""
    return dtype == torch.float32 and whitening.is_whole and whitening.smallest_pivot > RAW_PIVOT
