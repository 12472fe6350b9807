"""Growing a data set: known images stay where their features are, unknown ones become a new part."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import ConflictError, CorruptError, StoreError, StoreNotFoundError
from toptune.store.datasets import dataset_records
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.outside_text import outside_column
from toptune.store.datasets.registration import Difference, compare
from toptune.store.datasets.versions import DatasetVersion, publish_version, read_dataset_version
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.image_digests import gone_rows
from toptune.store.files.names import part_name
from toptune.store.files.place import holding, place_at

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.intp]
# (name of a part, m rows of the part, the m rows now) -> which rows have other bytes (m,).
Changed = Callable[[str, Rows, Rows], npt.NDArray[np.bool_]]

# (name of a part, rows of the part, k rows now) -> the row of the part with the same bytes, or -1 (k,).
Find = Callable[[str, Rows, Rows], Rows]

# A race is lost only to another process that published a part or a version, so that somebody always advances.
_ATTEMPTS = 50


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Plan for the next version of a data set.

    Attributes
    ----------
    before : DatasetVersion
        The latest version until now.
    after : DatasetVersion
        The next version; `before` itself where nothing differs.
    difference : Difference
        Difference between the two versions.
    new_part : Manifest, optional
        Images that no part holds yet; they become the last part of `after`.
    """

    before: DatasetVersion
    after: DatasetVersion
    difference: Difference
    new_part: Manifest | None = None

    @property
    def is_needed(self) -> bool:
        """Whether there is a new version to make."""
        return self.after is not self.before


def grow(
    store: FeatureStore,
    dataset: str,
    manifest: Manifest,
    *,
    changed: Changed | None = None,
    find: Find | None = None,
    every: bool = False,
) -> Growth:
    """Make a manifest the latest version of a data set; adopt the latest where nothing differs.

    Several processes may grow a data set at once: each sees what the others published, no version is lost,
    and equal versions are made once.

    Parameters
    ----------
    store : FeatureStore
    dataset : str
        Name of a registered data set.
    manifest : Manifest
        The images now.
    changed, find, every
        See `plan_growth`.

    Raises
    ------
    ConflictError
        If others keep growing the data set faster.
    StoreError
        If the store is damaged or cannot be written.
    """
    folder = dataset_records.dataset_folder(store.root, dataset)
    dataset_records.read_record(store.root, dataset)  # says that there is none, and which there are
    for _ in range(_ATTEMPTS):
        # The folder is held before anything of the data set is read.
        with holding(folder) as (held,):
            growth = plan_growth(store, dataset, manifest, changed=changed, find=find, every=every)
            if not growth.is_needed:
                return growth
            part = growth.after.parts[-1]
            if growth.new_part is not None and not dataset_records.put_dataset(
                store.root, part, growth.new_part, part_of=growth.after.dataset
            ):
                continue  # Another process made this part, perhaps of the same images: plan anew.
            try:
                # The version comes after its part: a kill in between leaves a part that no version names,
                # which the next growth finds and uses.
                if publish_version(store.root, growth.after, held=held):
                    return growth
            except StoreError as error:
                _refuse_lost(store, growth, error, is_there=held is None or held.is_there())
                raise
    raise ConflictError(
        f"data set {dataset!r} of {store.root} was changed by others {_ATTEMPTS} times meanwhile; "
        "run the same command again"
    )


def _refuse_lost(store: FeatureStore, growth: Growth, error: StoreError, *, is_there: bool) -> None:
    """Say that the data set was removed while it grew, and take the new part away, which nothing names."""
    if is_there:
        return
    dataset = growth.after.dataset
    part = dataset_records.dataset_folder(store.root, growth.after.parts[-1])
    if growth.new_part is not None and dataset not in dataset_records.dataset_names(store.root):
        place_at(part).remove_folder(aside=part.parent)
    raise StoreNotFoundError(
        f"data set {dataset!r} of {store.root} was removed while it grew; run extract again"
    ) from error


