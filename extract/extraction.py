"""`extract`: pictures to stored features. What is finished is recognised here, before torch is loaded."""

import dataclasses
import hashlib
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.extract.decode import MAX_PIXELS
from toptune.extract.model_name import ModelName, parse_model_name
from toptune.extract.options import check_transform_options
from toptune.extract.plan import ArrayPlan, ExtractSummary
from toptune.extract.request import request_key
from toptune.extract.source import ImageSource, open_source
from toptune.extract.watch import Clocks, Stop, Watch
from toptune.store import (
    CONTENT_ARRAY,
    ConflictError,
    FeatureCache,
    FeatureStore,
    InputError,
    InterruptedRunError,
    Manifest,
    StoreNotFoundError,
    UnreadableImageError,
    place_of,
    shard_units,
)
from toptune.store.dask_cluster import check_address

Progress = Callable[[int, int, int], None]
SHOWN = 3
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


def extract(
    data: str | os.PathLike[str] | ImageSource,
    *,
    model: str,
    store: str | os.PathLike[str] | FeatureStore,
    dataset: str | None = None,
    split: str | None = None,
    layers: str | int | Sequence[str | int] = "last",
    pooling: str | Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    batch_size: int | str | None = None,
    workers: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
    img_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    fold: bool = True,
    compiled: bool = False,
    decode: str = "exact",
    dtype: str = "auto",
    format: str | None = None,  # noqa: A002
    max_pixels: int | None = None,
    shard: tuple[int, int] | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    update: bool = False,
    rehash: bool = False,
    max_failures: int | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    time_limit: float | None = None,
    clocks: Clocks | None = None,
    dask: str | None = None,
    dask_options: Mapping[str, Any] | None = None,
) -> ExtractSummary:
    """Run a frozen backbone once over pictures and store its layers.

    Interrupted at any moment and called again, it goes on where it stopped, and the store ends up equal
    to that of an undisturbed run. What is there already is not computed again: layers can be added
    later. A picture that cannot be used is recorded; its row stays, as NaN.

    Parameters
    ----------
    data : path, str or ImageSource
        See `open_source`.
    model : str
        See `load_backbone`.
    store : path or FeatureStore
        Made if it is not there.
    dataset : str, optional
        Name in the store; by default the source's.
    split : str, optional
        Only this split of the data.
    layers, pooling
        See `select_names`; by default the last layer, with each family's own pooling.
    weights, precision, img_size, mean, std, crop_pct, interpolation, model_kwargs, fold, compiled, decode
        See `load_backbone`. Precision ``auto`` and `fold` adopt what the same features were begun with;
        ``auto`` takes fp32 where bf16 would move a sample of the features too far.
    batch_size : int or "auto", optional
        Pictures a forward pass: 32, or what the cache was begun with (it is part of the cache, because the
        last bits of features depend on it). ``auto`` measures which is fastest, if the cache is new.
    workers : int, optional
        Threads that read and decode; by default one a CPU, at most 4.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``. Where several CUDA devices are visible, ``cuda`` is all of them: a
        process each (needs dask.distributed), as for several names with commas between them.
    dtype : str
        On disk: ``float16``, ``float32``, or ``auto``: float16 except for layers that come near its range
        in a sample of 16 pictures.
    format : {"zarr", "hdf5"}, optional
        How a new cache stores its arrays, by default Zarr. One that is there keeps its own, and refuses
        another.
    max_pixels : int, optional
        Larger pictures count as unreadable.
    shard : tuple of int, optional
        ``(i, n)``: only part i of n of the units, i from 0.
    dry_run : bool
        Give the plan and write nothing.
    overwrite : bool
        First remove what is stored of the asked arrays. Not together with `shard`, where each job would
        remove what the others computed.
    update : bool
        If the store has other pictures under that name, make these the next version of the data set: known
        pictures keep their features, only new and changed ones are extracted.
    rehash : bool
        Read every picture and compare it with what was extracted, whatever its modification time.
    max_failures : int, optional
        More pictures than this that could not be used make the summary say ``too_many_failed``; the run
        goes to its end all the same.
    progress : callable, optional
        Called with ``(done_rows, rows, failed)`` after every batch; with `dask` after some units.
    stop : callable, optional
        Asked between batches: None to go on, or the seconds within which the unit at hand may still be
        finished; no other one is begun. No signal handler is installed here.
    time_limit : float, optional
        Seconds from now within which the work is to end; no unit is begun that would not be done by then.
    clocks : Clocks, optional
        To be read while the extraction runs.
    dask : str, optional
        Address of a dask.distributed scheduler whose workers compute the units, ``local:N`` for N processes
        on this machine, or ``slurm``, ``pbs``, ``lsf`` for jobs of a batch system (needs dask-jobqueue).
        Workers must see pictures, weights and store under the same paths.
    dask_options : mapping, optional
        For a batch system: arguments of dask-jobqueue's cluster, and ``jobs``, how many to submit.

    Raises
    ------
    InputError, WeightsError
        If something given cannot be used. Also, at the end, if no picture at all could be.
    ConflictError
        If the store holds other pictures under that name, or a picture changed since, without `update`.
    InterruptedRunError
        After Ctrl-C, a stop or the time limit; what is committed stays.
    """
    return _extract([model], locals())[0]


def extract_models(
    data: str | os.PathLike[str] | ImageSource, *, models: Sequence[str], **options: Any
) -> list[ExtractSummary]:
    """Run several frozen backbones over the same pictures: each is read and decoded once.

    That holds for the models whose features lie in caches of one cut (new ones do, if they are begun
    together); pictures are resized once for all models that see the same pixels.

    Parameters
    ----------
    data : path, str or ImageSource
        See `extract`.
    models : sequence of str
        All of them are held in memory at once.
    options
        Those of `extract`, but for ``model``.

    Returns
    -------
    list of ExtractSummary
        In the order of `models`.
    """
    given = inspect.signature(extract).bind(data, model="", **options)
    given.apply_defaults()
    return _extract(models, given.arguments)


