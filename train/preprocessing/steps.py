"""The fitted steps that rows of features go through: each a frozen value of its statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.number]
Layers = tuple[int, ...]


class Step(Protocol):
    """A function of each row by itself. All fields are arrays or JSON values, so that a step can be saved."""

    name: ClassVar[str]

    def layers(self, layer_dims: Layers) -> Layers:
        """Return the columns of each layer after the step; ValueError if the step was fitted to others."""
        ...

    def apply(self, values: Rows) -> Rows:
        """Turn rows (b, d) into rows (b, d')."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return an account of the fit in JSON values, with the ``name`` of the step."""
        ...


@runtime_checkable
class LayerStep(Step, Protocol):
    """A step whose output for a layer depends on that layer alone, so that other layers can be dropped."""

    def restricted(self, kept: npt.NDArray[np.bool_], layer_dims: Layers) -> Self:
        """Return the same step on some whole layers; `kept` has one entry for each layer."""
        ...


def apply_steps(steps: Sequence[Step], values: Rows) -> Rows:
    """Apply steps one after the other; values that are not finite stay so, without a warning."""
    with np.errstate(invalid="ignore", over="ignore"):
        for step in steps:
            values = step.apply(values)
    return values


@dataclass(frozen=True, kw_only=True)
class Standardise:
    """``(x - mean) * scale``, column by column.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (d,)
        `scale` is 1 / deviation times the weight of the column's layer; 0 for a constant column.
    """

    name: ClassVar[str] = "standardise"
    mean: Values
    scale: Values

    def layers(self, layer_dims: Layers) -> Layers:
        _check_columns(self.name, layer_dims, self.mean, self.scale)
        return layer_dims

    def apply(self, values: Rows) -> Rows:
        result: Rows = (values - self.mean) * self.scale
        return result

    def restricted(self, kept: npt.NDArray[np.bool_], layer_dims: Layers) -> "Standardise":
        columns = np.repeat(kept, layer_dims)
        return Standardise(mean=self.mean[columns], scale=self.scale[columns])

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rule": "each column by mean and deviation of the training rows, layers of equal total variance",
            "n_constant": int((self.scale == 0).sum()),
        }


@dataclass(frozen=True, kw_only=True)
class UnitNorm:
    """Each layer of each row divided by its Euclidean norm (Head2Toe, Evci et al. 2022); zeros stay."""

    name: ClassVar[str] = "l2"
    layer_dims: Layers

    def layers(self, layer_dims: Layers) -> Layers:
        if tuple(self.layer_dims) != layer_dims:
            raise ValueError(f"step l2 is for layers of {self.layer_dims} columns, not {layer_dims}")
        return layer_dims

    def apply(self, values: Rows) -> Rows:
        result = np.array(values, dtype=np.float64)
        start = 0
        for dim in self.layer_dims:
            layer = result[:, start : start + dim]
            norms = np.linalg.norm(layer, axis=1, keepdims=True)
            layer /= np.where(norms == 0, 1.0, norms)
            start += dim
        return result

    def restricted(self, kept: npt.NDArray[np.bool_], layer_dims: Layers) -> "UnitNorm":
        return UnitNorm(layer_dims=tuple(np.array(layer_dims)[kept].tolist()))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "rule": "each layer of each image divided by its Euclidean norm"}


@dataclass(frozen=True, kw_only=True)
class Power:
    """``sign(x) |x|^exponent``: power normalization (Perronnin, Sánchez & Mensink 2010).

    With exponent 0.5 this is the signed square root, as in bilinear CNNs (Lin, RoyChowdhury & Maji 2015).
    """

    name: ClassVar[str] = "power"
    exponent: float

    def layers(self, layer_dims: Layers) -> Layers:
        return layer_dims

    def apply(self, values: Rows) -> Rows:
        wide = np.asarray(values, dtype=np.float64)
        result: Rows = np.sign(wide) * np.abs(wide) ** self.exponent
        return result

    def restricted(self, kept: npt.NDArray[np.bool_], layer_dims: Layers) -> "Power":  # noqa: ARG002
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "exponent": self.exponent}


