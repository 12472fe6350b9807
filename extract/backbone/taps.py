"""Taps of a backbone, poolings that fit a tap, and the language of ``--layers`` and ``--pooling``."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from toptune.errors import InputError
from toptune.extract.backbone.target_pooling import target_dim, target_size
from toptune.options import nearest

LAST = "last"
MAX_DIM = 200_000
GRIDS = (2, 3, 4)
NAMED = ("cls", "mean", "max", "flatten", "none")
_GRID = re.compile(r"grid([1-9][0-9]*)\Z")
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
POOLINGS = "cls, mean, max, gridG (for instance grid2), targetT (target512), flatten, none"

Kind = Literal["vector", "tokens", "map"]


@dataclass(frozen=True)
class Tap:
    """A place in a backbone whose output can be stored.

    Attributes
    ----------
    name : str
        Module path (``blocks.3``, ``layer4``), or ``last``: what ``create_model(num_classes=0)`` returns.
    kind : str
        ``vector`` (c,), ``tokens`` (n, c) with the prefix tokens first, or ``map`` (c, h, w).
    shape : tuple of int
        Shape of the output for one image, by kind.
    n_prefix : int
        Tokens that stand for no patch (class token, registers), at the front.
    has_class_token : bool
        Whether the first token is the class token.
    grid : tuple of int, optional
        Rows and columns of the patches or pixels, where they lie on a grid.
    default_pooling : str
        ``cls`` where the family's head reads the class token, ``mean`` elsewhere, ``none`` for vectors.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    default_pooling: str
    n_prefix: int = 0
    has_class_token: bool = False
    grid: tuple[int, int] | None = None

    @property
    def channels(self) -> int:
        """Number of values at one place."""
        return self.shape[0] if self.kind == "map" else self.shape[-1]

    @property
    def poolings(self) -> tuple[str, ...]:
        """Poolings that fit the tap, among them some sizes of grid and one target."""
        if self.kind == "vector":
            return ("none",)
        cls = ("cls",) if self.has_class_token else ()
        grids = tuple(f"grid{g}" for g in GRIDS if self.grid and g <= min(self.grid))
        return (*cls, "mean", "max", "target512", *grids, "flatten")

    @property
    def places(self) -> tuple[int, ...]:
        """Rows and columns of a map, or the number of tokens with the prefix, to average over."""
        return self.shape[1:] if self.kind == "map" else self.shape[:-1]

    def dim(self, pooling: str) -> int:
        """Return the number of values that a pooling leaves of one image.

        Raises
        ------
        InputError
            If the pooling is unknown or does not fit this tap.
        """
        grid, target = grid_size(pooling), target_size(pooling)
        if self.kind == "vector":
            fits = pooling == "none"
        elif target is not None:
            fits = True
        elif grid is not None:
            fits = self.grid is not None and grid <= min(self.grid)
        else:
            fits = pooling in ("mean", "max", "flatten") or (pooling == "cls" and self.has_class_token)
        if not fits:
            raise InputError(
                f"pooling {pooling!r} does not fit {self.name} ({self.describe()}); "
                f"fitting: {', '.join(self.poolings)}",
                option="pooling",
            )
        if pooling == "flatten":
            return math.prod(self.shape)
        if target is not None:
            return target_dim(self.places, self.channels, target)
        return self.channels * (grid * grid if grid else 1)

    def to_dict(self) -> dict[str, Any]:
        """Return what `toptune layers` shows as JSON values; bytes are those of float16 on disk."""
        dim = self.dim(self.default_pooling)
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "default_pooling": self.default_pooling,
            "dim": dim,
            "bytes_per_image": 2 * dim,
            "poolings": list(self.poolings),
        }

    def describe(self) -> str:
        """Return kind and shape in words."""
        size = " x ".join(map(str, self.shape))
        if self.kind == "tokens":
            return f"tokens {size}, of them {self.n_prefix} prefix"
        return f"{self.kind} {size}"


@dataclass(frozen=True)
class TapArray:
    """A tap with one pooling; each pair is one array of a cache."""

    tap: Tap
    pooling: str

    @property
    def name(self) -> str:
        """Name of the array in the store, ``<tap>.<pooling>``."""
        return f"{self.tap.name}.{self.pooling}"

    @property
    def dim(self) -> int:
        """Values stored for an image."""
        return self.tap.dim(self.pooling)


def grid_size(pooling: str) -> int | None:
    """Return G of ``gridG``; None for other poolings."""
    match = _GRID.match(pooling)
    return int(match[1]) if match else None


def parse_poolings(pooling: str | Sequence[str] | None) -> list[str]:
    """Read a list of poolings, or a text with commas; no poolings mean the default of each tap.

    Raises
    ------
    InputError
        If a pooling is unknown.
    """
    if pooling is None:
        return []
    names = [name.strip() for name in pooling.split(",")] if isinstance(pooling, str) else list(pooling)
    for name in names:
        if name not in NAMED and grid_size(name) is None and target_size(name) is None:
            near = nearest(name, NAMED, most=1)
            hint = f"did you mean {near[0]!r}? There" if near else "there"
            raise InputError(f"unknown pooling {name!r}; {hint} are {POOLINGS}", option="pooling")
    return list(dict.fromkeys(names))


