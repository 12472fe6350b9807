"""Requests that are not finished are carried out: models are loaded, planned for and run over images."""

import logging
from collections.abc import Sequence

from toptune.errors import StoreError
from toptune.extract.images.narrow import NarrowImages
from toptune.extract.pipeline.dask_units import open_workers, planning_device, usable_device
from toptune.extract.pipeline.image_pass import Pass, Tally
from toptune.extract.pipeline.model_work import ModelWork
from toptune.extract.preparing import prepare
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.request.request import ExtractRequest
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache

logger = logging.getLogger(__name__)


def run_jobs(requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    """Load the backbones, make the plans and, except in a dry run, carry the plans out.

    Parameters
    ----------
    requests : sequence of ExtractRequest
        Requests for one data set, or for several of its parts; for one model or several.

    Returns
    -------
    list of ExtractSummary
        In the order of `requests`.
    """
    requests = [each.settled() for each in requests]
    device = usable_device(requests[0])
    requests = [each.with_options(device=device) for each in requests]
    prepared = prepare([each.with_options(device=planning_device(each)) for each in requests])
    if requests[0].options.dry_run:
        return [each.dry_summary() for each in prepared]
    # Every plan stands before the first array is made, so that a request that cannot be planned
    # leaves the store alone.
    works = [each.open() for each in prepared]
    passes = [Pass(together) for together in _sharing(works)]
    tally = Tally(requests[0].options.report, sum(each.rows for each in passes))
    summaries: dict[ModelWork, ExtractSummary] = {}
    # Passes for several models may read the same images: each image is told once.
    narrow: dict[str, NarrowImages] = {}
    n_units, backbones = sum(len(each.units) for each in passes), [work.backbone for work in works]
    with open_workers(requests[0], n_units, backbones) as workers:
        for each in passes:
            each.run(tally, compute=None if workers is None else workers.compute)
            narrow[each.works[0].request.dataset] = each.narrow
            for work, summary in zip(each.works, each.summaries(), strict=True):
                summaries[work] = summary
                _tidy(work.cache, list(work.request.keys.values()), work.names)
    sum(narrow.values(), start=NarrowImages()).warn()
    return [summaries[work] for work in works]


def _sharing(works: Sequence[ModelWork]) -> list[list[ModelWork]]:
    """Group models whose caches have the same units and batches, and which share a pass over images."""
    groups: dict[tuple[str, int, int], list[ModelWork]] = {}
    for work in works:
        groups.setdefault(work.sharing, []).append(work)
    return list(groups.values())


def _tidy(cache: FeatureCache, keys: Sequence[str], names: Sequence[str]) -> None:
    """Pack the ledgers and note the finished request, which only makes later commands quicker."""
    try:
        cache.pack_ledgers([*names, CONTENT_ARRAY])
        for key in keys:
            cache.remember_request(key, names)
    except StoreError as error:
        # The features are stored, and a store that cannot be written to can be read.
        logger.info("later commands will be slower than they could be: %s", error)
