"""The extraction itself: plan, then read, compute and commit, overlapping."""

import dataclasses
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toptune.extract.backbone import Backbone, load_backbone
from toptune.extract.extraction import ExtractRequest, check_touched, finished_summary, refuse_changed
from toptune.extract.plan import ArrayPlan, ExtractPlan, ExtractSummary
from toptune.extract.reading import BATCHES_AHEAD, DIGEST_BYTES, Batch, BatchReader
from toptune.extract.taps import TapArray
from toptune.extract.writing import UNITS_BEHIND, UnitValues, UnitWriter
from toptune.store import (
    CONTENT_ARRAY,
    GONE,
    ConflictError,
    FeatureCache,
    FeatureStore,
    InterruptedRunError,
    StoreError,
    choose_unit_rows,
    known_digests,
    remove_arrays,
)

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
SAMPLE_ROWS = 16
# float16 reaches 65504 and loses digits below 6e-5: values near either end go to float32.
_FLOAT16_LARGEST = 65504
FLOAT16_MAX = _FLOAT16_LARGEST / 16
FLOAT16_MIN = 1e-3


def run_jobs(requests: Sequence[ExtractRequest]) -> list[ExtractSummary]:
    """Load the backbone once, make the plans and, unless it is a dry run, carry them out.

    Parameters
    ----------
    requests : sequence of ExtractRequest
        Of one data set: the whole, or several of its parts.
    """
    backbone = _load(requests[0])
    prepared: list[_Prepared] = []
    for request in requests:
        prepared.append(_prepare(request, backbone, prepared))
    if requests[0].dry_run:
        return [each.dry_summary(backbone) for each in prepared]
    jobs = [each.open(backbone) for each in prepared]
    total, done, n_failed = sum(job.rows for job in jobs), 0, 0
    summaries = []
    for job in jobs:
        job.show(before=done, total=total, n_failed=n_failed)
        summaries.append(job.run())
        _tidy(job.cache, job.request.key, job.names)
        done, n_failed = done + job.rows, n_failed + job.n_failed
    return summaries


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prepared:
    """One request with its plan."""

    request: ExtractRequest
    arrays: Sequence[TapArray]
    cache: FeatureCache | None
    dtypes: dict[str, str]
    plan: ExtractPlan

    def dry_summary(self, backbone: Backbone) -> ExtractSummary:
        plan = self.plan
        return ExtractSummary(
            dataset=self.request.dataset,
            model=plan.model,
            digest=backbone.recipe.digest,
            cache="" if self.cache is None else str(self.cache.path),
            rows=plan.rows,
            units_total=plan.units,
            units_done=0,
            units_already=plan.units - plan.units_missing,
            seconds_total=time.perf_counter() - self.request.started,
            arrays=plan.arrays,
            nothing_to_do=not plan.units_missing,
            plan=plan,
            dry_run=True,
        )

    def open(self, backbone: Backbone) -> "_Job":
        """Make the cache and its arrays, and look at what was touched."""
        cache = _open_cache(self.request, backbone, self.plan)
        if self.request.overwrite:
            remove_arrays(cache, [array.name for array in self.arrays])
        for array in self.arrays:
            cache.ensure_array(array.name, dim=array.dim, dtype=self.dtypes[array.name])
        cache.ensure_array(CONTENT_ARRAY, dim=DIGEST_BYTES, dtype="uint8")
        check_touched(cache, self.request)
        return _Job(self.request, backbone, self.arrays, cache, self.plan)


def _prepare(request: ExtractRequest, backbone: Backbone, before: Sequence[_Prepared]) -> _Prepared:
    """Make the plan of one request; a new part is cut and stored like the parts before it."""
    arrays = backbone.resolve(request.layers, request.pooling)
    cache = _find_cache(request, backbone)
    like = [other for part in request.family if (other := _find_cache(request, backbone, part)) is not None]
    wide = {spec.name for other in like for spec in other.arrays() if spec.dtype == "float32"}
    wide |= {name for each in before for name, dtype in each.dtypes.items() if dtype == "float32"}
    if cache is None and (like or before):
        size = like[0].batch_size if like else before[0].plan.batch_size
        form = like[0].format if like else before[0].request.format
        request = dataclasses.replace(
            request, batch_size=request.batch_size or size, format=request.format or form
        )
    if cache is not None and request.batch_size not in (None, cache.batch_size):
        raise ConflictError(
            f"{cache.name} over {cache.dataset} was begun with batches of {cache.batch_size}, not "
            f"{request.batch_size}; leave --batch-size out, or use another --store"
        )
    with _reader(request, backbone) as reader:
        dtypes = _choose_dtypes(request, backbone, arrays, cache, reader, wide=wide)
    plan = _make_plan(request, backbone, arrays, dtypes, cache)
    return _Prepared(request=request, arrays=arrays, cache=cache, dtypes=dtypes, plan=plan)


