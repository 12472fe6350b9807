"""The stored arrays that an option ``--layers`` means."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from toptune.errors import InputError
from toptune.options import choices
from toptune.store.arrays.spec import ArraySpec

LAST = "last"
ALL = "all"
# Words of `extract --layers` that say what to store; here a stored array, a tap or a glob is named.
_WORD_OF_EXTRACT = re.compile(r"upper|[+-]?\d+")
# This pooling keeps all places, so that one array may have more columns than all others together.
_WHOLE = "flatten"
# A value of `layers` that stands for the layers that a search on the training rows chooses.
AUTO = "auto"
# First words of the names of modules before and after a backbone's blocks.
_BEFORE = ("act1", "bn1", "conv1", "conv_stem", "norm_pre", "patch_embed", "stem")
_AFTER = ("conv_head", "final_conv", "fc_norm", "global_pool", "head", "norm", "pre_logits", LAST)


def choose_arrays(
    stored: Sequence[ArraySpec], layers: str | Sequence[str] | None = None, pooling: str | None = None
) -> list[ArraySpec]:
    """Match layers against the arrays ``<tap>.<pooling>`` that a cache holds.

    Parameters
    ----------
    stored : sequence of ArraySpec
        Feature arrays of the cache.
    layers : str, sequence of str or None
        ``"all"`` (as None), ``"last"``, or names of arrays, names of taps, or globs over either, with commas
        or as a list.
    pooling : str, optional
        Which pooling to take where a tap is stored with several. Without a pooling, ``"all"`` means every
        array.

    Returns
    -------
    list of ArraySpec
        The arrays in the order of the names, without repetition.

    Raises
    ------
    InputError
        If a name matches no array, or a tap has several poolings and none is chosen; the message lists what
        is stored.
    """
    words = [ALL] if layers is None else layers.split(",") if isinstance(layers, str) else list(layers)
    words = [word.strip() for word in words if word.strip()]
    if not words:
        raise InputError(f"layers is {layers!r}; name at least one of {_listed(stored)}", option="layers")
    if twice := [word for word in dict.fromkeys(words) if words.count(word) > 1]:
        raise InputError(f"layers names {twice[0]!r} twice; name each layer once", option="layers")
    chosen: dict[str, ArraySpec] = {}
    for word in words:
        for spec in _matching(stored, word, pooling):
            chosen[spec.name] = spec
    if pooling is not None and not any(_pooling(spec) == pooling for spec in chosen.values()):
        found = ", ".join(dict.fromkeys(map(_pooling, chosen.values())))
        raise InputError(
            f"none of these layers has the pooling {pooling!r}, only {found}; leave --pooling out",
            option="pooling",
        )
    return list(chosen.values())


def _matching(stored: Sequence[ArraySpec], word: str, pooling: str | None) -> list[ArraySpec]:
    if not stored:
        raise InputError("the store holds no layers of this model; add some with toptune extract --layers")
    if word == ALL and pooling is None:
        return list(stored)
    exact = [spec for spec in stored if fnmatchcase(spec.name, word)]
    if exact and not any(tap_of(spec) == word for spec in stored):
        return exact if pooling is None else [spec for spec in exact if _pooling(spec) == pooling] or exact
    by_tap: dict[str, list[ArraySpec]] = {}
    for spec in stored:
        if word == ALL or fnmatchcase(tap_of(spec), word):
            by_tap.setdefault(tap_of(spec), []).append(spec)
    if not by_tap:
        refuse_words_of_extract([word])
        names = list(dict.fromkeys([*map(tap_of, stored), *(spec.name for spec in stored)]))
        raise InputError(
            f"layer {word!r} is not in the store; {choices(word, names)}, a glob, or all; toptune extract "
            "--layers adds others",
            option="layers",
        )
    chosen = []
    for tap, specs in by_tap.items():
        fitting = [spec for spec in specs if _pooling(spec) == pooling] if pooling is not None else specs
        if not fitting and len(specs) == 1 and word != tap:
            fitting = specs
        if len(fitting) != 1:
            found = ", ".join(_pooling(spec) for spec in specs)
            asked = "none was chosen" if pooling is None else f"{pooling!r} is not among them"
            raise InputError(
                f"tap {tap!r} is stored with the poolings {found} and {asked}; choose one with --pooling",
                option="pooling",
            )
        chosen += fitting
    return chosen


def refuse_words_of_extract(words: Sequence[str]) -> None:
    """Refuse ``upper`` and numbers of blocks, which say what to extract and not what to train on.

    Raises
    ------
    InputError
        For the first such word.
    """
    if strange := next((word for word in words if _WORD_OF_EXTRACT.fullmatch(word.strip())), None):
        raise InputError(
            f"layers has {strange!r}, a word of toptune extract, which says what to store; to train on all "
            "that is stored leave --layers out, or name arrays or globs of toptune store show",
            option="layers",
        )


def usual_layer(stored: Sequence[ArraySpec]) -> str:
    """Return ``last``, or the only layer of features that have one layer, such as imported ones."""
    taps = {tap_of(spec) for spec in stored}
    return next(iter(taps)) if len(taps) == 1 else LAST


def tell_choice(chosen: Sequence[ArraySpec], stored: Sequence[ArraySpec], *, is_default: bool) -> str:
    """Say in one line what a training uses of what is stored, and how more is used.

    Parameters
    ----------
    chosen, stored : sequence of ArraySpec
    is_default : bool
        Whether no layers were named, so that only arrays that lack images are left out.

    Examples
    --------
    >>> sizes = {"dim": 8, "dtype": "float16", "unit_rows": 2, "chunk_rows": 2, "n_rows": 2}
    >>> arrays = [ArraySpec(name=f"blocks.{i}.mean", **sizes) for i in range(4)]
    >>> tell_choice(arrays[3:], arrays, is_default=False)
    '1 of 4 stored arrays, 8 of 32 columns; --layers all takes all of them'
    >>> tell_choice(arrays, arrays, is_default=True)
    'all 4 stored arrays, 32 columns; --layers auto searches for the best of them, which takes longer'
    """
    used, there = (sum(spec.dim for spec in specs) for specs in (chosen, stored))
    if is_default and len(chosen) < len(stored):
        return (
            f"{len(chosen)} of {len(stored)} stored arrays, {used} of {there} columns; the others lack "
            "images: the extract command that stores them completes them"
        )
    if len(chosen) < len(stored):
        return (
            f"{len(chosen)} of {len(stored)} stored arrays, {used} of {there} columns; --layers all "
            "takes all of them"
        )
    if [tap_of(spec) for spec in stored] == [LAST]:
        return (
            f"{LAST}, {used} columns, and no other is stored; toptune extract with --layers upper "
            "stores others, which mostly make a classifier more accurate"
        )
    if len(stored) == 1:
        return f"{stored[0].name}, {used} columns, and no other is stored"
    large = [spec for spec in chosen if _pooling(spec) == _WHOLE]
    taken = sum(spec.dim for spec in large)
    most = f", {taken} of them in {', '.join(spec.name for spec in large)}" if 2 * taken > used else ""
    fewer = "; --layers with the names of others takes fewer" if most else ""
    return (
        f"all {len(stored)} stored arrays, {used} columns{most}{fewer}; --layers auto searches for the best "
        "of them, which takes longer"
    )


def by_depth(stored: Sequence[ArraySpec]) -> list[ArraySpec]:
    """Order arrays by the depth of their layers, which the names tell.

    Stems come first, numbered blocks follow by their numbers, heads and ``last`` come at the end. Poolings of
    a tap are ordered by name.
    """

    def depth(spec: ArraySpec) -> tuple[int, list[tuple[bool, int, str]], str]:
        tap = tap_of(spec)
        first = tap.split(".")[0]
        place = 0 if first in _BEFORE else 2 if first in _AFTER else 1
        words = [word for word in re.split(r"(\d+)|\.", tap) if word]
        place += tap == LAST
        return (
            place,
            [(word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words],
            spec.name,
        )

    return sorted(stored, key=depth)


def tap_of(spec: ArraySpec) -> str:
    """Return the tap of an array: the name of the array without the pooling."""
    return spec.name.rpartition(".")[0]


def _pooling(spec: ArraySpec) -> str:
    return spec.name.rpartition(".")[2]


def _listed(stored: Sequence[ArraySpec]) -> str:
    return ", ".join(spec.name for spec in stored) or "nothing"
