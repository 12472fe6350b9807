"""`inspect` looks at a data set through its stored features."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from toptune.costs.phases import Phases
from toptune.errors import FoldsError, InputError
from toptune.extract.images.source import ImageData, ImageSource
from toptune.extract.sources.opening import open_source
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.devices import device_of, settle_head_device
from toptune.machine.memory import MemoryLimits, bytes_of, left_bytes, left_for_head, shown_bytes
from toptune.options import options_of
from toptune.store.arrays.stored_layers import choose_arrays, usual_layer
from toptune.store.features.blocks import Blocks
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import FeatureView
from toptune.text import counted
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.heads.kinds import default_preprocessing
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing
from toptune.train.regressors.falkon import FalkonRegressor
from toptune.train.rows.groups import components, group_keys
from toptune.train.rows.splits import split_manifest
from toptune.train.runs.writing import check_out, new_run_folder
from toptune.train.tasks.choice import task_of, told_task
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION
from toptune.train.tasks.task import Matrix, Task
from toptune.workflows.gallery.atlas import Nearby, Predicted, write_atlas
from toptune.workflows.gallery.coordinates import Coordinates, map_rows
from toptune.workflows.gallery.findings_page import Album, write_findings_page
from toptune.workflows.gallery.thumbnails import Thumbnails
from toptune.workflows.inspection.approximate import (
    approximate_neighbors,
    faiss_or_none,
    plan_approximate,
)
from toptune.workflows.inspection.cards import cards_of
from toptune.workflows.inspection.duplicates import (
    Described,
    Pairs,
    Spacing,
    distances_of,
    equal_pairs,
    exact_groups,
    near_groups,
)
from toptune.workflows.inspection.findings import (
    DUPLICATE,
    IMAGE,
    LABEL,
    LEAK,
    OUTLIER,
    Finding,
    ImageGroup,
    in_order,
)
from toptune.workflows.inspection.images import (
    MOST_Z,
    failure_findings,
    image_findings,
    measure_images,
    rows_in,
)
from toptune.workflows.inspection.labels import Confusion, confident_labels, confused_classes
from toptune.workflows.inspection.neighbors import Neighbors, nearest_neighbors, plan_neighbors
from toptune.workflows.inspection.options import InspectArguments, InspectOptions
from toptune.workflows.inspection.outliers import novelty_of
from toptune.workflows.inspection.pixels import EDGE, pixel_copies
from toptune.workflows.inspection.report import ATLAS, PAGE, Inspection
from toptune.workflows.inspection.targets import Doubt, doubtful_labels, doubtful_numbers

Rows = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

# Distances to the nearest and to a farther image are compared.
_LEAST_IMAGES = 3
# The nearest images of the suggested class that a finding of a label names.
_MOST_EVIDENCE = 3


def inspect(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    data: "ImageData | None" = None,
    progress: Progress | None = None,
    notify: Callable[[str], None] | None = None,
    **arguments: Unpack[InspectArguments],
) -> Inspection:
    """Look for duplicates, leaks between splits, wrong labels, outliers and odd images.

    Copies are images of equal bytes, by their digests, and images that are nearer than images of the data are
    by chance, see `Spacing`. Labels are checked by confident learning on the left-out probabilities of a
    kernel head, copies of an image being left out together. Outliers are far from their nearest neighbors.
    Nothing is changed in the store.

    Parameters
    ----------
    store : path or FeatureStore
        Root folder of the store, or the store.
    dataset, model : str
        Names of the data set and of the model whose features are in the store.
    out : path
        Folder to make, for ``findings.csv``, ``findings.json``, ``page.html`` and ``atlas.parquet``.
    data : path or ImageSource, optional
        The images that were extracted, for their properties and thumbnails. Without them no image is decoded.
    progress : callable, optional
        Called with what is done of a step, and with the whole: pairs that are compared, images that are
        measured.
    notify : callable, optional
        Called with a line of text as each step begins.
    **arguments
        The fields of `InspectOptions`.

    Returns
    -------
    Inspection
        The findings, groups and counts, as they are written.

    Raises
    ------
    InputError
        For options out of range or misspelled, an `out` that exists, fewer than 3 images with finite
        features, groups that cannot be told, `data` with other images, or a projected peak above the memory
        limit.
    StoreError
        If the store lacks what is asked for, or is incomplete or damaged.

    Examples
    --------
    >>> from toptune.extract import extract
    >>> model = "resnet10t.toptune_glyphs"
    >>> _ = extract("digits", model=model, store="store")
    >>> found = inspect("store", dataset="digits", model=model, out="look")
    >>> found.n_images, found.counts["duplicate"]
    (1797, 0)
    """
    options = options_of(InspectOptions, arguments, call="inspect")
    path = check_out(out)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    features, task = _read(opened, model, dataset, options)
    features.mark_used()
    layers = usual_layer(features.arrays()) if options.layers is None else options.layers
    look = _Look(
        features=features,
        options=options,
        task=task,
        phases=Phases(notify),
        progress=progress or (lambda _done, _total: None),
        arrays=[each.name for each in choose_arrays(features.arrays(), layers, options.pooling)],
    )
    # What cannot be used of the images and of the split shows before features are read.
    source = None if data is None else open_source(data, label_column=options.label_column)
    places = {} if source is None else rows_in(source, look.described.ids, data=str(data))
    neighbors = look.find_neighbors()
    findings = failure_findings(look.failed, look.described.ids)
    if source is None:
        look.skip(
            IMAGE,
            "images were not looked at, only features: mirrored or resized copies may be missed, and the "
            "page shows ids without images; --data PATH gives the images",
        )
    else:
        with look.phases("images", line="measuring images"):
            findings += look.measure(source, places)
    groups, equal, near = look.find_copies(neighbors)
    findings += [each for group in groups for each in group.findings()]
    with look.phases("outliers"):
        findings += look.find_outliers(neighbors)
    with look.phases("labels", line="checking labels"):
        wrong, confused = look.check_labels(neighbors, np.concatenate([equal, near]))
    findings += wrong
    coordinates = look.find_coordinates()
    result = look.inspection(str(out), findings, groups, confused)
    result = replace(result, has_map=coordinates is not None, has_images=source is not None)
    with new_run_folder(path) as folder:
        album = look.album(coordinates, source)
        with look.phases("page"):
            look.write_page(folder / PAGE, result, album)
        with look.phases("atlas"):
            look.write_atlas(folder / ATLAS, result, album, neighbors)
        result = replace(result, costs=look.phases.costs())
        result.write(folder, spreadsheet_safe=options.spreadsheet_safe)
    return result


def _read(
    store: FeatureStore, model: str, dataset: str, options: InspectOptions
) -> tuple[FeatureCache | FeatureView, Task]:
    """Return the features with the labels that are checked, and what these mean."""
    rows, version = options.rows_of_training, options.dataset_version
    features = store.features(model, dataset, version=version, **rows.reading(None))
    name = told_task(rows.task, rows.wanted, features.manifest)
    if name != rows.task and name == MULTILABEL:
        features = store.features(model, dataset, version=version, **replace(rows, task=name).reading(None))
    return features, task_of(name)


@dataclass(eq=False, kw_only=True)
class _Look:
    """One call of `inspect`, and what its steps share."""

    features: FeatureCache | FeatureView
    options: InspectOptions
    task: Task
    phases: Phases
    progress: Progress
    arrays: list[str]
    notes: list[str] = field(default_factory=list)
    not_checked: dict[str, str] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    # Small gray images, by row.
    tiles: dict[int, bytes] = field(default_factory=dict)
    plan: str = ""
    preprocessing: Preprocessing = field(init=False)
    predicted: Predicted = field(init=False)

    def __post_init__(self) -> None:
        manifest, options = self.features.manifest, self.options
        groups: list[str | None] = [None] * manifest.n_rows
        if options.group_by is not None:
            groups = [*group_keys(manifest, options.group_by)]
        self.described = Described(
            ids=manifest.ids, labels=manifest.labels, splits=self._splits(), groups=groups
        )
        n = manifest.n_rows
        self.predicted = Predicted(
            classes=(), codes=np.full(n, -1), probabilities=np.zeros(n, dtype=np.float32)
        )
        self.failed = dict(self.features.failed_rows(self.arrays))
        self.used: Rows = np.setdiff1d(np.arange(manifest.n_rows), sorted(self.failed))

    def inspection(
        self,
        out: str,
        findings: Sequence[Finding],
        groups: Sequence[ImageGroup],
        confused: Sequence[Confusion],
    ) -> Inspection:
        """Return what was found, with all that explains it."""
        features = self.features
        return Inspection(
            out=out,
            dataset=features.dataset,
            dataset_version=features.dataset_version,
            model=features.model,
            layers=tuple(self.arrays),
            n_images=features.n_rows,
            classes=self._classes(),
            findings=tuple(in_order(findings)),
            groups=tuple(groups),
            confused=tuple(confused),
            thresholds=self.thresholds,
            notes=tuple(self.notes),
            not_checked=dict(self.not_checked),
            options=self.options.to_dict(),
            plan=self.plan,
            costs=self.phases.costs(),
        )

    def _classes(self) -> dict[str, int]:
        """Count the images of each class or label; numbers have none."""
        if self.task.name == REGRESSION:
            return {}
        return dict(self.task.members([each for each in self.described.labels if each is not None]))

    def skip(self, kind: str, why: str) -> None:
        """Note that nothing is known of findings of a kind."""
        self.not_checked[kind] = why
        self.notes.append(f"{why} [TT508]")

    def _splits(self) -> list[str | None]:
        """Return the split of each row: the data set's own, or the one that training would draw."""
        manifest, options = self.features.manifest, self.options
        if any(manifest.splits) and not options.resplit:
            return manifest.splits
        splits: list[str | None] = [None] * manifest.n_rows
        if len({label for label in manifest.labels if label is not None}) < 2:
            self.skip(LEAK, "there is no split to leak across: the data set names none, nor two classes")
            return splits
        try:
            drawn = split_manifest(
                manifest,
                seed=options.seed,
                test_fraction=options.test_fraction,
                val=options.val,
                group_by=options.group_by,
                resplit=options.resplit,
                task=self.task.name,
            )
        # What keeps train from drawing a split does not keep images from being looked at.
        except InputError as error:
            self.skip(LEAK, f"no leaks are told, because train could not draw a split: {error}")
            return splits
        self.notes.append(f"leaks are told of the split that train draws: {drawn.rule} [TT510]")
        for name, rows in (("train", drawn.train), ("test", drawn.test)):
            for row in rows.tolist():
                splits[row] = name
        return splits

    @property
    def limit_bytes(self) -> int | None:
        """The limit on the whole process."""
        limit = self.options.memory_limit
        return None if limit is None else bytes_of(limit)

    def find_neighbors(self) -> Neighbors:
        """Find the neighbors of the rows in `used`, after rows that are not finite were left out of it."""
        specs = {spec.name: spec for spec in self.features.arrays()}
        dims = tuple(specs[name].dim for name in self.arrays)
        with self.phases("read", line="reading features"):
            preprocessing, bad = fit_preprocessing(
                self.options.preprocess,
                self.features.blocks(self.arrays, self.used),
                dims,
                memory_limit_bytes=left_bytes(self.limit_bytes),
            )
        self.failed |= {int(self.used[row]): "its features are not finite" for row in bad.tolist()}
        self.used = np.delete(self.used, bad)
        if len(self.used) < _LEAST_IMAGES:
            advice = "repair the others and extract again" if self.failed else "extract more images"
            raise InputError(
                f"{counted(len(self.used), 'image')} of {self.features.n_rows} have finite features, and "
                f"at least {_LEAST_IMAGES} are needed to compare images; {advice} with --update"
            )
        self.preprocessing = preprocessing
        device = device_of(settle_head_device(self.options.device))
        if (approximate := self._approximate(device)) is not None:
            return approximate
        plan = plan_neighbors(
            n=len(self.used),
            d=preprocessing.n_outputs,
            k=min(self.options.neighbors, len(self.used) - 1),
            # On a CUDA device the rows are held there, and the limit counts there.
            limit_bytes=MemoryLimits.on(device, self.limit_bytes).bytes
            if device.type == "cuda"
            else left_bytes(self.limit_bytes),
        )
        self.plan = str(plan)
        self.phases.notify(self.plan)

        full = explained_out_of_memory(
            "the search for neighbors", device=str(device), knobs="free memory there, or lower --memory-limit"
        )
        with self.phases("neighbors", line=""), full:
            return nearest_neighbors(self.read, plan, device=device, progress=self.progress)

    def _approximate(self, device: torch.device) -> Neighbors | None:
        """Find neighbors by faiss where the rows are very many; None where exact search is the one to do."""
        n, most = len(self.used), self.options.exact_up_to
        # A GPU compares a million rows in minutes.
        if n <= most or device.type == "cuda":
            return None
        plan = plan_approximate(n=n, d=self.preprocessing.n_outputs, k=self.options.neighbors)
        room = left_bytes(self.limit_bytes)
        if faiss_or_none() is None:
            reason = "faiss is not installed (pip install 'toptune[faiss]')"
        elif plan.peak_bytes > room:
            reason = (
                f"approximate search takes about {shown_bytes(plan.peak_bytes)} of memory, and "
                f"{shown_bytes(room)} may be taken (--memory-limit)"
            )
        else:
            self.plan = str(plan)
            self.phases.notify(self.plan)
            with self.phases("neighbors", line=""):
                found = approximate_neighbors(self.read, plan, seed=self.options.seed)
            self.thresholds["neighbor_recall"] = found.recall
            self.notes.append(
                f"neighbors are approximate, because {n} images are more than {most} (--exact-up-to): "
                f"{found.recall:.4f} of the exact neighbors of a sample were found, in {found.n_probed} of "
                f"{plan.n_cells} cells [TT509]"
            )
            return found.neighbors
        self.notes.append(
            f"neighbors are exact, although {n} images are more than {most} (--exact-up-to): {reason} [TT509]"
        )
        return None

    def read(self, some: slice) -> Blocks:
        """Return some of the rows in `used`, after the steps by which they are compared."""
        rows = self.used[some]
        # Whole units are read straight into place where no row is left out.
        blocks = self.features.blocks(self.arrays, None if len(rows) == self.features.n_rows else rows)
        return PreprocessedBlocks(blocks, self.preprocessing, self.arrays)

    def find_coordinates(self) -> Coordinates | None:
        """Put the rows on a map, if the memory limit has room for the matrices that this takes."""
        with self.phases("map", line="drawing the map"):
            try:
                found = map_rows(
                    self.read(slice(0, len(self.used))),
                    method=self.options.map,
                    seed=self.options.seed,
                    memory_limit_bytes=left_bytes(self.limit_bytes),
                    notify=self.notes.append,
                )
            # Findings do not need the map.
            except InputError as error:
                self.notes.append(f"there is no map: {error} [TT508]")
                return None
        points = np.full((self.features.n_rows, 2), np.nan, dtype=np.float32)
        points[self.used] = found.points
        return replace(found, points=points)

    def album(self, coordinates: Coordinates | None, source: ImageSource | None) -> Album:
        """Return what the page and the atlas show of each image."""
        return Album(
            ids=self.described.ids,
            labels=self.described.labels,
            splits=self.described.splits,
            coordinates=coordinates,
            thumbnails=None if source is None else Thumbnails(source),
        )

    def write_page(self, path: Path, found: Inspection, album: Album) -> None:
        """Write the page of the findings."""
        write_findings_page(
            path,
            title=f"Findings in {found.dataset}",
            about=f"{counted(found.n_images, 'image')} of version {found.dataset_version}, by "
            f"{', '.join(found.layers)} of {found.model}",
            counts=found.counts,
            cards=cards_of(found.findings, found.groups),
            album=album,
            notes=found.notes,
            confused=[each.to_dict() for each in found.confused],
            seed=self.options.seed,
        )

    def write_atlas(self, path: Path, found: Inspection, album: Album, neighbors: Neighbors) -> None:
        """Write the table of the images that embedding-atlas opens."""
        kinds: dict[str, list[str]] = defaultdict(list)
        for each in found.findings:
            kinds[each.id].append(each.kind)
        nearby = Nearby(of=self.used, rows=neighbors.rows, distances=distances_of(neighbors))
        write_atlas(path, album, nearby=nearby, predicted=self.predicted, findings=kinds)

    def find_copies(self, neighbors: Neighbors) -> tuple[list[ImageGroup], Pairs, Pairs]:
        """Return the groups of copies, and the pairs of rows with equal bytes and of near rows."""
        with self.phases("duplicates"):
            digests, known = self.features.content_digests()
            if not known.any():
                self.skip(
                    DUPLICATE,
                    "no digests of images are stored, as of imported features: copies are told as "
                    "near-duplicates only",
                )
            equal = equal_pairs(digests, known)
            spacing = Spacing.of(neighbors, false_alarms=self.options.false_alarms)
            near = self.used[np.concatenate([spacing.near_pairs(neighbors), self._by_pixels(neighbors)])]
            nearest = np.zeros(self.features.n_rows)
            nearest[self.used] = neighbors.cosines[:, 0]
            self.thresholds |= {
                "near_duplicate_ratio": spacing.ratio,
                "near_duplicate_false_alarms": spacing.false_alarms,
                "intrinsic_dimension": spacing.dimension,
            }
            groups = exact_groups(equal, self.described)
            groups += near_groups(near, nearest, equal, self.described)
        return groups, equal, near

    def _by_pixels(self, neighbors: Neighbors) -> Pairs:
        """Return the pairs of neighbors, by their places in `used`, whose pixels are nearly the same."""
        found = None
        if self.tiles:
            tiles = np.zeros((len(self.used), EDGE, EDGE), dtype=np.uint8)
            known = np.zeros(len(self.used), dtype=bool)
            for place, row in enumerate(self.used.tolist()):
                if (tile := self.tiles.get(row)) is not None:
                    tiles[place] = np.frombuffer(tile, dtype=np.uint8).reshape(EDGE, EDGE)
                    known[place] = True
            found = pixel_copies(tiles, known, neighbors, false_alarms=self.options.false_alarms)
        if found is None:
            return np.zeros((0, 2), dtype=np.int64)
        self.thresholds["near_duplicate_correlation"] = found.least
        return found.pairs

    def find_outliers(self, neighbors: Neighbors) -> list[Finding]:
        """Return the images whose farthest neighbor is farther than that of nearly all images."""
        farthest = distances_of(neighbors)[:, -1]
        # A row is no neighbor of its own, so that each distance is one to other images.
        limit = float(np.quantile(farthest, 1 - self.options.outliers))
        self.thresholds |= {"outlier_distance": limit, "outlier_share": self.options.outliers}
        ids, novelty = self.described.ids, self._novelty()
        return [
            Finding(
                id=ids[self.used[row]],
                kind=OUTLIER,
                score=float(farthest[row]),
                related=(ids[self.used[neighbors.rows[row, 0]]],),
                novelty=None if novelty is None else float(novelty[row]),
            )
            for row in np.flatnonzero(farthest > limit).tolist()
        ]

    def _novelty(self) -> npt.NDArray[np.float64] | None:
        """Return how new the rows in `used` are to a kernel on the others; None where memory is too short."""
        try:
            return novelty_of(
                self._as_heads_see(self.used), seed=self.options.seed, limit_bytes=self.limit_bytes
            )
        except InputError as error:
            self.notes.append(f"the novelty of outliers is not told: {error} [TT508]")
            return None

    def _as_heads_see(self, rows: Rows) -> PreprocessedBlocks:
        """Return some rows after the steps before a kernel head."""
        specs = {spec.name: spec for spec in self.features.arrays()}
        preprocessing, _ = fit_preprocessing(
            default_preprocessing("falkon"),
            self.features.blocks(self.arrays, rows),
            tuple(specs[name].dim for name in self.arrays),
            memory_limit_bytes=left_bytes(self.limit_bytes),
        )
        return PreprocessedBlocks(self.features.blocks(self.arrays, rows), preprocessing, self.arrays)

    def check_labels(self, neighbors: Neighbors, copies: Pairs) -> tuple[list[Finding], list[Confusion]]:
        """Return labels that contradict left-out predictions, and the classes that are confused."""
        labels = self.described.labels
        is_labeled = np.array([labels[row] is not None for row in self.used.tolist()], dtype=bool)
        rows = self.used[is_labeled]
        given = np.array([str(labels[row]) for row in rows.tolist()], dtype=str)
        if self.task.name != CLASSIFICATION:
            return self._check_targets(neighbors, rows, given.tolist(), copies), []
        if len(set(given.tolist())) < 2:
            self.skip(
                LABEL,
                f"labels were not checked: {counted(len(rows), 'labeled image')} of "
                f"{counted(len(set(given.tolist())), 'class')}, and two classes are needed",
            )
            return [], []
        try:
            probabilities, classes = self._left_out(rows, given, copies)
        except FoldsError as error:
            self.skip(LABEL, f"labels were not checked: {error}")
            return [], []
        codes = np.searchsorted(classes, given)
        checked = np.isfinite(probabilities[:, 0])
        if not checked.all():
            self.notes.append(
                f"the labels of {counted(int((~checked).sum()), 'image')} were not checked: nothing is known "
                "of their class without them; give each class a second image [TT508]"
            )
        rows, codes = rows[checked], codes[checked]
        found = confident_labels(probabilities[checked], codes)
        place = np.full(self.features.n_rows, -1)
        place[self.used] = np.arange(len(self.used))
        wrong = [
            Finding(
                id=self.described.ids[rows[at]],
                kind=LABEL,
                score=float(1 - found.self_confidence[at]),
                related=self._evidence(neighbors, int(place[rows[at]]), str(classes[found.suggested[at]])),
                suggestion=str(classes[found.suggested[at]]),
            )
            for at in np.flatnonzero(found.is_issue).tolist()
        ]
        return wrong, confused_classes(found, codes, classes)

    def _check_targets(
        self, neighbors: Neighbors, rows: Rows, texts: list[str], copies: Pairs
    ) -> list[Finding]:
        """Return labels, of several an image, and numbers that contradict left-out predictions."""
        try:
            self.task.check(texts)
        # What no head could learn is looked at all the same.
        except InputError as error:
            self.skip(LABEL, f"labels were not checked: {error}")
            return []
        names = self.task.names(texts)
        values = self.task.targets(texts, names).values
        try:
            told = self._left_out_targets(rows, values, copies)
        except FoldsError as error:
            self.skip(LABEL, f"labels were not checked: {error}")
            return []
        is_number = self.task.name == REGRESSION
        if is_number:
            self.thresholds["residual_deviations"] = MOST_Z
        doubts = (doubtful_numbers if is_number else doubtful_labels)(told, values, names)
        return [self._of_doubt(each, neighbors, rows, None if is_number else values) for each in doubts]

    def _of_doubt(
        self, each: Doubt, neighbors: Neighbors, rows: Rows, labels: npt.NDArray[np.float64] | None
    ) -> Finding:
        """Return the finding of a doubt; a label is explained by near images that have the opposite."""
        row = int(rows[each.row])
        near = self.used[neighbors.rows[np.searchsorted(self.used, row)]]
        if labels is not None:
            column = labels[:, each.column]
            near = near[np.isin(near, rows[column == 1 - column[each.row]])]
        return Finding(
            id=self.described.ids[row],
            kind=LABEL,
            score=each.score,
            related=tuple(self.described.ids[other] for other in near[:_MOST_EVIDENCE].tolist()),
            suggestion=each.suggestion,
            told=each.told,
        )

    def _left_out_targets(self, rows: Rows, values: npt.NDArray[np.float64], copies: Pairs) -> Matrix:
        """Return left-out probabilities of several labels, or left-out numbers, (n, k)."""
        blocks, keys = self._as_heads_see(rows), self._keys(rows, copies)
        if self.task.name == REGRESSION:
            regressor = FalkonRegressor(**self._head_options()).fit(blocks, values, groups=keys)
            return regressor.left_out_predictions(blocks, values, groups=keys)
        head = FalkonClassifier(**self._head_options()).fit(blocks, values, groups=keys)
        return head.left_out_probabilities(blocks, values, groups=keys).astype(np.float64)

    def _head_options(self) -> dict[str, Any]:
        device = settle_head_device(self.options.device)
        return {
            "cv": self.options.cv,
            "random_state": self.options.seed,
            "device": device,
            "memory_limit_bytes": left_for_head(self.limit_bytes, device),
        }

    def _keys(self, rows: Rows, copies: Pairs) -> list[str]:
        """Return keys of rows that share a fold: a copy in another one would vouch for a wrong label."""
        together = self._together(copies)
        return [str(together[row]) for row in rows.tolist()]

    def _left_out(
        self, rows: Rows, given: npt.NDArray[np.str_], copies: Pairs
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
        """Return left-out probabilities (n, n_classes) of a kernel head, and its classes."""
        blocks, keys = self._as_heads_see(rows), self._keys(rows, copies)
        head = FalkonClassifier(**self._head_options())
        head.fit(blocks, given, groups=keys)
        probabilities, classes = (
            head.left_out_probabilities(blocks, given, groups=keys),
            head.classes_.astype(str),
        )
        most = probabilities.max(axis=1)
        known = np.isfinite(most)
        self.predicted.codes[rows[known]] = probabilities[known].argmax(axis=1)
        self.predicted.probabilities[rows] = most
        self.predicted = replace(self.predicted, classes=classes.tolist())
        return probabilities, classes

    def _together(self, copies: Pairs) -> npt.NDArray[np.int64]:
        """Return a number of each row, the same for copies and for rows of one group."""
        groups = self.described.groups
        rows = np.array([row for row, group in enumerate(groups) if group is not None], dtype=np.int64)
        _, codes = np.unique([str(groups[row]) for row in rows.tolist()], return_inverse=True)
        rows, codes = rows[np.argsort(codes, kind="stable")], np.sort(codes)
        # Each row of a group is joined to the row of the group before it.
        same = np.flatnonzero(codes[1:] == codes[:-1])
        pairs = np.stack([rows[same], rows[same + 1]], axis=1)
        return components(np.concatenate([copies, pairs]), self.features.n_rows)

    def _evidence(self, neighbors: Neighbors, place: int, label: str) -> tuple[str, ...]:
        """Return the ids of the nearest images that have a label."""
        near = self.used[neighbors.rows[place]].tolist()
        same = [row for row in near if self.described.labels[row] == label]
        return tuple(self.described.ids[row] for row in same[:_MOST_EVIDENCE])

    def measure(self, source: ImageSource, places: dict[int, int]) -> list[Finding]:
        """Return what is odd about the images themselves."""
        missing = self.features.n_rows - len(places)
        if missing:
            self.notes.append(
                f"{counted(missing, 'image')} of {self.features.n_rows} are no longer in the data that was "
                "given, and were not measured; extract with --update makes the data the next version [TT508]"
            )
        row_of = {place: row for row, place in places.items()}
        found, failed = measure_images(source, sorted(row_of), progress=self.progress)
        new = {row_of[place]: why for place, why in failed.items() if row_of[place] not in self.failed}
        ids = self.described.ids
        by_row = {row_of[place]: each for place, each in found.items()}
        self.tiles = {row: each.tile for row, each in by_row.items()}
        return failure_findings(new, ids) + image_findings(by_row, ids)
