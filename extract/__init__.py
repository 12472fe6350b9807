"""Images to features: sources, decoding, backbones, and the pass that stores their layers.

Names that need torch are loaded when they are first used, so that ``from toptune.extract import extract``
and a finished extraction stay light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toptune.extract.backbone.taps import Tap, TapArray
from toptune.extract.extraction import extract, extract_models
from toptune.extract.images.decode import DECODE, decode_image
from toptune.extract.images.source import ImageSource
from toptune.extract.request.plan import ArrayPlan, ExtractPlan, ExtractSummary
from toptune.extract.sources.opening import open_source
from toptune.machine.watch import Clocks

if TYPE_CHECKING:
    from toptune.extract.backbone.backbone import Backbone, list_taps, load_backbone
    from toptune.extract.backbone.build import list_models

__all__ = [
    "DECODE",
    "ArrayPlan",
    "Backbone",
    "Clocks",
    "ExtractPlan",
    "ExtractSummary",
    "ImageSource",
    "Tap",
    "TapArray",
    "decode_image",
    "extract",
    "extract_models",
    "list_models",
    "list_taps",
    "load_backbone",
    "open_source",
]

_NEED_TORCH = {
    "Backbone": "toptune.extract.backbone.backbone",
    "list_taps": "toptune.extract.backbone.backbone",
    "load_backbone": "toptune.extract.backbone.backbone",
    "list_models": "toptune.extract.backbone.build",
}


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
