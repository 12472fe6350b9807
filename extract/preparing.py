"""Each request is prepared: drafted, planned, and given the cache that takes the features."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from toptune.errors import ConflictError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.drafting import load_for, make_draft
from toptune.extract.pipeline.model_work import ModelWork, find_work
from toptune.extract.planning import Draft, make_plan
from toptune.extract.request.finished import check_touched
from toptune.extract.request.plan import ExtractPlan, ExtractSummary
from toptune.extract.request.request import ExtractRequest
from toptune.machine.heap import keep_freed_memory
from toptune.store.features.feature_cache import CONTENT_ARRAY, DIGEST_BYTES, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.upkeep.removal import remove_arrays


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A drafted request with its plan."""

    draft: Draft
    plan: ExtractPlan

    def dry_summary(self) -> ExtractSummary:
        """Summarize what the plan would do, without doing it."""
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

    def open(self) -> ModelWork:
        """Make the cache and its arrays, check images that were touched, and find units that are missing."""
        draft, request = self.draft, self.draft.request
        cache = _open_cache(request, draft.backbone, self.plan)
        if request.options.overwrite:
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
        return find_work(request, draft.backbone, draft.arrays, cache, plan=self.plan)


def prepare(requests: Sequence[ExtractRequest]) -> list[Prepared]:
    """Load each model once, compute a sample of images, and plan.

    New caches of one data set get the same units and batches, so that one pass over the images serves all.

    Parameters
    ----------
    requests : sequence of ExtractRequest
        Requests for one data set, or for several of its parts; for one model or several.

    Returns
    -------
    list of Prepared
        In the order of `requests`.
    """
    keep_freed_memory()
    backbones: dict[str, Backbone] = {}
    drafts: list[Draft] = []
    for request in requests:
        given = request.name.given
        if given not in backbones:
            backbones[given] = load_for(request)
        before = [each for each in drafts if each.request.name.given == given]
        drafts.append(make_draft(request, backbones[given], before))
        # The draft may have taken another arithmetic, which then holds for the next parts.
        backbones[given] = drafts[-1].backbone
    prepared = []
    for draft in drafts:
        fresh = [each for each in drafts if each.request.dataset == draft.request.dataset and not each.cache]
        prepared.append(Prepared(draft=draft, plan=make_plan(draft, fresh)))
    return prepared


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
        format=request.options.format or "zarr",
    )
    if request.options.format not in (None, cache.format):
        raise ConflictError(
            f"{cache.name} over {cache.dataset} is stored as {cache.format}, not {request.options.format}; "
            "leave --format out, or convert it into another store with store copy --format"
        )
    return cache
