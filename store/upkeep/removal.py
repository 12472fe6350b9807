"""Remove arrays, caches and data sets from a store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from toptune.errors import InputError, StoreNotFoundError
from toptune.options import choices
from toptune.store.arrays.array_records import recorded_names
from toptune.store.datasets import dataset_records
from toptune.store.features.cache_records import is_orphan, split_folder
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.reading import list_entries


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Plan of a removal; JSON values only.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    caches : tuple of str
        Names of the caches, ``<model>@<digest8>``.
    arrays : tuple of str
        Arrays to remove from the one cache; empty where whole caches go.
    is_whole : bool
        Whether the data set itself goes.
    n_bytes : int
        Size of the files.
    parts : tuple of str
        Further parts of a data set that grew, which go with it.
    """

    dataset: str
    caches: tuple[str, ...]
    arrays: tuple[str, ...]
    is_whole: bool
    n_bytes: int
    parts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    def __str__(self) -> str:
        caches = ", ".join(self.caches) or "no caches"
        if self.is_whole:
            what = f"data set {self.dataset} with {caches}"
        elif self.arrays:
            what = f"{', '.join(self.arrays)} of {caches} over {self.dataset}"
        else:
            what = f"{caches} over {self.dataset}"
        return f"{what}: {self.n_bytes} bytes"


def plan_removal(
    store: FeatureStore, *, dataset: str, model: str | None = None, layers: Sequence[str] | None = None
) -> Removal:
    """Plan a removal, changing nothing.

    Parameters
    ----------
    store : FeatureStore
    dataset : str
        Name of the data set.
    model : str, optional
        One cache of the data set, named as for training, sound or damaged. Without a model the data set goes
        with all of its caches.
    layers : sequence of str, optional
        Only these arrays of the cache: names of arrays or taps, or globs.

    Raises
    ------
    InputError
        If layers are given without a model, or match nothing; lists what there is. Or if the data set
        is a part of another, which goes as a whole only.
    StoreNotFoundError
        If there is no such data set or cache.
    ConflictError
        If the name means several caches; lists them.
    """
    folder = dataset_records.dataset_folder(store.root, dataset)
    base = dataset_records.base_of(store.root, dataset)
    if base is not None:
        raise InputError(
            f"{dataset!r} is a part of data set {base!r}, whose versions need it; remove all "
            f"of {base!r}, or nothing"
        )
    further = dataset_records.part_names(store.root, dataset)[1:]
    everywhere = [folder.name, *further]
    if not folder.is_dir() and not any(True for _ in store.cache_folders(folder.name)):
        raise _nothing(store, "data set", dataset, dataset_records.whole_names(store.root), "dataset")
    if model is None:
        if layers is not None:
            raise InputError("--layers needs --model: say whose layers are to be removed")
        folders = [each for part in everywhere for each in store.cache_folders(part)]
        all_parts = [dataset_records.dataset_folder(store.root, part) for part in everywhere]
        return Removal(
            dataset=folder.name,
            caches=tuple(dict.fromkeys(each.parent.name for each in folders)),
            arrays=(),
            is_whole=True,
            n_bytes=sum(map(folder_bytes, [*all_parts, *folders])),
            parts=tuple(further),
        )
    folders = _folders_of(store, model, everywhere)
    names = () if layers is None else _match(_recorded(folders), layers)
    taken = [path for each in folders for name in names for path in (each / name, each / "ledger" / name)]
    return Removal(
        dataset=folder.name,
        caches=tuple(dict.fromkeys(each.parent.name for each in folders)),
        arrays=names,
        is_whole=False,
        n_bytes=sum(map(folder_bytes, taken or folders)),
        parts=tuple(further),
    )


def plan_removals(
    store: FeatureStore,
    *,
    dataset: str | None = None,
    model: str | None = None,
    layers: Sequence[str] | None = None,
) -> list[Removal]:
    """Plan a removal from one data set, or of a model from all of them, changing nothing.

    Parameters
    ----------
    store : FeatureStore
    dataset : str, optional
        Name of the data set; by default every data set that has features of `model`.
    model, layers : optional
        What to remove; see `plan_removal`.

    Raises
    ------
    InputError
        If neither a data set nor a model is named, or layers match nothing.
    StoreNotFoundError
        If there is no such data set or cache.
    ConflictError
        If the name means several caches of a data set; lists them.
    """
    if dataset is not None:
        return [plan_removal(store, dataset=dataset, model=model, layers=layers)]
    if model is None:
        raise InputError(
            "nothing is named that is to be removed; give --dataset, --model (over all data sets), or both"
        )
    names, refused = [], None
    removals = []
    for folder in store.cache_folders():
        name = dataset_records.base_of(store.root, folder.name) or folder.name
        if name not in names and folder in store.find_folders(model, folder.name):
            names.append(name)
    if not names:
        there = sorted({split_folder(each)[0] for each in store.cache_folders()})
        raise _nothing(store, "features of model", model, there, "model")
    for name in names:
        try:
            removals.append(plan_removal(store, dataset=name, model=model, layers=layers))
        except InputError as error:
            # A data set may lack the layers that another one has; only all of them lacking is an error.
            refused = error
    if refused is not None and not removals:
        raise refused
    return removals


