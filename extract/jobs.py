"""The extraction itself: read, compute and commit, overlapping; several models share what is read."""

import dataclasses
import logging
from collections.abc import Sequence

from toptune.errors import StoreError
from toptune.extract.pipeline.dask_units import open_workers, planning_device
from toptune.extract.pipeline.image_pass import Pass
from toptune.extract.pipeline.lane import Lane
from toptune.extract.preparing import prepare
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.request.request import ExtractRequest
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache

logger = logging.getLogger(__name__)


def run_jobs(requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    """Load the backbones, make the plans and, unless it is a dry run, carry them out.

    Parameters
    ----------
    requests : sequence of ExtractRequest
        Of one data set, or of several of its parts; for one model or several.
    """
    prepared = prepare([dataclasses.replace(each, device=planning_device(each)) for each in requests])
    if requests[0].dry_run:
        return [each.dry_summary() for each in prepared]
    lanes = [each.open() for each in prepared]
    passes = [Pass(together) for together in _sharing(lanes)]
    total = sum(each.rows for each in passes)
    done, n_failed = 0, 0
    summaries: dict[Lane, ExtractSummary] = {}
    with open_workers(requests[0], sum(len(each.units) for each in passes)) as workers:
        for each in passes:
            each.run(before=done, total=total, failed=n_failed, workers=workers)
            done, n_failed = done + each.rows, n_failed + each.n_failed
            for lane in each.lanes:
                summaries[lane] = each.summary(lane)
                _tidy(lane.cache, lane.request.key, lane.names)
    return [summaries[lane] for lane in lanes]


def _sharing(lanes: Sequence[Lane]) -> list[list[Lane]]:
    """Group lanes that can share what is read: of one data set, and of one cut."""
    groups: dict[tuple[str, int, int], list[Lane]] = {}
    for lane in lanes:
        groups.setdefault((lane.request.dataset, *lane.cut), []).append(lane)
    return list(groups.values())


def _tidy(cache: FeatureCache, key: str | None, names: Sequence[str]) -> None:
    """Do what only makes later commands quicker: pack the ledgers, note what was asked."""
    try:
        cache.pack_ledgers([*names, CONTENT_ARRAY])
        if key is not None:
            cache.remember_request(key, names)
    except StoreError as error:
        # The features are stored, and a store that cannot be written to can be read.
        logger.info("later commands will be slower than they could be: %s", error)
