"""Arrays, types on disk and batch size of a request are drafted from the model and a sample of images."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Unpack

import numpy as np
import numpy.typing as npt

from toptune.errors import ConflictError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.extract.backbone.folding import FOLDED
from toptune.extract.backbone.spec import BackboneArguments, check_decode_device
from toptune.extract.backbone.taps import TapArray
from toptune.extract.backbone.upper_half import UPPER
from toptune.extract.batch_size import default_batch_size, measure_batch_size
from toptune.extract.deviation import (
    MAX_RELATIVE_ERROR,
    Deviation,
    find_drawn_excess,
    find_large,
    is_plain,
    measure_deviations,
    refuse_deviations,
)
from toptune.extract.drawn_images import draw_images
from toptune.extract.images.decode import AUTO, EARLIER
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.reader import open_reader
from toptune.extract.pipeline.transfers import FLOAT16_LARGEST, in_memory
from toptune.extract.planning import Draft
from toptune.extract.request.request import ExtractRequest
from toptune.machine.devices import HALF, resolve_device
from toptune.options import flat_options
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.recipe import ROUTES
from toptune.text import named

logger = logging.getLogger(__name__)

# The sample is the same for every job of the same data, so that all jobs of an array choose one type.
SAMPLE_ROWS = 16
# float16 reaches 65504 and loses digits below 6e-5: values near either end are stored as float32.
FLOAT16_MAX = FLOAT16_LARGEST / 16
FLOAT16_MIN = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Look:
    """Arrays of one backbone, and their features of the sample of images.

    Attributes
    ----------
    backbone : Backbone
        The network, in the arithmetic that is tried.
    cache : FeatureCache, optional
        The cache that the backbone's features were begun in.
    arrays : sequence of TapArray
        Arrays that are requested.
    stored : mapping of str to str
        Types on disk of arrays that are stored already and stay.
    values : mapping of str to array (k, dim) of float32
        Features of the sample, of arrays that are not stored; empty where no decision depends on the
        features.
    deviations : mapping of str to Deviation
        How far arithmetic and decode route move these features from those of the plain model in float32 on
        the exact route; empty where both are the plain model's.
    drawn : mapping of str to Deviation
        How far the arithmetic moves features of drawn images, of all blocks; empty where it is settled.
    """

    backbone: Backbone
    cache: FeatureCache | None
    arrays: Sequence[TapArray]
    stored: Mapping[str, str]
    values: Mapping[str, npt.NDArray[np.float32]]
    deviations: Mapping[str, Deviation]
    drawn: Mapping[str, Deviation]


def load_for(request: ExtractRequest) -> Backbone:
    """Load a request's backbone, in the arithmetic of the data set's stored features if there are any."""
    check_decode_device(request.options.backbone.decode, resolve_device(request.options.device).type)
    backbone = _load(request)
    route = request.options.backbone.decode
    if route == "fast" and backbone.options.decode != route:
        logger.info("decode fast is exact for %s, because torch does not have its resizing", backbone.name)
    if (backbone.recipe.precision, backbone.device.type) == ("fp16", "cpu"):
        logger.warning(
            "%s: precision fp16 takes several times as long as fp32 on a CPU; it is meant for GPUs [TT101]",
            request.name.given,
        )
    if request.existing is None:
        return backbone
    # What `auto` means was settled when the cache was made, perhaps on another machine.
    parts = request.family or (request.dataset,)
    recipes = {cache.digest for part in parts for cache in request.existing.caches(dataset=part)}
    is_free = request.options.backbone.precision == "auto"
    precisions = ("fp32", *HALF) if is_free else (backbone.recipe.precision,)
    own = backbone.recipe.forward
    routes = (backbone.options.decode, *EARLIER.get(route, ()))
    forwards = (own, own.replace(FOLDED, "").strip("+"))
    for decode, precision, forward in product(routes, precisions, forwards):
        other = dataclasses.replace(
            backbone.recipe, precision=precision, forward=forward, decode=ROUTES[decode]
        )
        if backbone.recipe.digest not in recipes and other.digest in recipes:
            logger.info(
                "%s: adopting %s, decoded by %s, with which these features were begun",
                backbone.name,
                other.arithmetic,
                other.decode,
            )
            return _load(request, precision=precision, fold=FOLDED in forward, decode=decode)
    return backbone


def make_draft(request: ExtractRequest, backbone: Backbone, before: Sequence[Draft]) -> Draft:
    """Settle what a request leaves open: arithmetic, types on disk, batch size and format.

    Parameters
    ----------
    request : ExtractRequest
        The request of the call.
    backbone : Backbone
        The backbone that `load_for` loaded.
    before : sequence of Draft
        Drafts for the parts of the data set before this one, of the same model: a new part gets the batches,
        format and wide types of the parts before it.

    Raises
    ------
    ConflictError
        If the request does not fit what is stored.
    NumericalError
        If the requested arithmetic moves features too far.
    """
    look = _look_around(request, backbone, before)
    parts = [_find_cache(request, look.backbone, part) for part in request.family]
    like = [cache for cache in parts if cache is not None]
    if look.cache is None and (like or before):
        asked = request.options
        size = like[0].batch_size if like else before[0].request.options.batch_size
        form = like[0].format if like else before[0].request.options.format
        request = request.with_options(batch_size=asked.batch_size or size, format=asked.format or form)
    wide = {spec.name for other in like for spec in other.arrays() if spec.dtype == "float32"}
    wide |= {name for each in before for name, dtype in each.dtypes.items() if dtype == "float32"}
    dtypes = dict(look.stored)
    for array in look.arrays:
        if array.name not in dtypes:
            values = look.values.get(array.name)
            dtypes[array.name] = _stored_type(request, array.name, values, wide)
    if look.cache is None:
        request = request.with_options(batch_size=_batch_size(request, look.backbone, look.arrays))
    return Draft(
        request=request,
        backbone=look.backbone,
        arrays=look.arrays,
        cache=look.cache,
        dtypes=dtypes,
        deviations=look.deviations,
    )


def _look_around(request: ExtractRequest, backbone: Backbone, before: Sequence[Draft]) -> _Look:
    """Compute the sample with the backbone; settle ``auto`` on drawn images, and then perhaps in fp32."""
    is_auto = request.options.backbone.precision == "auto"
    # Features that are stored already hold `auto` to their arithmetic, and so do parts before this one.
    is_begun = bool(before) or any(
        _find_cache(request, backbone, part) for part in request.family or (request.dataset,)
    )
    is_open = is_auto and backbone.recipe.precision != "fp32" and not is_begun
    look = _look(request, backbone, before, is_open=is_open)
    if excess := find_drawn_excess(look.drawn, backbone.recipe.arithmetic):
        logger.warning(
            "%s: precision auto takes fp32: %s; --precision %s takes %s all the same, and is refused "
            "where it moves a sample of the images by more than %g [TT102]",
            request.name.given,
            excess,
            *[backbone.recipe.precision] * 2,
            MAX_RELATIVE_ERROR,
        )
        look = _look(request, _load(request, precision="fp32", decode=backbone.options.decode), before)
    arithmetic, route = look.backbone.recipe.arithmetic, look.backbone.options.decode
    # The choice of `auto` is the model's, and not that of a data set: a run could not score the features of
    # another data set of the same model. A data set that is served worse is told and recorded.
    is_chosen = is_plain(arithmetic) or (is_auto and look.backbone.recipe.precision != "fp32")
    is_chosen = is_chosen and (request.options.backbone.decode == AUTO or route.startswith("exact"))
    if not is_chosen or not all(np.isfinite(each.relative_error) for each in look.deviations.values()):
        refuse_deviations(look.deviations, arithmetic, route, model=request.name.given)
    if large := find_large(look.deviations, arithmetic, route):
        logger.warning("%s: %s [TT103]", request.name.given, large)
    return look


def _look(
    request: ExtractRequest, backbone: Backbone, before: Sequence[Draft], *, is_open: bool = False
) -> _Look:
    cache = _find_cache(request, backbone)
    arrays = _arrays(request, backbone, before)
    stored = _stored_types(request, cache)
    _refuse_conflicts(request, cache, arrays, stored)
    new = [array for array in arrays if array.name not in stored]
    plain, views = backbone, [backbone]
    if not backbone.options.decode.startswith("exact"):
        plain = dataclasses.replace(backbone, transform=backbone.transform.exact())
        views.append(plain)
    is_exact = is_plain(backbone.recipe.arithmetic) and plain is backbone
    # The sample costs seconds, and decides types on disk and the arithmetic. Folding alone needs no sample,
    # because folding was tried on noise when the backbone was loaded.
    needs_sample = bool(new) and not (is_exact and request.options.dtype != "auto")
    samples = _read_sample(request, views) if needs_sample else []
    values: dict[str, npt.NDArray[np.float32]] = {}
    deviations: Mapping[str, Deviation] = {}
    drawn: Mapping[str, Deviation] = {}
    if is_open or (samples and not is_plain(backbone.recipe.arithmetic)):
        plain = _load(request, precision="fp32", fold=False, compiled=False)
    if samples:
        values = forward_pixels(backbone, samples[0], new).result()
        if not is_exact:
            names = [array.name for array in new]
            reference = forward_pixels(plain, samples[-1], plain.arrays(names)).result()
            deviations = measure_deviations(values, reference)
    if is_open:
        # A pass that is compiled for all blocks would take a minute, and hardly rounds otherwise.
        is_compiled = request.options.backbone.compiled
        drawn = drawn_deviations(_load(request, compiled=False) if is_compiled else backbone, plain)
    return _Look(
        backbone=backbone,
        cache=cache,
        arrays=arrays,
        stored=stored,
        values=values,
        deviations=deviations,
        drawn=drawn,
    )


def drawn_deviations(backbone: Backbone, plain: Backbone) -> dict[str, Deviation]:
    """Compare features of drawn images with those of the plain model; the worst kind of image counts.

    All blocks count, whichever are asked for: the layers of a request must not decide about the model.
    """
    arrays = backbone.resolve("all")
    exact = plain.arrays([array.name for array in arrays])
    worst: dict[str, Deviation] = {}
    # A model of other bands sees the colors of the drawn images again and again.
    bands = np.arange(backbone.transform.n_channels) % 3
    for pixels in draw_images(backbone.transform.size).values():
        pixels = np.ascontiguousarray(pixels[..., bands])
        found = forward_pixels(backbone, pixels, arrays).result()
        for name, each in measure_deviations(found, forward_pixels(plain, pixels, exact).result()).items():
            # The comparison is negated, because a relative error that is not a number is the worst.
            if name not in worst or not each.relative_error <= worst[name].relative_error:
                worst[name] = each
    return worst


def _load(request: ExtractRequest, **changes: Unpack[BackboneArguments]) -> Backbone:
    """Load a request's backbone, with some of the options changed."""
    given = {**flat_options(request.options.backbone), **changes}
    return load_backbone(request.name.given, device=request.options.device, **given)


