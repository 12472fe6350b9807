"""Models are built with their weights; no parameter stays random by accident."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch.nn.modules.module import register_module_parameter_registration_hook

from toptune.errors import InputError, WeightsError
from toptune.extract.backbone.libraries.doors import build_network
from toptune.extract.backbone.model_name import (
    EMBEDDED_FOLDER,
    LIBRARIES,
    ModelName,
    embedded_names,
    parse_model_name,
)
from toptune.extract.backbone.spec import TransformRecord, check_transform
from toptune.extract.backbone.weights import check_report, mismatch_message, read_weights, watch_loading
from toptune.extract.images.kinds.reading import COLORS
from toptune.machine.memory import check_memory
from toptune.options import choices, nearest
from toptune.store.features.recipe import Recipe
from toptune.store.files.json_records import record_from_json, shortened
from toptune.store.files.json_values import load_json
from toptune.store.files.names import is_too_long

RANDOM_SEED = 0
# A transform that passes every check, for what a configuration leaves out.
_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224), "mean": (0.0,), "std": (1.0,), "interpolation": "bicubic", "crop_pct": 0.875,
}  # fmt: skip
# Names of the file of weights in timm's local-dir form; safetensors come first, because they hold no code.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "*.safetensors", "*.bin", "*.pth", "*.pt")


def build_model(
    name: ModelName,
    *,
    weights: str | os.PathLike[str] | None = None,
    img_size: int | None = None,
    in_chans: int | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    expected: Recipe | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Build the model of a name, without a classification head, for images of `in_chans` bands.

    timm adapts the weights of the first layer to other numbers of bands than 3. `expected` is the recipe that
    the backbone should have, as far as that is known before it is built.

    Returns
    -------
    model : nn.Module
        On the CPU, float32.
    arguments : dict
        Arguments of the architecture beside its weights; JSON values.

    Raises
    ------
    InputError
        If the name is unknown or the architecture does not take the arguments.
    WeightsError
        If weights are absent, or do not fit exactly.
    """
    kwargs = dict(model_kwargs or {})
    _check_kwargs(kwargs)
    # Random weights are used only where the name asks for them: a checkpoint that is missing must never turn
    # into random features silently.
    pretrained = name.source != "random"
    if not pretrained:
        if weights is not None:
            raise InputError(f"{name.given} asks for random weights and --weights for {weights}; drop one")
        name = parse_model_name(name.identifier)
    if in_chans == COLORS:
        in_chans = None
    if name.source in LIBRARIES:
        if in_chans is not None:
            raise InputError(
                f"{name.given} takes colors: to other numbers of bands only networks of timm are adapted; "
                "choose three with --bands, and leave --in-chans out",
                option="in_chans",
            )
        return _of_library(name, weights, kwargs, img_size, pretrained=pretrained, expected=expected)
    arguments = _Arguments.of(name, kwargs)
    if img_size is not None:
        arguments.kwargs["img_size"] = img_size
    if in_chans is not None:
        arguments.kwargs["in_chans"] = in_chans
    if expected is not None:
        _check_expected(name, arguments, expected)
    overlay: dict[str, Any] = {}
    if pretrained:
        file = Path(weights) if weights is not None else arguments.weights
        if file is not None:
            # timm prefers a state dict to every other origin of weights. An impossible num_classes makes timm
            # drop the head, whatever the size of the head.
            overlay = {
                "source": "",
                "state_dict": read_weights(file),
                "custom_load": False,
                "num_classes": -1,
            }
            origin = str(file)
        else:
            origin = f"the checkpoint of {name.given}"
            if name.source == "registry" and not timm.get_pretrained_cfg(name.identifier).has_weights:
                raise _no_weights(name.identifier)
    else:
        origin = "random"
    model = _create(arguments, overlay, pretrained=pretrained, origin=origin, strict=bool(overlay))
    # The configuration would keep a second copy of all weights alive.
    model.pretrained_cfg.pop("state_dict", None)
    reported = {key: value for key, value in arguments.kwargs.items() if key != "num_classes"}
    return model, json.loads(json.dumps(reported))


def _of_library(
    name: ModelName,
    weights: str | os.PathLike[str] | None,
    kwargs: dict[str, Any],
    img_size: int | None,
    *,
    pretrained: bool,
    expected: Recipe | None,
) -> tuple[Any, dict[str, Any]]:
    """Build the network of another library than timm."""
    if expected is not None and not expected.architecture.startswith(f"{name.source}:"):
        raise WeightsError(
            f"{name.given} is not the backbone that its recipe describes: architecture {name.source} against "
            f"{shortened(expected.architecture)}. Give the original with --model or --weights"
        )
    state = None if weights is None else read_weights(weights)
    with torch.random.fork_rng(devices=[]), _within_memory(name.given):
        torch.manual_seed(RANDOM_SEED)
        built = build_network(
            name.source, name.identifier, state=state, is_random=not pretrained, kwargs=kwargs
        )
    check_transform(built.transform, where=name.given)
    height, width = built.transform["input_size"][1:]
    size = (height, width) if img_size is None else (img_size, img_size)
    return built.adapted(size, name=name.given), dict(built.arguments)


