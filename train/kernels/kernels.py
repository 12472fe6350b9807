"""Kernels: frozen callables from (n, d) and (m, d) rows to their (n, m) values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from toptune.errors import InputError
from toptune.train.numerics.cholesky import panels

# Below this share of the rows' own squared size (in units of the type's precision), a squared distance
# taken from inner products has lost its digits and is taken again from differences.
_CANCELLED = 1e3
_RECOMPUTED_BYTES = 8 * 2**20
# Rows of which such pairs are looked for at a time.
_COMPARED_ROWS = 128


@dataclass(frozen=True)
class ReferenceRows:
    """Rows that many blocks are compared with: what their distances need of them is taken once.

    Attributes
    ----------
    rows : Tensor, shape (m, d)
    shift : Tensor, shape (d,)
        Mean of the rows.
    moved : Tensor, shape (m, d)
        Rows less the mean.
    norms : Tensor, shape (m,)
        Squared lengths of these.
    """

    rows: Tensor
    shift: Tensor
    moved: Tensor
    norms: Tensor

    @classmethod
    def of(cls, rows: "Tensor | ReferenceRows") -> "ReferenceRows":
        """Prepare rows (m, d), unless they are."""
        if isinstance(rows, ReferenceRows):
            return rows
        shift = rows.mean(dim=0)
        moved = rows - shift
        return cls(rows, shift, moved, norms=_squared_lengths(moved))

    def __len__(self) -> int:
        return len(self.rows)


class Kernel(Protocol):
    """Symmetric positive semi-definite function of two rows; chunking either side changes nothing."""

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        """Values of shape (n, m) for rows `x` (n, d) and `c` (m, d)."""
        ...

    @property
    def sigma(self) -> float | None:
        """Width in units of distance; None for a kernel without one."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """``exp(-||x - x'||^2 / (2 sigma^2))``."""

    sigma: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma)

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        return self.of_squared_distances(squared_distances(x, c))

    def of_squared_distances(self, squared: Tensor) -> Tensor:
        """Values in place of squared distances of any shape."""
        return squared.mul_(-0.5 / self.sigma**2).exp_()


@dataclass(frozen=True)
class Laplacian:
    """``exp(-||x - x'||_2 / sigma)``: the Euclidean norm, which is FalkonML's convention.

    scikit-learn's ``laplacian_kernel`` takes the 1-norm instead.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma)

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        return self.of_squared_distances(squared_distances(x, c))

    def of_squared_distances(self, squared: Tensor) -> Tensor:
        """Values in place of squared distances of any shape."""
        return squared.sqrt_().mul_(-1 / self.sigma).exp_()


@dataclass(frozen=True)
class Matern:
    """Matern kernel of smoothness `nu` in {0.5, 1.5, 2.5} (Rasmussen & Williams 2006, eq. 4.17)."""

    sigma: float
    nu: float = 1.5

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.nu not in (0.5, 1.5, 2.5):
            raise InputError(f"Matern nu is {self.nu}; it must be 0.5, 1.5 or 2.5")

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        return self.of_squared_distances(squared_distances(x, c))

    def of_squared_distances(self, squared: Tensor) -> Tensor:
        """Values in place of squared distances of any shape."""
        r = squared.mul_(2 * self.nu / self.sigma**2).sqrt_()
        decay = torch.exp(-r)
        if self.nu == 0.5:
            return decay
        if self.nu == 1.5:
            return (r + 1).mul_(decay)
        return (r * r / 3 + r + 1).mul_(decay)


@dataclass(frozen=True)
class Linear:
    """``<x, x'>``: no width, no centering."""

    @property
    def sigma(self) -> None:
        return None

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        return x @ (c.rows if isinstance(c, ReferenceRows) else c).T


Radial = Gaussian | Laplacian | Matern
KERNELS = ("gaussian", "laplacian", "matern12", "matern32", "matern52", "linear")


def kernel_of(name: str, sigma: float | None = None) -> Radial | Linear:
    """Return the kernel of a name in `KERNELS` and a width.

    Raises
    ------
    InputError
        For an unknown name, or a width that is missing, not finite or not above 0.
    """
    if name == "linear":
        return Linear()
    if name not in KERNELS:
        raise InputError(f"kernel {name!r} is unknown; choose one of {', '.join(KERNELS)}")
    if sigma is None:
        raise InputError(f"kernel {name!r} needs a width sigma")
    if name == "gaussian":
        return Gaussian(sigma)
    if name == "laplacian":
        return Laplacian(sigma)
    return Matern(sigma, int(name[-2]) / 2)