def _nothing(
    store: FeatureStore, what: str, name: str, known: Sequence[str], option: str
) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"nothing to remove: the store {store.root} has no {what} {name!r}; {choices(name, known)}",
        option=option,
    )


def _folders_of(store: FeatureStore, model: str, parts: Sequence[str]) -> list[Path]:
    """List the cache folders of the one recipe that a model's name means, over a data set and its parts."""
    found = [each for part in parts for each in store.find_folders(model, part)]
    digests = {split_folder(each)[1] for each in found}
    if not digests:
        there = {split_folder(each)[0] for part in parts for each in store.cache_folders(part)}
        raise _nothing(store, f"features over {parts[0]!r} of model", model, sorted(there), "model")
    if len(digests) > 1:
        # `features` raises the error that says which caches there are.
        digests = {store.features(model, parts[0]).digest[:8]}
    (digest8,) = digests
    return [each for part in parts for each in store.cache_folders(part) if split_folder(each)[1] == digest8]


def _recorded(folders: Sequence[Path]) -> list[str]:
    return sorted({name for folder in folders for name in recorded_names(folder)})


def remove(store: FeatureStore, removal: Removal, *, check: Callable[[Path], None] | None = None) -> None:
    """Carry out a removal.

    Each cache disappears in one step before its bytes are freed, and caches go before their data set. Who
    reads at that moment gets an error, and never other numbers.

    Parameters
    ----------
    store : FeatureStore
    removal : Removal
    check : callable, optional
        Raises if a cache must stay after all; it is given the folder, which nobody else can reach by its name
        any more.

    Raises
    ------
    StoreError
        If the system refuses; what is left is whole, or a leftover for ``store gc``.
    """
    # Everything is renamed before it is freed, so that a reader never finds half of a cache and a kill
    # leaves whole folders or leftovers.
    features = store.root / "features"
    for name in removal.caches:
        for part in (removal.dataset, *removal.parts):
            folder = check_inside(store.root, features / name / part)
            if removal.arrays:
                _take_out(folder, removal.arrays)
            else:
                place_at(folder).remove_folder(aside=features, check=check)
        if not removal.arrays:
            # Other data sets may have features of the same model.
            place_at(features / name).remove_if_empty()
    if removal.is_whole:
        # The parts go last, because nothing names them any more once the versions are gone.
        for part in (removal.dataset, *removal.parts):
            _remove_dataset(store, part)
        # While this process stood still, others may have added to the data set that is gone now. Nothing can
        # be added any more, because writers look for the data set after what they make.
        for part in _parts_of(store, removal.dataset):
            _remove_dataset(store, part)
        for part in (removal.dataset, *removal.parts):
            for folder in list(store.cache_folders(part)):
                if is_orphan(store.root, folder):
                    place_at(folder).remove_folder(aside=features)
                    place_at(folder.parent).remove_if_empty()


def _remove_dataset(store: FeatureStore, name: str) -> None:
    folder = dataset_records.dataset_folder(store.root, name)
    if folder.is_dir():
        place_at(folder).remove_folder(aside=folder.parent)


def _parts_of(store: FeatureStore, dataset: str) -> list[str]:
    """List the parts of a data set that is gone; none if it was registered again."""
    if dataset in dataset_records.dataset_names(store.root):
        return []
    return dataset_records.part_names(store.root, dataset)[1:]


def remove_arrays(cache: FeatureCache, names: Sequence[str]) -> None:
    """Remove arrays of a cache, as if they had never been extracted.

    With the last feature array the digests of the images go too.

    Parameters
    ----------
    cache : FeatureCache
    names : sequence of str
        Names of the arrays, ``<tap>.<pooling>``; names that are not there are passed over.
    """
    _take_out(cache.path, names)


def _take_out(cache: Path, names: Sequence[str]) -> None:
    """Remove arrays, each ledger first, so that a kill leaves incomplete arrays and never wrong ones."""
    others = [name for name in recorded_names(cache) if name not in names and name != CONTENT_ARRAY]
    for name in [*names, *([] if others else [CONTENT_ARRAY])]:
        ledger = cache / "ledger" / name
        # A writer may make the array again between the two steps; values without a ledger are nothing, but a
        # ledger without values is damage.
        while True:
            for folder in (ledger, cache / name):
                place_at(folder).remove_folder(aside=cache)
            if not ledger.is_dir() or not list_entries(ledger):
                break


def _match(names: Sequence[str], layers: Sequence[str]) -> tuple[str, ...]:
    features = [name for name in names if name != CONTENT_ARRAY]
    chosen: list[str] = []
    for word in layers:
        found = [
            name for name in features if fnmatchcase(name, word) or fnmatchcase(name.rpartition(".")[0], word)
        ]
        if not found:
            raise InputError(
                f"layer {word!r} is not among those stored; {choices(word, features)}", option="layers"
            )
        chosen += [name for name in found if name not in chosen]
    return tuple(chosen)


def folder_bytes(folder: Path) -> int:
    """Add up the sizes of the files in a folder; 0 where there is none."""
    return sum(size for _, size in place_at(folder).walk_files())