class _Arguments:
    """Arguments of ``timm.create_model`` for a name, and the file of weights if toptune reads the weights."""

    def __init__(
        self,
        model_name: str,
        kwargs: dict[str, Any],
        *,
        config: dict[str, Any] | None = None,
        weights: Path | None = None,
    ) -> None:
        self.model_name = model_name
        self.kwargs = {**kwargs, "num_classes": 0}
        self.config = config
        self.weights = weights

    @classmethod
    def of(cls, name: ModelName, kwargs: dict[str, Any]) -> "_Arguments":
        if name.source == "registry":
            _check_known(name.identifier)
            return cls(name.identifier, kwargs)
        if name.source == "hf-hub":
            return cls(name.given, kwargs)
        if name.source == "local-dir":
            folder = Path(name.identifier)
            return cls._of_config(folder / "config.json", _weights_in(folder), kwargs)
        if name.source == "embedded":
            stem = EMBEDDED_FOLDER / name.identifier
            return cls._of_config(
                stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.safetensors"), kwargs
            )
        raise InputError(f"{name.given!r} cannot be nested; give random:NAME")

    @classmethod
    def _of_config(cls, file: Path, weights: Path | None, kwargs: dict[str, Any]) -> "_Arguments":
        try:
            config = load_json(file)
            architecture = str(config["architecture"])
            pretrained = dict(config.get("pretrained_cfg") or config)
            model_args = dict(config.get("model_args") or {})
            transform = record_from_json(TransformRecord, pretrained, where="the configuration")
            given = {name: getattr(transform, name) for name in _DEFAULTS}
            known = {name: value for name, value in given.items() if value is not None}
            check_transform(_DEFAULTS | known, where="the configuration")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} is not timm's model configuration: {shortened(error)}") from error
        if not timm.is_model(architecture):
            raise InputError(f"{file}: architecture {architecture!r} is unknown to timm {timm.__version__}")
        pretrained["architecture"] = architecture
        pretrained.setdefault("num_classes", config.get("num_classes", 1000))
        return cls(architecture, {**model_args, **kwargs}, config=pretrained, weights=weights)


def _check_expected(name: ModelName, arguments: _Arguments, expected: Recipe) -> None:
    """Refuse arguments that contradict a recipe: they may ask for a network of any size.

    Raises
    ------
    WeightsError
        If architecture, arguments or size are others than in the recipe.
    """
    asked, known = dict(arguments.kwargs), dict(expected.model_kwargs)
    if name.source != "hf-hub":
        asked["architecture"] = arguments.model_name.partition(".")[0]
        known["architecture"] = expected.architecture
    known["img_size"] = list(expected.transform.get("input_size") or [])[1:]
    if isinstance(asked.get("img_size"), int):
        asked["img_size"] = [asked["img_size"]] * 2
    differing = [
        f"{key} {shortened(asked[key])} against {shortened(known[key])}"
        for key in sorted(asked.keys() & known.keys())
        if asked[key] != known[key]
    ]
    if differing:
        raise WeightsError(
            f"{name.given} is not the backbone that its recipe describes: {'; '.join(differing)}. Give the "
            "original with --model or --weights"
        )


@contextmanager
def _within_memory(name: str) -> Iterator[None]:
    """Refuse a network whose parameters are above the memory limit while it is built.

    torch registers a parameter before it is filled with numbers, and memory that nobody wrote to takes none.
    """
    held = 0

    def count(_module: Any, _name: str, parameter: Any) -> None:
        nonlocal held
        held += 0 if parameter is None else parameter.numel() * parameter.element_size()
        check_memory(
            held,
            limit_bytes=None,
            what=f"the network {name}",
            instead="give another --model or --model-kwargs",
        )

    registration = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        registration.remove()