def _arrays(request: ExtractRequest, backbone: Backbone, before: Sequence[Draft]) -> list[TapArray]:
    """Return the arrays that are asked for; without layers those that the features were begun with.

    An extraction by the defaults of an older version is neither repeated nor widened by the default of this
    one, and a version of a data set has in all of its parts what the versions before it have.
    """
    layers, pooling = request.options.layers, request.options.pooling
    if layers is not None or pooling is not None:
        return backbone.resolve(UPPER if layers is None else layers, pooling)
    caches = [_find_cache(request, backbone, part) for part in request.family or (request.dataset,)]
    # Another job of an array may be making its arrays at this moment. The first unit is committed after all.
    held = [each for each in caches if each is not None and each.count_entries(CONTENT_ARRAY)]
    begun = {spec.name for cache in held for spec in cache.arrays()}
    begun |= {array.name for each in before for array in each.arrays}
    upper = backbone.resolve(UPPER)
    if not begun or begun == {array.name for array in upper}:
        return upper
    absent = [array.name for array in upper if array.name not in begun]
    if absent and not before:
        logger.warning(
            "%s: the features of %s were begun with %s, and stay so; --layers %s, the default of new "
            "features, adds %s [TT104]",
            request.name.given,
            request.dataset,
            named(sorted(begun), most=3),
            UPPER,
            named(absent, most=3),
        )
    return backbone.arrays(sorted(begun))


