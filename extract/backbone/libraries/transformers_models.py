"""``transformers:NAME``: vision networks of transformers, with the image processor beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from toptune.errors import InputError, WeightsError
from toptune.extract.backbone.libraries.built_network import BuiltNetwork
from toptune.extract.backbone.libraries.data_config import data_config

# What a configuration says of its file, of training or of labels, and not of the network.
_NOT_OF_THE_NETWORK = frozenset((
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype",
    "id2label", "label2id", "problem_type", "num_labels", "_attn_implementation_autoset", "auto_map",
    "return_dict", "output_hidden_states", "output_attentions",
))  # fmt: skip
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_BYTE = 1 / 255


def build(
    identifier: str, *, state: Mapping[str, torch.Tensor] | None, is_random: bool, kwargs: dict[str, Any]
) -> BuiltNetwork:
    """Build a vision network of transformers from a folder or a repository."""
    if state is not None:
        raise InputError(
            "weights of transformers lie beside their configuration; give transformers:FOLDER without "
            "--weights"
        )
    library = _library()
    try:
        config = library.AutoConfig.from_pretrained(identifier, trust_remote_code=False, **kwargs)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(identifier, error) from error
    tower = getattr(config, "vision_config", None)
    if config.model_type == "timm_wrapper":
        prefix = "local-dir" if Path(identifier).is_absolute() else "hf-hub"
        raise InputError(f"{identifier} is a model of timm; give {prefix}:{identifier}", option="model")
    whole = _random(library, config) if is_random else _loaded(library, identifier, config)
    module = whole
    if tower is not None:
        module = getattr(whole, "vision_model", None) or getattr(whole, "vision_tower", None)
        config = tower
    if module is None or getattr(module, "main_input_name", "pixel_values") != "pixel_values":
        raise InputError(
            f"{identifier} is a {type(whole).__name__}, which takes no images alone; give a vision network",
            option="model",
        )
    transform = _transform(library, identifier)
    module.register_forward_hook(_features)
    if getattr(config, "use_mean_pooling", False):
        module.global_pool = "avg"
    values = {key: value for key, value in config.to_diff_dict().items() if key not in _NOT_OF_THE_NETWORK}
    return BuiltNetwork(
        module=module,
        architecture=f"transformers:{type(module).__name__}",
        arguments=values,
        transform=transform,
        first_of_tuples=True,
    )


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "transformers is not installed; pip install 'toptune[transformers]'", option="model"
        ) from error
    return transformers


def _random(library: Any, config: Any) -> Any:
    try:
        return library.AutoModel.from_config(config, trust_remote_code=False).float()
    except ValueError as error:
        raise InputError(f"transformers makes no network of it: {str(error).splitlines()[0]}") from error


def _loaded(library: Any, identifier: str, config: Any) -> Any:
    """Load weights, all of which must be there, except for those of a pooler that then is left out."""
    words = library.utils.logging
    level, has_bar = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity_error()
    words.disable_progress_bar()
    try:
        module, report = library.AutoModel.from_pretrained(
            identifier, config=config, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(identifier, error) from error
    finally:
        words.set_verbosity(level)
        if has_bar:
            words.enable_progress_bar()
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        # The checkpoint was made without a pooler, whose weights would be random.
        module.pooler, missing = None, []
    differing = sorted(str(each[0]) for each in report.get("mismatched_keys") or ())
    if missing or differing:
        raise WeightsError(
            f"{identifier} lacks weights of its network {type(module).__name__}, which would be random: "
            f"{', '.join([*missing, *differing][:5])}"
        )
    return module


def _unreadable(identifier: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WeightsError(
        f"transformers cannot load {identifier}: {reason.rstrip('. ')}; give a vision network as ORG/NAME, "
        "or a folder that save_pretrained wrote (network and image processor)"
    )


def _features(module: Any, _inputs: object, output: Any) -> torch.Tensor:
    """Take the vector of an image out of a library's output.

    The pooled output comes first, where a network has one; then the class token; then the mean over places.
    """
    pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)
    hidden: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    return hidden[:, 0] if getattr(module, "cls_token", None) is not None else hidden.mean(1)


def _transform(library: Any, identifier: str) -> dict[str, Any]:
    """Say the image processor as timm's data configuration; refuse steps that timm has no words for."""
    try:
        processor = library.AutoImageProcessor.from_pretrained(
            identifier, backend="pil", trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"transformers finds no image processor of {identifier}: {reason.rstrip('. ')}; save one beside "
            "the network, with save_pretrained"
        ) from error
    kind = type(processor).__name__
    where = f"the image processor {kind}"
    wanted = _sizes(library, processor, where)
    if not processor.do_resize:
        raise InputError(f"{where} does not resize, so that images would differ in shape")
    if getattr(processor, "do_pad", None):
        raise InputError(f"{where} pads images (do_pad); toptune pads none")
    if processor.do_rescale and abs(processor.rescale_factor - _BYTE) > 1e-9:
        raise InputError(f"{where} scales pixels by {processor.rescale_factor}; toptune scales by 1/255")
    if not processor.do_rescale:
        raise InputError(f"{where} gives pixels from 0 to 255 (do_rescale is off); toptune scales by 1/255")
    mean, std = (
        (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    )
    size, resized = wanted
    return data_config(
        size, resized=resized, mean=mean, std=std, interpolation=_RESAMPLING[int(processor.resample)],
        where=where, is_floored=True,
    )  # fmt: skip


def _sizes(library: Any, processor: Any, where: str) -> tuple[tuple[int, int], int | tuple[int, int]]:
    """Return the size of the network's input, and what images are resized to before the crop."""
    plain = library.image_processing_backends.PilBackend
    size, kind = processor.size, type(processor)
    edge = _value(size, "shortest_edge")
    if kind.__name__.startswith("ConvNext") and edge:
        # This processor crops small sizes by its own rule, and squashes large ones.
        square = (edge, edge)
        return square, square if edge >= 384 else int(edge / processor.crop_pct)
    for step in ("resize", "center_crop", "_preprocess", "preprocess", "rescale", "normalize"):
        if getattr(kind, step, None) is not getattr(plain, step, None):
            raise InputError(
                f"{where} has a {step.strip('_')} of its own, which timm's transform does not have"
            )
    height, width = _value(size, "height"), _value(size, "width")
    if not edge and not (height and width):
        raise InputError(f"{where} resizes to {dict(size)}; toptune knows shortest_edge, or height and width")
    if _value(size, "longest_edge"):
        raise InputError(
            f"{where} limits the longer edge ({dict(size)}), so that images would differ in shape"
        )
    resized: int | tuple[int, int] = edge or (height, width)
    if getattr(processor, "do_center_crop", None):
        crop = processor.crop_size
        return (_value(crop, "height"), _value(crop, "width")), resized
    if edge:
        raise InputError(
            f"{where} resizes the shorter edge and does not crop, so that images differ in shape"
        )
    return (height, width), resized


def _value(size: Any, name: str) -> int:
    found = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return int(found or 0)
