"""Files of a saved head: JSON, safetensors or skops, and never pickle, which runs code when it is read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from toptune.errors import CorruptError, FormatVersionError
from toptune.store.files.json_values import read_json

DESCRIPTION = "head.json"
ARRAYS = "head.safetensors"
SKOPS = "head.skops"
VERSION = 1


def write_description(folder: Path, description: Mapping[str, object]) -> None:
    """Write ``head.json``."""
    # NaN is no JSON: a figure that is not finite must have become null before (`json_ready`).
    text = json.dumps({"version": VERSION, **description}, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``head.json``.

    Raises
    ------
    CorruptError
        If the file is missing or damaged.
    FormatVersionError
        If another version of the format wrote the file.
    """
    path = folder / DESCRIPTION
    description = read_json(path, advice="train again")
    version = description.get("version")
    if version != VERSION:
        raise FormatVersionError(f"{path} is of version {version}, this toptune reads {VERSION}; train again")
    if missing := {"head", "classes", "report"} - description.keys():
        raise CorruptError(f"{path} lacks {', '.join(sorted(missing))}; train again")
    return description


def write_arrays(folder: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write ``head.safetensors``."""
    # safetensors stores contiguous arrays, and coefficients may be transposed views.
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / ARRAYS)


def read_arrays(folder: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
    """Read ``head.safetensors``, which must hold arrays of the names given.

    Raises
    ------
    CorruptError
        If the file is missing, damaged, or lacks an array.
    """
    path = folder / ARRAYS
    try:
        arrays: dict[str, npt.NDArray[np.generic]] = load_file(path)
    except Exception as error:  # safetensors raises its own bare exception type
        raise CorruptError(f"{path} cannot be read ({error}); train again") from error
    missing = set(names) - arrays.keys()
    if missing:
        raise CorruptError(f"{path} lacks {', '.join(sorted(missing))}; train again")
    return arrays
