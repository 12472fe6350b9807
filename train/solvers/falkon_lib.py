"""FalkonML (Meanti et al. 2020), where it is installed, as the last fit of a kernel head.

Width, penalty and temperature are chosen as for solver ``falkon``; then ``falkon.Falkon`` solves
``(K' W K / n + penalty K_MM) alpha = K' W (Y - mean) / n`` on the same centers, and the targets' mean is
the intercept. FalkonML centers the targets only, so its scores differ a little from the scores of the other
solvers, which center the features too. No other file imports ``falkon``.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import InputError, NumericalError
from toptune.train.kernels.kernels import Gaussian, Laplacian, Linear, Matern, Radial
from toptune.train.passes.peak_memory import library_work_bytes
from toptune.train.passes.training_rows import TrainingRows, batches
from toptune.train.rows.block_reading import block_rows_for

# Iterations that FalkonML may take; Meanti et al. 2020 see 10 to 20.
LIBRARY_ITERATIONS = 20


class _Preconditioner(Protocol):
    """The preconditioner of FalkonML, by what is asked of it here."""

    def apply_t(self, v: Tensor) -> Tensor: ...


def check_library(device: str | None = None) -> None:
    """Refuse the solver where it cannot run.

    Raises
    ------
    InputError
        If ``falkon`` cannot be imported (the message says how to install it), or `device` is not the CPU.
    """
    if device not in (None, "cpu"):
        raise InputError(
            f"solver 'falkon-lib' runs on the CPU, device is {device!r}; leave --device out, or use "
            "solver 'falkon'"
        )
    try:
        _library()
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"solver 'falkon-lib' needs FalkonML, which cannot be imported here ({reason}); build it "
            "from the source of FalkonML/falkon with pip install --no-build-isolation, as its documentation "
            "says, or use solver 'falkon'"
        ) from error


@dataclass(frozen=True, kw_only=True)
class LibrarySolution:
    """The solution of FalkonML, with figures that the library does not report.

    Attributes
    ----------
    dual : Tensor of float64, shape (M, n_targets)
    intercept : Tensor of float64, shape (n_targets,)
        Weighted mean of the one-hot targets.
    residual : float
        Largest relative residual over the targets of the system that this module names, in the norm of the
        library's preconditioner, as `conjugate_gradient` takes its residual.
    smallest_pivot : float
        Smallest pivot of the library's factor of the centers' kernel matrix, jitter included, relative to
        the largest.
    jitter : float
        Number that the library added to the diagonal of the centers' kernel matrix; jitter in this place
        changes the solution too.
    version : str
        Version of the library.
    messages : tuple of str
        Warnings that the library gave.
    """

    dual: Tensor
    intercept: Tensor
    residual: float
    smallest_pivot: float
    jitter: float
    version: str
    messages: tuple[str, ...]


def solve_library(
    rows: TrainingRows,
    kernel: Radial | Linear,
    centers: Tensor,
    penalty: float,
    *,
    center_rows: npt.NDArray[np.int64] | None,
    is_stored: bool,
    max_iterations: int = LIBRARY_ITERATIONS,
) -> LibrarySolution:
    """Fit by FalkonML on given centers (M, d), in their type, with all rows in memory.

    Parameters
    ----------
    center_rows : ndarray of int64, shape (M,), or None
        The training rows that the centers are, where they are rows. The rows' weights make the
        preconditioner, so that only the speed depends on them.
    is_stored : bool
        Let the library keep the rows' kernel values. They are never kept where M = n, because the library
        takes a stored matrix for its transpose if the shape allows both, and answers another problem.

    Raises
    ------
    NumericalError
        If the library fails, or its answer is not finite.
    """
    falkon = _library()
    problem = _LibraryProblem.of(rows, kernel, centers, penalty)
    X, weights = problem.X, problem.weights
    options = falkon.FalkonOptions(
        use_cpu=True,
        keops_active="no",
        never_store_kernel=not is_stored or len(centers) == rows.n,
        store_kernel_d_threshold=0,
        max_cpu_mem=library_work_bytes(
            n=rows.n,
            d=X.shape[1],
            n_centers=len(centers),
            value_bytes=X.element_size(),
            is_stored=is_stored,
        ),
    )

    def weight_fn(_targets: Tensor, _rows: Tensor, numbers: Tensor) -> Tensor:
        # The weights are copied each time, because the library takes their square roots in place.
        return weights[numbers][:, None].to(X.dtype)

    if center_rows is None:
        # Centers that are no rows have no weight, but the library asks for row numbers: all centers get the
        # row whose weight is nearest to 1.
        center_rows = np.full(len(centers), np.abs(rows.weights - 1).argmin())
    selector = falkon.center_selection.FixedSelector(centers, idx_centers=torch.from_numpy(center_rows))
    # What the library warns of becomes part of the report, where a user of the head finds it.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = falkon.Falkon(
            kernel=library_kernel(kernel, options),
            penalty=penalty,
            M=len(centers),
            center_selection=selector,
            maxiter=max_iterations,
            error_fn=None,
            weight_fn=weight_fn if bool((weights != 1).any()) else None,
            options=options,
        )
        try:
            model.fit(X, problem.targets)
        except (RuntimeError, ArithmeticError, MemoryError) as error:
            raise NumericalError(f"FalkonML failed ({error}); raise the penalty, or use 'falkon'") from error
    dual = model.alpha_.clone().double()
    if not bool(torch.isfinite(dual).all()):
        raise NumericalError("FalkonML's answer is not finite; raise the penalty, or use solver 'falkon'")
    # dT is the diagonal of the library's Cholesky factor, so its squares are the pivots.
    pivots = model.precond.dT.double().square()
    return LibrarySolution(
        dual=dual,
        intercept=problem.shares,
        residual=problem.residual(dual, model.precond),
        smallest_pivot=float(pivots.min() / pivots.max()),
        jitter=options.pc_epsilon(X.dtype) * len(centers),
        version=falkon.__version__,
        messages=tuple(dict.fromkeys(str(each.message) for each in caught)),
    )


@dataclass(frozen=True, kw_only=True)
class _LibraryProblem:
    """The system that FalkonML solves, with all rows in memory.

    Attributes
    ----------
    X : Tensor, shape (n, d)
        Rows, in the type of the centers.
    weights : Tensor of float64, shape (n,)
    shares : Tensor of float64, shape (n_targets,)
        Weighted mean of the one-hot targets.
    targets : Tensor, shape (n, n_targets)
        One-hot targets less their mean.
    """

    kernel: Radial | Linear
    centers: Tensor
    penalty: float
    X: Tensor
    weights: Tensor
    shares: Tensor
    targets: Tensor

    @classmethod
    def of(
        cls, rows: TrainingRows, kernel: Radial | Linear, centers: Tensor, penalty: float
    ) -> "_LibraryProblem":
        n, d = rows.blocks.shape
        X = torch.empty((n, d), dtype=centers.dtype)
        for where, values in batches(
            rows, block_rows=block_rows_for(d=d, rank=0), dtype=X.dtype, device=X.device
        ):
            X[where] = values
        weights, targets = torch.from_numpy(rows.weights), rows.targets_of(slice(None))
        shares = weights @ targets / weights.sum()
        targets = targets.to(X.dtype) - shares.to(X.dtype)
        return cls(
            kernel=kernel, centers=centers, penalty=penalty, X=X, weights=weights, shares=shares,
            targets=targets,
        )  # fmt: skip

    def residual(self, dual: Tensor, preconditioner: _Preconditioner) -> float:
        """Return the largest relative residual over the targets: one more pass over the kernel values."""
        # Sums are float64, so that the residual measures the library's solution and not its own rounding.
        right, image = torch.zeros_like(dual), torch.zeros_like(dual)
        step = block_rows_for(d=self.X.shape[1], rank=len(self.centers))
        for start in range(0, len(self.X), step):
            where = slice(start, start + step)
            block = self.kernel(self.X[where], self.centers).double()
            right.addmm_(block.T, self.targets[where].double() * self.weights[where, None])
            image.addmm_(block.T, (block @ dual).mul_(self.weights[where, None]))
        right /= len(self.X)
        image /= len(self.X)
        for start in range(0, len(self.centers), step):
            where = slice(start, start + step)
            products = self.kernel(self.centers[where], self.centers).double() @ dual
            image[where].add_(products, alpha=self.penalty)
        with torch.inference_mode():
            norms = [
                preconditioner.apply_t(each.to(self.X.dtype)).double().norm(dim=0)
                for each in (right - image, right)
            ]
        relative = norms[0] / norms[1].clamp_min(torch.finfo(torch.float64).tiny)
        return float(relative.max())


def library_kernel(kernel: Radial | Linear, options: object) -> Any:
    """Return FalkonML's kernel of the same values; the library defines every kernel here in the same way."""
    kernels = _library().kernels
    if isinstance(kernel, Gaussian):
        return kernels.GaussianKernel(kernel.sigma, options)
    if isinstance(kernel, Laplacian):
        return kernels.LaplacianKernel(kernel.sigma, options)
    if isinstance(kernel, Matern):
        return kernels.MaternKernel(kernel.sigma, kernel.nu, options)
    return kernels.LinearKernel(opt=options)


def _library() -> Any:
    # Warnings that the library gives while it is imported say nothing about a fit.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import falkon
    return falkon
