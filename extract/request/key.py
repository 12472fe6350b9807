"""`request_key`: the key covers everything that was asked for and the files of the model, without torch.

The key only finds a note in the store: whether the features are complete is read from the ledger.
"""

import glob
import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from toptune.errors import InputError
from toptune.extract.backbone.model_name import EMBEDDED_FOLDER, ModelName, parse_model_name
from toptune.extract.backbone.spec import BackboneSpec
from toptune.extract.images.decode import NEW_FEATURES
from toptune.store.features.recipe import ROUTES
from toptune.store.files.json_values import canonical_json

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".json")


def request_key(
    name: ModelName,
    spec: BackboneSpec,
    *,
    layers: str | int | Sequence[str | int] | None,
    pooling: str | Sequence[str] | None,
    device: str,
    max_pixels: int,
) -> str | None:
    """Return the key of an extraction, or None where the weights are not known without loading the model.

    Parameters
    ----------
    name : ModelName
        The backbone.
    spec : BackboneSpec
        How the backbone is loaded.
    layers, pooling, device
        Options of `extract`.
    max_pixels : int
        Limit on the size of an image.

    Raises
    ------
    InputError
        If the weights cannot be read, or ``model_kwargs`` are no JSON values.
    """
    signature = _model_signature(name, has_weights=spec.weights is not None)
    if signature is None:
        return None
    try:
        files = None if spec.weights is None else _stat(Path(spec.weights))
    except OSError as error:
        raise InputError(
            f"weights {os.fspath(spec.weights or '')} cannot be read: {error.strerror}"
        ) from error
    options = spec.to_dict()
    # The file is in the key by its size and time, and the precision has an entry of its own.
    del options["weights"], options["precision"]
    content = {
        "model": name.given,
        "files": signature,
        "weights": files,
        "layers": layers if layers is None or isinstance(layers, str | int) else list(layers),
        "pooling": pooling if pooling is None or isinstance(pooling, str) else list(pooling),
        "precision": spec.precision,
        # Features do not depend on the device by their recipe; only the meaning of `auto` does.
        "device": device if spec.precision == "auto" else None,
        "options": options | {"max_pixels": max_pixels},
        # What the options call a route, and `auto` most of all, may come to mean another one.
        "decode": [NEW_FEATURES, ROUTES],
        "timm": version("timm"),
        "toptune": version("toptune"),
    }
    try:
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()
    except (TypeError, ValueError) as error:
        raise InputError(f"model_kwargs must be JSON values: {error}") from error


def _model_signature(name: ModelName, *, has_weights: bool) -> object | None:
    if name.source == "local-dir":
        return _folder(Path(name.identifier), "*")
    if name.source == "embedded":
        return _folder(EMBEDDED_FOLDER, f"{name.identifier}.*")
    if name.source == "random":
        inner = parse_model_name(name.identifier)
        return "registry" if inner.source == "registry" else _model_signature(inner, has_weights=False)
    if name.source == "torchvision":
        return ["torchvision", version("torchvision")]
    if name.source in ("custom", "torchhub"):
        return None
    if name.source == "open_clip" and not Path(name.identifier).is_absolute():
        # The weights of a tag lie in a repository that only open_clip knows.
        return None
    if name.source in ("transformers", "open_clip"):
        folder = Path(name.identifier)
        return _folder(folder, "*") if folder.is_absolute() else hub_commit(name.identifier)
    if name.source == "registry" and has_weights:
        return "registry"
    if name.source == "registry" and "." not in name.identifier:
        # Only timm knows the default tag, and timm is slow to load: the tag is taken from the hub's cache, if
        # a single one is there.
        found = _cached_tags(name.identifier)
        if len(found) != 1:
            return None
        commit = hub_commit(found[0])
        return None if commit is None else [found[0], commit]
    repository = name.identifier if name.source == "hf-hub" else f"timm/{name.identifier}"
    return hub_commit(repository)


def _cached_tags(architecture: str) -> list[str]:
    """Return timm's repositories with weights of that architecture in the local hub cache."""
    prefix = "models--timm--"
    folders = _hub_cache().glob(f"{prefix}{glob.escape(architecture)}.*")
    return sorted(f"timm/{folder.name.removeprefix(prefix)}" for folder in folders)


def hub_commit(repository: str) -> str | None:
    """Return the commit of ``org/name@revision`` in the local hub cache, None if there is no such commit."""
    repository, _, revision = repository.partition("@")
    folder = _hub_cache() / ("models--" + repository.replace("/", "--"))
    if revision and (folder / "snapshots" / revision).is_dir():
        return revision
    try:
        return (folder / "refs" / (revision or "main")).read_text().strip()
    except OSError:
        return None


def _hub_cache() -> Path:
    # The import waits until here, because the module reads the environment when it is imported.
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _folder(folder: Path, pattern: str) -> list[list[object]]:
    files = sorted(file for file in folder.glob(pattern) if file.suffix in WEIGHT_SUFFIXES)
    return [_stat(file) for file in files]


def _stat(file: Path) -> list[object]:
    # Size and time stand for the content here: to digest gigabytes of weights would take longer than the
    # answer.
    found = file.stat()
    return [str(file.absolute()), found.st_size, found.st_mtime_ns]
