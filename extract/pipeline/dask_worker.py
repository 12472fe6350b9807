"""A dask worker makes sure that it sees what the client sees, then computes and commits whole units."""

import hashlib
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from toptune.errors import (
    DeviceMemoryError,
    InputError,
    StoreNotFoundError,
    ToptuneError,
    UnreadableImageError,
)
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.extract.images.source import read_bytes
from toptune.extract.pipeline.accounts import UnitsDone
from toptune.extract.pipeline.image_pass import Pass, Tally
from toptune.extract.pipeline.model_work import find_work
from toptune.extract.request.request import ExtractRequest
from toptune.machine.cores import reading_threads
from toptune.machine.dask_cluster import ThisWorker, this_worker
from toptune.machine.heap import keep_freed_memory
from toptune.machine.watch import Watch
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.json_values import canonical_json

# A worker with several threads gives all of them to one call, because torch shares threads out better than
# dask does.
_ONE_AT_A_TIME = threading.Lock()
# A worker receives units many times in one extraction. Models stay loaded between the calls.
_LOADED: dict[tuple[str, str, str], Backbone] = {}
# Threads that read in a worker of which only its cluster knows the neighbors, at most, unless the worker has
# more threads or the user says otherwise.
SHARED_READERS = 4
# The request of the order that was seen last, by the key of the order.
_SEEN: dict[str, ExtractRequest] = {}


@dataclass(frozen=True, kw_only=True)
class ModelOrder:
    """One model and the arrays that are to be computed with it.

    Attributes
    ----------
    spec : mapping
        Keywords of `load_backbone`, as JSON values.
    digest : str
        Digest of the model's recipe.
    created : mapping
        Who made the cache, and when, which tells the cache from another one of the same name.
    names : tuple of str
        Arrays that are computed, the same in every unit.
    """

    spec: Mapping[str, Any]
    digest: str
    created: Mapping[str, str]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnitOrder:
    """All that a worker has to know beside the numbers of units; the size does not grow with the images.

    Attributes
    ----------
    key : str
        Random text that tells this order from others.
    request : ExtractRequest
        The request without a manifest; the worker opens the source of images itself.
    root : str
        Path of the store, the same on every machine.
    models : tuple of ModelOrder
        Models that read the same images, and their arrays.
    devices : tuple of str
        Worker i of a machine takes device i; a single device serves every worker.
    threads : int or None
        Threads of torch; by default as many as the worker has.
    probes : tuple of (int, str)
        Row and SHA-256 of a few images, which the worker must find as well.
    """

    key: str
    request: ExtractRequest
    root: str
    models: tuple[ModelOrder, ...]
    devices: tuple[str, ...]
    threads: int | None
    probes: tuple[tuple[int, str], ...]


def compute_units(order: UnitOrder, units: Sequence[int]) -> UnitsDone:
    """Compute and commit the units that are not in the store yet.

    Raises
    ------
    InputError
        If this worker does not see the images, the weights or the store that the client sees.
    DeviceMemoryError
        If a network or a pass of one image does not fit the worker's device.
    """
    worker = this_worker()
    with _ONE_AT_A_TIME:
        torch.set_num_threads(order.threads or worker.threads)
        # distributed sets this variable for its workers, because results pile up in them; here none do.
        keep_freed_memory(overruled=("MALLOC_TRIM_THRESHOLD_",))
        try:
            # The request gets a watch of its own: a watch comes to hold what cannot be pickled, and orders
            # travel between workers.
            request = replace(_request(order), watch=Watch())
            if request.options.workers is None:
                # A worker with a GPU often has a single thread, and several workers may share a machine.
                readers = max(worker.threads, min(SHARED_READERS, reading_threads()))
                request = request.with_options(workers=readers)
            works = [
                find_work(request, backbone, backbone.arrays(model.names), cache, units=units)
                for model, cache, backbone in _models(order, worker)
            ]
        except DeviceMemoryError:
            raise  # is no fault of paths
        except (ToptuneError, OSError) as error:
            raise InputError(
                f"dask worker {worker.address} on {socket.gethostname()} cannot do its part: {error}; "
                "images, weights and store must lie under the same paths for all workers and here"
            ) from error
        images = Pass(works)
        images.run(Tally(None, images.rows))
        return images.done()


def _models(order: UnitOrder, worker: ThisWorker) -> list[tuple[ModelOrder, FeatureCache, Backbone]]:
    device = order.devices[0]
    if len(order.devices) > 1:
        device = order.devices[worker.number % len(order.devices)]
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    keys = [(model.digest, canonical_json(model.spec), device) for model in order.models]
    for key in _LOADED.keys() - set(keys):
        del _LOADED[key]  # a model of an earlier extraction, whose memory is needed
    found = []
    for key, model in zip(keys, order.models, strict=True):
        cache = _cache(order.root, order.request.dataset, model.digest, json.dumps(dict(model.created)))
        if key not in _LOADED:
            backbone = load_backbone(**model.spec, device=device)
            if backbone.recipe.digest != model.digest:
                # The digest covers weights, transform and arithmetic: a worker with another checkpoint would
                # commit numbers that are not those of the cache.
                raise InputError(
                    f"model {backbone.name} is another one here: "
                    f"{'; '.join(cache.recipe.differences(backbone.recipe))}"
                )
            _LOADED[key] = backbone
        found.append((model, cache, _LOADED[key]))
    return found


@lru_cache(maxsize=8)
def _cache(root: str, dataset: str, digest: str, created: str) -> FeatureCache:
    # The path alone does not prove that a worker sees the client's store: another store may lie under the
    # same path on the worker's machine, with a cache of the same recipe.
    for cache in FeatureStore.open(root).caches(dataset=dataset):
        if cache.digest == digest and dict(cache.created) == json.loads(created):
            return cache
    raise StoreNotFoundError(f"the store {root} is another one here: it lacks what the client began")


def _request(order: UnitOrder) -> ExtractRequest:
    """Open the images of an order, and check once for each order that the probes have the client's bytes."""
    if order.key not in _SEEN:
        source = order.request.source
        for row, digest in order.probes:
            try:
                found = hashlib.sha256(read_bytes(source, row)).hexdigest()
            except UnreadableImageError as error:
                raise InputError(f"image {source.manifest().image_id(row)} {error}") from error
            if found != digest:
                raise InputError(f"image {source.manifest().image_id(row)} has other bytes here")
        # One order is kept: its source may hold an index of millions of images.
        _SEEN.clear()
        _SEEN[order.key] = replace(order.request, manifest=source.manifest())
    return _SEEN[order.key]