def _create(
    arguments: _Arguments, overlay: dict[str, Any], *, pretrained: bool, origin: str, strict: bool
) -> Any:
    name, model, other_shapes = arguments.model_name, None, ""
    # The seed decides untrained weights. The caller's own random numbers must not change by loading a model,
    # so that the generator is forked.
    try:
        with torch.random.fork_rng(devices=[]), watch_loading() as report, _within_memory(name):
            torch.manual_seed(RANDOM_SEED)
            model = timm.create_model(
                name,
                pretrained=pretrained,
                pretrained_cfg=arguments.config,
                pretrained_cfg_overlay=overlay or None,
                **arguments.kwargs,
            )
    except InputError:
        raise
    except TypeError as error:
        if "img_size" in arguments.kwargs and "img_size" in str(error):
            # Convolutional models take images of any size: only the transform needs the size.
            del arguments.kwargs["img_size"]
            return _create(arguments, overlay, pretrained=pretrained, origin=origin, strict=strict)
        raise InputError(f"{name} does not take these arguments: {error}") from error
    except AssertionError as error:
        raise InputError(f"{name} refuses {arguments.kwargs}: {error or 'an assertion failed'}") from error
    except Exception as error:
        other_shapes = mismatch_message(error)
        if not pretrained and not _is_unreachable(error):
            raise InputError(f"{name} refuses {arguments.kwargs}: {error}") from error
        if not other_shapes:
            raise _why_not_loaded(error, name) from error
    if pretrained:
        config = {} if model is None else model.pretrained_cfg
        if not report.is_loaded and not config.get("custom_load"):
            raise _no_weights(name)
        classifiers = config.get("classifier") or ()
        check_report(
            report,
            origin=origin,
            classifiers=(classifiers,) if isinstance(classifiers, str) else tuple(classifiers),
            strict=strict,
            other_shapes=other_shapes,
        )
    return model


def _no_weights(name: str) -> WeightsError:
    return WeightsError(
        f"there are no weights for {name}; give --weights FILE, another tag, or ask for random:{name} by name"
    )


def _why_not_loaded(error: Exception, name: str) -> WeightsError:
    text = str(error)
    if "No pretrained weights exist" in text:
        return _no_weights(name)
    # The configuration of a name on the hub lies in the repository of that name, so that a file with weights
    # does not help.
    instead = (
        "give local-dir:FOLDER, or timm's own name of the architecture with --weights FILE"
        if name.startswith("hf-hub:")
        else "give --weights FILE or local-dir:FOLDER"
    )
    if huggingface_hub.constants.HF_HUB_OFFLINE and _is_unreachable(error):
        return WeightsError(
            f"{name} could not be loaded: HF_HUB_OFFLINE is on, and its checkpoint is not in the local hub "
            f"cache {huggingface_hub.constants.HF_HUB_CACHE}; {instead}"
        )
    first = (text.splitlines()[0] if text else type(error).__name__).rstrip(". ")
    return WeightsError(
        f"{name} could not be loaded: {first}. Without a network: set HF_HUB_OFFLINE=1 if it is in the "
        f"local hub cache, or {instead}"
    )


def _is_unreachable(error: Exception) -> bool:
    """Return whether the hub gave no file: no network, no such repository, or not in the local cache."""
    kinds = (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError)
    return isinstance(error, kinds)


def _check_known(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        names = [*timm.list_models(), *timm.list_pretrained()]
        near = " or ".join(map(repr, nearest(name, names)))
        is_folder = not is_too_long(name) and Path(name).is_dir()
        folder = "; for the folder of that name here, write ./" + name if is_folder else ""
        raise InputError(
            f"timm {timm.__version__} knows no model {name!r}; "
            + (f"did you mean {near}? " if near else "")
            + f"`toptune models` lists them{folder}",
            option="model",
        )
    known = [*embedded_names(), *timm.list_pretrained(f"{architecture}*")]
    tags = [each.partition(".")[2] for each in known if each.partition(".")[0] == architecture]
    if tag and tag not in tags:
        raise InputError(
            f"timm {timm.__version__} knows no weights {tag!r} of {architecture}; "
            + (
                choices(tag, tags)
                if tags
                else f"it has none; give its weights as a file, {architecture} with --weights FILE, or "
                f"untrained ones as random:{architecture}"
            ),
            option="model",
        )


def _check_kwargs(kwargs: Mapping[str, object]) -> None:
    for key in ("num_classes", "features_only", "pretrained", "in_chans", "checkpoint_path"):
        if key in kwargs:
            raise InputError(f"model_kwargs may not contain {key!r}: extraction decides it")
    try:
        json.dumps(kwargs)
    except (TypeError, ValueError) as error:
        raise InputError(f"model_kwargs must be JSON values: {error}") from error


def _weights_in(folder: Path) -> Path | None:
    for pattern in WEIGHT_FILES:
        files = sorted(folder.glob(pattern))
        if files:
            return files[0]
    return None


def list_models(pattern: str = "*") -> list[str]:
    """List names with pretrained weights that match a glob: first names that ship with toptune."""
    embedded = [name for name in embedded_names() if fnmatchcase(name, pattern)]
    return embedded + [str(name) for name in timm.list_pretrained(pattern)]
