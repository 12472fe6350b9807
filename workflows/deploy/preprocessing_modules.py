"""The steps of a preprocessing become torch modules, for exported models."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from toptune.train.preprocessing.preprocessing import Preprocessing
from toptune.train.preprocessing.principal_components import PrincipalComponents
from toptune.train.preprocessing.steps import Balance, Power, Select, Standardise, Ternary, UnitNorm, Weigh


class PreprocessingModule(nn.Module):
    """Map rows (b, n_inputs) to rows (b, n_outputs) of float32, as `Preprocessing.apply` does.

    Parameters
    ----------
    preprocessing : Preprocessing
        The fitted steps.
    dtype : torch.dtype
        Type of the computation; `Preprocessing.apply` computes in float64.
    """

    def __init__(self, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.steps = nn.Sequential(*(STEP_MODULES[type(step)](step, dtype) for step in preprocessing.steps))

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.steps(values.to(self._dtype)).to(torch.float32)
        return result


class _Affine(nn.Module):
    """Compute ``(x - mean) * scale``; a step with levels turns that into -1, 0 or 1."""

    mean: Tensor
    scale: Tensor

    def __init__(self, step: Standardise | Ternary, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("mean", _tensor(step.mean, dtype))
        self.register_buffer("scale", _tensor(step.scale, dtype))
        self._levels = (step.BELOW, step.ABOVE) if isinstance(step, Ternary) else None

    def forward(self, values: Tensor) -> Tensor:
        standard: Tensor = (values - self.mean) * self.scale
        if self._levels is None:
            return standard
        below, above = self._levels
        return (standard > above).to(values.dtype) - (standard < below).to(values.dtype)


class UnitNormModule(nn.Module):
    """Divide each layer of each row by its Euclidean norm; a layer of zeros stays.

    Parameters
    ----------
    dims : sequence of int
        Number of columns of each layer.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self._dims = list(dims)

    def forward(self, values: Tensor) -> Tensor:
        parts = []
        for layer in torch.split(values, self._dims, dim=1):
            norms = layer.square().sum(dim=1, keepdim=True).sqrt()
            parts.append(layer / torch.where(norms == 0, torch.ones_like(norms), norms))
        return torch.cat(parts, dim=1)


class _Power(nn.Module):
    """Raise magnitudes to a power and keep signs."""

    def __init__(self, step: Power, _dtype: torch.dtype) -> None:
        super().__init__()
        self._exponent = step.exponent

    def forward(self, values: Tensor) -> Tensor:
        return values.sign() * values.abs() ** self._exponent


class _Balance(nn.Module):
    """Multiply each layer by the factor of its backbone."""

    factors: Tensor

    def __init__(self, step: Balance, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("factors", _tensor(np.repeat(step.scale, step.layer_dims), dtype))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.factors


class _Projection(nn.Module):
    """Project on principal components."""

    mean: Tensor
    axes: Tensor

    def __init__(self, step: PrincipalComponents, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("mean", _tensor(step.mean, dtype))
        self.register_buffer("axes", _tensor(step.axes, dtype))

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = (values - self.mean) @ self.axes
        return result


class _Selection(nn.Module):
    """Keep some columns."""

    columns: Tensor

    def __init__(self, step: Select, _dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("columns", _tensor(step.columns, torch.int64))

    def forward(self, values: Tensor) -> Tensor:
        return values[:, self.columns]


# A new step of preprocessing needs a line here, or runs that have the step cannot be exported.
STEP_MODULES: dict[type, Callable[[Any, torch.dtype], nn.Module]] = {
    Standardise: _Affine,
    Ternary: _Affine,
    UnitNorm: lambda step, _dtype: UnitNormModule(step.layer_dims),
    Power: _Power,
    PrincipalComponents: _Projection,
    Balance: _Balance,
    Weigh: _Balance,
    Select: _Selection,
}


def _tensor(values: npt.NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    # A copy, because arrays that were read from a file may be read-only, of which torch warns.
    return torch.from_numpy(np.array(values)).to(dtype)
