"""The rule by which Head2Toe pools a tap to about a target size (Evci et al. 2022, §4.1 and appendix B)."""

import re
from collections.abc import Sequence
from math import isqrt, prod

_TARGET = re.compile(r"target([1-9][0-9]*)\Z")


def target_size(pooling: str) -> int | None:
    """Return t of ``target<t>``, the values wanted of a tap; None for other poolings."""
    match = _TARGET.match(pooling)
    return int(match[1]) if match else None


def target_window(places: Sequence[int], channels: int, target: int) -> int | None:
    """Return the edge p of the windows that are averaged; None for one average over all places.

    Channels are never pooled. A map of C channels and width W with ``C < t`` has ``p = W // n`` with
    ``n = floor(sqrt(t // C))``; T tokens have ``p = floor(T / (t / C))``. The values that are left may be
    somewhat more or less than t, because p is whole and places that fill no window are dropped.

    Parameters
    ----------
    places : sequence of int
        ``(height, width)`` of a map, the smaller of which counts as its width, or ``(n_tokens,)``.
    channels, target : int
        Channels C of the tap, and the number t of values that is aimed at.
    """
    if channels >= target:
        return None
    windows = isqrt(target // channels) if len(places) == 2 else target / channels
    return max(1, int(min(places) // windows))


def target_dim(places: Sequence[int], channels: int, target: int) -> int:
    """Return the number of values that are left of one image."""
    window = target_window(places, channels, target)
    return channels if window is None else channels * prod(place // window for place in places)
