"""Finished requests are recognized from the store, and images that changed since are refused."""

import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np

from toptune.errors import ConflictError, InputError, UnreadableImageError
from toptune.extract.images.source import read_bytes
from toptune.extract.request.plan import ArrayPlan, ExtractPlan, ExtractSummary
from toptune.extract.request.request import ExtractRequest
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.text import counted

SHOWN = 3


def recognize(store: FeatureStore, request: ExtractRequest) -> ExtractSummary | None:
    """Return a summary if everything that was asked for is in the store, else None."""
    if request.options.overwrite:
        return None
    for key in request.keys.values():
        found = store.find_request(request.dataset, key)
        if found is not None and (summary := _finished(request, *found)) is not None:
            return summary
    return None


def _finished(request: ExtractRequest, cache: FeatureCache, names: Sequence[str]) -> ExtractSummary | None:
    """Return a summary if the cache has all of the arrays, else None."""
    if request.options.batch_size not in (None, "auto", cache.batch_size) or request.options.format not in (
        None,
        cache.format,
    ):
        return None
    # The note of a finished request is only a hint. The ledger decides: arrays may have been removed since,
    # or another shard may be asked for.
    specs = {spec.name: spec for spec in cache.arrays()}
    units = request.units(cache.n_units, cache.unit_rows)
    if any(name not in specs or request.options.dtype not in ("auto", specs[name].dtype) for name in names):
        return None
    if any(cache.entry(name, unit) is None for name in [*names, CONTENT_ARRAY] for unit in units):
        return None
    check_touched(cache, request)
    return finished_summary(cache, names, request)


def check_touched(cache: FeatureCache, request: ExtractRequest) -> None:
    """Read images again whose modification time changed since they were registered.

    Raises
    ------
    ConflictError
        If the content of an image differs from what was extracted; the message names the image.
    """
    # A copy or a checkout gives files new times without changing a byte: the times say what to read, the
    # digests what changed.
    touched = np.flatnonzero(cache.manifest.modified_ns != request.manifest.modified_ns)
    if not len(touched):
        return
    changed = []
    for unit in np.unique(touched // cache.unit_rows).tolist():
        rows, digests = cache.unit_slice(unit), cache.unit_digests(unit)
        if digests is None:
            continue
        for row in touched[(touched >= rows.start) & (touched < rows.stop)].tolist():
            try:
                digest = hashlib.sha256(read_bytes(request.source, row)).digest()
            except UnreadableImageError:
                digest = bytes(digests.shape[1])
            if digest != digests[row - rows.start].tobytes():
                changed.append(request.manifest.image_id(row))
    refuse_changed(changed, request.dataset)


def refuse_changed(changed: Sequence[str], dataset: str) -> None:
    """Raise a `ConflictError` that names the images, if there are any."""
    if changed:
        shown = ", ".join(changed[:SHOWN]) + (", ..." if len(changed) > SHOWN else "")
        raise ConflictError(
            f"{counted(len(changed), 'image')} of data set {dataset!r} changed since the extraction: "
            f"{shown}; give --update to extract what is there now, put "
            "back what was, or extract under another --dataset"
        )


def refuse_all_failed(failed: Mapping[str, str], n_rows: int, dataset: str) -> None:
    """Raise an `InputError` if every image failed, which points to a mistake in DATA."""
    if len(failed) == n_rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:SHOWN])
        raise InputError(
            f"none of the {n_rows} images of {dataset!r} could be used: {reasons}; these failures are "
            "recorded in the store under that name: repair the images and extract with --update, or under "
            "another --dataset"
        )


def finished_summary(
    cache: FeatureCache,
    names: Sequence[str],
    request: ExtractRequest,
    *,
    plan: ExtractPlan | None = None,
    units_done: int = 0,
) -> ExtractSummary:
    """Summarize what the store now holds of `names`, of which this call computed `units_done` units.

    Raises
    ------
    InputError
        If no image of the data set could be used.
    """
    needed, image = request.needed, request.manifest.image_id
    # One job of many says what failed in its own units: reading the entries of all jobs would cost as much
    # time as the job itself.
    mine = None if request.options.share == (0, 1) else request.units(cache.n_units, cache.unit_rows)
    failed = {
        image(row): reason
        for row, reason in cache.failed_rows([*names], units=mine).items()
        if needed is None or needed[row]
    }
    if needed is None:
        refuse_all_failed(failed, cache.n_rows, request.dataset)
    specs = {spec.name: spec for spec in cache.arrays()}
    n_units = len(request.units(cache.n_units, cache.unit_rows))
    return ExtractSummary(
        dataset=cache.dataset,
        model=cache.name,
        digest=cache.digest,
        cache=str(cache.path),
        rows=cache.n_rows if needed is None else int(needed.sum()),
        units_total=n_units,
        units_done=units_done,
        units_already=n_units - units_done,
        units_of_others=cache.n_units - n_units,
        nothing_to_do=units_done == 0,
        failed=failed,
        seconds_total=time.perf_counter() - request.started,
        arrays=tuple(
            ArrayPlan(name=name, dim=specs[name].dim, dtype=specs[name].dtype, units_missing=0)
            for name in names
        ),
        plan=plan,
    )
