"""`ModelName`: a backbone's name is taken apart without loading torch."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toptune.errors import InputError
from toptune.extract.backbone.libraries.custom import Custom
from toptune.extract.backbone.libraries.named_code import check_hub_folder
from toptune.store.files.folder_kinds import what_is
from toptune.store.files.names import is_path, is_too_long, plain_model_name

ModelSource = Literal[
    "registry",
    "hf-hub",
    "local-dir",
    "embedded",
    "random",
    "torchvision",
    "transformers",
    "open_clip",
    "custom",
    "torchhub",
]
# Libraries beside timm, whose name stands before a colon.
LIBRARIES: tuple[ModelSource, ...] = ("torchvision", "transformers", "open_clip", "custom", "torchhub")
_PREFIXES: dict[str, ModelSource] = {
    **{name: name for name in LIBRARIES},
    "hf-hub": "hf-hub",
    "hf_hub": "hf-hub",
    "local-dir": "local-dir",
    "random": "random",
}
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
EMBEDDED_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ModelName:
    """A backbone's name, taken apart.

    Attributes
    ----------
    given : str
        The name as the user wrote it, with a folder as an absolute path; enough to find the model again.
    source : str
        Origin of architecture and weights: timm's ``registry``, a repository on the
        ``hf-hub``, a folder (``local-dir``), this package (``embedded``), ``random`` weights, or another
        library (`LIBRARIES`).
    identifier : str
        ``arch.tag``, ``org/name@revision``, the folder, the embedded name, or the architecture.
    """

    given: str
    source: ModelSource
    identifier: str

    @property
    def plain(self) -> str:
        """Name in the paths of the store: ``arch.tag``, or the last part of a folder or repository."""
        return plain_model_name(self.given)


def parse_model_name(name: str | Custom) -> ModelName:
    """Take a model's name apart.

    ``arch.tag`` (timm's registry), ``hf-hub:org/name``, ``local-dir:FOLDER`` or the path of a folder, the
    name of a backbone that ships with this package, or ``random:arch`` for untrained weights from a fixed
    seed. Networks of other libraries have the library's name before a colon (``torchvision:resnet18``).

    Raises
    ------
    InputError
        If the prefix is unknown, nothing follows it, or the folder does not exist.
    """
    name = str(name)
    prefix, colon, rest = name.partition(":")
    if not colon:
        if name in embedded_names():
            return ModelName(name, "embedded", name)
        if is_path(name):
            return _of_folder(name)
        if not name:
            raise InputError("the model's name is empty; give one of `toptune models`", option="model")
        return ModelName(name, "registry", name)
    source = _PREFIXES.get(prefix.lower())
    if source is None or not rest:
        raise InputError(
            f"model {name!r}: before a colon there may be hf-hub, local-dir, random, "
            f"{', '.join(LIBRARIES)}, and a name after it",
            option="model",
        )
    if source == "local-dir":
        return _of_folder(rest)
    if source in ("transformers", "open_clip"):
        rest = _folder_or_name(rest)
    if source == "torchhub":
        rest = check_hub_folder(rest)
    return ModelName(f"{source}:{rest}", source, rest)


def check_is_timm(name: str) -> None:
    """Refuse a network of another library than timm, where timm's form is needed.

    Raises
    ------
    InputError
        If the name has the prefix of another library, or is none.
    """
    parsed = parse_model_name(name)
    source = parsed.source if parsed.source != "random" else parse_model_name(parsed.identifier).source
    if source in LIBRARIES:
        raise InputError(
            f"model {name!r} is a network of {source}, and fine-tuning writes networks in timm's form; give "
            "a network of timm, or extract its features and train a head on them",
            option="model",
        )


def _of_folder(path: str) -> ModelName:
    """Return the model in a folder, or say what lies there instead."""
    folder = os.path.abspath(path)  # noqa: PTH100  (the name that was given, not where a link leads)
    may_exist = not is_too_long(folder)
    if may_exist and (Path(folder) / "config.json").is_file():
        return ModelName(f"local-dir:{folder}", "local-dir", folder)
    form = "give a folder in timm's local-dir form (config.json and model.safetensors)"
    message = f"model {path!r} names a folder, and {path} "
    if may_exist and Path(folder).is_dir():
        message += f"holds no config.json: it {what_is(Path(folder))}; {form}"
    elif may_exist and Path(folder).exists():
        message += f"is a file; {form}, or the name of the architecture with --weights {path}"
    else:
        message += f"does not exist; check the path, {form}"
        # A repository has two plain words, and nothing on this machine begins like it.
        if _REPOSITORY.fullmatch(path) and not (may_exist and Path(path).parent.exists()):
            message += f", or, for a repository of the Hugging Face hub, write hf-hub:{path}"
    raise InputError(message, option="model")


def _folder_or_name(rest: str) -> str:
    """Return a folder as an absolute path, and the name of a repository or architecture as it is."""
    if not is_too_long(rest) and Path(rest).is_dir():
        return os.path.abspath(rest)  # noqa: PTH100
    if not _REPOSITORY.fullmatch(rest.partition("@")[0]) and ("/" in rest or os.sep in rest):
        raise InputError(
            f"model {rest!r} names a folder, and there is none; check the path, or give a repository "
            "as ORG/NAME",
            option="model",
        )
    return rest


def embedded_names() -> list[str]:
    """Return the names of the backbones that ship with this package."""
    return sorted(
        file.stem
        for file in EMBEDDED_FOLDER.glob("*.safetensors")
        if (EMBEDDED_FOLDER / f"{file.stem}.json").is_file()
    )
