"""Values as JSON: what may be written, how a file is read, and one spelling for digests."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from toptune.errors import CorruptError, NumericalError
from toptune.store.files.reading import opened_linked

# Records are a few levels deep. Python's own limit is near 1,000 levels, and whatever walks a value that deep
# would reach the limit again.
MAX_JSON_DEPTH = 100
# A value takes up to 20 times the memory of its text.
MAX_JSON_BYTES = 64 << 20
_TOO_DEEP = f"the JSON is nested more than {MAX_JSON_DEPTH} levels deep"


def parse_json(
    text: str | bytes,
    *,
    pairs_hook: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
    is_strict: bool = False,
) -> Any:
    """Parse JSON that somebody else may have written.

    Parameters
    ----------
    text : str or bytes
        UTF-8 where bytes.
    pairs_hook : callable, optional
        Makes each object of its pairs; by default the last of two fields of one name counts.
    is_strict : bool
        Refuse NaN and Infinity, which are no JSON, but which Python writes and reads.

    Returns
    -------
    dict, list, str, int, float, bool or None

    Raises
    ------
    ValueError
        If `text` is no JSON, holds text that is no Unicode, or is nested more than `MAX_JSON_DEPTH` levels
        deep.
    """
    try:
        constant = _refuse_constant if is_strict else None
        value = json.loads(text, object_pairs_hook=pairs_hook, parse_constant=constant)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    # A half of a pair of UTF-16 is no text: it can be neither written nor shown.
    if (b"\\ud" if isinstance(text, bytes) else "\\ud") in text.lower():  # type: ignore[operator]
        json.dumps(value, ensure_ascii=False).encode()
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        containers = [each for each in level if isinstance(each, dict | list)]
        if not containers:
            return value
        level = [
            child for each in containers for child in (each.values() if isinstance(each, dict) else each)
        ]
    raise ValueError(_TOO_DEEP)


def load_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES, is_strict: bool = False) -> Any:
    """Parse the JSON file at `path`, after its size was asked.

    Raises
    ------
    OSError
        If the system refuses to read the file.
    ValueError
        If the file is larger than `max_bytes`, is no JSON, or is nested too deep.
    """
    return parse_json(_load_bytes(path, max_bytes), is_strict=is_strict)


def _load_bytes(path: Path, max_bytes: int) -> bytes:
    with opened_linked(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"the file has {size} bytes, more than the limit of {max_bytes}")
        return stream.read()


def json_text(value: object, *, indent: int | None = None, is_sorted: bool = False) -> str:
    """Write JSON for files, lines and standard output.

    Raises
    ------
    NumericalError
        If a number is not finite: NaN is no JSON, and readers in other languages would refuse it.
    """
    try:
        return json.dumps(value, indent=indent, sort_keys=is_sorted, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise NumericalError(
            f"a number that is not finite cannot be written as JSON ({error}); it comes from features, "
            "weights or figures that are damaged or too large"
        ) from error


def canonical_json(value: object) -> str:
    """Write JSON with sorted keys and without spaces, so that equal values give equal text."""
    # NaN is no JSON, and readers in other languages would refuse the file.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_ready(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None, and numpy's numbers by Python's."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    # JSON has no NaN and no infinity, and the files are written with `allow_nan=False`.
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def read_json(path: Path, *, advice: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Parameters
    ----------
    path : Path
    advice : str
        The next step for whoever reads the message, such as ``train again``.

    Raises
    ------
    CorruptError
        If the file is missing, is not JSON, or holds something other than an object.
    """
    return read_json_with_bytes(path, advice=advice)[0]


def read_json_with_bytes(path: Path, *, advice: str) -> tuple[dict[str, Any], bytes]:
    """Read a file that holds one JSON object, and return its bytes too; errors are those of `read_json`."""
    try:
        # What the system refuses, such as permission, is no damage, and keeps its own error and next step.
        data = _load_bytes(path, MAX_JSON_BYTES)
        value = parse_json(data, is_strict=True)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is missing; {advice}", path) from error
    except ValueError as error:
        raise CorruptError(f"{path} cannot be read ({error}); {advice}", path) from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path} holds no JSON object; {advice}", path)
    return value, data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
