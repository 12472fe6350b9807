"""An exported network is written as ONNX or as torch's ``.pt2``, and run again from the file."""

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.store.files.json_values import json_text
from toptune.store.files.writing import write_file, write_made

Images = npt.NDArray[np.float32]
Program = torch.export.ExportedProgram
# A runner computes probabilities or numbers (b, n_classes) of images (b, 3, h, w), a tensor for each input.
Runner = Callable[[Sequence[Images]], npt.NDArray[np.float32]]

# An ONNX file is one protocol buffer, and a protocol buffer holds less than 2 GiB.
ONNX_LIMIT_BYTES = 2**31


class ExportFormat(NamedTuple):
    """Functions that write and open one kind of file, and the further packages that they need."""

    write: Callable[[Program, Path, Sequence[str], Mapping[str, Any]], None]
    open: Callable[[Path], Runner]
    packages: tuple[str, ...]


def format_of(out: Path) -> ExportFormat:
    """Choose the format by a file's suffix.

    Raises
    ------
    InputError
        If the suffix is none of `FORMATS`, or a package that the format needs is not installed.
    """
    if out.suffix not in FORMATS:
        raise InputError(
            f"{out.name} has the suffix {out.suffix or 'none'!r}; the format is told by it: give one of "
            f"{', '.join(FORMATS)}"
        )
    form = FORMATS[out.suffix]
    missing = [name for name in form.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{out.suffix} needs {', '.join(missing)}, not installed here: pip install 'toptune[export]', or "
            "give a .pt2 file, which needs nothing more"
        )
    return form


def _write_onnx(program: Program, path: Path, inputs: Sequence[str], metadata: Mapping[str, Any]) -> None:
    n_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if n_bytes >= ONNX_LIMIT_BYTES:
        raise InputError(
            f"the network's weights are {n_bytes} bytes, and one ONNX file ends at {ONNX_LIMIT_BYTES}; give "
            "a .pt2 file"
        )
    with warnings.catch_warnings():
        # The exporter calls functions that newer versions of its libraries have renamed. Its user can do
        # nothing about that.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=list(metadata["outputs"]),
        )
    assert exported is not None
    exported.model.metadata_props.update(_texts(metadata))
    # Weights beside the file would be lost when the file is copied alone.
    model = exported.model_proto
    write_file(path, model.SerializeToString())


def _open_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    names = [each.name for each in session.get_inputs()]
    first = session.get_outputs()[0].name

    def run(images: Sequence[Images]) -> npt.NDArray[np.float32]:
        (found,) = session.run([first], dict(zip(names, images, strict=True)))
        return np.asarray(found)

    return run


def _write_pt2(program: Program, path: Path, _inputs: Sequence[str], metadata: Mapping[str, object]) -> None:
    # torch would end the process where the file it writes to fails; memory does not.
    write_made(path, partial(torch.export.save, program, extra_files=_texts(metadata)))


def _open_pt2(path: Path) -> Runner:
    with path.open("rb") as file:
        network = torch.export.load(file).module()

    def run(images: Sequence[Images]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            outputs = network(*map(torch.from_numpy, images))
        found: npt.NDArray[np.float32] = next(iter(outputs.values())).numpy()
        return found

    return run


def _texts(metadata: Mapping[str, object]) -> dict[str, str]:
    """Write each value as JSON, because both formats keep text only."""
    return {name: json_text(value) for name, value in metadata.items()}


FORMATS = {
    ".onnx": ExportFormat(_write_onnx, _open_onnx, ("onnx", "onnxscript", "onnxruntime")),
    ".pt2": ExportFormat(_write_pt2, _open_pt2, ()),
}