def _stored_types(request: ExtractRequest, cache: FeatureCache | None) -> dict[str, str]:
    if cache is None or request.options.overwrite:
        return {}
    return {spec.name: spec.dtype for spec in cache.arrays()}


def _refuse_conflicts(
    request: ExtractRequest,
    cache: FeatureCache | None,
    arrays: Sequence[TapArray],
    stored: Mapping[str, str],
) -> None:
    """Raise a `ConflictError` if the stored features have another batch size or another type on disk."""
    size, dtype = request.options.batch_size, request.options.dtype
    if cache is not None and size not in (None, "auto", cache.batch_size):
        raise ConflictError(
            f"{cache.name} over {cache.dataset} was begun with batches of {cache.batch_size}, not "
            f"{size}; leave --batch-size out, or use another --store"
        )
    for array in arrays:
        found = stored.get(array.name)
        if dtype != "auto" and found not in (None, dtype):
            raise ConflictError(
                f"{array.name} of {request.name.given} is stored as {found}, not {dtype}; use --overwrite"
            )


def _batch_size(request: ExtractRequest, backbone: Backbone, arrays: Sequence[TapArray]) -> int:
    size = request.options.batch_size
    if size == "auto":
        return measure_batch_size(backbone, arrays)
    return default_batch_size(backbone, arrays) if size is None else int(size)


