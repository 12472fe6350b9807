"""Sums of a finished fit, kept so that rows can be added and removed without reading the other rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import CorruptError, NumericalError
from toptune.store.arrays.tensor_files import Pieces, read_tensors, write_tensors
from toptune.train.passes.sums import FoldSums
from toptune.train.solvers.ridge import CenteredSystem

FILE = "sums.safetensors"
# Which fits have sums, for messages: in the dual of ridge the basis is the span of the rows, outside of which
# rows that are added later may lie.
KEEPERS = (
    "sums are kept by head falkon with the direct solver, and by ridge where the training images are more "
    "than the features; of several labels an image, where none is unknown"
)


@dataclass(frozen=True, kw_only=True)
class SavedSums:
    """Sums over a fit's rows, of features that are whitened by a factor.

    Attributes
    ----------
    sums : FoldSums
        Sums of rank r. Right after a fit they may be sums of plain kernel values; files hold sums of
        features.
    factor : Tensor of float64, shape (r, r), or None
        L, lower triangular: features are ``k(x, centers) L^-T``. None where the features are the rows
        themselves.
    """

    sums: FoldSums
    factor: Tensor | None = None

    @classmethod
    def of(cls, sums: FoldSums | None, factor: Tensor | None = None) -> "SavedSums | None":
        """Return the sums of a fit on the CPU, or None for a fit without sums."""
        if sums is None:
            return None
        return cls(
            sums=sums.cpu(),
            factor=None if factor is None else factor.cpu(),
        )

    def solve(self, penalty: float) -> tuple[Tensor, Tensor, float]:
        """Fit anew at a penalty.

        Returns
        -------
        Tensor of float64, shape (r, n_targets)
            Coefficients of the basis: kernel values, or the rows themselves.
        Tensor of float64, shape (n_targets,)
            Intercepts.
        float
            Jitter of factoring.
        """
        # `total` makes new sums, so whitening in place leaves the saved sums as they are.
        total = self.sums.total().whitened()
        beta, jitter = CenteredSystem.of(total.gram[0], total.cross[0]).solve(penalty)
        if self.factor is None:
            return beta[:-1], beta[-1], jitter
        return torch.linalg.solve_triangular(self.factor.T, beta[:-1], upper=True), beta[-1], jitter

    def with_aside(self) -> "SavedSums":
        """Return the sums with a place for rows that take no part in cross-validation, empty if it is new."""
        if self.sums.has_aside:
            return self
        gram, cross, square = (
            torch.cat([each, torch.zeros_like(each[:1])])
            for each in (self.sums.gram, self.sums.cross, self.sums.square)
        )
        return replace(self, sums=replace(self.sums, gram=gram, cross=cross, square=square, has_aside=True))

    def for_classes(self, old: Sequence[str], new: Sequence[str]) -> "SavedSums":
        """Reorder the target columns from `old` to `new` classes; a new class gets zeros."""
        cross = self.sums.cross.new_zeros((*self.sums.cross.shape[:2], len(new)))
        both = [name for name in new if name in set(old)]
        cross[:, :, [list(new).index(name) for name in both]] = self.sums.cross[
            :, :, [list(old).index(name) for name in both]
        ]
        return replace(self, sums=replace(self.sums, cross=cross))

    def without_centers(self, gone: npt.NDArray[np.int64]) -> "SavedSums":
        """Return the sums on a basis without some of the centers.

        The rows and columns of these centers leave the sums of kernel values.

        Parameters
        ----------
        gone : ndarray of int64
            Positions among the r centers.

        Raises
        ------
        NumericalError
            If no center is left, or the others' kernel matrix cannot be factored.
        """
        if self.factor is None:
            raise NumericalError("these sums have no centers")
        if self.sums.factor is not None:
            raise ValueError("sums of plain kernel values; save and load them first")
        left = np.setdiff1d(np.arange(len(self.factor)), gone)
        if len(left) == 0:
            raise NumericalError("no center would be left; train again with other centers")
        keep = torch.from_numpy(left)
        kernel_rows = self.factor[keep]
        factor, failed = torch.linalg.cholesky_ex(kernel_rows @ kernel_rows.T)
        if int(failed):
            raise NumericalError(
                "the kernel matrix of the centers left is not positive definite; train again"
            )
        # With k(x, left) = phi L[left]' and the factor F of the centers left, (k(x, left) F^-T, 1) is
        # (phi, 1) C, and C has orthonormal columns: no digits are lost.
        change = torch.zeros((len(self.factor) + 1, len(left) + 1), dtype=torch.float64)
        change[:-1, :-1] = torch.linalg.solve_triangular(factor, kernel_rows, upper=False).T
        change[-1, -1] = 1.0
        sums = FoldSums(
            gram=change.T @ self.sums.gram @ change,
            cross=change.T @ self.sums.cross,
            square=self.sums.square,
            has_aside=self.sums.has_aside,
        )
        return SavedSums(sums=sums, factor=factor)

    def save(self, folder: Path) -> None:
        """Write ``sums.safetensors``, with only the lower half of symmetric and triangular matrices."""
        # The other half is known, and leaving it out halves the largest file of a run.
        n_folds, size, _ = self.sums.gram.shape
        # A fold at a time is whitened and written: thousands of centers have sums of gigabytes.
        tensors: dict[str, npt.NDArray[np.generic] | Pieces] = {
            "gram": Pieces(
                dtype=np.dtype(np.float64),
                shape=(n_folds, size * (size + 1) // 2),
                # Each fold is a copy, because whitening works in place and the sums of the fit must stay.
                pieces=(_packed(self.sums.fold(at).whitened().gram[0].numpy()) for at in range(n_folds)),
            ),
            "cross": Pieces(
                dtype=np.dtype(np.float64),
                shape=tuple(self.sums.cross.shape),
                pieces=(self.sums.whitened_cross(at).numpy() for at in range(n_folds)),
            ),
            "square": self.sums.square.numpy(),
        }
        if self.sums.has_aside:
            tensors["has_aside"] = np.ones(1, dtype=np.uint8)
        if self.factor is not None:
            tensors["factor"] = _packed(self.factor.numpy())
        write_tensors(folder / FILE, tensors)

    @classmethod
    def load(cls, folder: Path) -> "SavedSums":
        """Read what `save` wrote.

        Raises
        ------
        CorruptError
            If the file is missing or damaged, or holds a number that is not finite.
        """
        tensors, _ = read_tensors(folder / FILE, advice="train again")
        try:
            cross = torch.from_numpy(tensors["cross"])
            size = cross.shape[1]
            gram = _unpacked(tensors["gram"], size)
            gram += gram.tril(-1).transpose(1, 2)
            factor = _unpacked(tensors["factor"][None], size - 1)[0] if "factor" in tensors else None
            square = torch.from_numpy(tensors["square"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CorruptError(f"{folder / FILE} cannot be read ({error}); train again") from error
        sums = FoldSums(gram=gram, cross=cross, square=square, has_aside="has_aside" in tensors)
        return cls(sums=sums, factor=factor)


def _packed(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the lower triangle of a matrix, row after row; numpy's indices of it would take two matrices."""
    found, at = np.empty(len(matrix) * (len(matrix) + 1) // 2), 0
    for row, values in enumerate(matrix, start=1):
        found[at : at + row] = values[:row]
        at += row
    return found


def _unpacked(packed: npt.NDArray[np.generic], size: int) -> Tensor:
    """Return the matrices (n, size, size) whose lower triangles `save` packed, with zeros above."""
    matrices = np.zeros((len(packed), size, size))
    matrices[:, *np.tril_indices(size)] = packed
    return torch.from_numpy(matrices)
