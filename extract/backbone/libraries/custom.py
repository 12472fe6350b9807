"""`Custom`: a network of the caller's own, known by a name in the process that made it."""

from collections.abc import Mapping
from typing import Any

from toptune.errors import InputError
from toptune.store.files.names import check_name

_MADE: dict[str, "Custom"] = {}


class Custom:
    """A module of torch with its transform, to be given as `model` to `extract` and `load_backbone`.

    From then on the name ``custom:NAME`` means this network in this process: for `train` and `predict`, too.
    Another process makes it again before. Nothing is imported by a name, so that no stored name runs code.

    Parameters
    ----------
    module : nn.Module
        In eval mode, float32, on the CPU; takes images ``(b, 3, h, w)`` and gives features ``(b, d)``. The
        module is copied when it is loaded, and is never changed.
    transform : Compose, preset or mapping
        ``Resize``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` of torchvision (version 1) in this order; a
        preset of torchvision's weights; or timm's data configuration.
    name : str
        Name in the store.

    Raises
    ------
    InputError
        If the name cannot be used.

    Examples
    --------
    >>> from torch import nn
    >>> from toptune.extract import load_backbone
    >>> module = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> words = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0,
    ...          "interpolation": "bilinear", "crop_mode": "squash"}
    >>> backbone = load_backbone(Custom(module.eval(), words, name="mine"))
    >>> backbone.name, [tap.shape for tap in backbone.taps]
    ('custom-mine', [(8,)])
    """

    def __init__(self, module: Any, transform: Any, *, name: str) -> None:
        self.module = module
        self.transform: Mapping[str, Any] | Any = transform
        self.name = check_name(name, what="model")
        _MADE[self.name] = self

    def __str__(self) -> str:
        return f"custom:{self.name}"


def made(name: str) -> Custom:
    """Return the network of a name that was made in this process.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in _MADE:
        raise InputError(
            f"no network called {name!r} was made in this process; make it again, with Custom(module, "
            f"transform, name={name!r}) of toptune.extract. Other processes, such as dask workers, have to "
            "make it themselves",
            option="model",
        )
    return _MADE[name]
