"""Weights are read without running code, compared with the architecture, and digested."""

import argparse
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from toptune.errors import WeightsError
from toptune.store.files.reading import check_zip

SHOWN = 5
# Where training scripts keep the weights inside a checkpoint, in timm's order of preference.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Prefixes that DistributedDataParallel and torch.compile put before names.
PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")
_MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)")


def read_weights(file: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a checkpoint without running any code that it may carry.

    Parameters
    ----------
    file : path
        A safetensors file, or a torch file, which is read with ``weights_only=True``. Weights
        that lie under ``state_dict``, ``model`` or their averages (``..._ema``) are taken out.

    Raises
    ------
    WeightsError
        If the file is absent, damaged, would need code to be read, or holds no tensors.
    """
    path = Path(file)
    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist; check the path")
    try:
        with path.open("rb") as archive:
            check_zip(archive, path.stat().st_size)
        if path.suffix == ".safetensors":
            checkpoint: object = load_file(path, device="cpu")
        else:
            # A torch file is a pickle, and a pickle is a program. `weights_only` admits tensors and
            # containers; many checkpoints of training scripts also hold their arguments as a namespace, which
            # runs nothing.
            with torch.serialization.safe_globals([argparse.Namespace]):
                checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's reader raises errors of many classes, one of which says that code would have to run.
        if type(error).__name__ == "UnpicklingError":
            raise WeightsError(
                f"weights {path} are damaged, or contain Python objects that would have to run code; "
                "save the state dict alone, best as safetensors"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"weights {path} cannot be read: {reason}") from error
    tensors = _unwrap(checkpoint)
    if not tensors:
        raise WeightsError(f"weights {path} hold no named tensors; a state dict is expected")
    return tensors


def _unwrap(checkpoint: object) -> dict[str, torch.Tensor]:
    if not isinstance(checkpoint, Mapping):
        return {}
    found: Mapping[object, object] = checkpoint
    for wrapper in WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            found = checkpoint[wrapper]
            break
    tensors = {}
    for name, value in found.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            for prefix in PREFIXES:
                name = name.removeprefix(prefix)
            tensors[name] = value
    return tensors


@dataclass
class LoadReport:
    """Tensors of a checkpoint that a model took, lacked or left over.

    Attributes
    ----------
    is_loaded : bool
        Whether any state dict was loaded.
    missing, unexpected : list of str
        Names of parameters without a tensor, and of tensors without a parameter.
    """

    is_loaded: bool = False
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


@contextmanager
def watch_loading() -> Iterator[LoadReport]:
    """Record which tensors the models that are built inside the block take from their checkpoints.

    timm loads with ``strict=False`` as soon as the classifier is left out, and only logs which tensors kept
    their random values. torch calls the post-hook of every submodule with the same two lists of names. A hook
    is put on each submodule when the submodule is registered, and sees the lists whoever calls
    ``load_state_dict``.
    """
    report = LoadReport()
    handles: list[RemovableHandle] = []

    def note(_module: nn.Module, keys: Any) -> None:
        report.is_loaded = True
        report.missing, report.unexpected = keys.missing_keys, keys.unexpected_keys

    def attach(_parent: nn.Module, _name: str, module: Any) -> None:
        if module is not None:
            handles.append(module.register_load_state_dict_post_hook(note))

    registration = register_module_module_registration_hook(attach)
    # timm logs the name of every tensor; `check_report` says which names matter.
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield report
    finally:
        logger.setLevel(level)
        registration.remove()
        for handle in handles:
            handle.remove()


def check_report(
    report: LoadReport, *, origin: str, classifiers: tuple[str, ...], strict: bool, other_shapes: str = ""
) -> None:
    """Refuse weights that leave part of the architecture random, or that belong to another one.

    Parameters
    ----------
    report : LoadReport
        The report that `watch_loading` made.
    origin : str
        Place of the weights, for the message.
    classifiers : tuple of str
        Names of the class heads, which are not used: their tensors, and those beside them in the same
        head, may be left over.
    strict : bool
        Whether other left-over tensors are an error too.
    other_shapes : str
        Message of `mismatch_message`, if there is one.
    """
    unexpected = [name for name in report.unexpected if not _is_in_head(name, classifiers)]
    if not report.missing and not other_shapes and not (strict and unexpected):
        return
    parts = [_listing("missing", report.missing), _listing("unexpected", unexpected), other_shapes]
    raise WeightsError(
        f"{origin} does not fit the architecture: {'; '.join(part for part in parts if part)}. "
        "Give the weights of this architecture, or the architecture of these weights"
    )


def _is_in_head(name: str, classifiers: tuple[str, ...]) -> bool:
    # LeViT's head is norm and linear layer in one: without classes both are left over.
    heads = {classifier.rpartition(".")[0] or classifier for classifier in classifiers}
    return any(name.startswith(f"{head}.") for head in heads)


def _listing(word: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:SHOWN])
    return f"{len(names)} {word} ({shown}{', ...' if len(names) > SHOWN else ''})"


def mismatch_message(error: Exception) -> str:
    """Shorten torch's report of tensors whose shapes differ; return no text for any other error."""
    sizes = [f"{name} {found}, needed {needed}" for name, found, needed in _MISMATCH.findall(str(error))]
    if not sizes:
        return ""
    shown = "; ".join(sizes[:SHOWN])
    return f"{len(sizes)} tensors of another shape ({shown}{'; ...' if len(sizes) > SHOWN else ''})"


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of parameters and saved buffers."""
    digest = hashlib.sha256(b"toptune weights 1\n")
    for name, tensor in sorted(model.state_dict().items()):
        # Bytes are digested in little-endian order, so that the digest is the same on every machine.
        values = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{name} {values.dtype.newbyteorder('<').str} {values.shape}\n".encode())
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
