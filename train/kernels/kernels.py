"""Compute kernels: frozen callables from rows x (n, d) and c (m, d) to the values k(x, c) (n, m).

Every radial kernel is a function of squared Euclidean distances, so that several kernels or widths share the
distances of a block of rows. Cutting the rows of either side into blocks changes no value beyond rounding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toptune.errors import InputError
from toptune.train.kernels.names import check_kernel
from toptune.train.numerics.cholesky import panels

# ||x - c||^2 = ||x||^2 + ||c||^2 - 2 <x, c> cancels where x and c are close: a result below this many units
# in the last place of ||x||^2 + ||c||^2 has lost its digits and is computed again from the difference x - c.
_CANCELLED = 1e3
# Differences that are held at a time.
_RECOMPUTED_BYTES = 8 * 2**20
# Rows that are searched for such pairs at a time.
_COMPARED_ROWS = 128


@dataclass(frozen=True)
class ReferenceRows:
    """Rows that many blocks are compared with; what distances to them need is computed once.

    Attributes
    ----------
    rows : Tensor, shape (m, d)
        The rows as they came.
    shift : Tensor, shape (d,)
        Mean of the rows. Distances do not change when both sides are shifted, and near the origin inner
        products cancel least.
    moved : Tensor, shape (m, d)
        ``rows - shift``.
    norms : Tensor, shape (m,)
        Squared lengths of the moved rows.
    """

    rows: Tensor
    shift: Tensor
    moved: Tensor
    norms: Tensor

    @classmethod
    def of(cls, rows: "Tensor | ReferenceRows") -> "ReferenceRows":
        """Prepare rows (m, d); rows that are prepared already are returned as they are."""
        if isinstance(rows, ReferenceRows):
            return rows
        shift = rows.mean(dim=0)
        moved = rows - shift
        return cls(rows, shift, moved, norms=_squared_lengths(moved))

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Radial(ABC):
    """A kernel of the Euclidean distance ``||x - c||_2`` with a width.

    Parameters
    ----------
    sigma : float
        Width, in units of distance.

    Raises
    ------
    InputError
        If the width is not finite or not above 0.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma)

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        """Return the values (n, m) for rows `x` (n, d) and `c` (m, d)."""
        return self.of_squared_distances(squared_distances(x, c))

    @abstractmethod
    def of_squared_distances(self, squared: Tensor) -> Tensor:
        """Return the values at squared distances of any shape, whose memory may be reused."""


@dataclass(frozen=True)
class Gaussian(Radial):
    """``k(x, c) = exp(-||x - c||^2 / (2 sigma^2))``.

    Examples
    --------
    >>> import torch
    >>> Gaussian(2.0)(torch.zeros(1, 1), torch.tensor([[0.0], [2.0]])).tolist()
    [[1.0, 0.6065306663513184]]
    """

    def of_squared_distances(self, squared: Tensor) -> Tensor:
        return squared.mul_(-0.5 / self.sigma**2).exp_()


@dataclass(frozen=True)
class Laplacian(Radial):
    """``k(x, c) = exp(-||x - c||_2 / sigma)``: the Euclidean norm, which is FalkonML's convention.

    scikit-learn's ``laplacian_kernel`` takes the 1-norm instead.
    """

    def of_squared_distances(self, squared: Tensor) -> Tensor:
        return squared.sqrt_().mul_(-1 / self.sigma).exp_()


@dataclass(frozen=True)
class Matern(Radial):
    """Matern kernel of smoothness `nu` (Rasmussen & Williams 2006, eq. 4.17).

    With ``s = sqrt(2 nu) ||x - c|| / sigma`` it is ``exp(-s)`` times 1, ``1 + s`` or ``1 + s + s^2 / 3`` for
    nu of 0.5, 1.5 or 2.5.

    Parameters
    ----------
    sigma : float
        Width, in units of distance; the length scale of the book.
    nu : {0.5, 1.5, 2.5}
        Smoothness: functions are differentiable about `nu` times.

    Raises
    ------
    InputError
        If the width is not finite or not above 0, or for any other `nu`.
    """

    nu: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nu not in (0.5, 1.5, 2.5):
            raise InputError(f"Matern nu is {self.nu}; it must be 0.5, 1.5 or 2.5")

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        return self.of_squared_distances(squared_distances(x, c))

    def of_squared_distances(self, squared: Tensor) -> Tensor:
        r = squared.mul_(2 * self.nu / self.sigma**2).sqrt_()
        # For these values of nu the Bessel function of the general form is a polynomial times an exponential.
        decay = torch.exp(-r)
        if self.nu == 0.5:
            return decay
        if self.nu == 1.5:
            return (r + 1).mul_(decay)
        return (r * r / 3 + r + 1).mul_(decay)


