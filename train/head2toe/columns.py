"""Choose the columns that are kept: by score, over all layers together or whole layers at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    """Layers whose columns stand side by side.

    Attributes
    ----------
    dims : tuple of int
        Number of columns of each layer.
    names : tuple of str
        Names as stored, ``<tap>.<pooling>``, or numbers.
    """

    dims: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, X: object, n_features: int, given: Sequence[int] | None) -> "Layers":
        """Find the layers of X: those given, else those that X names itself, else all columns as one layer.

        Parameters
        ----------
        X : Blocks or array
            May have attributes ``layer_dims`` and ``layer_names``.
        n_features : int
            Columns of X.
        given : sequence of int or None
            Number of columns of each layer, in order.

        Raises
        ------
        InputError
            If the layers do not add up to the columns of X, or one is empty.
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
        """First column of each layer, and the column after its last."""
        return list(pairwise(np.cumsum([0, *self.dims]).tolist()))

    @property
    def last(self) -> Columns | None:
        """Columns of the layer named ``last``, else of the final one; None where there is only one layer."""
        if len(self.dims) == 1:
            return None
        named = [at for at, name in enumerate(self.names) if name.rpartition(".")[0] == LAST]
        return np.arange(*self.bounds[named[0] if named else -1])

    def counts(self, columns: Columns) -> tuple[int, ...]:
        """Count, for each layer, how many of `columns` belong to it."""
        return tuple(int(((columns >= start) & (columns < stop)).sum()) for start, stop in self.bounds)


def choose_columns(scores: Tensor, fraction: float, layers: Layers, *, selection: str = "feature") -> Columns:
    """Return the positions, ascending, of the columns of highest score.

    Parameters
    ----------
    scores : Tensor, shape (d,)
        `PathPoint.scores`: lengths of weights, negative where that length is 0.
    fraction : float
        Share of the columns to keep, or of the layers for selection ``"layer"``; at least one is kept.
    layers : Layers
    selection : {"feature", "layer"}
        ``"feature"`` ranks all columns together (Evci et al. 2022, §3). ``"layer"`` ranks layers by the mean
        length of their columns' weights and keeps whole layers.

    Examples
    --------
    >>> import torch
    >>> layers = Layers(dims=(2, 2), names=("early", "late"))
    >>> scores = torch.tensor([0.9, -0.5, 0.4, 0.8])
    >>> choose_columns(scores, 0.5, layers).tolist()
    [0, 3]
    >>> choose_columns(scores, 0.5, layers, selection="layer").tolist()
    [2, 3]
    """
    if selection == "feature":
        count = kept_count(fraction, len(scores))
        # A stable sort breaks ties by position, so that equal scores select equal columns on every device.
        best = torch.argsort(scores, descending=True, stable=True)[:count]
        return np.sort(best.cpu().numpy())
    means = [float(scores[start:stop].clamp(min=0).mean()) for start, stop in layers.bounds]
    count = kept_count(fraction, len(means))
    kept = np.argsort([-mean for mean in means], kind="stable")[:count]
    return np.concatenate([np.arange(*layers.bounds[at]) for at in sorted(kept.tolist())])


def kept_count(fraction: float, n: int) -> int:
    """Return how many of n columns or layers a share of them is; at least one."""
    return max(1, round(fraction * n))


def agreement(of_folds: Sequence[Columns], of_all: Columns) -> float:
    """Return how well the selections of the folds agree with that of all rows, between 0 and 1.

    It is the mean over the folds of the Jaccard index: columns in both selections, over columns in either.
    """
    shares = [len(np.intersect1d(each, of_all)) / len(np.union1d(each, of_all)) for each in of_folds]
    return float(np.mean(shares))