def _extract(models: Sequence[str], given: Mapping[str, Any]) -> list[ExtractSummary]:
    """Check what was given to `extract`, and do it for each model."""
    try:
        requests = _requests(models, given)
        summaries = _run(requests)
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped; what is committed stays, and the same command resumes") from None
    most = given["max_failures"]
    return [
        dataclasses.replace(each, too_many_failed=most is not None and len(each.failed) > most)
        for each in summaries
    ]


def _requests(models: Sequence[str], given: Mapping[str, Any]) -> list[ExtractRequest]:
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


def _run(requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    first = requests[0]
    if first.existing is not None:
        first.existing.refuse_part(first.dataset)
    if first.existing is not None and first.dataset in first.existing.datasets():
        from toptune.extract.update import run_update

        # Early, so that another content is refused before a model is loaded; the same one is adopted.
        return run_update(first.existing, requests)
    return run_all(requests)


def run_all(requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    """Carry out requests: those that are finished are recognised, the others worked on together."""
    found = [None if each.existing is None else recognise(each.existing, each) for each in requests]
    left = [each for each, summary in zip(requests, found, strict=True) if summary is None]
    if not left:
        return [summary for summary in found if summary is not None]
    # Late: a finished extraction is recognised without torch.
    from toptune.extract.job import run_jobs

    done = iter(run_jobs(left))
    return [next(done) if summary is None else summary for summary in found]


def recognise(store: FeatureStore, request: ExtractRequest) -> ExtractSummary | None:
    """Return a summary if everything asked for is in the store, None if it has to be worked out."""
    if request.key is None or request.overwrite:
        return None
    found = store.find_request(request.dataset, request.key)
    if found is None:
        return None
    cache, names = found
    if request.batch_size not in (None, "auto", cache.batch_size) or request.format not in (
        None,
        cache.format,
    ):
        return None
    specs = {spec.name: spec for spec in cache.arrays()}
    units = request.units(cache.n_units, cache.unit_rows)
    if any(name not in specs or request.dtype not in ("auto", specs[name].dtype) for name in names):
        return None
    if any(cache.entry(name, unit) is None for name in [*names, CONTENT_ARRAY] for unit in units):
        return None
    check_touched(cache, request)
    return finished_summary(cache, names, request, nothing_to_do=True)


def check_touched(cache: FeatureCache, request: ExtractRequest) -> None:
    """Read pictures again whose modification time changed since they were registered.

    Raises
    ------
    ConflictError
        If the content of one differs from what was extracted; names it.
    """
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
                digest = hashlib.sha256(request.source.read(row)).digest()
            except UnreadableImageError:
                digest = bytes(digests.shape[1])
            if digest != digests[row - rows.start].tobytes():
                changed.append(request.manifest.picture_id(row))
    refuse_changed(changed, request.dataset)


def refuse_changed(changed: Sequence[str], dataset: str) -> None:
    """Raise a `ConflictError` that names the pictures, if there are any."""
    if changed:
        shown = ", ".join(changed[:SHOWN])
        raise ConflictError(
            f"{len(changed)} pictures of data set {dataset!r} changed since they were extracted: {shown}"
            f"{', ...' if len(changed) > SHOWN else ''}; give --update to extract them as they are now, put "
            "them back, or extract under another --dataset"
        )


def refuse_all_failed(failed: Mapping[str, str], n_rows: int, dataset: str) -> None:
    """Raise an `InputError` if every picture failed."""
    if len(failed) == n_rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:SHOWN])
        raise InputError(
            f"none of the {n_rows} pictures of {dataset!r} could be used: {reasons}; these failures are "
            "recorded in the store under that name: repair the pictures and extract with --update, or under "
            "another --dataset"
        )


def finished_summary(
    cache: FeatureCache, names: Sequence[str], request: ExtractRequest, **values: Any
) -> ExtractSummary:
    """Summarise what the store now holds of `names`; `values` are further fields.

    Raises
    ------
    InputError
        If no picture of the data set could be used.
    """
    needed, picture = request.needed, request.manifest.picture_id
    # A job of many says what failed in its own units: to read all entries would cost as much as its work.
    mine = None if request.shard == (0, 1) else request.units(cache.n_units, cache.unit_rows)
    failed = {
        picture(row): reason
        for row, reason in cache.failed_rows([*names], units=mine).items()
        if needed is None or needed[row]
    }
    if needed is None:
        refuse_all_failed(failed, cache.n_rows, request.dataset)
    specs = {spec.name: spec for spec in cache.arrays()}
    n_units = len(request.units(cache.n_units, cache.unit_rows))
    done = values.pop("units_done", 0)
    return ExtractSummary(
        dataset=cache.dataset,
        model=cache.name,
        digest=cache.digest,
        cache=str(cache.path),
        rows=cache.n_rows if needed is None else int(needed.sum()),
        units_total=n_units,
        units_done=done,
        units_already=n_units - done,
        failed=failed,
        seconds_total=time.perf_counter() - request.started,
        arrays=tuple(
            ArrayPlan(name=name, dim=specs[name].dim, dtype=specs[name].dtype, units_missing=0)
            for name in names
        ),
        **values,
    )


def _opened(data: str | os.PathLike[str] | ImageSource, split: str | None) -> tuple[str, str | None] | None:
    if not isinstance(data, str | os.PathLike):
        return None
    # What is no path is a name, the same everywhere.
    return str(Path(data).absolute()) if Path(data).exists() else os.fspath(data), split


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
