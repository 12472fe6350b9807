"""Keyword arguments become frozen options; a misspelled keyword is refused with the nearest name."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from toptune.errors import InputError

Options = TypeVar("Options")


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
            near = difflib.get_close_matches(name, names, n=1)
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
