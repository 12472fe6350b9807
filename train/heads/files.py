"""Files of a saved head: JSON, safetensors or skops, and never pickle, which runs code when it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError, FormatVersionError
from toptune.store.arrays.tensor_files import read_tensors, write_tensors
from toptune.store.files.json_values import json_text, read_json
from toptune.store.files.writing import write_text

DESCRIPTION = "head.json"
ARRAYS = "head.safetensors"
SKOPS = "head.skops"
VERSION = 1


def write_description(folder: Path, description: Mapping[str, object]) -> None:
    """Write ``head.json``."""
    # NaN is no JSON: a figure that is not finite must have become null before (`json_ready`).
    write_text(folder / DESCRIPTION, json_text({"version": VERSION, **description}, indent=1) + "\n")


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
    write_tensors(folder / ARRAYS, arrays)


def read_arrays(folder: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
    """Read ``head.safetensors``, which must hold arrays of the names given, of finite numbers.

    Raises
    ------
    CorruptError
        If the file is missing, damaged, lacks an array, or holds a number that is not finite.
    """
    path = folder / ARRAYS
    arrays, _ = read_tensors(path, advice="train again")
    missing = set(names) - arrays.keys()
    if missing:
        raise CorruptError(f"{path} lacks {', '.join(sorted(missing))}; train again", path)
    return arrays
