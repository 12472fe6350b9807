"""``torchvision:NAME[/WEIGHTS]``: torchvision's networks of classes, with the preset of their weights."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from toptune.errors import InputError, WeightsError
from toptune.extract.backbone.libraries.built_network import BuiltNetwork, drop_last_layer
from toptune.extract.backbone.libraries.data_config import data_config, interpolation_name
from toptune.options import choices, nearest
from toptune.store.files.json_values import json_ready

# The builders of these networks set more than their arguments for weights, and timm has the networks, too.
_LEFT_OUT = {"googlenet": "googlenet.tv_in1k", "inception_v3": "inception_v3.tv_in1k"}
_STAGES = re.compile(r"(layer|stage)\d+")
_CONTAINERS = ("encoder.layers", "features", "trunk_output", "blocks", "layers")


def build(
    identifier: str, *, state: Mapping[str, torch.Tensor] | None, is_random: bool, kwargs: dict[str, Any]
) -> BuiltNetwork:
    """Build a network of torchvision; `state` stands in place of the weights of its name."""
    import torchvision.models as library

    name, _, tag = identifier.partition("/")
    known = library.list_models(module=library)
    if name in _LEFT_OUT:
        raise InputError(f"torchvision's {name} has more than one head; give timm's {_LEFT_OUT[name]}")
    if name not in known:
        near = " or ".join(map(repr, nearest(name, known)))
        raise InputError(
            f"torchvision knows no classification network {name!r}; "
            + (f"did you mean {near}?" if near else f"it has {', '.join(known[:5])}, ..."),
            option="model",
        )
    builder = library.get_model_builder(name)
    tags = {each.name: each for each in library.get_model_weights(name)}
    if tag and tag not in (*tags, "DEFAULT"):
        raise InputError(
            f"torchvision knows no weights {tag!r} of {name}; {choices(tag, tags)}", option="model"
        )
    weights: Any = library.get_model_weights(name).DEFAULT if tag in ("", "DEFAULT") else tags[tag]
    preset = weights.transforms()
    arguments = _of_size(builder, weights) | kwargs
    n_classes = len(weights.meta["categories"])
    try:
        # Initial values are drawn here, and all of them are replaced unless random ones are asked for.
        module: Any = builder(weights=None, num_classes=n_classes, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"torchvision's {name} refuses {arguments}: {error}") from error
    if state is None and not is_random:
        state = _downloaded(weights, name)
    drop_last_layer(module)
    if state is not None:
        _load(module, state, name)
    transform = data_config(
        (preset.crop_size[0], preset.crop_size[0]), resized=preset.resize_size[0], mean=preset.mean,
        std=preset.std, interpolation=interpolation_name(preset.interpolation), where=f"the preset of {name}",
    )  # fmt: skip
    if "Swin" in type(module).__name__:
        # Maps of Swin have their channels last; `output_fmt` is the word of timm for the layout.
        module.output_fmt = "NHWC"
    return BuiltNetwork(
        module=module,
        architecture=f"torchvision:{name}",
        arguments=json_ready(arguments),
        transform=transform,
        blocks=library_blocks(module),
    )


def _of_size(builder: Any, weights: Any) -> dict[str, Any]:
    """Return the argument by which a builder makes a network for images of the weights' size."""
    size = list(weights.meta["min_size"])
    if inspect.getmodule(builder).__name__.endswith(".vision_transformer"):  # type: ignore[union-attr]
        return {"image_size": size[0]}
    return {"input_size": size} if builder.__name__ == "maxvit_t" else {}


def _downloaded(weights: Any, name: str) -> Mapping[str, torch.Tensor]:
    try:
        # torchvision's own builders would let the checkpoint run code.
        found: Mapping[str, torch.Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the weights {weights.name} of torchvision's {name} could not be loaded: {reason}; put the file "
            f"{weights.url.rpartition('/')[2]} into {torch.hub.get_dir()}/checkpoints, or give --weights FILE"
        ) from error
    return found


def _load(module: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Load weights that fit exactly, except for those of the head."""
    own = module.state_dict()
    try:
        report = module.load_state_dict(
            {key: value for key, value in state.items() if key in own}, strict=False
        )
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip()
        raise WeightsError(f"the weights do not fit torchvision's {name}: {reason}") from error
    heads = [key for key, each in module.named_modules() if isinstance(each, nn.Identity)]
    # Checkpoints from before batch norms counted their batches lack the counters, which compute nothing.
    missing = [key for key in report.missing_keys if not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own and key.rpartition(".")[0] not in heads]
    if missing or unexpected:
        raise WeightsError(
            f"the weights do not fit torchvision's {name}: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}), {len(unexpected)} are left over ({', '.join(unexpected[:3])})"
        )


def library_blocks(module: nn.Module) -> list[str]:
    """Return the names of a network's blocks: its encoder's layers, its stages, or its features."""
    children = [name for name, _ in module.named_children()]
    if stages := [name for name in children if _STAGES.fullmatch(name)]:
        return stages
    names = dict(module.named_modules())
    for container in _CONTAINERS:
        if container in names:
            inside = list(names[container].named_children())
            whole = [name for name, each in inside if list(each.children())]
            # Plain networks have single layers only; their stages end where they shrink the map.
            pools = [name for name, each in inside if isinstance(each, nn.MaxPool2d)]
            return [f"{container}.{name}" for name in whole or pools]
    return []