def _read_sample(request: ExtractRequest, backbones: Sequence[Backbone]) -> list[npt.NDArray[np.uint8]]:
    """Read pixels (k, h, w, 3) of the same images for each backbone; none if no image can be used."""
    rows = request.sample_rows(SAMPLE_ROWS)
    with open_reader(request, backbones) as reader:
        sampled = list(reader.batches(slice(row, row + 1) for row in rows))
    good = [batches for batches in sampled if not any(batch.failed for batch in batches)]
    by_backbone = zip(*good, strict=True)
    return [np.concatenate([in_memory(batch.pixels) for batch in of_one]) for of_one in by_backbone]


def _stored_type(
    request: ExtractRequest, name: str, values: npt.NDArray[np.float32] | None, wide: Collection[str]
) -> str:
    """Decide an array's type on disk: the type that was asked for, or what the sample says.

    Arrays in `wide` are float32 in other parts of the data set, and therefore here: a view over the parts has
    the widest of their types.
    """
    if request.options.dtype != "auto":
        return request.options.dtype
    if values is None or name in wide:
        return "float32"
    peak = float(np.abs(values).max())
    if FLOAT16_MIN <= peak <= FLOAT16_MAX:
        return "float16"
    given = request.name.given
    logger.warning(
        "%s: %s is stored as float32: its largest sampled value is %.3g [TT105]", given, name, peak
    )
    return "float32"


def _find_cache(request: ExtractRequest, backbone: Backbone, part: str | None = None) -> FeatureCache | None:
    """Return the cache of the backbone's features for the data set, or for one of its parts."""
    if request.existing is None:
        return None
    for cache in request.existing.caches(dataset=part or request.dataset):
        if cache.digest == backbone.recipe.digest:
            return cache
    return None
