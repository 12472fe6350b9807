"""Which columns are kept: by score, over all layers together or whole layers at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import InputError

SELECTIONS = ("feature", "layer")
LAST = "last"
Columns = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layers:
    """Layers whose columns lie side by side.

    Attributes
    ----------
    dims : tuple of int
        Columns of each.
    names : tuple of str
        As stored, ``<tap>.<pooling>``, or numbers.
    """

    dims: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, X: Any, n_features: int, given: Sequence[int] | None) -> "Layers":
        """Take layers as `given`, or as Blocks know them (``layer_dims``, ``layer_names``), or as one.

        Raises
        ------
        InputError
            If their columns are not those of X.
        """
        dims = given if given is not None else getattr(X, "layer_dims", None) or (n_features,)
        dims = tuple(int(dim) for dim in dims)
        if sum(dims) != n_features or min(dims) < 1:
            raise InputError(
                f"layer_dims are {list(dims)}, together {sum(dims)} columns; X has {n_features}: give the "
                "number of columns of each layer, in order"
            )
        names = tuple(getattr(X, "layer_names", None) or ())
        return cls(dims, names if len(names) == len(dims) else tuple(map(str, range(len(dims)))))

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First column of each layer, and the one after its last."""
        return list(pairwise(np.cumsum([0, *self.dims]).tolist()))

    @property
    def last(self) -> Columns | None:
        """Columns of the layer called ``last``, else of the one at the end; None where there is but one."""
        if len(self.dims) == 1:
            return None
        named = [at for at, name in enumerate(self.names) if name.rpartition(".")[0] == LAST]
        return np.arange(*self.bounds[named[0] if named else -1])

    def counts(self, columns: Columns) -> tuple[int, ...]:
        """How many of some columns are of each layer."""
        return tuple(int(((columns >= start) & (columns < stop)).sum()) for start, stop in self.bounds)


def choose_columns(scores: Tensor, fraction: float, layers: Layers, *, selection: str = "feature") -> Columns:
    """Positions, ascending, of the columns of highest score.

    Parameters
    ----------
    scores : Tensor, shape (d,)
        `PathPoint.scores`: lengths of weights, negative where that is 0.
    fraction : float
        Share of the columns to keep, at least one; of the layers for selection ``"layer"``.
    layers : Layers
    selection : {"feature", "layer"}
        ``"feature"`` ranks all columns together (Evci et al. 2022, §3); ``"layer"`` ranks layers by the mean
        length of their columns' weights and keeps them whole.
    """
    if selection == "feature":
        count = max(1, round(fraction * len(scores)))
        best = torch.argsort(scores, descending=True, stable=True)[:count]
        return np.sort(best.cpu().numpy())
    means = [float(scores[start:stop].clamp(min=0).mean()) for start, stop in layers.bounds]
    count = max(1, round(fraction * len(means)))
    kept = np.argsort([-mean for mean in means], kind="stable")[:count]
    return np.concatenate([np.arange(*layers.bounds[at]) for at in sorted(kept.tolist())])


def agreement(of_folds: Sequence[Columns], of_all: Columns) -> float:
    """Mean share of columns in both among those in either, of each fold's selection and that of all rows."""
    shares = [len(np.intersect1d(each, of_all)) / len(np.union1d(each, of_all)) for each in of_folds]
    return float(np.mean(shares))
