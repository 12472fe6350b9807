"""`extract`: images to stored features. What is finished is recognized here, before torch is loaded."""

import dataclasses
import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

from toptune.costs.meter import CostMeter
from toptune.errors import InterruptedRunError
from toptune.extract.images.source import ImageSource
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.request.request import ExtractRequest, Progress, make_requests
from toptune.extract.running import run_all
from toptune.machine.watch import Clocks, Stop
from toptune.store.datasets.manifest import count_contents
from toptune.store.features.feature_store import FeatureStore


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
    """Run a frozen backbone once over images and store its layers.

    Interrupted at any moment and called again, it goes on where it stopped, and the store ends up equal
    to that of an undisturbed run. What is there already is not computed again: layers can be added
    later. An image that cannot be used is recorded; its row stays, as NaN.

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
        Images a forward pass: 16 (128 on CUDA), or what the cache was begun with (it is part of the cache,
        because the last bits of features depend on it). ``auto`` measures which is fastest, if the cache is
        new.
    workers : int, optional
        Threads that read and decode; by default one a CPU, at most 4.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``. Where several CUDA devices are visible, ``cuda`` is all of them: a
        process each (needs dask.distributed), as for several names with commas between them.
    dtype : str
        On disk: ``float16``, ``float32``, or ``auto``: float16 except for layers that come near its range
        in a sample of 16 images.
    format : {"zarr", "hdf5"}, optional
        How a new cache stores its arrays, by default Zarr. One that is there keeps its own, and refuses
        another.
    max_pixels : int, optional
        Larger images count as unreadable.
    shard : tuple of int, optional
        ``(i, n)``: only part i of n of the units, i from 0.
    dry_run : bool
        Give the plan and write nothing.
    overwrite : bool
        First remove what is stored of the asked arrays. Not together with `shard`, where each job would
        remove what the others computed.
    update : bool
        If the store has other images under that name, make these the next version of the data set: known
        images keep their features, only new and changed ones are extracted.
    rehash : bool
        Read every image and compare it with what was extracted, whatever its modification time.
    max_failures : int, optional
        More images than this that could not be used make the summary say ``too_many_failed``; the run
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
        Workers must see images, weights and store under the same paths.
    dask_options : mapping, optional
        For a batch system: arguments of dask-jobqueue's cluster, and ``jobs``, how many to submit.

    Raises
    ------
    InputError, WeightsError
        If something given cannot be used. Also, at the end, if no image at all could be.
    ConflictError
        If the store holds other images under that name, or an image changed since, without `update`.
    InterruptedRunError
        After Ctrl-C, a stop or the time limit; what is committed stays.
    """
    return _extract([model], locals())[0]


def extract_models(
    data: str | os.PathLike[str] | ImageSource, *, models: Sequence[str], **options: Any
) -> list[ExtractSummary]:
    """Run several frozen backbones over the same images: each is read and decoded once.

    That holds for the models whose features lie in caches of one cut (new ones do, if they are begun
    together); images are resized once for all models that see the same pixels.

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
    meter = CostMeter()
    try:
        requests = make_requests(models, given)
        summaries = _run(requests)
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped; what is committed stays, and the same command resumes") from None
    most, costs = given["max_failures"], meter.to_dict()
    contents = count_contents(requests[0].manifest)
    return [
        dataclasses.replace(
            each,
            contents=contents,
            costs=costs,
            too_many_failed=most is not None and len(each.failed) > most,
        )
        for each in summaries
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