def kernel_blocks(
    kernels: Sequence[Radial | Linear], x: Tensor, c: Tensor | ReferenceRows
) -> Iterator[Tensor]:
    """Yield the (n, m) values of every kernel in turn; all widths share one block of distances."""
    yield from _of_shared(kernels, lambda kernel: kernel(x, c), lambda: squared_distances(x, c))


def kernel_matrices(kernels: Sequence[Radial | Linear], rows: Tensor) -> Iterator[Tensor]:
    """Yield the (m, m) values of every kernel among rows (m, d), in float64 whatever the type of the rows.

    Half of the distances are taken.
    """

    def distances() -> Tensor:
        moved = rows.to(torch.float64, copy=True)
        moved.sub_(moved.mean(dim=0))
        norms = _squared_lengths(moved)
        squared = moved.new_empty((len(moved), len(moved)))
        for some in panels(len(moved)):
            upto = slice(some.stop)
            block = _of_moved(moved[some], norms[some], moved[upto], norms[upto])
            squared[some, upto], squared[upto, some] = block, block.T
        return squared

    def of_rows(kernel: Linear) -> Tensor:
        double = rows.double()
        return kernel(double, double)

    yield from _of_shared(kernels, of_rows, distances)


def _of_shared(
    kernels: Sequence[Radial | Linear],
    of_rows: Callable[[Linear], Tensor],
    distances: Callable[[], Tensor],
) -> Iterator[Tensor]:
    """Values of every kernel; distances are taken once, if at all, and the last that needs them has them."""
    radial = [at for at, kernel in enumerate(kernels) if not isinstance(kernel, Linear)]
    squared = distances() if radial else None
    for at, kernel in enumerate(kernels):
        if isinstance(kernel, Linear):
            yield of_rows(kernel)
        elif squared is not None:
            yield kernel.of_squared_distances(squared if at == radial[-1] else squared.clone())


def squared_distances(x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
    """Squared Euclidean distances (n, m) of rows `x` (n, d) and `c` (m, d), never below 0.

    Taken from inner products after moving both to the mean of `c`. Pairs so near that this cancels
    (duplicates, above all) are taken again from differences, so that equal rows are at distance 0.
    """
    if len(c) == 0 or len(x) == 0:
        return x.new_zeros((len(x), len(c)))
    reference = ReferenceRows.of(c)
    x = x - reference.shift
    return _of_moved(x, _squared_lengths(x), reference.moved, reference.norms)


def _of_moved(x: Tensor, x_norms: Tensor, moved: Tensor, c_norms: Tensor) -> Tensor:
    """Squared distances of rows near the origin, whose squared lengths are known."""
    squared: Tensor = (x_norms[:, None] + c_norms).addmm_(x, moved.T, alpha=-2).clamp_(min=0)
    limit = _CANCELLED * torch.finfo(x.dtype).eps
    # Most rows are near no row of c: their least distance says so in one pass.
    few = torch.nonzero(squared.amin(dim=1) < limit * (x_norms + c_norms.max()))[:, 0]
    step = max(1, _RECOMPUTED_BYTES // max(1, x.shape[1] * x.element_size()))
    for some in torch.split(few, _COMPARED_ROWS):
        near = squared[some] < (x_norms[some, None] + c_norms).mul_(limit)
        within, columns = torch.nonzero(near, as_tuple=True)
        for pair in range(0, len(within), step):
            rows, others = some[within[pair : pair + step]], columns[pair : pair + step]
            squared[rows, others] = (x[rows] - moved[others]).square_().sum(dim=1)
    return squared


def _squared_lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths.square_()


def median_distance(rows: Tensor) -> float:
    """Median Euclidean distance of pairs of different rows; 1 where all rows are equal."""
    n = len(rows)
    if n < 2:
        return 1.0
    above = torch.ones((n, n), dtype=torch.bool, device=rows.device).triu_(1)
    squared = squared_distances(rows, rows)[above]
    squared = squared[squared > 0]
    return float(squared.median().sqrt()) if len(squared) else 1.0


def check_sigma(sigma: float) -> None:
    """Raise InputError unless a width is finite and above 0."""
    if not 0 < sigma < float("inf"):
        raise InputError(f"sigma is {sigma}; a width must be finite and above 0")
