"""``open_clip:ARCH/TAG`` or a folder: the tower of images of open_clip, with its own preprocessing."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from toptune.errors import InputError, WeightsError
from toptune.extract.backbone.libraries.built_network import BuiltNetwork
from toptune.extract.backbone.libraries.data_config import data_config
from toptune.options import choices, nearest
from toptune.store.files.json_values import load_json

_CONFIG = "open_clip_config.json"
_STAGES = ("layer1", "layer2", "layer3", "layer4")


def build(
    identifier: str, *, state: Mapping[str, torch.Tensor] | None, is_random: bool, kwargs: dict[str, Any]
) -> BuiltNetwork:
    """Build the tower of images of a built-in architecture, or of a folder that open_clip wrote."""
    if state is not None or kwargs:
        raise InputError(
            "open_clip's networks are made of their own configuration and weights; give open_clip:FOLDER "
            f"with {_CONFIG} and a checkpoint, without --weights and --model-kwargs"
        )
    library = _library()
    name, tag, config = _configuration(library, identifier, is_random=is_random)
    try:
        with _quiet():
            whole = library.create_model(
                name, pretrained=tag, load_weights=not is_random, require_pretrained=not is_random,
                pretrained_image=False, pretrained_text=False, precision="fp32", device="cpu",
            )  # fmt: skip
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"open_clip cannot load {identifier}: {reason.rstrip('. ')}; give ARCH/TAG, or a folder with "
            f"{_CONFIG} and a checkpoint"
        ) from error
    module = whole.visual
    if getattr(module, "output_tokens", False):
        module.output_tokens = False
    if getattr(module, "pool_type", "tok") != "tok":
        module.global_pool = "avg"
    has_stages = all(hasattr(module, stage) for stage in _STAGES)
    return BuiltNetwork(
        module=module,
        architecture=f"open_clip:{type(module).__name__}",
        arguments={key: config[key] for key in ("embed_dim", "quick_gelu", "vision_cfg") if key in config},
        transform=_transform(module.preprocess_cfg, identifier),
        blocks=_STAGES if has_stages else None,
    )


def _library() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise InputError(
            "open_clip is not installed; pip install 'toptune[open-clip]'", option="model"
        ) from error
    return open_clip


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what open_clip logs to the root of all loggers, which would give the root a handler."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


def _configuration(
    library: Any, identifier: str, *, is_random: bool
) -> tuple[str, str | None, dict[str, Any]]:
    """Return what ``create_model`` is given, and the configuration of the architecture."""
    if Path(identifier).is_absolute():
        file = Path(identifier) / _CONFIG
        try:
            return f"local-dir:{identifier}", None, dict(load_json(file)["model_cfg"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} is not open_clip's configuration: {error}", option="model") from error
    name, _, tag = identifier.partition("/")
    config = library.get_model_config(name)
    if config is None:
        known = library.list_models()
        raise InputError(
            f"open_clip knows no architecture {name!r}; did you mean "
            f"{' or '.join(map(repr, nearest(name, known) or known[:2]))}?",
            option="model",
        )
    tags = library.list_pretrained_tags_by_model(name)
    # `toptune layers` needs no weights, and a tag that is not there is a mistake there, too.
    if (tag or not is_random) and tag not in tags:
        raise InputError(
            f"open_clip:{identifier} needs weights behind a slash; " + choices(tag, tags),
            option="model",
        )
    return name, None if is_random else tag, dict(config)


def _transform(found: Mapping[str, Any], identifier: str) -> dict[str, Any]:
    """Say open_clip's preprocessing as timm's data configuration."""
    size = found["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    mode = found.get("resize_mode") or "shortest"
    where = f"the preprocessing of {identifier}"
    if mode not in ("shortest", "squash"):
        raise InputError(f"{where} resizes by the {mode} edge and pads; toptune pads none")
    interpolation = "bilinear" if found.get("interpolation") == "bilinear" else "bicubic"
    return data_config(
        (height, width), resized=height if mode == "shortest" and height == width else (height, width),
        mean=found["mean"], std=found["std"], interpolation=interpolation, where=where,
    )  # fmt: skip