def _tidy(cache: FeatureCache, key: str | None, names: Sequence[str]) -> None:
    """Do what only makes later commands quicker: pack the ledgers, note what was asked."""
    try:
        cache.pack_ledgers([*names, CONTENT_ARRAY])
        if key is not None:
            cache.remember_request(key, names)
    except StoreError as error:
        # The features are stored, and a store that cannot be written to can be read.
        logger.info("later commands will be slower than they could be: %s", error)


class _Job:
    """The units of one extraction that are still to be computed."""

    def __init__(
        self,
        request: ExtractRequest,
        backbone: Backbone,
        arrays: Sequence[TapArray],
        cache: FeatureCache,
        plan: ExtractPlan,
    ) -> None:
        self.request, self.backbone, self.cache, self.plan = request, backbone, cache, plan
        self.names = [array.name for array in arrays]
        self.shard = request.units(cache.n_units, cache.unit_rows)
        self.missing = _missing(cache, [*self.names, CONTENT_ARRAY], self.shard)
        self.units = sorted(set().union(*self.missing.values()))
        # The same set in every unit: what else is computed along must not depend on where one stopped.
        self.arrays = [array for array in arrays if self.missing[array.name]]
        self.dtypes = {spec.name: spec.dtype for spec in cache.arrays()}
        self.rows = sum(_length(cache.unit_slice(unit)) for unit in self.units)
        self.seconds_compute = 0.0
        self.n_failed = 0
        self._progress = request.progress

    def show(self, *, before: int, total: int, n_failed: int) -> None:
        """Report progress as of `total` rows, `before` of which others have done."""
        plain = self.request.progress
        if plain is not None:
            self._progress = lambda done, _, failed: plain(before + done, total, n_failed + failed)

    def run(self) -> ExtractSummary:
        if not self.units:
            return finished_summary(self.cache, self.names, self.request, nothing_to_do=True, plan=self.plan)
        start = time.perf_counter()
        watch, writer = self.request.watch, UnitWriter(self.cache)
        try:
            with _reader(self.request, self.backbone) as reader, writer:
                watch.begin_job(lambda: (reader.seconds, self.seconds_compute, writer.seconds))
                for unit in self._compute(reader):
                    writer.write(unit)
        except KeyboardInterrupt:
            raise self._interrupted("stopped", writer) from None
        if watch.reason is not None:
            raise self._interrupted(watch.reason, writer)
        seconds = time.perf_counter() - start
        dims = {spec.name: spec.dim * np.dtype(spec.dtype).itemsize for spec in self.cache.arrays()}
        return finished_summary(
            self.cache,
            self.names,
            self.request,
            units_done=len(self.units),
            images_per_second=self.rows / seconds,
            seconds_read=reader.seconds,
            seconds_compute=self.seconds_compute,
            seconds_write=writer.seconds,
            bytes_written=sum(
                dims[name] * _length(self.cache.unit_slice(unit))
                for name in self.names
                for unit in self.missing[name]
            ),
            plan=self.plan,
        )

    def _interrupted(self, reason: str, writer: UnitWriter) -> InterruptedRunError:
        done = len(self.shard) - len(self.units) + writer.units_written
        return InterruptedRunError(
            f"{reason} with {done} of {len(self.shard)} units stored; the same command resumes"
        )

    def _compute(self, reader: BatchReader) -> Iterator[UnitValues]:
        known = _known_digests(self.request, self.cache)
        batches = reader.batches(rows for unit in self.units for rows in self._batches(unit))
        done_rows = 0
        for unit in self.units:
            start = time.perf_counter()
            unit_rows = self.cache.unit_slice(unit)
            if not self.request.watch.may_begin(_length(unit_rows)):
                return
            values: dict[str, npt.NDArray[Any]] = {
                array.name: np.empty((_length(unit_rows), array.dim), dtype=self.dtypes[array.name])
                for array in self.arrays
            }
            values[CONTENT_ARRAY] = np.empty((_length(unit_rows), DIGEST_BYTES), dtype=np.uint8)
            failed: dict[int, str] = {}
            for rows in self._batches(unit):
                if not self.request.watch.may_go_on(unit_rows.stop - rows.start):
                    return
                batch = next(batches)
                self._check_content(batch, *known)
                place = slice(batch.rows.start - unit_rows.start, batch.rows.stop - unit_rows.start)
                values[CONTENT_ARRAY][place] = batch.digests
                for name, output in self._forward(batch).items():
                    if output.dtype != values[name].dtype:
                        values[name] = values[name].astype(output.dtype)
                    values[name][place] = output
                failed |= batch.failed
                done_rows += _length(batch.rows)
                self.n_failed += sum(reason != GONE for reason in batch.failed.values())
                if self._progress is not None:
                    self._progress(done_rows, self.rows, self.n_failed)
            wanted = {name: array for name, array in values.items() if unit in self.missing[name]}
            yield UnitValues(unit, wanted, failed, time.perf_counter() - start)

    def _forward(self, batch: Batch) -> dict[str, npt.NDArray[Any]]:
        if not self.arrays:
            return {}
        if len(batch.failed) == _length(batch.rows):
            # Nothing to compute: values of pictures that failed are stored as NaN whatever they are.
            return {array.name: np.zeros((len(batch.pixels), array.dim), np.float32) for array in self.arrays}
        start = time.perf_counter()
        outputs = forward_pixels(self.backbone, batch, self.arrays, dtypes=self.dtypes)
        self.seconds_compute += time.perf_counter() - start
        return outputs

    def _batches(self, unit: int) -> Iterator[slice]:
        """Cut a unit into batches; they start where the unit starts."""
        rows = self.cache.unit_slice(unit)
        for start in range(rows.start, rows.stop, self.cache.batch_size):
            yield slice(start, min(start + self.cache.batch_size, rows.stop))

    def _check_content(
        self, batch: Batch, digests: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_]
    ) -> None:
        differs = known[batch.rows] & (digests[batch.rows] != batch.digests).any(axis=1)
        differs[[row - batch.rows.start for row, reason in batch.failed.items() if reason == GONE]] = False
        ids = self.request.manifest.ids
        refuse_changed(
            [ids[batch.rows.start + int(place)] for place in np.flatnonzero(differs)], self.request.dataset
        )


