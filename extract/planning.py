"""`make_plan`: the plan of an extraction is arithmetic over a draft and reads neither images nor model."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.taps import TapArray
from toptune.extract.deviation import Deviation
from toptune.extract.pipeline.model_work import missing_units
from toptune.extract.pipeline.reader import BATCHES_AHEAD
from toptune.extract.pipeline.streams import count_ahead
from toptune.extract.pipeline.writer import UNITS_BEHIND
from toptune.extract.request.plan import ArrayPlan, ExtractPlan
from toptune.extract.request.request import ExtractRequest
from toptune.store.arrays.units import choose_unit_rows
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """One request with the decisions that the model and a sample of images settle."""

    request: ExtractRequest
    backbone: Backbone
    arrays: Sequence[TapArray]
    cache: FeatureCache | None
    dtypes: Mapping[str, str]
    deviations: Mapping[str, Deviation]

    @property
    def bytes_per_image(self) -> int:
        """Bytes on disk of the features of an image."""
        return sum(array.dim * (2 if self.dtypes[array.name] == "float16" else 4) for array in self.arrays)


def make_plan(draft: Draft, fresh: Sequence[Draft]) -> ExtractPlan:
    """Plan a draft; `fresh` are the drafts for the same data set that have no cache yet."""
    # New caches of one data set get the units of the model with most bytes an image and the smallest batch
    # size, so that a single pass over the images serves all of them.
    request, cache, dtypes = draft.request, draft.cache, draft.dtypes
    n_rows = request.manifest.n_rows
    if cache is not None:
        batch_size, unit_rows = cache.batch_size, cache.unit_rows
    else:
        batch_size = min(int(each.request.options.batch_size or 1) for each in fresh)
        unit_rows = choose_unit_rows(n_rows, max(each.bytes_per_image for each in fresh), batch_size)
    n_units = -(-n_rows // unit_rows)
    shard = request.units(n_units, unit_rows)
    needed = np.ones(n_rows, dtype=np.bool_) if request.needed is None else request.needed
    names = [array.name for array in draft.arrays]
    if cache is None or request.options.overwrite:
        missing = {name: list(shard) for name in [*names, CONTENT_ARRAY]}
    else:
        missing = missing_units(cache, [*names, CONTENT_ARRAY], shard)
    units = sorted(set().union(*missing.values()))
    spans = [slice(unit * unit_rows, min((unit + 1) * unit_rows, n_rows)) for unit in units]
    array_plans = tuple(
        ArrayPlan(
            name=array.name, dim=array.dim, dtype=dtypes[array.name], units_missing=len(missing[array.name])
        )
        for array in draft.arrays
    )
    height, width = draft.backbone.transform.size
    return ExtractPlan(
        dataset=request.dataset,
        model=cache.name if cache else f"{request.name.plain}@{draft.backbone.recipe.digest[:8]}",
        store=str(request.root),
        device=str(draft.backbone.device),
        precision=draft.backbone.recipe.precision,
        rows=int(needed.sum()),
        rows_missing=int(sum(needed[span].sum() for span in spans)),
        unit_rows=unit_rows,
        batch_size=batch_size,
        units=len(shard),
        units_missing=len(units),
        arrays=array_plans,
        bytes_read=int(sum(request.manifest.sizes[span][needed[span]].sum() for span in spans)),
        bytes_written=sum(
            plan.bytes_per_image
            * sum(min((u + 1) * unit_rows, n_rows) - u * unit_rows for u in missing[plan.name])
            for plan in array_plans
        ),
        # Buffers hold pixels of the batches read ahead and in passes, and float32 features of four units: the
        # unit being computed, the unit before, a unit that waits and a unit being written.
        pixel_bytes_per_image=height * width * 3,
        files_written=sum(map(len, missing.values())),
        memory_bytes=(BATCHES_AHEAD + 2 + count_ahead(draft.backbone)) * batch_size * height * width * 3
        + (3 + UNITS_BEHIND) * unit_rows * sum(4 * array.dim for array in draft.arrays),
    )
