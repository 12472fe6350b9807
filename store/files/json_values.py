"""Values as JSON: what may be written, how a file is read, and one spelling for digests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toptune.errors import CorruptError


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
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path} cannot be read ({error}); {advice}") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path} holds no JSON object; {advice}")
    return value