def forward_pixels(
    backbone: Backbone,
    batch: Batch,
    arrays: Sequence[TapArray],
    *,
    dtypes: Mapping[str, str] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Compute arrays of a batch of pixels: name to ``(b, dim)`` in main memory.

    Parameters
    ----------
    dtypes : mapping of str to str, optional
        Arrays that are to be float16 are converted before they leave the device; one that would overflow
        stays float32, for the store to name the picture. By default all are float32.
    """
    dtypes = dtypes or {}
    with torch.inference_mode():
        pixels = torch.from_numpy(batch.pixels).to(backbone.device)
        outputs = backbone.forward(backbone.transform.normalize(pixels), arrays)
        for name, output in outputs.items():
            if dtypes.get(name) == "float16" and not (output.abs() > _FLOAT16_LARGEST).any():
                outputs[name] = output.to(torch.float16)
        return {name: output.cpu().numpy() for name, output in outputs.items()}


def _load(request: ExtractRequest) -> Backbone:
    backbone = load_backbone(request.name.given, device=request.device, **request.options)
    if request.options["precision"] == "auto" and request.existing is not None:
        # What `auto` means was settled when the cache was made, perhaps on another machine.
        parts = request.family or (request.dataset,)
        recipes = {cache.digest for part in parts for cache in request.existing.caches(dataset=part)}
        for precision in ("fp32", "bf16"):
            other = dataclasses.replace(backbone.recipe, precision=precision)
            if backbone.recipe.digest not in recipes and other.digest in recipes:
                logger.info("precision auto adopts %s, with which these features were begun", precision)
                options = {**request.options, "precision": precision}
                return load_backbone(request.name.given, device=request.device, **options)
    return backbone


def _find_cache(request: ExtractRequest, backbone: Backbone, part: str | None = None) -> FeatureCache | None:
    if request.existing is None:
        return None
    for cache in request.existing.caches(dataset=part or request.dataset):
        if cache.digest == backbone.recipe.digest:
            return cache
    return None


def _open_cache(request: ExtractRequest, backbone: Backbone, plan: ExtractPlan) -> FeatureCache:
    store = FeatureStore.create(request.root)
    if not request.family:  # parts are registered with their version
        store.register(request.dataset, request.manifest)
    cache = store.create_cache(
        request.name.plain,
        request.dataset,
        backbone.recipe,
        unit_rows=plan.unit_rows,
        batch_size=plan.batch_size,
        backbone=backbone.spec,
        format=request.format or "zarr",
    )
    if request.format not in (None, cache.format):
        raise ConflictError(
            f"{cache.name} over {cache.dataset} is stored as {cache.format}, not {request.format}; "
            "leave --format out, or convert it into another store with store copy --format"
        )
    return cache


def _reader(request: ExtractRequest, backbone: Backbone) -> BatchReader:
    return BatchReader(
        request.source,
        backbone.transform.pixels,
        size=backbone.transform.size,
        workers=request.workers,
        max_pixels=request.max_pixels,
    )


def _choose_dtypes(
    request: ExtractRequest,
    backbone: Backbone,
    arrays: Sequence[TapArray],
    cache: FeatureCache | None,
    reader: BatchReader,
    *,
    wide: Collection[str],
) -> dict[str, str]:
    """Decide each array's type on disk: what is stored, what was asked, or what a sample says.

    Those in `wide` are float32 in other parts of the data set, and so here.
    """
    dtypes = {} if cache is None or request.overwrite else {spec.name: spec.dtype for spec in cache.arrays()}
    for array in arrays:
        stored = dtypes.get(array.name)
        if request.dtype != "auto" and stored not in (None, request.dtype):
            raise ConflictError(f"{array.name} is stored as {stored}, not {request.dtype}; use --overwrite")
    new = [array for array in arrays if array.name not in dtypes]
    if request.dtype != "auto":
        return dtypes | {array.name: request.dtype for array in new}
    if new:
        # Evenly spread and of a fixed size, so that every job of the same data decides the same.
        n = request.manifest.n_rows
        there = np.arange(n) if request.needed is None else np.flatnonzero(request.needed)
        places = np.linspace(0, len(there) - 1, min(len(there), SAMPLE_ROWS)).round().astype(int)
        rows = there[np.unique(places)].tolist()
        sampled = list(reader.batches(slice(row, row + 1) for row in rows))
        good = [batch.pixels for batch in sampled if not batch.failed]
        if not good:
            return dtypes | {array.name: "float32" for array in new}
        sample = Batch(slice(0, len(good)), np.concatenate(good), np.zeros((0, 0), np.uint8), {})
        for name, values in forward_pixels(backbone, sample, new).items():
            peak = float(np.abs(values).max())
            is_narrow = FLOAT16_MIN <= peak <= FLOAT16_MAX and name not in wide
            dtypes[name] = "float16" if is_narrow else "float32"
            if not is_narrow and name not in wide:
                logger.warning("%s is stored as float32: its largest sampled value is %.3g", name, peak)
    return dtypes


def _make_plan(
    request: ExtractRequest,
    backbone: Backbone,
    arrays: Sequence[TapArray],
    dtypes: dict[str, str],
    cache: FeatureCache | None,
) -> ExtractPlan:
    n_rows = request.manifest.n_rows
    batch_size = cache.batch_size if cache else request.batch_size or BATCH_SIZE
    bytes_per_image = sum(array.dim * (2 if dtypes[array.name] == "float16" else 4) for array in arrays)
    unit_rows = cache.unit_rows if cache else choose_unit_rows(n_rows, bytes_per_image, batch_size)
    n_units = -(-n_rows // unit_rows)
    shard = request.units(n_units, unit_rows)
    needed = np.ones(n_rows, dtype=np.bool_) if request.needed is None else request.needed
    names = [array.name for array in arrays]
    if cache is None or request.overwrite:
        missing = {name: list(shard) for name in [*names, CONTENT_ARRAY]}
    else:
        missing = _missing(cache, [*names, CONTENT_ARRAY], shard)
    units = sorted(set().union(*missing.values()))
    spans = [slice(unit * unit_rows, min((unit + 1) * unit_rows, n_rows)) for unit in units]
    array_plans = tuple(
        ArrayPlan(
            name=array.name, dim=array.dim, dtype=dtypes[array.name], units_missing=len(missing[array.name])
        )
        for array in arrays
    )
    height, width = backbone.transform.size
    return ExtractPlan(
        dataset=request.dataset,
        model=cache.name if cache else f"{request.name.plain}@{backbone.recipe.digest[:8]}",
        store=str(request.root),
        device=str(backbone.device),
        precision=backbone.recipe.precision,
        rows=int(needed.sum()),
        rows_missing=int(sum(needed[span].sum() for span in spans)),
        unit_rows=unit_rows,
        batch_size=batch_size,
        units=len(shard),
        units_missing=len(units),
        arrays=array_plans,
        bytes_read=int(sum(request.manifest.sizes[span][needed[span]].sum() for span in spans)),
        bytes_written=sum(
            plan.bytes_per_image
            * sum(min((u + 1) * unit_rows, n_rows) - u * unit_rows for u in missing[plan.name])
            for plan in array_plans
        ),
        # Pixels of the batches ahead, and float32 features of the unit computed, waiting, and being written.
        memory_bytes=(BATCHES_AHEAD + 2) * batch_size * height * width * 3
        + (2 + UNITS_BEHIND) * unit_rows * sum(4 * array.dim for array in arrays),
    )


def _missing(cache: FeatureCache, names: Sequence[str], shard: Sequence[int]) -> dict[str, list[int]]:
    return {name: [unit for unit in shard if cache.entry(name, unit) is None] for name in names}


def _known_digests(
    request: ExtractRequest, cache: FeatureCache
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Collect the pictures' digests from this cache and the others of the data set."""
    caches = FeatureStore.open(request.root).caches(dataset=request.dataset)
    others = [other for other in caches if other.path != cache.path]
    return known_digests([cache, *others], cache.n_rows, needed=cache)


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