@dataclass(frozen=True)
class Linear:
    """``k(x, c) = <x, c>``: no width, no centering."""

    @property
    def sigma(self) -> None:
        """None: this kernel has no width."""
        return None

    def __call__(self, x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
        """Return the values (n, m) for rows `x` (n, d) and `c` (m, d)."""
        return x @ (c.rows if isinstance(c, ReferenceRows) else c).T


def kernel_of(name: str, sigma: float | None = None) -> Radial | Linear:
    """Return the kernel of a name in `KERNELS`, with a width where it has one.

    Raises
    ------
    InputError
        For an unknown name, or a width that is missing, not finite or not above 0.

    Examples
    --------
    >>> kernel_of("matern32", sigma=2.0)
    Matern(sigma=2.0, nu=1.5)
    """
    if name == "linear":
        return Linear()
    check_kernel(name)
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
    """Yield the values (n, m) of every kernel in turn; all widths share one block of distances.

    Parameters
    ----------
    kernels : sequence of kernels
    x : Tensor, shape (n, d)
        A block of rows.
    c : Tensor, shape (m, d), or ReferenceRows
        The rows that the block is compared with.
    """
    yield from _values_of_each(kernels, lambda kernel: kernel(x, c), lambda: squared_distances(x, c))


def kernel_matrices(kernels: Sequence[Radial | Linear], rows: Tensor) -> Iterator[Tensor]:
    """Yield the values (m, m) of every kernel among rows (m, d), in float64 whatever the type of the rows.

    Distances are symmetric, so only half of them are computed.
    """

    def distances() -> Tensor:
        # float64, because the factorization of this matrix magnifies its rounding by the condition number.
        moved = rows.to(torch.float64, copy=True)
        moved.sub_(moved.mean(dim=0))
        norms = _squared_lengths(moved)
        squared = moved.new_empty((len(moved), len(moved)))
        for some in panels(len(moved)):
            upto = slice(some.stop)
            block = _between_moved(moved[some], norms[some], moved[upto], norms[upto])
            squared[some, upto], squared[upto, some] = block, block.T
        return squared

    def of_rows(kernel: Linear) -> Tensor:
        double = rows.double()
        return kernel(double, double)

    yield from _values_of_each(kernels, of_rows, distances)


def _values_of_each(
    kernels: Sequence[Radial | Linear],
    of_rows: Callable[[Linear], Tensor],
    distances: Callable[[], Tensor],
) -> Iterator[Tensor]:
    """Yield the values of every kernel in turn.

    Parameters
    ----------
    of_rows : callable
        Computes the values of a linear kernel, which has no use for distances.
    distances : callable
        Computes the squared distances; called once, and only if a kernel is radial.
    """
    radial = [at for at, kernel in enumerate(kernels) if not isinstance(kernel, Linear)]
    squared = distances() if radial else None
    for at, kernel in enumerate(kernels):
        if isinstance(kernel, Linear):
            yield of_rows(kernel)
        elif squared is not None:
            # Kernels overwrite the distances; all but the last that needs them get a copy.
            yield kernel.of_squared_distances(squared if at == radial[-1] else squared.clone())


def squared_distances(x: Tensor, c: Tensor | ReferenceRows) -> Tensor:
    """Return the squared Euclidean distances (n, m) of rows `x` (n, d) and `c` (m, d), never below 0.

    They are computed as ``||x||^2 + ||c||^2 - 2 <x, c>`` after moving both sides by the mean of `c`: one
    matrix product. Pairs so close that this cancels (duplicates, above all) are computed again from
    differences, so that equal rows are at distance exactly 0.

    Examples
    --------
    >>> import torch
    >>> squared_distances(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[25.0, 0.0]]
    """
    if len(c) == 0 or len(x) == 0:
        return x.new_zeros((len(x), len(c)))
    reference = ReferenceRows.of(c)
    x = x - reference.shift
    return _between_moved(x, _squared_lengths(x), reference.moved, reference.norms)


def _between_moved(x: Tensor, x_norms: Tensor, moved: Tensor, c_norms: Tensor) -> Tensor:
    """Return the squared distances of rows close to the origin whose squared lengths are known."""
    squared: Tensor = (x_norms[:, None] + c_norms).addmm_(x, moved.T, alpha=-2).clamp_(min=0)
    limit = _CANCELLED * torch.finfo(x.dtype).eps
    step = max(1, _RECOMPUTED_BYTES // max(1, x.shape[1] * x.element_size()))
    for within, columns in _near_pairs(squared, x_norms, c_norms, limit):
        for pair in range(0, len(within), step):
            rows, others = within[pair : pair + step], columns[pair : pair + step]
            squared[rows, others] = (x[rows] - moved[others]).square_().sum(dim=1)
    return squared


def _near_pairs(
    squared: Tensor, x_norms: Tensor, c_norms: Tensor, limit: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows and columns of squared distances (n, m) below `limit` times the squared lengths."""
    if squared.is_cuda:
        # The host waits for each search of a CUDA device, so one search goes through all pairs.
        rows, columns = torch.nonzero(squared < (x_norms[:, None] + c_norms).mul_(limit), as_tuple=True)
        yield rows, columns
        return
    # Most rows are close to no row of c, which their least distance tells in one pass.
    few = torch.nonzero(squared.amin(dim=1) < limit * (x_norms + c_norms.max()))[:, 0]
    for some in torch.split(few, _COMPARED_ROWS):
        within, columns = torch.nonzero(
            squared[some] < (x_norms[some, None] + c_norms).mul_(limit), as_tuple=True
        )
        yield some[within], columns


def _squared_lengths(rows: Tensor) -> Tensor:
    """Return ``||x||^2`` of every row: (n, d) to (n,)."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths.square_()


def median_distance(rows: Tensor) -> float:
    """Return the median Euclidean distance of all pairs of rows (n, d) that differ; 1 if all rows are equal.

    It is the usual unit for the width of a radial kernel.
    """
    n = len(rows)
    if n < 2:
        return 1.0
    # Each pair once: the entries above the diagonal.
    above = torch.ones((n, n), dtype=torch.bool, device=rows.device).triu_(1)
    squared = squared_distances(rows, rows)[above]
    squared = squared[squared > 0]
    return float(squared.median().sqrt()) if len(squared) else 1.0


def check_sigma(sigma: float) -> None:
    """Raise InputError unless a width is finite and above 0."""
    if not 0 < sigma < float("inf"):
        raise InputError(f"sigma is {sigma}; a width must be finite and above 0")
