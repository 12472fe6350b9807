"""Public names: type checkers read them here, and `lazy_loader` loads each one at its first use."""

import toptune.machine.watch as _watch

from .backbone.backbone import (
    Backbone as Backbone,
    list_taps as list_taps,
    load_backbone as load_backbone,
)
from .backbone.build import list_models as list_models
from .backbone.libraries.custom import Custom as Custom
from .backbone.taps import (
    Tap as Tap,
    TapArray as TapArray,
)
from .backbone.upper_half import named_layers as named_layers
from .extraction import (
    extract as extract,
    extract_models as extract_models,
)
from .images.decode import (
    DECODE as DECODE,
    decode_image as decode_image,
)
from .images.source import ImageSource as ImageSource
from .request.plan import (
    ArrayPlan as ArrayPlan,
    ExtractPlan as ExtractPlan,
    ExtractSummary as ExtractSummary,
)
from .request.stages import extraction_profile as extraction_profile
from .sources.arrays.image_list import source_of_images as source_of_images
from .sources.opening import open_source as open_source

Clocks = _watch.Clocks
