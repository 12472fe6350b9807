"""The file of a saved preprocessing: safetensors with a JSON header, never pickle, which can run code."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from toptune.errors import CorruptError
from toptune.store.arrays.tensor_files import read_tensors, write_tensors
from toptune.store.files.json_values import json_text, parse_json
from toptune.train.preprocessing.principal_components import PrincipalComponents
from toptune.train.preprocessing.steps import (
    Balance,
    Layers,
    Power,
    Select,
    Standardise,
    Step,
    Ternary,
    UnitNorm,
    Weigh,
)

FILE = "preprocessing.safetensors"
_TYPES: dict[str, type[Any]] = {
    each.name: each
    for each in (Standardise, UnitNorm, Power, Ternary, PrincipalComponents, Balance, Weigh, Select)
}
T = TypeVar("T")


def write_steps(folder: Path, steps: Sequence[Step], *, spec: str, layer_dims: Layers) -> None:
    """Write ``preprocessing.safetensors``: arrays as tensors ``<number>.<field>``, the rest as JSON."""
    tensors: dict[str, Any] = {}
    described: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        values = {field.name: getattr(step, field.name) for field in fields(step)}  # type: ignore[arg-type]
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        tensors |= {f"{number}.{name}": value for name, value in arrays.items()}
        described.append({"step": step.name} | {name: values[name] for name in values.keys() - arrays.keys()})
    header = {"spec": spec, "layer_dims": layer_dims, "steps": described}
    write_tensors(folder / FILE, tensors, metadata={"preprocessing": json_text(header)})


def read_steps(folder: Path, make: Callable[[str, Layers, tuple[Step, ...]], T]) -> T:
    """Read the file that `write_steps` wrote, and call `make` with the spec, the layers and the steps.

    Raises
    ------
    CorruptError
        If the file is missing, damaged, holds a number that is not finite, or its steps do not follow on
        each other.
    """
    path = folder / FILE
    tensors, metadata = read_tensors(path, advice="train again")
    try:
        header = parse_json(metadata["preprocessing"], is_strict=True)
        steps = []
        for number, described in enumerate(header["steps"]):
            arrays = {
                name.partition(".")[2]: value
                for name, value in tensors.items()
                if name.partition(".")[0] == str(number)
            }
            values = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in described.items()
                if name != "step"
            }
            steps.append(_TYPES[described["step"]](**values, **arrays))
        return make(header["spec"], tuple(header["layer_dims"]), tuple(steps))
    except Exception as error:  # a step may stumble over damaged values in any way
        raise CorruptError(f"{path} cannot be read: {error}; train again", path) from error
