"""Frozen dataclasses as JSON objects: checked when they are read, and without loss when written again."""

import dataclasses
import functools
import sys
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from toptune.errors import CorruptError

# The field that keeps the keys which this toptune does not know, such as those that a newer one wrote.
OTHERS = "others"
Record = TypeVar("Record")
_MOST = 2**63 - 1
_SHOWN = 60
_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    str: ("text", (str,)),
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
}


def record_from_json(kind: type[Record], value: Mapping[str, object], *, where: str) -> Record:
    """Make a dataclass from a JSON object whose keys are the names of its fields.

    A key that is null or absent gives the default of its field. Keys without a field are kept in the field
    ``others`` if the dataclass has one, so that writing the record again loses nothing.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are text, numbers, truth values, tuples, mappings from text, other such
        dataclasses, or any of these or None. A field of type ``object`` takes any JSON value.
    value : mapping
        What a JSON file held.
    where : str
        Name of the place that was read, for the message.

    Returns
    -------
    Record

    Raises
    ------
    CorruptError
        If a field without a default is missing, or a value is not of the type of its field.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Size:
    ...     n_rows: int
    ...     digest: str | None = None
    >>> record_from_json(Size, {"n_rows": 3}, where="size.json")
    Size(n_rows=3, digest=None)
    """
    types = _types_of(kind)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name == OTHERS:
            found[OTHERS] = {name: each for name, each in value.items() if name not in types}
        # Null and absent mean the same: records of older versions lack keys that newer ones write as null.
        elif value.get(field.name) is not None:
            found[field.name] = _read(types[field.name], value[field.name], f"{where}: {field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise CorruptError(f"{where} lacks {field.name}")
    return kind(**found)


def record_to_json(record: object, *, nulls: Collection[str] = ()) -> dict[str, Any]:
    """Give a dataclass as a JSON object, in the order of its fields.

    Parameters
    ----------
    record : object
        A dataclass that `record_from_json` can make.
    nulls : collection of str
        Fields that are written as null where they are None; all other fields are left out then.
    """
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    # Unknown keys are written last and unchanged: an older toptune must not drop what a newer one recorded.
    others = values.pop(OTHERS, {})
    written = {name: _write(value) for name, value in values.items() if value is not None or name in nulls}
    return written | {name: _write(value) for name, value in others.items()}


@functools.cache
def _types_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: object, where: str) -> object:
    """Check a JSON value against the type of a field, and make a record of it where the type is one."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is object:
        return value
    if origin in (Union, UnionType):
        # Null was handled by the caller, so that only the other type of the union remains.
        return _read(next(each for each in inner if each is not NoneType), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _other(value, "a list", where)
        return tuple(_read(inner[0], each, f"{where}[{at}]") for at, each in enumerate(value))
    if origin is not None or dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise _other(value, "an object", where)
        if origin is None:
            return record_from_json(kind, value, where=where)
        return {str(name): _read(inner[1], each, f"{where}.{name}") for name, each in value.items()}
    expected, allowed = _KINDS[kind]
    # Python takes True for the number 1, JSON does not.
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise _other(value, expected, where)
    # Python's numbers have no end, and the first sum with one that is too large would fail somewhere else.
    if kind in (int, float) and not abs(value) <= (_MOST if kind is int else sys.float_info.max):  # type: ignore[arg-type]
        raise _other(value, f"{expected} of 64 bits", where)
    return value


def _other(value: object, expected: str, where: str) -> CorruptError:
    return CorruptError(f"{where} is {shortened(value)}, where {expected} is expected")


def shortened(value: object) -> str:
    """Show a value from a file in a message: its first sixty characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits.
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _write(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return record_to_json(value)
    if isinstance(value, Mapping):
        return {name: _write(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_write(each) for each in value]
    return value
