"""`ExtractRequest`: what was asked of `extract`, checked without loading torch."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError, StoreNotFoundError
from toptune.extract.backbone.model_name import ModelName, parse_model_name
from toptune.extract.backbone.transform_options import check_transform_options
from toptune.extract.images.decode import MAX_PIXELS
from toptune.extract.images.source import ImageSource
from toptune.extract.request.key import request_key
from toptune.extract.sources.opening import absolute_place, open_source
from toptune.machine.dask_cluster import check_address
from toptune.machine.watch import Watch
from toptune.store.arrays.units import shard_units
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.place import place_of

Progress = Callable[[int, int, int], None]

# Options of `extract` that a request holds as they are.
_AS_GIVEN = (
    *(
        "layers",
        "pooling",
        "device",
        "dtype",
        "format",
        "dry_run",
        "overwrite",
        "update",
        "rehash",
        "progress",
        "dask",
        "dask_options",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ExtractRequest:
    """What was asked of `extract`, checked as far as it can be without the model.

    Attributes
    ----------
    name : ModelName
        The backbone.
    options : mapping
        Further arguments of `load_backbone`.
    existing : FeatureStore, optional
        The store, if it is there already.
    key : str, optional
        Under which the finished request is noted.
    family : tuple of str
        All parts of the data set, where this is the request for one of them; empty otherwise.
    needed : array (n,) of bool, optional
        Rows that are asked for; by default all of them.
    watch : Watch
        Says between batches whether to go on.
    opened : tuple of (str, str or None), optional
        DATA and split with which another process can open the source again.
    """

    name: ModelName
    options: Mapping[str, Any]
    source: ImageSource
    manifest: Manifest
    dataset: str
    root: Path
    existing: FeatureStore | None
    key: str | None
    layers: str | int | Sequence[str | int]
    pooling: str | Sequence[str] | None
    device: str
    batch_size: int | str | None
    workers: int
    max_pixels: int
    dtype: str
    format: str | None
    shard: tuple[int, int]
    dry_run: bool
    overwrite: bool
    update: bool
    rehash: bool
    progress: Progress | None
    dask: str | None
    dask_options: Mapping[str, Any] | None
    started: float
    family: tuple[str, ...] = ()
    needed: npt.NDArray[np.bool_] | None = None
    watch: Watch = dataclasses.field(default_factory=Watch)
    opened: tuple[str, str | None] | None = None

    def units(self, n_units: int, unit_rows: int) -> list[int]:
        """List the units of this job: of its shard those that hold a row that is asked for."""
        units = shard_units(n_units, *self.shard)
        if self.needed is None:
            return list(units)
        return [u for u in units if self.needed[u * unit_rows : (u + 1) * unit_rows].any()]


def make_requests(models: Sequence[str], given: Mapping[str, Any]) -> list[ExtractRequest]:
    """Check what was given to `extract`, by its parameters' names, and make a request for each model.

    Raises
    ------
    InputError
        If something cannot be used; the message says what.
    """
    started = time.perf_counter()
    batch_size, shard, max_pixels = given["batch_size"], given["shard"] or (0, 1), given["max_pixels"]
    _check_numbers(
        batch_size=None if batch_size == "auto" else batch_size,
        workers=given["workers"],
        max_pixels=max_pixels,
    )
    _check_choice("dtype", given["dtype"], ("auto", "float16", "float32"))
    _check_choice("format", given["format"], (None, "zarr", "hdf5"))
    time_limit = given["time_limit"]
    if time_limit is not None and not time_limit > 0:
        raise InputError(f"time_limit is {time_limit} seconds; it must be above 0")
    shard_units(1, *shard)
    if given["overwrite"] and shard != (0, 1):
        raise InputError(
            "--overwrite with --shard would remove what other jobs computed; run it once without"
        )
    if given["dask"] is not None:
        check_address(given["dask"], given["dask_options"])
    elif given["dask_options"]:
        raise InputError("dask options without dask; give --dask slurm, pbs or lsf with them")
    names = [parse_model_name(model) for model in models]
    twice = [name.given for i, name in enumerate(names) if name in names[:i]]
    if twice or not names:
        raise InputError(f"model {twice[0]} is given twice" if twice else "no model is given")
    if given["weights"] is not None and len(names) > 1:
        raise InputError(f"weights belong to one model, and {len(names)} are given; run them one by one")
    # Also before the request's key, which is made of them and takes only finite numbers.
    transform = {name: given[name] for name in ("img_size", "mean", "std", "crop_pct", "interpolation")}
    check_transform_options(**transform)
    kwargs = given["model_kwargs"]
    options: dict[str, Any] = {
        name: list(value) if name in ("mean", "std") and value is not None else value
        for name, value in transform.items()
    } | {
        "model_kwargs": None if kwargs is None else dict(kwargs),
        "fold": given["fold"],
        "compiled": given["compiled"],
        "decode": given["decode"],
    }
    source = open_source(given["data"], split=given["split"])
    store, of_model = given["store"], {name: given[name] for name in ("weights", "precision")}
    watch = Watch(stop=given["stop"], time_limit=time_limit, clocks=given["clocks"], started=started)
    return [
        ExtractRequest(
            name=name,
            options=options | of_model,
            source=source,
            manifest=source.manifest(),
            dataset=given["dataset"] if given["dataset"] is not None else source.name,
            root=store.root if isinstance(store, FeatureStore) else place_of(store),
            existing=_open_existing(store),
            key=request_key(
                name,
                options={**options, "max_pixels": max_pixels or MAX_PIXELS},
                device=given["device"],
                **{option: given[option] for option in ("layers", "pooling", "precision", "weights")},
            ),
            batch_size=batch_size,
            workers=given["workers"] or min(4, os.cpu_count() or 1),
            max_pixels=max_pixels or MAX_PIXELS,
            shard=shard,
            started=started,
            watch=watch,
            opened=_opened(given["data"], given["split"]),
            **{option: given[option] for option in _AS_GIVEN},
        )
        for name in names
    ]


def _opened(data: str | os.PathLike[str] | ImageSource, split: str | None) -> tuple[str, str | None] | None:
    if not isinstance(data, str | os.PathLike):
        return None
    return absolute_place(data), split


def _open_existing(store: str | os.PathLike[str] | FeatureStore) -> FeatureStore | None:
    if isinstance(store, FeatureStore):
        return store
    try:
        return FeatureStore.open(store)
    except StoreNotFoundError:
        return None


def _check_choice(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise InputError(f"{option} {value!r} is none of {', '.join(filter(None, choices))}")


def _check_numbers(**numbers: int | None) -> None:
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{option} is {number}; it must be at least 1")
