"""Networks that code makes when the user names it: a function to import, or an entry of a ``hubconf.py``."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from toptune.errors import InputError
from toptune.extract.backbone.libraries.custom import Custom
from toptune.extract.backbone.libraries.named_code import HUBCONF


def imported(path: str) -> tuple[Any, Any]:
    """Import ``package.module:function``, call it, and return the module and the transform that it gives.

    Parameters
    ----------
    path : str
        Where the function lies: in an installed package, or one that ``PYTHONPATH`` has.

    Raises
    ------
    InputError
        If it cannot be imported here, fails, or gives neither a `Custom` nor a module and a transform.
    """
    place, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(place), name)
    except Exception as error:  # the code of a module may raise anything
        raise InputError(
            f"custom:{path} cannot be imported in this process: {_reason(error)}; the module {place!r} must "
            "be installed, or lie in a folder of PYTHONPATH, here and on every machine that computes",
            option="model",
        ) from error
    return _pair(_called(function, f"custom:{path}"), f"custom:{path}")


def from_hub_folder(identifier: str) -> tuple[Any, Any]:
    """Run the entry of a folder's ``hubconf.py``, and return the module, in eval mode, and its transform.

    Parameters
    ----------
    identifier : str
        The folder, a slash, and the name of the entry.

    Raises
    ------
    InputError
        If there is no such entry, it fails, or nothing says the transform.
    """
    folder, _, entry = identifier.rpartition("/")
    what = f"torchhub:{identifier}"
    found = _entry(folder, entry, what)
    if found is None:
        raise InputError(f"{folder}/{HUBCONF} has no entry {entry!r}; name a function of it", option="model")
    if isinstance(found[0], nn.Module):
        said = _entry(folder, f"{entry}_transform", what) or _entry(folder, "transform", what)
        transform = said[0] if said is not None else getattr(found[0], "transform", None)
        if transform is None:
            raise InputError(
                f"{what} gives a module, and nothing says its transform; let the entry return (module, "
                f"transform), or give {HUBCONF} an entry {entry}_transform",
                option="model",
            )
        return found[0].eval(), transform
    module, transform = _pair(found[0], what)
    return (module.eval() if isinstance(module, nn.Module) else module), transform


def _entry(folder: str, name: str, what: str) -> tuple[Any] | None:
    """Return what an entry gives, as the only item of a tuple; None where there is no such entry."""
    load: Any = torch.hub.load
    try:
        return (load(folder, name, source="local", trust_repo=True),)
    except Exception as error:  # the code of a folder may raise anything
        if str(error) == f"Cannot find callable {name} in hubconf":
            return None
        raise InputError(f"{what} failed: {_reason(error)}", option="model") from error


def _called(function: Callable[[], Any], what: str) -> Any:
    if not callable(function):
        raise InputError(f"{what} is a {type(function).__name__}; name a function that makes the network")
    try:
        return function()
    except Exception as error:  # the code of anybody may raise anything
        raise InputError(f"{what} failed: {_reason(error)}", option="model") from error


def _pair(found: Any, what: str) -> tuple[Any, Any]:
    if isinstance(found, Custom):
        return found.module, found.transform
    if isinstance(found, tuple) and len(found) == 2:
        return found
    raise InputError(
        f"{what} gives a {type(found).__name__}; it must return a Custom of toptune.extract, or a module and "
        "its transform",
        option="model",
    )


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