def tap_arrays(taps: Iterable[Tap], pooling: str | Sequence[str] | None) -> list[TapArray]:
    """Combine taps with poolings; a vector such as ``last`` has nothing to pool and is taken as it is.

    Raises
    ------
    InputError
        If a pooling is unknown, does not fit, has nothing to pool, or leaves too many values.
    """
    # A pooling that has no effect would give arrays a name that is wrong.
    taps, wanted = list(taps), parse_poolings(pooling)
    if wanted and "none" not in wanted and all(tap.kind == "vector" for tap in taps):
        raise InputError(
            f"pooling {', '.join(wanted)} has nothing to pool: {', '.join(tap.name for tap in taps)} "
            "is one vector an image; leave --pooling out, or name other layers"
        )
    arrays = []
    for tap in taps:
        names = [tap.default_pooling] if tap.kind == "vector" or not wanted else wanted
        arrays += [TapArray(tap, name) for name in names]
    for array in arrays:
        if array.dim > MAX_DIM:
            smaller = [name for name in reversed(array.tap.poolings) if array.tap.dim(name) <= MAX_DIM]
            raise InputError(
                f"{array.name} would hold {array.dim} values an image, more than the limit of {MAX_DIM}; "
                f"pooling {smaller[0]!r} leaves {array.tap.dim(smaller[0])}"
            )
    return arrays


def select_names(
    layers: str | int | Sequence[str | int], *, indexed: Sequence[str], modules: Sequence[str]
) -> list[str]:
    """Turn ``--layers`` into names of taps.

    Parameters
    ----------
    layers : str, int or sequence
        ``last``; ``all`` (every block's output, and ``last``); timm's index language (``3`` is the last
        three, ``-1,-2`` or ``0,4`` or ``4,`` is a list); module paths and globs, in which ``*`` stays
        within one part of the path and ``**`` does not; any of these with commas between them.
    indexed : sequence of str
        Names of the blocks that timm's index language counts.
    modules : sequence of str
        Paths of all modules.

    Returns
    -------
    list of str
        Each name once, blocks in their order before modules in theirs, ``last`` at the end.

    Raises
    ------
    InputError
        If an index is out of range, or nothing is called so.
    """
    items, is_list = _items(layers)
    integers = [int(item) for item in items if _INTEGER.match(item)]
    names = set(_by_index(integers, is_list=is_list, indexed=indexed, modules=modules))
    order = list(dict.fromkeys([*indexed, *modules, LAST]))
    for item in items:
        if _INTEGER.match(item):
            continue
        if item == "all":
            names |= {*indexed, LAST}
            continue
        found = [name for name in order if _matches(name, item)]
        if not found:
            raise _unknown(item, order)
        names.update(found)
    return [name for name in order if name in names]


def _items(layers: str | int | Sequence[str | int]) -> tuple[list[str], bool]:
    """Split into items, and say whether integers are a list even if there is only one."""
    if isinstance(layers, int):
        return [str(layers)], False
    parts = layers.split(",") if isinstance(layers, str) else [str(item) for item in layers]
    items = [part.strip() for part in parts]
    is_list = not isinstance(layers, str) or (len(items) > 1 and items[-1] == "")
    items = [item for item in items if item]
    if not items:
        raise InputError("no layers are named; give upper, last, all, a number, or module paths")
    return items, is_list


def _by_index(
    integers: list[int], *, is_list: bool, indexed: Sequence[str], modules: Sequence[str]
) -> list[str]:
    n = len(indexed)
    if integers and not n:
        # Modules of a plain Sequential are called by numbers, which here count blocks.
        named = f"; for the module called '{integers[0]}' write '[{integers[0]}]'"
        raise InputError(
            f"layers {integers[0]}: numbers count blocks, and this model has none"
            + (named if str(integers[0]) in modules else "; name modules by their paths"),
            option="layers",
        )
    if len(integers) == 1 and integers[0] >= 0 and not is_list:
        if not 1 <= integers[0] <= n:
            raise InputError(
                f"layers {integers[0]}: the last n blocks, with n from 1 to {n} for this model; "
                f"for the one block of index {integers[0]} write '{integers[0]},'"
            )
        return list(indexed[n - integers[0] :])
    for i in integers:
        if not -n <= i < n:
            raise InputError(f"layer index {i} is out of range: this model has {n} blocks, {-n} to {n - 1}")
    return [indexed[i] for i in integers]


def _matches(name: str, pattern: str) -> bool:
    # A plain `*` stays within one part of the path: `blocks.*` means the blocks and not everything inside
    # them.
    if "**" in pattern:
        return fnmatchcase(name, pattern)
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _unknown(item: str, names: list[str]) -> InputError:
    near = " or ".join(map(repr, nearest(item, names)))
    return InputError(
        f"no layer is called {item!r}; "
        + (f"did you mean {near}? " if near else "")
        + "`toptune layers MODEL` lists them",
        option="layers",
    )
