"""Weights of layers: the widths of a Gaussian kernel, one a layer, that left-out rows favor.

The kernel is ``exp(-sum_l w_l D_l / 2)``, with D_l the squared distances of rows in layer l: automatic
relevance determination, a layer at a time ("Gaussian Processes for Machine Learning", Rasmussen & Williams
2006, section 5.1). Columns times the root of their layer's w_l turn it into a Gaussian kernel of width 1,
which every kernel solver computes. The weights are learned by left-out rows (section 5.4.2 there).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.samples import even_sample

if TYPE_CHECKING:
    from torch import Tensor

# The work grows with the cube of the rows, and more than a thousand move few of the weights.
MOST_ROWS = 1000
# The distances of all layers are held at once, in float64.
_DISTANCE_BYTES = 256 * 2**20
# This share of the variance of the logarithms is added to the loss, so that few rows leave layers alike.
_DECAY = 0.05
_STEPS = 25
# Logarithms of the mean weight and of the penalty that a search begins from: the loss has several valleys.
_WIDTHS = (-2.0, -1.0, 0.0, 1.0)
_PENALTIES = (-11.0, -8.0)
_LEAST = 1e-12


def weighed_rows(codes: npt.NDArray[np.int64], *, n_layers: int) -> npt.NDArray[np.int64]:
    """Choose rows to learn from, which have the shares of the classes; positions, ascending.

    Parameters
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row.
    n_layers : int
        More layers leave room for fewer rows.
    """
    most = min(MOST_ROWS, int(np.sqrt(_DISTANCE_BYTES / (8 * n_layers))))
    by_class = np.argsort(codes, kind="stable")
    return np.sort(by_class[even_sample(len(codes), most)])


def learn_layer_weights(
    values: npt.NDArray[np.float64], codes: npt.NDArray[np.int64], layer_dims: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Learn the factor of each layer.

    Weights, penalty and one temperature of kernel ridge regression on one-hot targets minimize the log-loss
    of rows that are left out one by one, in closed form, by L-BFGS.

    Parameters
    ----------
    values : ndarray of float64, shape (m, d)
        Rows, with the layers side by side.
    codes : ndarray of int64, shape (m,)
        Class of each row.
    layer_dims : tuple of int
        Columns of each layer, d together.

    Returns
    -------
    ndarray of float64, shape (n_layers,)
        What the columns of each layer are multiplied by; the kernel has then the width 1.

    Raises
    ------
    InputError
        With one layer or one class, for which there is nothing to weigh.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> codes = np.arange(60) % 2
    >>> told = rng.normal(size=(60, 3)) + 2.0 * codes[:, None]
    >>> layers = np.hstack([told / told.std(axis=0), rng.normal(size=(60, 3))])
    >>> factors = learn_layer_weights(layers, codes, (3, 3))
    >>> bool(factors[0] > factors[1])
    True
    """
    n_classes = len(np.unique(codes))
    if len(layer_dims) < 2 or n_classes < 2:
        raise InputError(
            f"preprocessing step weigh compares layers by classes; there are {len(layer_dims)} layers and "
            f"{n_classes} classes, and it needs two of each: extract more layers (toptune extract --layers "
            "all), or leave weigh out",
            option="preprocess",
        )
    import torch
    from scipy.optimize import minimize

    parts = np.split(values, np.cumsum(layer_dims)[:-1], axis=1)
    distances = torch.stack([torch.cdist(each, each).square() for each in map(torch.from_numpy, parts)])
    scale = distances.mean(dim=(1, 2), keepdim=True).clamp_min(_LEAST)
    distances /= scale
    loss = _LeftOutLoss(distances, torch.from_numpy(codes), n_classes)
    starts = [np.array([width] * len(parts) + [penalty, 2.0]) for width in _WIDTHS for penalty in _PENALTIES]
    start = min(starts, key=lambda point: loss(point)[0])
    bounds = [(-5.0, 4.0)] * len(parts) + [(-16.0, 0.0), (-2.0, 6.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
    weights = np.exp(found.x[: len(parts)]) / len(parts)
    factors: npt.NDArray[np.float64] = np.sqrt(weights / scale[:, 0, 0].numpy())
    return factors


class _LeftOutLoss:
    """The log-loss of rows that are left out one by one, and its gradient.

    A point holds the logarithms of the weights, that of the penalty, and that of the inverse temperature.

    Parameters
    ----------
    distances : Tensor, shape (n_layers, m, m)
        Squared distances, of mean 1 in each layer.
    codes : Tensor of int64, shape (m,)
    n_classes : int
    """

    def __init__(self, distances: "Tensor", codes: "Tensor", n_classes: int) -> None:
        import torch

        self.distances, self.codes = distances, codes
        self.targets = torch.nn.functional.one_hot(codes, n_classes).double()
        self.shares = self.targets.mean(0)
        self.eye = torch.eye(len(codes), dtype=torch.float64)

    def __call__(self, point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[Any]]:
        """Return the loss at a point, and the gradient there."""
        import torch

        free = torch.from_numpy(point).requires_grad_()
        logs, penalty, inverse_temperature = free[:-2], free[-2].exp(), free[-1].exp()
        kernel = torch.exp(-torch.tensordot(logs.exp() / len(logs), self.distances, dims=1) / 2)
        inverse = torch.linalg.inv(kernel + len(kernel) * penalty * self.eye)
        centered = self.targets - self.shares
        # The residual of a row that is left out (Rasmussen & Williams 2006, equation 5.12).
        scores = self.targets - inverse @ centered / inverse.diagonal()[:, None]
        fit = torch.nn.functional.cross_entropy(scores * inverse_temperature, self.codes)
        total = fit + _DECAY * (logs - logs.mean()).square().mean()
        (gradient,) = torch.autograd.grad(total, free)
        return float(total.detach()), gradient.numpy()
