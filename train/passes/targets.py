"""What ridge regression is fitted to where a row has no class: several labels, or numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import Tensor

# A matrix of targets may be as large as all else of a fit: figures over all rows are taken of so many bytes
# in float64 at a time.
_BYTES_AT_A_TIME = 2 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Targets of rows that have no class.

    Attributes
    ----------
    values : ndarray of float32 or float64, shape (n, n_targets)
        1 and 0 for labels that apply and that do not, NaN where nobody knows; numbers as the fit is to
        regress them.
    are_labels : bool
        Whether the targets are labels: predictions then are right or wrong, and scores become probabilities.
    """

    values: npt.NDArray[np.floating]
    are_labels: bool

    @cached_property
    def are_partly_unknown(self) -> bool:
        """Whether some label of some row is unknown."""
        # The least of values of which one is NaN is NaN.
        return self.are_labels and self.values.size > 0 and bool(np.isnan(self.values.min()))

    @cached_property
    def known_means(self) -> npt.NDArray[np.float64] | None:
        """The mean of each label (n_targets,) over the rows of which it is known; None if all of it is."""
        if not self.are_partly_unknown:
            return None
        total, known = np.zeros((2, self.values.shape[1]))
        for some in self.parts_of_rows():
            part = self.values[some]
            total += np.nansum(part, axis=0, dtype=np.float64)
            known += np.isfinite(part).sum(axis=0)
        # A label that is known of no row stays NaN.
        with np.errstate(invalid="ignore"):
            means: npt.NDArray[np.float64] = total / known
        return means

    def filled(self, some: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the targets (b, n_targets) of some rows; the mean of a label stands for what is unknown."""
        part = self.values[some].astype(np.float64, copy=False)
        means = self.known_means
        return part if means is None else np.where(np.isfinite(part), part, means)

    def parts_of_rows(self) -> Iterator[slice]:
        """Yield the rows of parts of the matrix that are small in float64, in their order."""
        n, k = self.values.shape
        step = max(1, _BYTES_AT_A_TIME // (8 * k))
        return (slice(start, min(start + step, n)) for start in range(0, n, step))

    def part(self, start: int, stop: int) -> "Targets":
        """Return the targets of the rows ``start .. stop - 1``, filled as they are among all rows."""
        return self.take(slice(start, stop))

    def take(self, some: slice | npt.NDArray[np.int64]) -> "Targets":
        """Return the targets of some rows, filled as they are among all rows."""
        part = replace(self, values=self.values[some])
        part.__dict__["known_means"] = self.known_means
        return part


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """How numbers were standardized before a fit, so that targets of any unit weigh alike.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (n_targets,)
        A target is ``mean + scale * (what was fitted)``; the scale of a target that never varies is 1.
    """

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> "Scaling":
        """Take mean and standard deviation of the targets (n, n_targets) of the rows."""
        mean, scale = values.mean(axis=0), values.std(axis=0)
        # The deviation of equal numbers may be rounding in place of 0.
        is_constant = scale <= 1e-12 * np.maximum(np.abs(mean), 1e-300)
        return cls(mean=mean, scale=np.where(is_constant, 1.0, scale))

    def then(self, mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> "Scaling":
        """Return the scaling by this one and a further mean and standard deviation (n_targets,) after it."""
        # As of `of`: the deviation of equal numbers may be rounding in place of 0.
        is_constant = scale <= 1e-8 * np.maximum(np.abs(mean), 1.0)
        return Scaling(mean=self.restored(mean), scale=self.scale * np.where(is_constant, 1.0, scale))

    def standardized(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return targets (n, n_targets) as they are fitted."""
        found: npt.NDArray[np.float64] = (values - self.mean) / self.scale
        return found

    def restored(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return what was fitted (n, n_targets) in the unit of the targets."""
        found: npt.NDArray[np.float64] = values * self.scale + self.mean
        return found


def in_target_unit(
    coefficients: Tensor, intercept: Tensor, scaling: Scaling | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return coefficients (r, n_targets) and intercepts (n_targets,) of a fit in the unit of the targets."""
    found, at_zero = coefficients.cpu().numpy(), intercept.cpu().numpy()
    if scaling is None:
        return found, at_zero
    return found * scaling.scale, scaling.restored(at_zero)
