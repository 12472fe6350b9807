"""Repair a store: rebuild records where possible, and drop damaged units, which extract computes again."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from toptune.errors import CorruptError, FormatVersionError, StoreError
from toptune.store.arrays.array_records import read_array, restore_array
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.spec import FORMATS
from toptune.store.arrays.units import format_units
from toptune.store.datasets import dataset_records
from toptune.store.datasets.versions import version_numbers
from toptune.store.features.cache_records import CACHE_KIND, CacheRecord, open_cache
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.descriptor import DESCRIPTOR, STORE_FILE, is_of_another_version
from toptune.store.files.place import check_inside, place_at, place_of
from toptune.store.files.reading import file_digest, list_folder, read_file
from toptune.store.files.sealed import is_newer, unseal_record
from toptune.store.files.system_errors import explained_reading, is_refusal
from toptune.store.upkeep.dataset_repair import is_grown, mend_version, rebuild_part
from toptune.store.upkeep.verification import verify

# A damaged record hides what it covers, so that damage lies at most four deep: the descriptor, a recipe, the
# record of an array, units.
_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What `repair` did; JSON values only.

    Attributes
    ----------
    dropped : dict of str to list of int
        ``<model>@<digest8>/<dataset>/<array>`` to the units that were damaged; extract computes them again.
    dropped_arrays : tuple of str
        Arrays dropped as a whole, because both files that describe them are damaged.
    dropped_datasets : tuple of str
        Data sets whose manifest is to be registered again by extract.
    dropped_versions : tuple of str
        Latest versions of data sets that grew which extract with ``--update`` makes again.
    rebuilt, removed : tuple of str
        Files made again from other files, and hints, on which nothing depends.
    left : tuple of (path, reason)
        What could not be repaired, with the next step.
    missing : dict of str to list of int
        All units that extract will now compute, those never done included.
    """

    dropped: dict[str, list[int]] = field(default_factory=dict)
    dropped_arrays: tuple[str, ...] = ()
    dropped_datasets: tuple[str, ...] = ()
    dropped_versions: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    missing: dict[str, list[int]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if all that is damaged was rebuilt or dropped, 1 if something is left."""
        return 1 if self.left else 0

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        values = {
            key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()
        }
        return {**values, "left": [list(pair) for pair in self.left]}

    def __str__(self) -> str:
        lines = [f"rebuilt: {path}" for path in self.rebuilt]
        lines += [f"removed: {path}" for path in self.removed]
        lines += [f"dropped: {name}: units {format_units(units)}" for name, units in self.dropped.items()]
        lines += [f"dropped: {name}: the whole array" for name in self.dropped_arrays]
        lines += [f"dropped: the manifest of data set {name}" for name in self.dropped_datasets]
        lines += [f"dropped: {name}: extract with --update makes it again" for name in self.dropped_versions]
        lines += [f"not repaired: {path}: {reason}" for path, reason in self.left]
        # What is missing without being damaged is no work of a repair, and must not pass for whole.
        lines += [
            f"missing: {name}: units {format_units(units)}"
            for name, units in self.missing.items()
            if units != self.dropped.get(name)
        ]
        if self.dropped or self.dropped_arrays or self.dropped_datasets or self.missing:
            lines.append("run the same extract again: it computes only what is missing")
        return "\n".join(lines) or "nothing is damaged"


def repair(root: str | os.PathLike[str]) -> RepairReport:
    """Read every byte of a store and take what is damaged out of it.

    A damaged shard goes with its ledger entry, and a damaged entry with its shard, so that the same
    extract computes exactly these units again. Records are rebuilt where others hold the same facts. What is
    unreadable for want of permission, or was written by a newer toptune, is left as it is.

    Parameters
    ----------
    root : path
        The store's folder; its descriptor may be damaged too.

    Returns
    -------
    RepairReport

    Raises
    ------
    StoreNotFoundError
        If the folder does not look like a store.
    FormatVersionError
        If an older or a newer toptune made the store.
    StoreError
        If the store as a whole cannot be read or written.
    """
    job = _Repair(place_of(root))
    job.descriptor()
    store = FeatureStore.open(root)
    for _ in range(_ROUNDS):
        report = verify(store, deep=True)
        job.left.clear()
        job.uncovered = False
        for name, reason in report.damaged:
            job.mend(place_of(name), reason)
        job.left.update(report.unreadable)
        if not job.uncovered:
            break
    missing = {key: list(units) for key, units in report.missing.items()}
    for key, units in job.dropped.items():
        missing[key] = sorted({*missing.get(key, []), *units})
    return RepairReport(
        dropped={key: sorted(units) for key, units in job.dropped.items()},
        dropped_arrays=tuple(job.dropped_arrays),
        dropped_datasets=tuple(job.dropped_datasets),
        dropped_versions=tuple(job.dropped_versions),
        rebuilt=tuple(job.rebuilt),
        removed=tuple(job.removed),
        left=tuple(sorted(job.left.items())),
        missing=missing,
    )


class _Repair:
    """What has been done to one store so far."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dropped: dict[str, set[int]] = {}
        self.dropped_arrays: list[str] = []
        self.dropped_datasets: list[str] = []
        self.dropped_versions: list[str] = []
        self.rebuilt: list[str] = []
        self.removed: list[str] = []
        self.left: dict[str, str] = {}
        self.uncovered = False

    def descriptor(self) -> None:
        """Write ``toptune.json`` again, whose content is always the same."""
        path = self.root / STORE_FILE
        with explained_reading(self.root):
            is_store = any((self.root / part).is_dir() for part in ("datasets", "features"))
        if not is_store:
            return  # Opening it says so.
        try:
            data = read_file(path)
        except (FileNotFoundError, CorruptError):
            data = b""
        if data != DESCRIPTOR and not is_of_another_version(data):
            place_at(path).replace(DESCRIPTOR)
            self.rebuilt.append(str(path))

    def mend(self, path: Path, reason: str) -> None:
        """Repair one file that `verify` blames, unless the system refuses to read or write what it takes."""
        try:
            self.mend_readable(path, reason)
        except StoreError as error:
            # What a disk or its permissions refuse may be sound; nothing is removed on that ground.
            if not is_refusal(error):
                raise
            self.left[str(path)] = f"{reason}; {error}"

    def mend_readable(self, path: Path, reason: str) -> None:
        try:
            # What a unit or a manifest holds decides nothing here, and may be of any size.
            data = read_file(path) if path.suffix == ".json" else b""
        except (FileNotFoundError, CorruptError):
            data = b""
        # A file of a newer version is sound for the toptune that wrote it; a repair would destroy what it
        # says.
        if path.suffix == ".json" and is_newer(data):
            self.left[str(path)] = f"{reason}; a newer toptune wrote it"
            return
        match path.relative_to(self.root).parts:
            case ("datasets", name, "versions", _):
                self.version(name, path, reason)
            case ("datasets", name, _):
                self.dataset(name, path, reason)
            case ("features", _, _, "recipe.json"):
                self.recipe(path, data, reason)
            case ("features", _, _, "requests", _) | ("features", _, _, "used.json"):
                place_at(path).free()
                self.removed.append(str(path))
            case ("features", model, dataset, "ledger", name, "array.json"):
                self.array(self.root / "features" / model / dataset, name)
            case ("features", model, dataset, "ledger", name, "packed.jsonl"):
                self.packed(self.root / "features" / model / dataset, name)
            case ("features", model, dataset, "ledger", name, entry):
                self.unit(self.root / "features" / model / dataset, name, int(Path(entry).stem))
            case ("features", model, dataset, name, "zarr.json" | "all.h5"):
                self.array(self.root / "features" / model / dataset, name)
            case ("features", model, dataset, name, *rest) if (unit := _unit_of(tuple(rest))) is not None:
                self.unit(self.root / "features" / model / dataset, name, unit)
            case _:
                self.leave(path, reason)

    def leave(self, path: Path, reason: str) -> None:
        """Say what only the user can do about a cache's own records."""
        parts = path.relative_to(self.root).parts
        if len(parts) == 3 and parts[0] == "features":
            step = "run extract again, which registers the data set"
            if parts[2] in self.dropped_datasets:
                return  # The report names the data set already.
        elif len(parts) == 4:
            step = f"restore it from a copy, or store rm --model {parts[1]} --dataset {parts[2]} and extract"
        else:
            step = "restore it from a copy"
        self.left[str(path)] = f"{reason}; {step}"

    def dataset(self, name: str, path: Path, reason: str) -> None:
        """Move a damaged manifest out of the way; extract registers it anew, and finds the caches again.

        The manifest of a part is made again from the versions, which name the part's rows.
        """
        # A part cannot be registered again, because its rows are those that versions name.
        if is_grown(self.root, name):
            if rebuild_part(self.root, name):
                self.rebuilt.append(str(path))
                self.uncovered = True
            else:
                base = dataset_records.base_of(self.root, name) or name
                step = f"restore it from a copy, or store rm --dataset {base} and extract"
                self.left[str(path)] = f"{reason}; {step}"
        elif name not in self.dropped_datasets:
            # Beside a damaged record, a manifest that cannot be read for now may be sound.
            for each in list_folder(dataset_records.dataset_folder(self.root, name)):
                if each.is_file():
                    file_digest(each)
            # The folder stays as a leftover for a while: it may be the only copy of somebody's labels.
            place_at(dataset_records.dataset_folder(self.root, name)).hide()
            self.dropped_datasets.append(name)

    def version(self, dataset: str, path: Path, reason: str) -> None:
        """Make a version's record again, or drop the latest version, whose features stay."""
        number = version_numbers(self.root, dataset)[-1]
        match mend_version(self.root, dataset, path):
            case "rebuilt":
                self.rebuilt.append(str(path))
            case "dropped":
                self.dropped_versions.append(f"version {number} of data set {dataset}")
            case _:
                self.left[str(path)] = f"{reason}; restore it from a copy: the other versions do not need it"
                return
        self.uncovered = True

    def recipe(self, path: Path, data: bytes, reason: str) -> None:
        """Copy the recipe from another data set's cache with the same digest."""
        folder = path.parent
        try:
            digest = unseal_record(
                CACHE_KIND, CacheRecord, read_file(folder / "cache.json"), folder
            ).recipe_sha256
        except StoreError as error:
            if is_refusal(error):
                raise
            self.leave(path, reason)
            return
        # A recipe whose digest holds is as it was written. Another version of toptune wrote it, and a copy
        # from another data set would be no different.
        is_altered = hashlib.sha256(data).hexdigest() != digest
        for other in sorted(folder.parent.glob("*/recipe.json")) if is_altered else ():
            copy = _copy_of(other)
            if other != path and hashlib.sha256(copy).hexdigest() == digest:
                place_at(path).replace(copy)
                self.rebuilt.append(str(path))
                self.uncovered = True
                return
        self.leave(path, reason)

    def array(self, folder: Path, name: str) -> None:
        """Rebuild the record and the metadata of an array from each other, or drop the array."""
        try:
            cache = open_cache(self.root, folder)
        except StoreError:
            return  # The cache's own records are blamed and repaired first.
        try:
            read_array(folder, name)
        except (CorruptError, FormatVersionError, FileNotFoundError):
            pass
        else:
            return  # Another process repaired the array, or both of its files were blamed.
        restored = restore_array(
            folder, name, n_rows=cache.n_rows, unit_rows=cache.unit_rows, format=cache.format
        )
        if restored:
            self.rebuilt += map(str, restored)
        else:
            # The ledger goes first, so that a kill leaves an incomplete array and never a wrong one.
            for each in (folder / "ledger" / name, folder / name):
                place_at(each).remove_folder(aside=folder)
            self.dropped_arrays.append(f"{cache.name}/{cache.dataset}/{name}")
        self.uncovered = True

    def packed(self, folder: Path, name: str) -> None:
        """Write the sound lines of a packed ledger as entries of their own; drop the units of the others."""
        cache = open_cache(self.root, folder)
        # The sound lines become single files before any unit is dropped, because a packed ledger is
        # complete by definition.
        cache.ledger(name).unpack()
        for unit in sorted(set(range(cache.n_units)) - cache.ledger(name).all_recorded().keys()):
            self.unit(folder, name, unit)
        self.uncovered = True

    def unit(self, folder: Path, name: str, unit: int) -> None:
        """Drop the ledger entry of a unit and then the shard, unless both are sound by now."""
        cache = open_cache(self.root, folder)
        # A round of `verify` takes long. Meanwhile an extraction may have computed the unit again.
        try:
            if _is_sound(cache, name, unit):
                return
            # A link among the folders leads to files that are not this store's to remove.
            for each in (cache.entry_path(name, unit), cache.shard_path(name, unit)):
                check_inside(cache.path, each.parent)
        except StoreError as error:
            self.left[str(cache.shard_path(name, unit))] = str(error)
            return
        cache.ledger(name).unpack()
        # The entry goes first: a kill in between leaves a file that nothing names. Sound data behind a
        # damaged entry go too, because a file that decodes may belong to another unit.
        for path in (cache.entry_path(name, unit), cache.shard_path(name, unit)):
            try:
                seen = place_at(path).status()
            except FileNotFoundError:
                continue
            place_at(path).remove_damaged(seen)
        self.dropped.setdefault(f"{cache.name}/{cache.dataset}/{name}", set()).add(unit)


def _is_sound(cache: FeatureCache, name: str, unit: int) -> bool:
    entry = cache.entry(name, unit)
    if entry is None:
        return False
    path = cache.shard_path(name, unit)
    try:
        check_inside(cache.path, path)
        return file_digest(path) == entry.sha256
    except (FileNotFoundError, CorruptError):
        return False


def _copy_of(path: Path) -> bytes:
    try:
        return read_file(path)
    except (FileNotFoundError, StoreError):
        return b""


def _unit_of(parts: tuple[str, ...]) -> int | None:
    """Return the unit whose file has that path within an array of either format."""
    found = (format_of(name).unit_of(parts) for name in FORMATS)
    return next((unit for unit in found if unit is not None), None)
