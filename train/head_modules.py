"""Fitted heads as torch modules, for exported models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toptune.store import InputError
from toptune.train.heads import Head
from toptune.train.kernels import Linear, kernel_of


class KernelScores(nn.Module):
    """``k(x, centers) dual_coef + intercept``, as `kernel_scores`.

    Distances come from inner products after a shift to the mean of the centres, without the second look
    that `squared_distances` takes at pairs where this cancels: a graph cannot pick rows by their values. In
    float64 enough digits are left.
    """

    shift: Tensor
    centers: Tensor
    dual: Tensor
    intercept: Tensor

    def __init__(self, estimator: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self._kernel = kernel_of(estimator.kernel, estimator.sigma_)
        centers = torch.from_numpy(np.asarray(estimator.centers_, dtype=np.float64))
        shift = torch.zeros_like(centers[0]) if isinstance(self._kernel, Linear) else centers.mean(dim=0)
        self.register_buffer("shift", shift.to(dtype))
        # Shifted by the very values that the rows are shifted by.
        self.register_buffer("centers", (centers - shift.to(dtype).double()).to(dtype))
        self.register_buffer("dual", torch.from_numpy(np.asarray(estimator.dual_coef_)).to(dtype))
        self.register_buffer("intercept", torch.from_numpy(np.asarray(estimator.intercept_)).to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        x, c = rows.to(self.centers.dtype) - self.shift, self.centers
        if isinstance(self._kernel, Linear):
            values = self._kernel(x, c)
        else:
            norms = x.square().sum(dim=1, keepdim=True) + c.square().sum(dim=1)
            values = self._kernel.of_squared_distances((norms - 2 * (x @ c.T)).clamp(min=0))
        result: Tensor = values @ self.dual + self.intercept
        return result


class LinearScores(nn.Module):
    """``x coef^T + intercept``; one row of coefficients, for two classes, gives both their scores."""

    coef: Tensor
    intercept: Tensor

    def __init__(self, estimator: Any, dtype: torch.dtype) -> None:
        super().__init__()
        coef, intercept = np.asarray(estimator.coef_), np.asarray(estimator.intercept_)
        if len(coef) == 1:
            halves = np.array([[-0.5], [0.5]])
            coef, intercept = halves * coef, (halves * intercept)[:, 0]
        self.register_buffer("coef", torch.from_numpy(np.array(coef)).to(dtype))
        self.register_buffer("intercept", torch.from_numpy(np.array(intercept)).to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = rows.to(self.coef.dtype) @ self.coef.T + self.intercept
        return result


# A head that can be exported needs a line here: a module that gives scores (b, n_classes) from its estimator.
HEAD_MODULES: dict[str, Callable[[Any, torch.dtype], nn.Module]] = {
    "falkon": KernelScores,
    "falkon-logistic": KernelScores,
    "ridge": LinearScores,
    "logistic": LinearScores,
}


class HeadModule(nn.Module):
    """Preprocessed rows (b, d) to logits (b, n_classes), whose softmax are the head's probabilities."""

    def __init__(self, head: Head, dtype: torch.dtype) -> None:
        super().__init__()
        check_exportable(head.name)
        estimator = head.estimator  # type: ignore[attr-defined]
        self.scores = HEAD_MODULES[head.name](estimator, dtype)
        self._temperature = _temperature(head)

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.scores(rows) / self._temperature
        return logits


def check_exportable(name: str) -> None:
    """Refuse a head that no torch module is written for.

    Raises
    ------
    InputError
        Says which heads can be exported.
    """
    if name not in HEAD_MODULES:
        raise InputError(
            f"head {name!r} cannot be exported: it has no form as tensor operations here; train one of "
            f"{', '.join(HEAD_MODULES)} on the same features (seconds), or use toptune predict"
        )


def _temperature(head: Head) -> float:
    """Return the temperature of a head; 1 where the scores' own softmax are the probabilities."""
    own = getattr(head.estimator, "temperature_", None)  # type: ignore[attr-defined]
    given = own if own is not None else getattr(head, "temperature", None)
    return 1.0 if given is None else float(given)
