"""Files of a saved head: JSON, safetensors or skops, and never pickle, which runs code when it is read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError, FormatVersionError
from toptune.store.arrays.tensor_files import read_tensors, write_tensors
from toptune.store.files.json_records import record_from_json, shortened
from toptune.store.files.json_values import json_text, read_json
from toptune.store.files.writing import write_text
from toptune.train.tasks.names import CLASSIFICATION

DESCRIPTION = "head.json"
ARRAYS = "head.safetensors"
SKOPS = "head.skops"
VERSION = 1


def write_description(folder: Path, description: Mapping[str, object]) -> None:
    """Write ``head.json``."""
    # NaN is no JSON: a figure that is not finite must have become null before (`json_ready`).
    write_text(folder / DESCRIPTION, json_text({"version": VERSION, **description}, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class HeadDescription:
    """Content of ``head.json``; the fields have the names of its keys.

    Attributes
    ----------
    head : str
        Name of the head.
    classes : tuple of str
        Names of the classes, in the order of the scores.
    params, fitted, report : mapping
        Parameters that were given, fitted numbers, and the account of the fit.
    task : str
        What the head has learned. Heads that are older than tasks do not say it.
    """

    head: str
    classes: tuple[str, ...]
    params: Mapping[str, object] = field(default_factory=dict)
    fitted: Mapping[str, object] = field(default_factory=dict)
    report: Mapping[str, object]
    task: str = CLASSIFICATION


def read_description(folder: Path) -> HeadDescription:
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
        raise FormatVersionError(
            f"{path} is of version {shortened(version)}, this toptune reads {VERSION}; train again"
        )
    try:
        found = record_from_json(HeadDescription, description, where=str(path))
    except CorruptError as error:
        raise CorruptError(f"{error}; train again", path) from error
    # The probability of a class that stands twice would be that of one of the two.
    twice = [name for name, count in Counter(found.classes).items() if count > 1]
    if twice or not found.classes:
        what = f"names class {shortened(twice[0])} twice" if twice else "names no class"
        raise CorruptError(f"{path} {what}; train again", path)
    return found


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
