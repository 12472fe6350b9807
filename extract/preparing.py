"""Before an extraction: backbones, types on disk, the cut into units, and the plan that says it all."""

import dataclasses
import logging
import time
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import ConflictError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.extract.backbone.folding import FOLDED
from toptune.extract.backbone.taps import TapArray
from toptune.extract.batch_size import BATCH_SIZES, measure_batch_size
from toptune.extract.deviation import Deviation, find_excess, measure_deviations, refuse_deviations
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.lane import Lane
from toptune.extract.pipeline.reader import DIGEST_BYTES, open_reader
from toptune.extract.pipeline.transfers import FLOAT16_LARGEST
from toptune.extract.planning import Draft, _make_plan
from toptune.extract.request.finished import check_touched
from toptune.extract.request.plan import ExtractPlan, ExtractSummary
from toptune.extract.request.request import ExtractRequest
from toptune.machine.heap import keep_freed_memory
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.upkeep.removal import remove_arrays

logger = logging.getLogger(__name__)

SAMPLE_ROWS = 16
# float16 reaches 65504 and loses digits below 6e-5: values near either end go to float32.
FLOAT16_MAX = FLOAT16_LARGEST / 16
FLOAT16_MIN = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """One request with its plan."""

    draft: Draft
    plan: ExtractPlan

    def dry_summary(self) -> ExtractSummary:
        """Say what would be done."""
        plan, request = self.plan, self.draft.request
        return ExtractSummary(
            dataset=request.dataset,
            model=plan.model,
            digest=self.draft.backbone.recipe.digest,
            cache="" if self.draft.cache is None else str(self.draft.cache.path),
            rows=plan.rows,
            units_total=plan.units,
            units_done=0,
            units_already=plan.units - plan.units_missing,
            seconds_total=time.perf_counter() - request.started,
            arrays=plan.arrays,
            nothing_to_do=not plan.units_missing,
            plan=plan,
            dry_run=True,
        )

    def open(self) -> Lane:
        """Make the cache and its arrays, and look at what was touched."""
        draft, request = self.draft, self.draft.request
        cache = _open_cache(request, draft.backbone, self.plan)
        if request.overwrite:
            remove_arrays(cache, [array.name for array in draft.arrays])
        for array in draft.arrays:
            deviation = draft.deviations.get(array.name)
            cache.ensure_array(
                array.name,
                dim=array.dim,
                dtype=draft.dtypes[array.name],
                measured=None if deviation is None else deviation.to_dict(),
            )
        cache.ensure_array(CONTENT_ARRAY, dim=DIGEST_BYTES, dtype="uint8")
        check_touched(cache, request)
        return Lane(request, draft.backbone, draft.arrays, cache, self.plan)


def prepare(requests: Sequence[ExtractRequest]) -> list[Prepared]:
    """Load each model once, look at a sample of images, and plan.

    New caches of one data set are cut alike, so that what is read serves all of them.

    Parameters
    ----------
    requests : sequence of ExtractRequest
        Of one data set, or of several of its parts; for one model or several.
    """
    keep_freed_memory()
    backbones: dict[str, Backbone] = {}
    drafts: list[Draft] = []
    for request in requests:
        given = request.name.given
        if given not in backbones:
            backbones[given] = _load(request)
        before = [each for each in drafts if each.request.name.given == given]
        drafts.append(_draft(request, backbones[given], before))
        backbones[given] = drafts[-1].backbone
    prepared = []
    for draft in drafts:
        fresh = [each for each in drafts if each.request.dataset == draft.request.dataset and not each.cache]
        prepared.append(Prepared(draft=draft, plan=_make_plan(draft, fresh)))
    return prepared


def _load(request: ExtractRequest) -> Backbone:
    backbone = _with(request)
    if request.existing is None:
        return backbone
    # What `auto` means was settled when the cache was made, perhaps on another machine.
    parts = request.family or (request.dataset,)
    recipes = {cache.digest for part in parts for cache in request.existing.caches(dataset=part)}
    precisions = ("fp32", "bf16") if request.options["precision"] == "auto" else (backbone.recipe.precision,)
    own = backbone.recipe.forward
    for precision, forward in product(precisions, (own, own.replace(FOLDED, "").strip("+"))):
        other = dataclasses.replace(backbone.recipe, precision=precision, forward=forward)
        if backbone.recipe.digest not in recipes and other.digest in recipes:
            logger.info("adopting %s, with which these features were begun", other.arithmetic)
            return _with(request, precision=precision, fold=FOLDED in forward)
    return backbone


def _with(request: ExtractRequest, **options: Any) -> Backbone:
    return load_backbone(request.name.given, device=request.device, **{**request.options, **options})


