"""`ExtractRequest`: what was asked of `extract`, checked without loading torch."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError, StoreNotFoundError
from toptune.extract.backbone.libraries.custom import Custom
from toptune.extract.backbone.model_name import ModelName, parse_model_name
from toptune.extract.images.source import ImageData, ImageSource
from toptune.extract.request.key import request_key
from toptune.extract.request.options import ExtractArguments, ExtractOptions
from toptune.extract.sources.opening import absolute_place, open_source
from toptune.extract.sources.reopened import OpenedData
from toptune.machine.devices import AUTO, CHOSEN, settle_device, why_not_mps
from toptune.machine.watch import Watch
from toptune.options import flat_options, options_of
from toptune.store.arrays.units import shard_units
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.samples import even_sample
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.names import check_name
from toptune.store.files.place import place_of


@dataclass(frozen=True, kw_only=True)
class ExtractRequest:
    """An extraction of one model, checked as far as possible without the model.

    Attributes
    ----------
    name : ModelName
        The backbone.
    options : ExtractOptions
        The options of the call.
    source : ImageSource
        The images.
    manifest : Manifest
        Ids, labels, splits and sizes of the images.
    dataset : str
        Name of the data set in the store.
    root : path
        Folder of the store.
    existing : FeatureStore, optional
        The store, if the store is there already.
    keys : mapping of str to str
        Key under which the store notes the finished request, by the device; see `request_key`. Device
        ``auto`` has a key for each device that it may stand for: only torch knows which one that is.
    started : float
        When the call began, on `time.perf_counter`.
    family : tuple of str
        All parts of the data set if this request is for one of the parts; empty otherwise.
    needed : array (n,) of bool, optional
        Rows that are asked for; by default all of them.
    watch : Watch
        Decides between batches whether the extraction goes on.
    opened : OpenedData, optional
        What another process needs to open the source again.
    """

    name: ModelName
    options: ExtractOptions
    source: ImageSource
    manifest: Manifest
    dataset: str
    root: Path
    existing: FeatureStore | None
    keys: Mapping[str, str]
    started: float
    family: tuple[str, ...] = ()
    needed: npt.NDArray[np.bool_] | None = None
    watch: Watch = dataclasses.field(default_factory=Watch)
    opened: OpenedData | None = None

    def units(self, n_units: int, unit_rows: int) -> list[int]:
        """List the units of this job: the units of its shard that hold a requested row."""
        units = shard_units(n_units, *self.options.share)
        if self.needed is None:
            return list(units)
        return [u for u in units if self.needed[u * unit_rows : (u + 1) * unit_rows].any()]

    def sample_rows(self, n: int) -> list[int]:
        """Return at most `n` requested rows, evenly spread: the same for every job of the same data."""
        # Rows of a folder are sorted by class, so that the first rows would be images of one class.
        there = np.arange(self.manifest.n_rows) if self.needed is None else np.flatnonzero(self.needed)
        rows: list[int] = there[even_sample(len(there), n)].tolist()
        return rows

    def settled(self) -> "ExtractRequest":
        """Return the same request for the device that ``auto`` stands for."""
        not_on_mps = why_not_mps(self.options.backbone.precision)
        device = settle_device(self.options.device, not_on_mps=not_on_mps)
        keys = {name: key for name, key in self.keys.items() if name == device}
        return dataclasses.replace(self.with_options(device=device), keys=keys)

    def with_options(self, **changes: Unpack[ExtractArguments]) -> "ExtractRequest":
        """Return the same request with some options changed."""
        given = {**flat_options(self.options), **changes}
        return dataclasses.replace(self, options=options_of(ExtractOptions, given, call="extract"))


def make_requests(
    data: ImageData,
    models: Sequence[str | Custom],
    store: str | os.PathLike[str] | FeatureStore,
    options: ExtractOptions,
) -> list[ExtractRequest]:
    """Open the images and make a request for each model.

    Parameters
    ----------
    data, store, options
        As given to `toptune.extract.extract`.
    models : sequence of str
        Names of the backbones.

    Raises
    ------
    InputError
        If an option, a name or DATA cannot be used; the message says which.
    """
    started = time.perf_counter()
    names = _parse_models(models, options)
    root = store.root if isinstance(store, FeatureStore) else place_of(store)
    _refuse_store_in_place(data, root)
    source = open_source(
        data, split=options.split, path_column=options.path_column, label_column=options.label_column
    )
    dataset = source.name if options.dataset is None else options.dataset
    if not dataset and options.dataset is None:
        raise InputError(
            "images in memory have no name of their own; name the data set with dataset=..., by which the "
            "store keeps it",
            option="dataset",
        )
    # A name that cannot be used is refused before a store is made for the name.
    check_name(dataset, what="data set")
    watch = Watch(stop=options.stop, time_limit=options.time_limit, clocks=options.clocks, started=started)
    return [
        ExtractRequest(
            name=name,
            options=options,
            source=source,
            manifest=source.manifest(),
            dataset=dataset,
            root=root,
            existing=_open_existing(store),
            keys=_request_keys(name, options),
            started=started,
            watch=watch,
            opened=_opened(data, options),
        )
        for name in names
    ]


def _request_keys(name: ModelName, options: ExtractOptions) -> dict[str, str]:
    keys = {
        device: request_key(
            name,
            options.backbone,
            layers=options.layers,
            pooling=options.pooling,
            device=device,
            max_pixels=options.pixel_limit,
        )
        for device in (CHOSEN if options.device == AUTO else (options.device,))
    }
    return {device: key for device, key in keys.items() if key is not None}


def _parse_models(models: Sequence[str | Custom], options: ExtractOptions) -> list[ModelName]:
    names = [parse_model_name(model) for model in models]
    twice = [name.given for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"model {twice[0]} is given twice")
    if not names:
        raise InputError("no model is given; name at least one of `toptune models`")
    if options.backbone.weights is not None and len(names) > 1:
        raise InputError(f"weights belong to one model, and {len(names)} are given; run them one by one")
    return names


def _refuse_store_in_place(data: ImageData, root: Path) -> None:
    """Raise an `InputError` if the store is the folder of the images, whose own folders would be classes."""
    if not isinstance(data, str | os.PathLike) or not Path(data).is_dir():
        return
    # A store may be a place in a bucket, whose text no path of this machine resolves to.
    if os.path.realpath(data) == os.path.realpath(str(root)):
        raise InputError(
            f"--store {root} is the folder of the images itself; give another one, such as "
            f"{Path(data).resolve().parent / 'features'}"
        )


def _opened(data: ImageData, options: ExtractOptions) -> OpenedData | None:
    if not isinstance(data, str | os.PathLike):
        return None
    return OpenedData(absolute_place(data), options.split, options.path_column, options.label_column)


def _open_existing(store: str | os.PathLike[str] | FeatureStore) -> FeatureStore | None:
    if isinstance(store, FeatureStore):
        return store
    try:
        return FeatureStore.open(store)
    except StoreNotFoundError:
        return None