@dataclass(frozen=True, kw_only=True)
class Ternary:
    """-1, 0 or 1 by the standardized value: the full-network embedding (Garcia-Gasulla et al. 2018).

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (d,)
        `scale` is 1 / deviation; 0 for a constant column, which becomes 0.
    """

    name: ClassVar[str] = "ternary"
    ABOVE: ClassVar[float] = 0.15
    BELOW: ClassVar[float] = -0.25
    mean: Values
    scale: Values

    def layers(self, layer_dims: Layers) -> Layers:
        _check_columns(self.name, layer_dims, self.mean, self.scale)
        return layer_dims

    def apply(self, values: Rows) -> Rows:
        standard = (values - self.mean) * self.scale
        levels = (standard > self.ABOVE).astype(np.float64) - (standard < self.BELOW)
        # Rows that are not finite are refused later, by number, so that they must not turn into -1, 0 or 1.
        return np.where(np.isfinite(values), levels, np.nan)

    def restricted(self, kept: npt.NDArray[np.bool_], layer_dims: Layers) -> "Ternary":
        columns = np.repeat(kept, layer_dims)
        return Ternary(mean=self.mean[columns], scale=self.scale[columns])

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rule": f"1 above {self.ABOVE}, -1 below {self.BELOW} deviations from the mean, else 0",
            "n_constant": int((self.scale == 0).sum()),
        }


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Each layer times the factor of its backbone, so that backbones side by side weigh alike.

    Attributes
    ----------
    layer_dims : tuple of int
        Columns of each layer.
    scale : ndarray of float64, shape (n_layers,)
        The factors; 1 for a backbone whose columns are all constant.
    """

    name: ClassVar[str] = "balance"
    layer_dims: Layers
    scale: Values

    def layers(self, layer_dims: Layers) -> Layers:
        if tuple(self.layer_dims) != layer_dims or self.scale.shape != (len(layer_dims),):
            raise ValueError(f"step {self.name} is for layers of {self.layer_dims} columns, not {layer_dims}")
        return layer_dims

    def apply(self, values: Rows) -> Rows:
        result: Rows = values * np.repeat(self.scale, self.layer_dims)
        return result

    def restricted(self, kept: npt.NDArray[np.bool_], layer_dims: Layers) -> Self:
        dims = tuple(np.array(layer_dims)[kept].tolist())
        return replace(self, layer_dims=dims, scale=self.scale[kept])

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rule": "each backbone scaled to the same total variance of the training rows",
            "factors": list(dict.fromkeys(self.scale.tolist())),
        }


@dataclass(frozen=True, kw_only=True)
class Weigh(Balance):
    """Each layer times a factor that was learned from labels; see `toptune.train.preprocessing.weighing`.

    Attributes
    ----------
    layer_dims : tuple of int
        Columns of each layer.
    scale : ndarray of float64, shape (n_layers,)
        The factors: with these, the Gaussian kernel of width 1 is the one that they were learned with.
    n_rows : int
        Training rows that the factors were learned from.
    """

    name: ClassVar[str] = "weigh"
    n_rows: int

    def to_dict(self) -> dict[str, Any]:
        shares = self.scale**2 / max(float((self.scale**2).sum()), 1e-300)
        return {
            "name": self.name,
            "rule": "each layer by the factor with which left-out rows have the least log-loss",
            "n_rows": self.n_rows,
            "factors": self.scale.tolist(),
            "shares": shares.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class Select:
    """The columns that a head uses, for heads that use a part of the features.

    Attributes
    ----------
    columns : ndarray of int64, shape (d',)
        Positions, ascending.
    """

    name: ClassVar[str] = "select"
    columns: npt.NDArray[np.int64]

    def layers(self, layer_dims: Layers) -> Layers:
        columns, ends = self.columns, np.cumsum([0, *layer_dims])
        if len(columns) == 0 or columns[0] < 0 or columns[-1] >= ends[-1] or (np.diff(columns) <= 0).any():
            raise ValueError(f"selected columns are not ascending positions among {ends[-1]}")
        return tuple(np.diff(np.searchsorted(columns, ends)).tolist())

    def apply(self, values: Rows) -> Rows:
        return values[:, self.columns]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "n_columns": len(self.columns)}


def _check_columns(name: str, layer_dims: Layers, *statistics: Values) -> None:
    for each in statistics:
        if each.shape != (sum(layer_dims),):
            raise ValueError(f"step {name} is for {each.shape} columns, not {sum(layer_dims)}")