def _draft(request: ExtractRequest, backbone: Backbone, before: Sequence[Draft]) -> Draft:
    """Look at the sample; a new part is cut and stored like the parts before it."""
    arrays = backbone.resolve(request.layers, request.pooling)
    cache = _find_cache(request, backbone)
    like = [other for part in request.family if (other := _find_cache(request, backbone, part)) is not None]
    wide = {spec.name for other in like for spec in other.arrays() if spec.dtype == "float32"}
    wide |= {name for each in before for name, dtype in each.dtypes.items() if dtype == "float32"}
    if cache is None and (like or before):
        size = like[0].batch_size if like else before[0].request.batch_size
        form = like[0].format if like else before[0].request.format
        request = dataclasses.replace(
            request, batch_size=request.batch_size or size, format=request.format or form
        )
    if cache is not None and request.batch_size not in (None, "auto", cache.batch_size):
        raise ConflictError(
            f"{cache.name} over {cache.dataset} was begun with batches of {cache.batch_size}, not "
            f"{request.batch_size}; leave --batch-size out, or use another --store"
        )
    dtypes = {} if cache is None or request.overwrite else {spec.name: spec.dtype for spec in cache.arrays()}
    for array in arrays:
        stored = dtypes.get(array.name)
        if request.dtype != "auto" and stored not in (None, request.dtype):
            raise ConflictError(f"{array.name} is stored as {stored}, not {request.dtype}; use --overwrite")
    new = [array for array in arrays if array.name not in dtypes]
    is_exact = backbone.recipe.precision == "fp32" and not request.options["compiled"]
    # Folding alone was tried on noise when the backbone was loaded.
    sample = _sample(request, backbone) if new and not (is_exact and request.dtype != "auto") else None
    deviations: dict[str, Deviation] = {}
    values: dict[str, npt.NDArray[np.float32]] = {}
    if sample is not None:
        values = forward_pixels(backbone, sample, new).result()
        if not is_exact:
            exact = _with(request, precision="fp32", fold=False, compiled=False)
            reference = forward_pixels(exact, sample, exact.arrays([array.name for array in new])).result()
            deviations = measure_deviations(values, reference)
            arithmetic = backbone.recipe.arithmetic
            is_free = request.options["precision"] == "auto" and backbone.recipe.precision != "fp32"
            if is_free and not cache and (reason := find_excess(deviations, arithmetic)):
                logger.warning("precision auto takes fp32: %s", reason)
                return _draft(request, _with(request, precision="fp32"), before)
            refuse_deviations(deviations, arithmetic)
    for array in new:
        dtypes[array.name] = _stored_type(request, array.name, values.get(array.name), wide)
    if cache is None and request.batch_size in (None, "auto"):
        request = dataclasses.replace(request, batch_size=_batch_size(request, backbone, arrays))
    return Draft(
        request=request, backbone=backbone, arrays=arrays, cache=cache, dtypes=dtypes, deviations=deviations
    )


def _batch_size(request: ExtractRequest, backbone: Backbone, arrays: Sequence[TapArray]) -> int:
    if request.batch_size == "auto":
        return measure_batch_size(backbone, arrays)
    return BATCH_SIZES[backbone.device.type]


def _sample(request: ExtractRequest, backbone: Backbone) -> npt.NDArray[np.uint8] | None:
    """Read pixels (k, h, w, 3) of some images; None if none of them can be used.

    Evenly spread and of a fixed number, so that every job of the same data decides the same.
    """
    n = request.manifest.n_rows
    there = np.arange(n) if request.needed is None else np.flatnonzero(request.needed)
    places = np.linspace(0, len(there) - 1, min(len(there), SAMPLE_ROWS)).round().astype(int)
    rows = there[np.unique(places)].tolist()
    with open_reader(request, [backbone]) as reader:
        sampled = [batch for (batch,) in reader.batches(slice(row, row + 1) for row in rows)]
    good = [batch.pixels for batch in sampled if not batch.failed]
    return np.concatenate(good) if good else None


def _stored_type(
    request: ExtractRequest, name: str, values: npt.NDArray[np.float32] | None, wide: Collection[str]
) -> str:
    """Decide an array's type on disk: what was asked, or what a sample says.

    Those in `wide` are float32 in other parts of the data set, and so here.
    """
    if request.dtype != "auto":
        return request.dtype
    if values is None or name in wide:
        return "float32"
    peak = float(np.abs(values).max())
    if FLOAT16_MIN <= peak <= FLOAT16_MAX:
        return "float16"
    logger.warning("%s is stored as float32: its largest sampled value is %.3g", name, peak)
    return "float32"


def _find_cache(request: ExtractRequest, backbone: Backbone, part: str | None = None) -> FeatureCache | None:
    if request.existing is None:
        return None
    for cache in request.existing.caches(dataset=part or request.dataset):
        if cache.digest == backbone.recipe.digest:
            return cache
    return None


def _open_cache(request: ExtractRequest, backbone: Backbone, plan: ExtractPlan) -> FeatureCache:
    store = FeatureStore.create(request.root)
    if not request.family:  # parts are registered with their version
        store.register(request.dataset, request.manifest)
    cache = store.create_cache(
        request.name.plain,
        request.dataset,
        backbone.recipe,
        unit_rows=plan.unit_rows,
        batch_size=plan.batch_size,
        backbone=backbone.spec,
        format=request.format or "zarr",
    )
    if request.format not in (None, cache.format):
        raise ConflictError(
            f"{cache.name} over {cache.dataset} is stored as {cache.format}, not {request.format}; "
            "leave --format out, or convert it into another store with store copy --format"
        )
    return cache
