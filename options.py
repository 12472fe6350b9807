"""Keyword arguments become frozen options; a misspelled keyword or name is refused with the nearest one."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, TypeVar, get_type_hints

from toptune.errors import InputError

Options = TypeVar("Options")
# No work comes to the end of so many rounds, trees or images of a batch.
MOST_COUNT = 1_000_000

# Usual words of the field for what has another name here. One table serves kernels, heads, steps and devices
# alike, because a word is looked up only among the names that are possible where it was given.
_USUAL_WORDS: Mapping[str, str] = {
    "gaussian": "rbf gauss se sqexp squaredexponential radialbasis",
    "laplacian": "laplace exponential exp",
    "matern52": "matern",
    "linear": "dot none",
    "logistic": "logreg logisticregression lr softmax linearprobe probe linear linearclassifier maxent",
    "falkon": "kernel krr kernelridge nystroem nystrom kernelmachine cg conjugategradient",
    "falkon-logistic": "kernellogistic",
    "ridge": "leastsquares ols rls ridgeclassifier ls",
    "knn": "nn kneighbors kneighborsclassifier nearestneighbor nearestneighbors neighbors",
    "ncm": "nearestmean nearestcentroid centroid centroids ncc prototype prototypes protonet mean",
    "lda": "lineardiscriminant fisher discriminant",
    "svm": "svc rbf rbfsvm supportvector libsvm",
    "forest": "rf randomforest randomforestclassifier trees",
    "head2toe": "h2t",
    "auto": "best automl any",
    "direct": "exact cholesky gram",
    "standardise": "standardize standard standardscaler zscore scale scaler normalize",
    "l2": "norm unit unitnorm normalize normalizer",
    "power": "sqrt signedroot hellinger root",
    "whiten": "zca whitening",
    "ternary": "ternarize",
    "cuda": "gpu nvidia rocm hip tpu xpu mps accelerator",
    "fp32": "float32 single full float 32",
    "bf16": "bfloat16 amp mixed half fp16 float16 16",
    "fp16": "half float16 16",
    "float32": "fp32 single float f32",
    "float16": "fp16 half f16 bf16 bfloat16",
    "float64": "fp64 double f64",
    "euclidean": "l2 euclid minkowski",
    "cosine": "cos angular dot",
    "cls": "token clstoken classtoken",
    "mean": "avg average gap meanpool avgpool",
    "max": "maximum maxpool gmp",
    "flatten": "none flat",
    "last": "final penultimate head pooled embedding output default",
    "all": "*",
    "train": "training fit",
    "val": "valid validation dev",
    "test": "testing eval evaluation",
    "adamw": "adam",
    "jsonl": "json ndjson jsonlines",
    "npy": "numpy npz",
    "hdf5": "h5 hdf",
    "parquet": "pq",
    "safetensors": "st",
}


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """List the known names that a name probably means, the likeliest first.

    Case, blanks, hyphens and underscores do not count. The usual words of the field stand for the names that
    toptune has for them.

    Parameters
    ----------
    name : str
        The name that was given.
    known : iterable of str
        The names that are possible.
    most : int
        Names to list at most.

    Examples
    --------
    >>> nearest("rbf", ["gaussian", "laplacian", "linear"])
    ['gaussian']
    >>> nearest("knn5", ["ridge", "knn", "svm"])
    ['knn']
    >>> nearest("gpu", ["cpu", "cuda"], most=1)
    ['cuda']
    """
    names = list(dict.fromkeys(known))
    plain = _plain(name)
    same = [each for each in names if _plain(each) == plain]
    meant = [each for each in names if plain in _USUAL_WORDS.get(each, "").split()]
    by_form: dict[str, list[str]] = {}
    for each in names:
        by_form.setdefault(_plain(each), []).append(each)
    close = difflib.get_close_matches(plain, by_form, n=most)
    # A word of three letters or more that begins or ends a longer name is a part of it.
    parts = [form for form in by_form if len(plain) > 2 and (form.startswith(plain) or form.endswith(plain))]
    found = [*same, *meant, *(each for form in (*close, *parts) for each in by_form[form])]
    return list(dict.fromkeys(found))[:most]


def choices(name: str, known: Iterable[str], *, most: int = 20) -> str:
    """Say which of the known names a name may mean, and which names there are, as the end of a message.

    Parameters
    ----------
    name : str
        The name that was given.
    known : iterable of str
        The names that are possible.
    most : int
        Names to list at most.

    Examples
    --------
    >>> choices("rbf", ["gaussian", "linear"])
    "did you mean 'gaussian'? Choose one of gaussian, linear"
    >>> choices("?", ["gaussian", "linear"])
    'choose one of gaussian, linear'
    """
    names = list(dict.fromkeys(known))
    if not names:
        return "there are none"
    near = " or ".join(map(repr, nearest(name, names)[:2]))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    listed = f"hoose one of {', '.join(names[:most])}{more}"
    return f"did you mean {near}? C{listed}" if near else f"c{listed}"


def check_count(value: Any, *, option: str, least: int = 1, most: int = MOST_COUNT) -> None:
    """Refuse what is no whole number within limits.

    Parameters
    ----------
    value : object
        The value of an option.
    option : str
        Keyword of the option, which is its noun in the message.
    least, most : int
        Limits; both may be reached.

    Raises
    ------
    InputError
        With the value and the limits.

    Examples
    --------
    >>> check_count(0, option="epochs")
    Traceback (most recent call last):
    toptune.errors.InputError: epochs is 0; it must be at least 1 and at most 1000000
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not least <= int(value) <= most:
        raise InputError(
            f"{option} is {value}; it must be at least {least} and at most {most}", option=option
        )


