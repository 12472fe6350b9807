"""`extract` turns images into stored features; finished requests are recognized before torch is loaded."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Unpack

from toptune.costs.meter import CostMeter
from toptune.errors import InterruptedRunError
from toptune.extract.backbone.libraries.custom import Custom
from toptune.extract.images.remarks import UNLABELED, Remark, Remarks, remarks_of, say_remarks
from toptune.extract.images.source import ImageData
from toptune.extract.request.options import ExtractArguments, ExtractOptions
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.request.request import ExtractRequest, make_requests
from toptune.extract.running import run_all
from toptune.options import options_of
from toptune.store.datasets.contents import ManifestContents, count_contents
from toptune.store.datasets.manifest import LABELS_COLUMN
from toptune.store.features.feature_store import FeatureStore


def extract(
    data: ImageData,
    *,
    model: str | Custom,
    store: str | os.PathLike[str] | FeatureStore,
    **arguments: Unpack[ExtractArguments],
) -> ExtractSummary:
    """Run a frozen backbone once over images and store its layers.

    An extraction that is interrupted at any moment goes on, when called again, where the first call stopped,
    and the store ends up equal to that of an undisturbed run. Features that are stored already are not
    computed again: layers can be added later. An image that cannot be used is recorded; its row stays, as
    NaN.

    Parameters
    ----------
    data : path, str or ImageSource
        A folder, a file or the name of a built-in data set; see `open_source`.
    model : str or Custom
        Name of the backbone, see `load_backbone`; or a module of torch with its transform.
    store : path or FeatureStore
        The store that takes the features; a new one is made if none is there.
    **arguments
        The options of `ExtractOptions` and of `BackboneSpec`, where each is described:

        - which images: `dataset`, `split`, `path_column`, `label_column`, `max_pixels`, `update`, `rehash`,
          `max_failures`;
        - which features: `layers`, `pooling`, `dtype`, `format`, `overwrite`;
        - which network: `weights`, `precision`, `img_size`, `mean`, `std`, `crop_pct`, `interpolation`,
          `model_kwargs`, `fold`, `compiled`, `decode`;
        - where and how fast: `device`, `batch_size`, `workers`, `shard`, `dask`, `dask_options`;
        - when to stop and what to show: `dry_run`, `progress`, `stop`, `time_limit`, `clocks`,
          `profile`.

    Returns
    -------
    ExtractSummary
        What was done, or with `dry_run` what would be done.

    Raises
    ------
    InputError, WeightsError
        If an option is unknown or cannot be used. Also, at the end, if no image at all could be used.
    ConflictError
        If the store holds other images under that name, or an image changed since, without `update`.
    InterruptedRunError
        After Ctrl-C, a stop or the time limit; what is committed stays.

    Examples
    --------
    >>> summary = extract("digits", model="random:test_vit", store="store", img_size=32, layers="last")
    >>> summary.rows, [array.name for array in summary.arrays]
    (1797, ['last.none'])
    >>> extract("digits", model="random:test_vit", store="store", img_size=32).nothing_to_do
    True
    """
    with _shown(options_of(ExtractOptions, arguments, call="extract")) as options:
        return _extract(data, [model], store, options)[0]


def extract_models(
    data: ImageData,
    *,
    models: Sequence[str | Custom],
    store: str | os.PathLike[str] | FeatureStore,
    **arguments: Unpack[ExtractArguments],
) -> list[ExtractSummary]:
    """Run several frozen backbones over the same images: each image is read and decoded once.

    Models share what is read if their caches have the same units and batches; new caches that are begun
    together do. Images are resized once for all models that see the same pixels.

    Parameters
    ----------
    data : path, str or ImageSource
        A folder, a file or the name of a built-in data set.
    models : sequence of str
        Names of the backbones; all of them are held in memory at once.
    store : path or FeatureStore
        The store that takes the features; a new one is made if none is there.
    **arguments
        The fields of `ExtractOptions` and `BackboneSpec`, the same for all models.

    Returns
    -------
    list of ExtractSummary
        In the order of `models`.

    Raises
    ------
    InputError, WeightsError
        If an option is unknown or cannot be used. Also, at the end, if no image at all could be used.
    ConflictError
        If the store holds other images under that name, or an image changed since, without `update`.
    InterruptedRunError
        After Ctrl-C, a stop or the time limit; what is committed stays.
    """
    with _shown(options_of(ExtractOptions, arguments, call="extract_models")) as options:
        return _extract(data, models, store, options)


@contextmanager
def _shown(options: ExtractOptions) -> Iterator[ExtractOptions]:
    """Show a bar if one is asked for, and in a notebook unless it is refused: a cell shows nothing else."""
    if options.progress is True or (options.progress is None and "ipykernel" in sys.modules):
        # The import waits until here: rich takes a tenth of a second.
        from toptune.machine.progress import extraction_progress

        with extraction_progress() as progress:
            yield dataclasses.replace(options, progress=progress, clocks=options.clocks or progress.clocks)
        return
    yield options


def _extract(
    data: ImageData,
    models: Sequence[str | Custom],
    store: str | os.PathLike[str] | FeatureStore,
    options: ExtractOptions,
) -> list[ExtractSummary]:
    meter = CostMeter()
    try:
        requests = make_requests(data, models, store, options)
        contents = count_contents(requests[0].manifest)
        remarks = _remarks(requests[0], contents)
        try:
            summaries = _run(requests)
        finally:
            # They come at the end, where hours of progress do not bury them, also after a failure: often the
            # cause of one is among them.
            say_remarks(remarks, requests[0].dataset)
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped; what is committed stays, and the same command resumes") from None
    most, costs = options.max_failures, meter.to_dict()
    return [
        dataclasses.replace(
            each,
            contents=contents,
            remarks=remarks,
            costs=costs,
            too_many_failed=most is not None and len(each.failed) > most,
        )
        for each in summaries
    ]


def _remarks(request: ExtractRequest, contents: ManifestContents) -> tuple[Remark, ...]:
    """Return the remarks of the source, and one where no image has a label and the source does not say so."""
    remarks = remarks_of(request.source)
    is_said = any(remark.reason == UNLABELED for remark in remarks)
    if is_said or contents.n_unlabelled < request.manifest.n_rows:
        return remarks
    columns = [name for name in request.manifest.extra_names if name != LABELS_COLUMN]
    advice = (
        f"--label-column says which column is the label: {', '.join(columns)}"
        if columns
        else "training needs class folders, or a table of the images with a column label"
    )
    more = Remarks()
    more.add(
        "image", UNLABELED, None,
        code="TT012", count=request.manifest.n_rows, advice=advice, is_left_out=False,
    )  # fmt: skip
    return (*remarks, *more)


def _run(requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    first = requests[0]
    if first.existing is not None:
        first.existing.refuse_part(first.dataset)
    # A data set that the store has may have grown or changed: its versions are looked up before anything
    # else.
    if first.existing is not None and first.dataset in first.existing.datasets():
        from toptune.extract.update import run_update

        # Other images under this name are refused here, before a model is loaded; equal images are adopted.
        return run_update(first.existing, requests)
    return run_all(requests)
