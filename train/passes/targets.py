"""What ridge regression is fitted to where a row has no class: several labels, or numbers."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Targets of rows that have no class.

    Attributes
    ----------
    values : ndarray of float64, shape (n, n_targets)
        1 and 0 for labels that apply and that do not, NaN where nobody knows; numbers as the fit is to
        regress them.
    are_labels : bool
        Whether the targets are labels: predictions then are right or wrong, and scores become probabilities.
    """

    values: npt.NDArray[np.float64]
    are_labels: bool

    @cached_property
    def filled(self) -> npt.NDArray[np.float64]:
        """The targets (n, n_targets), in which the mean of a label stands for what is unknown of it."""
        if not self.are_partly_unknown:
            return self.values
        return np.where(np.isfinite(self.values), self.values, np.nanmean(self.values, axis=0))

    @cached_property
    def are_partly_unknown(self) -> bool:
        """Whether some label of some row is unknown."""
        return self.are_labels and not bool(np.isfinite(self.values).all())

    def part(self, start: int, stop: int) -> "Targets":
        """Return the targets of the rows ``start .. stop - 1``, filled as they are among all rows."""
        return self.take(slice(start, stop))

    def take(self, some: slice | npt.NDArray[np.int64]) -> "Targets":
        """Return the targets of some rows, filled as they are among all rows."""
        part = replace(self, values=self.values[some])
        part.__dict__["filled"] = self.filled[some]
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
    def of(cls, values: npt.NDArray[np.float64]) -> "Scaling":
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

    def standardized(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