def plan_growth(
    store: FeatureStore,
    dataset: str,
    manifest: Manifest,
    *,
    changed: Changed | None = None,
    find: Find | None = None,
    every: bool = False,
) -> Growth:
    """Work out the next version of a data set, changing nothing.

    Parameters
    ----------
    store : FeatureStore
    dataset : str
        Name of a registered data set.
    manifest : Manifest
        The images now.
    changed : callable, optional
        Asked of images with a known id and size but another modification time, whether their bytes
        differ from those that were extracted.
    find : callable, optional
        Asked of images with an unknown id, whether one whose id is gone has the same bytes: an image
        that was moved to the folder of another class keeps its features.
    every : bool
        Ask `changed` of all images with a known id and size.

    Returns
    -------
    Growth
    """
    before = read_dataset_version(store.root, dataset)
    names = dataset_records.part_names(store.root, dataset)
    lost = sorted(set(before.parts) - set(names))
    if lost:
        raise CorruptError(
            f"data set {dataset!r} of {store.root} has lost {', '.join(lost)}; run store verify"
        )
    # Rows are not appended to a committed array, because readers and older runs must never see a row move.
    # New images become a part of their own instead.
    part = np.full(manifest.n_rows, -1, dtype=np.intp)
    part_row = np.zeros(manifest.n_rows, dtype=np.intp)
    seen_ns = np.zeros(manifest.n_rows, dtype=np.int64)
    # A row that a model left empty holds no features of its image. If the image comes back, it belongs to a
    # new part.
    gone = {name: gone_rows(store.caches(dataset=name)) for name in names} if before.number > 1 else {}
    for name, rows, places, times in _matches(store, before, names, manifest, part):
        usable = ~np.isin(places, np.array(gone.get(name, []), dtype=np.intp))
        part[rows[usable]] = names.index(name)
        part_row[rows[usable]] = places[usable]
        seen_ns[rows[usable]] = times[usable]
    other_bytes = _other_bytes(names, part, part_row, every | (manifest.modified_ns != seen_ns), changed)
    part[other_bytes] = -1
    n_moved = 0
    if find is not None:
        for name, rows, places in _moved(store, names, manifest, part, part_row, gone, find):
            part[rows], part_row[rows] = names.index(name), places
            n_moved += len(rows)
    unknown = np.flatnonzero(part < 0)
    new_part = None
    if len(unknown):
        new_part = manifest.take(unknown)
        names = [*names, part_name(before.dataset, _free_number(names))]
        part[unknown] = len(names) - 1
        part_row[unknown] = np.arange(len(unknown))
    # The version names only the parts that it needs, in their order; a new part is the last.
    used = np.unique(part)
    after = DatasetVersion(
        dataset=before.dataset,
        number=before.number + 1,
        manifest=manifest,
        parts=tuple(names[position] for position in used),
        part=np.searchsorted(used, part),
        part_row=part_row,
    )
    # A changed image counts as changed only if no part holds its new bytes.
    still = other_bytes[part[other_bytes] == len(names) - 1] if new_part is not None else other_bytes[:0]
    difference = compare(before.manifest, manifest, changed=still.tolist(), n_moved=n_moved)
    if after.is_same(before):
        return Growth(before=before, after=before, difference=difference)
    return Growth(before=before, after=after, difference=difference, new_part=new_part)


def _matches(
    store: FeatureStore, before: DatasetVersion, names: list[str], manifest: Manifest, part: Rows
) -> Iterator[tuple[str, Rows, Rows, npt.NDArray[np.int64]]]:
    """Yield, part by part, rows with a known id and size, their rows of the part, and their times there.

    Rows of the version before come first. Then every part, the newest first, is searched for the rows that
    have no place in `part` yet.
    """
    rows, places = _same_images(before.manifest, manifest, np.arange(manifest.n_rows))
    for position, name in enumerate(before.parts):
        mine = before.part[places] == position
        there = places[mine]
        yield name, rows[mine], before.part_row[there], before.manifest.modified_ns[there]
    # The newest part is searched first: if several parts hold an id, it has the bytes that were seen last.
    for name in reversed(names):
        left = np.flatnonzero(part < 0)
        if not len(left):
            return
        try:
            old = dataset_records.read_dataset(store.root, name)
        except CorruptError as error:
            if name in before.parts:
                raise
            # Another process died while it made the part, which no version names.
            logger.warning("part left out: %s [TT203]", error)
            continue
        rows, places = _same_images(old, manifest, left)
        yield name, rows, places, old.modified_ns[places]


def _moved(
    store: FeatureStore,
    names: list[str],
    manifest: Manifest,
    part: Rows,
    part_row: Rows,
    gone: dict[str, list[int]],
    find: Find,
) -> Iterator[tuple[str, Rows, Rows]]:
    """Yield, part by part, rows whose bytes a part has under a lost id, and their rows in the part."""
    ids = set(manifest.ids)
    for name in reversed(names):
        left = np.flatnonzero(part < 0)
        if not len(left):
            return
        try:
            old = dataset_records.read_dataset(store.root, name)
        except CorruptError:
            continue  # `_matches` has logged the damage already.
        lost = {*gone.get(name, []), *part_row[part == names.index(name)].tolist()}
        free = [row for row, each in enumerate(old.ids) if each not in ids and row not in lost]
        places = np.array(free, dtype=np.intp)
        # Images of other sizes cannot have the same bytes, so that only a few files are read.
        rows = left[np.isin(manifest.sizes[left], old.sizes[places])]
        if not len(rows):
            continue
        found = find(name, places, rows)
        # If two images have the same bytes, only one of them can be the image that was moved.
        _, first = np.unique(found, return_index=True)
        first = first[found[first] >= 0]
        yield name, rows[first], found[first]


def _same_images(old: Manifest, new: Manifest, rows: Rows) -> tuple[Rows, Rows]:
    """Return the rows whose id and size are in `old` too, and their rows there."""
    old_row = {name: row for row, name in enumerate(outside_column(old.ids, keeps_blanks=True))}
    ids = new.ids
    places = np.array([old_row.get(ids[row], -1) for row in rows.tolist()], dtype=np.intp)
    known = places >= 0
    # Size and id are compared for free; digests would mean reading every image.
    known[known] = old.sizes[places[known]] == new.sizes[rows[known]]
    return rows[known], places[known]


def _other_bytes(
    names: list[str],
    part: Rows,
    part_row: Rows,
    doubtful: npt.NDArray[np.bool_],
    changed: Changed | None,
) -> Rows:
    """Return the doubtful rows whose bytes differ from the bytes that were extracted for them."""
    found = [np.zeros(0, dtype=np.intp)]
    for position, name in enumerate(names):
        rows = np.flatnonzero((part == position) & doubtful)
        if changed is not None and len(rows):
            found.append(rows[changed(name, part_row[rows], rows)])
    return np.sort(np.concatenate(found))


def _free_number(names: list[str]) -> int:
    last = names[-1].rpartition("~")[2]
    # Numbers of parts in the store count too, even if no version names the part.
    return int(last) + 1 if len(names) > 1 else 2
