"""``--layers upper``: the layers that new features hold by default, with poolings of their own."""

from collections.abc import Sequence

from toptune.extract.backbone.taps import LAST, Tap, TapArray, tap_arrays

UPPER = "upper"
_N_BLOCKS = 4
_GRID = "grid2"


def upper_blocks(indexed: Sequence[str]) -> list[str]:
    """Return the names of up to four blocks at equal distances, from the middle of the network to its end.

    Block k of four ends at ``ceil(n (3 + k) / 6)`` of n blocks, k from 0 to 3. Of 12 blocks these are those
    of index 5, 7, 9 and 11; of four stages the last three.

    Examples
    --------
    >>> upper_blocks([f"blocks.{i}" for i in range(12)])
    ['blocks.5', 'blocks.7', 'blocks.9', 'blocks.11']
    """
    ends = [-(-len(indexed) * (_N_BLOCKS - 1 + k) // (2 * (_N_BLOCKS - 1))) for k in range(_N_BLOCKS)]
    return [indexed[end - 1] for end in dict.fromkeys(ends) if end]


def upper_arrays(blocks: Sequence[Tap], last: Tap) -> list[TapArray]:
    """Give each layer of `upper_blocks` its poolings, and add ``last``.

    Blocks of tokens are stored as class token and mean of the patches, blocks of maps as their mean. The last
    block of maps is stored as averages over a 2 x 2 grid, too, which tell where things are. Of the last block
    the pooling that ``last`` is made of is left out if ``last`` has as many values, because no layer lies
    between, and equal columns would count twice.

    Parameters
    ----------
    blocks : sequence of Tap
        The blocks of `upper_blocks`, in order.
    last : Tap
        The network's output.
    """
    arrays = []
    for tap in blocks:
        poolings: list[str] = [name for name in ("cls", "mean") if name in tap.poolings]
        poolings = poolings or [tap.default_pooling]
        if tap is blocks[-1]:
            if tap.channels == last.channels:
                poolings.remove(tap.default_pooling)
            if tap.kind == "map" and _GRID in tap.poolings:
                poolings.append(_GRID)
        arrays += [TapArray(tap, name) for name in poolings]
    return [*arrays, TapArray(last, last.default_pooling)]


def named_layers(taps: Sequence[Tap]) -> dict[str, list[TapArray]]:
    """Return the arrays that ``last``, ``upper`` and ``all`` store, by these names.

    Parameters
    ----------
    taps : sequence of Tap
        What `list_taps` gives: all blocks in order, and ``last``.
    """
    *blocks, last = taps
    upper = upper_blocks([tap.name for tap in blocks])
    return {
        LAST: tap_arrays([last], None),
        UPPER: upper_arrays([tap for tap in blocks if tap.name in upper], last),
        "all": tap_arrays(taps, None),
    }


def split_upper(
    layers: str | int | Sequence[str | int],
) -> tuple[str | int | Sequence[str | int], bool]:
    """Return ``--layers`` without the word ``upper``, and whether the word was there."""
    if isinstance(layers, int):
        return layers, False
    items = layers.split(",") if isinstance(layers, str) else layers
    kept = [item for item in items if str(item).strip() != UPPER]
    return (",".join(map(str, kept)) if isinstance(layers, str) else kept), len(kept) < len(items)
