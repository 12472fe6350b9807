"""A data set of the store is extracted part by part, as one of its versions or as the next version."""

import dataclasses
from collections.abc import Sequence

from toptune.errors import InputError
from toptune.extract.images.part import PartSource
from toptune.extract.request.content_check import ContentCheck
from toptune.extract.request.finished import refuse_all_failed, refuse_changed
from toptune.extract.request.plan import ArrayPlan, ExtractPlan, ExtractSummary
from toptune.extract.request.request import ExtractRequest
from toptune.extract.running import run_all
from toptune.store.datasets.registration import find_version
from toptune.store.datasets.versions import DatasetVersion
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.growth import Growth, grow, plan_growth


def run_update(store: FeatureStore, requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    """Find or make the version of the images, and extract the missing features of its parts for each model.

    Parameters
    ----------
    store : FeatureStore
        The store that has the data set.
    requests : sequence of ExtractRequest
        One request for each model, otherwise the same.

    Raises
    ------
    ConflictError
        If the images are no version of the data set, or were changed, and no update was asked for.
    """
    request = requests[0]
    check = ContentCheck(store, request.source, workers=request.options.n_workers)
    growth: Growth | None = None
    if request.options.update:
        step = plan_growth if request.options.dry_run else grow
        growth = step(
            store,
            request.dataset,
            request.manifest,
            changed=check.changed,
            find=check.find,
            every=request.options.rehash,
        )
        version = growth.after
    else:
        version = find_version(store.root, request.dataset, request.manifest)
        if request.options.rehash:
            _refuse_other_bytes(check, version, request)
    # The first version has one part, which is named like the data set: the requests fit as they are.
    if version.number == 1:
        summaries = run_all(requests)
    else:
        # Parts are never changed. Images that were added or changed form a part of their own, and the
        # features of all other images stay as they are.
        parts = [_part_requests(store, each, version, growth) for each in requests]
        done = iter(run_all([each for of_model in parts for each in of_model]))
        summaries = [
            _join(each, [next(done) for _ in of_model])
            for each, of_model in zip(requests, parts, strict=True)
        ]
    return [
        dataclasses.replace(
            summary,
            version=version.number,
            difference=None if growth is None or not growth.is_needed else growth.difference,
            changed=() if growth is None else _changed_ids(growth),
            rehashed=check.n_checked if request.options.rehash else None,
        )
        for summary in summaries
    ]


def _refuse_other_bytes(check: ContentCheck, version: DatasetVersion, request: ExtractRequest) -> None:
    changed: list[int] = []
    for part in version.parts:
        rows = version.rows_of(part)
        changed += rows[check.changed(part, version.part_row[rows], rows)].tolist()
    refuse_changed([request.manifest.ids[row] for row in sorted(changed)], request.dataset)


def _changed_ids(growth: Growth) -> tuple[str, ...]:
    before = set(growth.before.manifest.ids) if growth.new_part is not None else set()
    return tuple(name for name in growth.new_part.ids if name in before) if growth.new_part else ()


def _part_requests(
    store: FeatureStore, request: ExtractRequest, version: DatasetVersion, growth: Growth | None
) -> list[ExtractRequest]:
    """Split a request for a whole version into one request for each part of the version."""
    requests = []
    for part in version.parts:
        is_new = growth is not None and growth.new_part is not None and part == version.parts[-1]
        manifest = growth.new_part if is_new and growth is not None else store.part_manifest(part)
        assert manifest is not None
        source = PartSource(request.source, version, part, manifest)
        requests.append(
            dataclasses.replace(
                request,
                source=source,
                manifest=source.manifest(),
                dataset=part,
                existing=store,
                family=version.parts,
                needed=source.is_there,
            )
        )
    if request.options.overwrite:
        _refuse_loss(requests)
    return requests


def _refuse_loss(requests: Sequence[ExtractRequest]) -> None:
    """Raise an `InputError` if `overwrite` would remove features of images that DATA no longer has."""
    n_gone = sum(int((~each.needed).sum()) for each in requests if each.needed is not None)
    if n_gone:
        raise InputError(
            f"--overwrite would lose the features of {n_gone} images that older versions of the data set "
            "have and DATA has not; give another --store, or store rm --dataset --model first"
        )


def _join(request: ExtractRequest, parts: Sequence[ExtractSummary]) -> ExtractSummary:
    """Add up the summaries of all parts of one model."""
    failed = {name: reason for part in parts for name, reason in part.failed.items()}
    n_rows = sum(part.rows for part in parts)
    if not request.options.dry_run:
        refuse_all_failed(failed, n_rows, request.dataset)
    seconds = [
        part.plan.rows_missing / part.images_per_second
        for part in parts
        if part.plan is not None and part.images_per_second
    ]
    n_computed = sum(
        part.plan.rows_missing for part in parts if part.plan is not None and part.images_per_second
    )
    first = parts[0]
    return ExtractSummary(
        dataset=request.dataset,
        model=first.model,
        digest=first.digest,
        cache=first.cache,
        rows=n_rows,
        units_total=sum(part.units_total for part in parts),
        units_done=sum(part.units_done for part in parts),
        units_already=sum(part.units_already for part in parts),
        units_of_others=sum(part.units_of_others for part in parts),
        failed=failed,
        images_per_second=n_computed / sum(seconds) if seconds else 0.0,
        seconds_read=sum(part.seconds_read for part in parts),
        seconds_compute=sum(part.seconds_compute for part in parts),
        seconds_write=sum(part.seconds_write for part in parts),
        seconds_total=max(part.seconds_total for part in parts),
        bytes_written=sum(part.bytes_written for part in parts),
        arrays=_join_arrays([part.arrays for part in parts]),
        nothing_to_do=all(part.nothing_to_do for part in parts),
        plan=_join_plans(request, parts),
        dry_run=any(part.dry_run for part in parts),
    )


def _join_arrays(parts: Sequence[Sequence[ArrayPlan]]) -> tuple[ArrayPlan, ...]:
    joined: dict[str, ArrayPlan] = {}
    for array in (array for arrays in parts for array in arrays):
        known = joined.setdefault(array.name, dataclasses.replace(array, units_missing=0))
        joined[array.name] = dataclasses.replace(
            known,
            units_missing=known.units_missing + array.units_missing,
            dtype="float32" if "float32" in (known.dtype, array.dtype) else array.dtype,
        )
    return tuple(joined.values())


def _join_plans(request: ExtractRequest, parts: Sequence[ExtractSummary]) -> ExtractPlan | None:
    plans = [part.plan for part in parts if part.plan is not None]
    if not plans:
        return None
    return dataclasses.replace(
        plans[0],
        dataset=request.dataset,
        rows=sum(part.rows for part in parts),
        rows_missing=sum(plan.rows_missing for plan in plans),
        units=sum(part.units_total for part in parts),
        units_missing=sum(plan.units_missing for plan in plans),
        arrays=_join_arrays([plan.arrays for plan in plans]),
        bytes_read=sum(plan.bytes_read for plan in plans),
        bytes_written=sum(plan.bytes_written for plan in plans),
        memory_bytes=max(plan.memory_bytes for plan in plans),
        files_written=sum(plan.files_written for plan in plans),
        parts=len(parts),
    )
