"""Values as JSON: what may be written, and one spelling of what digests are taken of."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spare space, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_ready(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None, and numpy's numbers by Python's."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
