"""`build_network` opens the door of a library by the name before the colon in MODEL."""

from collections.abc import Mapping
from typing import Any

import torch

from toptune.extract.backbone.libraries.built_network import BuiltNetwork
from toptune.extract.backbone.libraries.custom_networks import build as build_custom, build_of_hub
from toptune.extract.backbone.libraries.open_clip_models import build as build_open_clip
from toptune.extract.backbone.libraries.torchvision_models import build as build_torchvision
from toptune.extract.backbone.libraries.transformers_models import build as build_transformers

# The doors import their libraries when they are opened.
_DOORS = {
    "custom": build_custom,
    "open_clip": build_open_clip,
    "torchhub": build_of_hub,
    "torchvision": build_torchvision,
    "transformers": build_transformers,
}


def build_network(
    library: str,
    identifier: str,
    *,
    state: Mapping[str, torch.Tensor] | None,
    is_random: bool,
    kwargs: dict[str, Any],
) -> BuiltNetwork:
    """Build the network of a library.

    Parameters
    ----------
    library : str
        The name before the colon.
    identifier : str
        What stands behind it.
    state : mapping of str to Tensor, optional
        Weights in place of those that the name means.
    is_random : bool
        Whether the weights are untrained, from torch's generator as it is.
    kwargs : dict
        Further arguments of the library's own function.

    Returns
    -------
    BuiltNetwork
        On the CPU, float32.

    Raises
    ------
    InputError
        If the library is not installed or does not know the name, or a step of its transform has no words.
    WeightsError
        If weights are absent or do not fit.
    """
    return _DOORS[library](identifier, state=state, is_random=is_random, kwargs=kwargs)