def check_choice(value: object, known: Iterable[str], *, option: str) -> None:
    """Refuse a value that is none of the known names.

    Parameters
    ----------
    value : object
        The value of an option.
    known : iterable of str
        The names that are possible.
    option : str
        Keyword of the option, which is its noun in the message.

    Raises
    ------
    InputError
        With the nearest name, and all of them.

    Examples
    --------
    >>> check_choice("rbf", ["gaussian"], option="kernel")
    Traceback (most recent call last):
    toptune.errors.InputError: kernel 'rbf' is unknown; did you mean 'gaussian'? Choose one of gaussian
    """
    names = list(known)
    if value not in names:
        hint = choices(str(value), names)
        raise InputError(f"{option} {value!r} is unknown; {hint}", option=option)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def options_of(kind: type[Options], given: Mapping[str, Any], *, call: str) -> Options:
    """Make a frozen dataclass of options from flat keyword arguments.

    A field whose type is a dataclass itself takes the keywords of its own fields, so that one function
    accepts the options of several values side by side.

    Parameters
    ----------
    kind : type
        A dataclass whose ``__post_init__`` checks the values.
    given : mapping of str to object
        The keyword arguments.
    call : str
        The function that was called, for the message.

    Returns
    -------
    Options
        A value of `kind`.

    Raises
    ------
    InputError
        If a keyword is none of the options.

    Examples
    --------
    >>> from toptune.machine.limits import RunLimits
    >>> options_of(RunLimits, {"memory_limit": "2GiB"}, call="train").memory_limit_bytes
    2147483648
    """
    refuse_unknown(given, option_names(kind), call=call)
    return _made(kind, given)


def option_names(kind: type) -> list[str]:
    """Return the keywords that make a dataclass of options, those of nested values included."""
    names = []
    for name, inner in _fields(kind):
        names += [name] if inner is None else option_names(inner)
    return names


def flat_options(options: object) -> dict[str, Any]:
    """Return the keyword arguments that make a value of options again."""
    flat: dict[str, Any] = {}
    for name, inner in _fields(type(options)):
        value = getattr(options, name)
        flat |= {name: value} if inner is None else flat_options(value)
    return flat


def refuse_unknown(given: Iterable[str], known: Iterable[str], *, call: str) -> None:
    """Refuse names that are not known, with the nearest one that is.

    Raises
    ------
    InputError
        For the first of them.
    """
    names = list(known)
    for name in given:
        if name not in names:
            near = nearest(name, names, most=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(sorted(names))}"
            raise InputError(f"{call} has no option {name!r}; {hint}")


def _fields(kind: type) -> list[tuple[str, type | None]]:
    """Return the fields of a dataclass with the dataclass that each holds, if the field holds one."""
    types = get_type_hints(kind)
    return [
        (field.name, types[field.name] if dataclasses.is_dataclass(types[field.name]) else None)
        for field in dataclasses.fields(kind)
    ]


def _made(kind: type[Options], given: Mapping[str, Any]) -> Options:
    arguments: dict[str, Any] = {}
    for name, inner in _fields(kind):
        if inner is not None:
            arguments[name] = _made(inner, given)
        elif name in given:
            arguments[name] = given[name]
    return kind(**arguments)
