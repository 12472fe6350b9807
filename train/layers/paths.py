"""The subsets of layers that a search compares: layers alone, cumulative from either end, and greedy."""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from toptune.store.joined.joined_features import split_name

Subset = tuple[int, ...]

# A step of the backward search drops a sixteenth of the layers of a deep network, and one layer of a shallow
# network: with hundreds of layers, one at a time would take hundreds of rounds of fits.
_BACKWARD_STEPS = 16


class PenaltyPaths:
    """Left-out errors of subsets over a grid of penalties; an error is computed once, when first asked for.

    Parameters
    ----------
    error : callable
        Called with a subset and the position of a penalty in the grid; returns the left-out error, or NaN for
        a subset that cannot be fitted.
    n_penalties : int
        Penalties of the grid, in ascending order.

    Attributes
    ----------
    seconds : dict of tuple of int to float
        Time of the latest computation for each subset.
    """

    def __init__(self, error: Callable[[Subset, int], float], n_penalties: int) -> None:
        self._error = error
        self._n_penalties = n_penalties
        self._known: dict[tuple[Subset, int], float] = {}
        self._best: dict[Subset, int] = {}
        self.seconds: dict[Subset, float] = {}

    def at(self, subset: Iterable[int], penalty: int) -> float:
        """Return the error of a subset at one penalty; infinite if the subset cannot be fitted."""
        key = (tuple(sorted(subset)), penalty)
        if key not in self._known:
            start = time.perf_counter()
            value = self._error(*key)
            self._known[key] = value if np.isfinite(value) else np.inf
            self.seconds[key[0]] = time.perf_counter() - start
        return self._known[key]

    def best(self, subset: Iterable[int], start: int | None = None) -> int:
        """Return the position of the penalty of least error, going downhill along the grid.

        The error of ridge regression usually falls and then rises with the penalty, so that going downhill
        needs a few fits where the whole grid would need many. Where the error has several dips, the search
        ends in the dip nearest to the start. The answer for a subset is kept, whatever start comes later.

        Parameters
        ----------
        subset : iterable of int
            Positions of the layers.
        start : int, optional
            Position where to begin; by default the middle of the grid.
        """
        subset = tuple(sorted(subset))
        if subset in self._best:
            return self._best[subset]
        here = self._n_penalties // 2 if start is None else start
        while True:
            around = range(max(0, here - 1), min(self._n_penalties, here + 2))
            best = min(around, key=lambda index: (self.at(subset, index), index != here))
            if best == here:
                self._best[subset] = here
                return here
            here = best

    def least(self, subset: Iterable[int], start: int | None = None) -> float:
        """Return the error of a subset at the best penalty of the subset."""
        subset = tuple(subset)
        return self.at(subset, self.best(subset, start))


def forward(paths: PenaltyPaths, candidates: Sequence[int], *, max_layers: int) -> list[Subset]:
    """Add the layer that lowers the error most, while any layer does; return the subset after each step.

    The candidates of a step are compared at the best penalty of the subset so far, which spares a search for
    the penalty of each candidate; only for the winner a new penalty is searched.
    """
    subset: Subset = (min(candidates, key=lambda layer: paths.least((layer,))),)
    steps = [subset]
    while len(subset) < min(max_layers, len(candidates)):
        penalty = paths.best(subset)
        others = [layer for layer in candidates if layer not in subset]
        added = min(others, key=lambda layer: paths.at((*subset, layer), penalty))
        longer = (*subset, added)
        if paths.least(longer, penalty) >= paths.at(subset, penalty):
            break
        subset = longer
        steps.append(subset)
    return steps


def backward(paths: PenaltyPaths, candidates: Sequence[int]) -> list[Subset]:
    """Begin with all candidates, and drop the layer whose loss raises the error least, while the error falls.

    From 32 layers on, a step drops a sixteenth of the layers: those whose loss, one by one, matters least.
    """
    subset: Subset = tuple(candidates)
    steps = [subset]
    while len(subset) > 1:
        penalty = paths.best(subset)
        without = {layer: tuple(each for each in subset if each != layer) for layer in subset}
        missed = sorted(subset, key=lambda layer: paths.at(without[layer], penalty))
        dropped = missed[: max(1, len(subset) // _BACKWARD_STEPS)]
        shorter = tuple(layer for layer in subset if layer not in dropped)
        if paths.least(shorter, penalty) >= paths.at(subset, penalty):
            break
        subset = shorter
        steps.append(subset)
    return steps


def best_poolings(paths: PenaltyPaths, taps: Sequence[str]) -> list[int]:
    """Return, for each tap in turn, the array whose pooling alone has the least error."""
    of_tap: dict[str, list[int]] = {}
    for layer, tap in enumerate(taps):
        of_tap.setdefault(tap, []).append(layer)
    return [min(layers, key=lambda layer: paths.least((layer,))) for layers in of_tap.values()]


def _by_relative_depth(layers: Sequence[int], taps: Sequence[str]) -> list[int]:
    """Order layers by their depth in their own backbone, so that several backbones grow side by side."""
    of_member: dict[str, list[int]] = {}
    for layer in layers:
        of_member.setdefault(split_name(taps[layer])[0], []).append(layer)
    depth = {
        layer: (place + 1) / len(members)
        for members in of_member.values()
        for place, layer in enumerate(members)
    }
    return sorted(layers, key=depth.__getitem__)


def all_paths(
    paths: PenaltyPaths, taps: Sequence[str], *, max_layers: int, notify: Callable[[str], None]
) -> list[tuple[str, Subset]]:
    """List ``(path, subset)`` of every subset to be scored.

    Parameters
    ----------
    taps : sequence of str
        Tap of each array, by depth. All poolings of a tap are compared alone and on the forward path; the
        other paths take the best pooling of each tap.
    max_layers : int
        Layers of the forward path, at most.
    notify : callable
        Called with the name of each path as the path begins.

    Returns
    -------
    list of (str, tuple of int)
        Paths are ``alone``, ``first`` (cumulative from the first layer), ``last`` (from the last),
        ``forward`` and ``backward``. Several backbones begin and end together on the paths from either end.
    """
    layers = range(len(taps))
    notify("layers alone")
    found: list[tuple[str, Subset]] = [("alone", (layer,)) for layer in layers]
    depth = best_poolings(paths, taps)
    if len(layers) == 1:
        return found
    notify("layers from either end")
    by_depth = _by_relative_depth(depth, taps)
    for path, order in (("first", by_depth), ("last", by_depth[::-1])):
        penalty: int | None = None
        for count in range(1, len(order) + 1):
            subset = tuple(order[:count])
            # One layer more moves the best penalty little, so that the last best penalty is a good start.
            penalty = paths.best(subset, penalty)
            found.append((path, subset))
    notify("layers forward")
    found += [("forward", subset) for subset in forward(paths, layers, max_layers=max_layers)]
    notify("layers backward")
    found += [("backward", subset) for subset in backward(paths, depth)]
    return found
