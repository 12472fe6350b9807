"""`similar` finds stored images that are like given ones, and training images that carried a prediction."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt

from toptune.costs.meter import CostMeter
from toptune.errors import InputError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.libraries.named_code import names_code
from toptune.extract.backbone.taps import TapArray
from toptune.extract.pipeline.features_of import Values, features_of
from toptune.machine.devices import device_of, resolve_device, settle_head_device
from toptune.machine.memory import MemoryLimits, bytes_of, left_bytes
from toptune.options import options_of
from toptune.store.arrays.stored_layers import choose_arrays, usual_layer
from toptune.store.features.blocks import ArrayBlocks
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import ModelFeatures, StoredFeatures
from toptune.store.features.listing import only_features
from toptune.text import named
from toptune.train.fusion.fused_run import FusedRun, load_run
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.runs.evidence import check_kernel_head, evidence_of
from toptune.train.runs.sources import CacheIdentity, RunSource, open_sources
from toptune.workflows.likeness.options import SimilarArguments, SimilarOptions
from toptune.workflows.likeness.result import Like, Likeness, Similarity
from toptune.workflows.likeness.search import nearest_rows
from toptune.workflows.predict.frozen_network import FrozenNetwork, loaded_backbone
from toptune.workflows.predict.images import ImageLike, LooseImages, as_several, find_images

Features = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
Wanted = Sequence[tuple[Backbone, Sequence[TapArray]]]


def similar(
    images: ImageLike | Iterable[ImageLike] = (),
    *,
    store: str | os.PathLike[str] | FeatureStore | None = None,
    dataset: str | None = None,
    model: str | None = None,
    ids: Sequence[str] = (),
    run: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **arguments: Unpack[SimilarArguments],
) -> Similarity:
    """Find the stored images that are nearest to given ones, or the training images behind predictions.

    Without a run, the nearest images by cosine are found exactly; stored rows are streamed, so that memory
    does not grow with them. With a run of a kernel head, the predicted class of each image is told, and the
    centers, which are training images, with what each adds to the score of the class; see `evidence_of`.

    Parameters
    ----------
    images : path, bytes, or several of them
        As `Classifier.predict` takes them.
    store : path or FeatureStore, optional
        The store; of a run, by default the one that the run was trained from.
    dataset, model : str, optional
        Names of the data set and of the model; by default the only ones of the store. A run has its data set
        by default, and `model` says where its backbone is now, as for `Classifier.load`.
    ids : sequence of str
        Images of the data set, whose stored features are taken.
    run : path, optional
        RUN folder of a kernel head.
    progress : callable, optional
        Called with the given images that are done, and all of them.
    **arguments
        The fields of `SimilarOptions`.

    Returns
    -------
    Similarity
        One entry for each given image, in order, files before ids.

    Raises
    ------
    InputError
        For options out of range, neither images nor ids, ids that the data set does not have, imported
        features with images, a head that is no kernel head, or a projected peak above the memory limit.
    StoreError
        If the store lacks what is asked for, or is incomplete or damaged.

    Examples
    --------
    >>> from toptune.extract import extract
    >>> _ = extract("digits", model="resnet10t.toptune_glyphs", store="store")
    >>> (found,) = similar(store="store", ids=["digits/0000"], k=3).images
    >>> [like.label for like in found.found]
    ['0', '0', '0']
    """
    meter, options = CostMeter(), options_of(SimilarOptions, arguments, call="similar")
    listed = list(find_images(as_several(images)))
    if not listed and not ids:
        raise InputError("neither images nor ids are given; name image files, or ids of the data set (--id)")
    given = _Given(
        names=[name for name, _ in listed],
        files=LooseImages([image for _, image in listed]),
        ids=tuple(ids),
        options=options,
        progress=progress or (lambda _done, _total: None),
    )
    if run is not None:
        return _of_run(given, Path(run), store=store, dataset=dataset, model=model, meter=meter)
    if store is None:
        raise InputError("no store is given, in which similar images could be; name it (--store), or a run")
    return _of_store(given, _opened(store), dataset=dataset, model=model, meter=meter)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given:
    """The images that similar ones are looked for."""

    names: Sequence[str]
    files: LooseImages
    ids: tuple[str, ...]
    options: SimilarOptions
    progress: Progress
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def limit_bytes(self) -> int | None:
        """The limit on the whole process."""
        limit = self.options.memory_limit
        return None if limit is None else bytes_of(limit)

    def features_of_files(
        self, wanted: Wanted, rounded: Callable[[Sequence[Values]], Features]
    ) -> dict[int, Features]:
        """Compute the features of the files, by their places; what failed is noted."""
        found: dict[int, Features] = {}
        batches = features_of(self.files, len(self.names), wanted, batch_size=self.options.batch_size)
        for batch in batches:
            self.failed.update(batch.failed)
            if len(batch.rows):
                found |= dict(zip(batch.rows.tolist(), rounded(batch.values), strict=True))
            self.progress(len(found) + len(self.failed), len(self.names))
        return found

    def rows_in(self, features: StoredFeatures) -> list[int]:
        """Return the rows of the ids.

        Raises
        ------
        InputError
            If the data set has no image of that id.
        """
        row_of = {identity: row for row, identity in enumerate(features.manifest.ids)}
        if missing := [each for each in self.ids if each not in row_of]:
            raise InputError(
                f"data set {features.dataset!r} has no image {named(missing, most=3)} in version "
                f"{features.dataset_version}; its ids look like {next(iter(row_of))!r}",
                option="ids",
            )
        return [row_of[each] for each in self.ids]

    def answers(self, found: Mapping[int, Likeness]) -> tuple[Likeness, ...]:
        """Put what was found, by places, files before ids, and what failed in order."""
        names = [*self.names, *self.ids]
        return tuple(
            found[place] if place in found else Likeness(image=name, error=self.failed[place])
            for place, name in enumerate(names)
        )


def _opened(store: str | os.PathLike[str] | FeatureStore) -> FeatureStore:
    return store if isinstance(store, FeatureStore) else FeatureStore.open(store)


def _of_store(
    given: _Given, store: FeatureStore, *, dataset: str | None, model: str | None, meter: CostMeter
) -> Similarity:
    """Find the nearest stored images."""
    options = given.options
    # Code is run by the name that the user gives it, and by no name that the store has.
    named_code = model if model is not None and names_code(model) else None
    dataset, model = only_features(store, dataset=dataset, model=model)
    features = store.features(model, dataset, version=options.dataset_version)
    features.mark_used()
    layers = usual_layer(features.arrays()) if options.layers is None else options.layers
    specs = choose_arrays(features.arrays(), layers, options.pooling)
    names = [spec.name for spec in specs]
    own_rows = given.rows_in(features)
    values: dict[int, Features] = {}
    if given.names:
        backbone = _backbone_of(features, model, named=named_code, device=str(resolve_device(options.device)))

        def rounded(outputs: Sequence[Values]) -> Features:
            # Stored values went through the type of the store, and equal images must have equal features.
            columns = [outputs[0][spec.name].astype(spec.dtype) for spec in specs]
            return np.concatenate(columns, axis=1, dtype=np.float32)

        values = given.features_of_files([(backbone, backbone.arrays(names))], rounded)
    failed = features.failed_rows(names)
    used = np.setdiff1d(np.arange(features.n_rows), sorted(failed))
    preprocessing, bad = fit_preprocessing(
        options.preprocess,
        features.blocks(names, used),
        tuple(spec.dim for spec in specs),
        memory_limit_bytes=left_bytes(given.limit_bytes),
    )
    failed = {**failed, **{int(used[row]): "its features are not finite" for row in bad.tolist()}}
    used = np.delete(used, bad)
    stored = features.blocks(names, used)
    place_of = {row: place for place, row in enumerate(used.tolist())}
    own = {}
    for at, row in enumerate(own_rows, start=len(given.names)):
        if row in place_of:
            own[at] = place_of[row]
        else:
            given.failed[at] = failed[row]
    if own:
        values |= dict(zip(own, stored.take([*own.values()]).astype(np.float32), strict=True))
    found: dict[int, Likeness] = {}
    if values:
        device = device_of(settle_head_device(options.device))
        limit = given.limit_bytes
        cosines, rows = nearest_rows(
            preprocessing.apply(np.stack([*values.values()])),
            PreprocessedBlocks(stored, preprocessing, names),
            min(options.k, len(used) - 1),
            own=np.array([own.get(at, -1) for at in values]),
            device=device,
            limit_bytes=MemoryLimits.on(device, limit).bytes if device.type == "cuda" else left_bytes(limit),
        )
        found = {
            at: Likeness(image=[*given.names, *given.ids][at], found=_likes(features, used[near], cosine))
            for at, near, cosine in zip(values, rows, cosines, strict=True)
        }
    return Similarity(
        measure="cosine",
        dataset=dataset,
        dataset_version=features.dataset_version,
        model=model,
        layers=tuple(names),
        run=None,
        images=given.answers(found),
        notes=_few(options.k, len(used) - 1),
        costs=meter.to_dict(),
    )


def _few(k: int, most: int) -> tuple[str, ...]:
    if most >= k:
        return ()
    return (f"{most} images are told of each, and {k} were asked for: there are no more [TT508]",)


def _likes(features: StoredFeatures, rows: npt.NDArray[np.int64], cosines: Features) -> tuple[Like, ...]:
    manifest = features.manifest
    return tuple(
        Like(
            id=manifest.ids[row], label=manifest.labels[row], split=manifest.splits[row], value=float(cosine)
        )
        for row, cosine in zip(rows.tolist(), cosines, strict=True)
    )


def _backbone_of(features: ModelFeatures, model: str, *, named: str | None, device: str) -> Backbone:
    """Load the backbone by which features were made."""
    source = RunSource(
        name="",
        model=model,
        cache=CacheIdentity(name=features.name, digest=features.digest),
        recipe=json.loads(features.recipe.to_json()),
        backbone=features.backbone,
    )
    if source.is_imported:
        raise InputError(
            f"the features of {model} were imported: there is no backbone to make them from images; name "
            "images of the data set (--id)"
        )
    return loaded_backbone(source, Path(features.name), device=device, model=named)


def _of_run(
    given: _Given,
    folder: Path,
    *,
    store: str | os.PathLike[str] | FeatureStore | None,
    dataset: str | None,
    model: str | None,
    meter: CostMeter,
) -> Similarity:
    """Find the training images that carried the predictions of a run."""
    options = given.options
    for name, value in (("layers", options.layers), ("pooling", options.pooling)):
        if value is not None:
            raise InputError(f"{name} is {value!r}, but a run has its own; leave it out", option=name)
    if model is not None and not given.names:
        raise InputError(
            f"model is {model!r}, the place of the backbone of a run, and ids of stored images need none; "
            "leave it out",
            option="model",
        )
    device = str(resolve_device(options.device))
    run = load_run(folder, device="cpu" if device == "mps" else device)
    if isinstance(run, FusedRun):
        heads = [str(folder / each.folder) for each in run.fusion.members]
        raise InputError(
            f"{folder} has {len(heads)} heads, each with centers of its own; name one of them: "
            f"{named(heads)}",
            option="run",
        )
    check_kernel_head(run)
    if given.names and any(source.is_imported for source in run.sources):
        raise InputError(
            f"{folder} was trained on imported features: there is no backbone to make them from images; name "
            "images of the data set (--id)",
            option="images",
        )
    values: dict[int, Features] = {}
    name, version = dataset or run.record.dataset or "", run.dataset_version
    if given.ids:
        opened = _opened(run.store if store is None else store)
        features = open_sources(opened, run.sources, name, version=options.dataset_version)
        arrays, version = [array.name for array in run.arrays], features.dataset_version
        failed = features.failed_rows(arrays)
        rows = dict(enumerate(given.rows_in(features), start=len(given.names)))
        given.failed.update({at: failed[row] for at, row in rows.items() if row in failed})
        rows = {at: row for at, row in rows.items() if row not in failed}
        if rows:
            # Rows are read in their order, because a store reads consecutive rows at once.
            wanted = sorted(set(rows.values()))
            taken = features.blocks(arrays, wanted).take(range(len(wanted))).astype(np.float32)
            values = {at: taken[wanted.index(row)] for at, row in rows.items()}
    if given.names:
        network = FrozenNetwork.of_run(run, device=device, model=model)
        values |= given.features_of_files(network.wanted, network.rounded)
    found: dict[int, Likeness] = {}
    notes: tuple[str, ...] = ()
    if values:
        evidence = evidence_of(run, ArrayBlocks(np.stack([*values.values()])), k=options.k)
        for at, each in zip(values, evidence, strict=True):
            found[at] = Likeness(
                image=[*given.names, *given.ids][at],
                predicted=each.label,
                confidence=each.confidence,
                score=each.score,
                intercept=each.intercept,
                others=each.others,
                found=tuple(
                    Like(id=one.id, label=one.label, split="train", value=one.share) for one in each.centers
                ),
            )
        notes = _few(options.k, len(evidence[0].centers))
    return Similarity(
        measure="share",
        dataset=name,
        dataset_version=version,
        model=run.record.model or "",
        layers=tuple(array.name for array in run.arrays),
        run=os.fspath(folder),
        images=given.answers(found),
        notes=notes,
        costs=meter.to_dict(),
    )
