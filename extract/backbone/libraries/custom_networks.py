"""``custom:NAME``, ``custom:PATH:FUNCTION`` and ``torchhub:``: networks known by class and weights."""

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision import transforms

from toptune.errors import InputError
from toptune.extract.backbone.libraries.built_network import BuiltNetwork
from toptune.extract.backbone.libraries.code_networks import from_hub_folder, imported
from toptune.extract.backbone.libraries.custom import made
from toptune.extract.backbone.libraries.data_config import data_config, interpolation_name

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_WORDS = ("input_size", "mean", "std", "crop_pct", "interpolation", "crop_mode")
_FORM = "give Compose([Resize(...), CenterCrop(...), ToTensor(), Normalize(...)]) of torchvision.transforms"


def build(
    identifier: str, *, state: Mapping[str, torch.Tensor] | None, is_random: bool, kwargs: dict[str, Any]
) -> BuiltNetwork:
    """Copy a network that was made in this process, or make one by a function, after a look at its state."""
    given = (
        imported(identifier) if ":" in identifier else (made(identifier).module, made(identifier).transform)
    )
    return _built(given, f"custom:{identifier}", state=state, is_random=is_random, kwargs=kwargs)


def build_of_hub(
    identifier: str, *, state: Mapping[str, torch.Tensor] | None, is_random: bool, kwargs: dict[str, Any]
) -> BuiltNetwork:
    """Make a network by the entry of a folder's ``hubconf.py``."""
    given = from_hub_folder(identifier)
    return _built(given, f"torchhub:{identifier}", state=state, is_random=is_random, kwargs=kwargs)


def _built(
    given: tuple[Any, Any],
    name: str,
    *,
    state: Mapping[str, torch.Tensor] | None,
    is_random: bool,
    kwargs: dict[str, Any],
) -> BuiltNetwork:
    module, transform = given
    if state is not None or is_random or kwargs:
        raise InputError(
            f"{name} is a module as it is; it takes no other weights and no arguments",
            option="model",
        )
    if not isinstance(module, nn.Module):
        raise InputError(f"{name} is a {type(module).__name__}; give a module of torch")
    _check_state(module, name)
    # Addresses differ from process to process.
    structure = hashlib.sha256(_ADDRESS.sub("", repr(module)).encode()).hexdigest()
    kind = type(module)
    return BuiltNetwork(
        module=copy.deepcopy(module),
        architecture=f"{name.partition(':')[0]}:{kind.__module__}.{kind.__qualname__}",
        arguments={"structure": structure},
        transform=_said(transform, f"the transform of {name}"),
    )


def _check_state(module: nn.Module, name: str) -> None:
    if training := [place or "the module" for place, each in module.named_modules() if each.training]:
        raise InputError(
            f"{name} is in training mode ({training[0]}): dropout and batch norms would differ from image to "
            "image; call module.eval() before"
        )
    for place, each in [*module.named_parameters(), *module.named_buffers()]:
        if each.device.type != "cpu":
            raise InputError(
                f"{name} lies on {each.device} ({place}); give it on the CPU, module.to('cpu'): --device "
                "says where a copy computes"
            )
        if each.is_floating_point() and each.dtype != torch.float32:
            raise InputError(
                f"{name} holds {each.dtype} ({place}); give it in float32, module.float(): --precision says "
                "how a copy computes"
            )


def _said(transform: Any, where: str) -> Mapping[str, Any]:
    """Say a transform as timm's data configuration, or refuse a step that has no words there."""
    if isinstance(transform, Mapping):
        if lacking := [word for word in _WORDS if word not in transform]:
            raise InputError(f"{where} lacks {', '.join(lacking)}; give all of {', '.join(_WORDS)}")
        return {word: transform[word] for word in _WORDS}
    if hasattr(transform, "crop_size") and hasattr(transform, "resize_size"):
        size = transform.crop_size[0]
        return data_config(
            (size, size), resized=transform.resize_size[0], mean=transform.mean, std=transform.std,
            interpolation=interpolation_name(transform.interpolation), where=where,
        )  # fmt: skip
    if not isinstance(transform, transforms.Compose):
        kind = type(transform)
        if transform is None:
            raise InputError(f"{where} is missing, and nothing else says what the network takes; {_FORM}")
        # There are two kinds of Compose in torchvision, and the second may resize tensors in place of images.
        raise InputError(
            f"{where} is of type {kind.__module__}.{kind.__qualname__}, whose steps are unknown; {_FORM}"
        )
    steps = list(transform.transforms)
    resize = _next(steps, transforms.Resize)
    crop = _next(steps, transforms.CenterCrop)
    tensor = _next(steps, transforms.ToTensor)
    normalize = _next(steps, transforms.Normalize)
    if steps:
        raise InputError(
            f"{where} has the step {type(steps[0]).__name__}, for which timm has no words; {_FORM}"
        )
    if resize is None or tensor is None:
        raise InputError(f"{where} has no {'Resize' if resize is None else 'ToTensor'}; {_FORM}")
    if resize.max_size is not None:
        raise InputError(f"{where} limits the longer edge, so that images would differ in shape; {_FORM}")
    edge = _sizes(resize.size)
    if crop is None and len(edge) == 1:
        raise InputError(
            f"{where} resizes the shorter edge and does not crop, so that images differ in shape"
        )
    height, width = _sizes(crop.size) if crop is not None else edge
    return data_config(
        (height, width), resized=edge[0] if len(edge) == 1 else (edge[0], edge[1]),
        mean=[0.0] * 3 if normalize is None else normalize.mean,
        std=[1.0] * 3 if normalize is None else normalize.std,
        interpolation=interpolation_name(resize.interpolation), where=where,
    )  # fmt: skip


def _next(steps: list[Any], kind: type) -> Any:
    """Take the first step off if it is of a kind."""
    return steps.pop(0) if steps and type(steps[0]) is kind else None


def _sizes(size: int | Sequence[int]) -> list[int]:
    return [size] if isinstance(size, int) else [int(each) for each in size]
