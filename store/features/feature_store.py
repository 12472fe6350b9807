"""`FeatureStore`: the shared root that holds data sets and caches."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import (
    ConflictError,
    CorruptError,
    FormatVersionError,
    InputError,
    StoreError,
    StoreNotFoundError,
)
from toptune.options import check_choice, choices
from toptune.store.arrays.formats import holds_array, require_format
from toptune.store.arrays.spec import FORMATS
from toptune.store.arrays.stored_layers import ALL, choose_arrays
from toptune.store.datasets import dataset_records as datasets
from toptune.store.datasets.frames import frame_of
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.registration import refuse_part, register
from toptune.store.datasets.versions import DatasetVersion, read_dataset_version, version_numbers
from toptune.store.features.cache_records import cache_files, is_forsaken, open_cache, split_folder
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_view import FeatureView
from toptune.store.features.hints import request_path
from toptune.store.features.recipe import Recipe
from toptune.store.files.descriptor import DESCRIPTOR, STORE_FILE, check_descriptor
from toptune.store.files.folder_kinds import what_is
from toptune.store.files.names import check_folder_name, check_name, plain_model_name, stray_depth
from toptune.store.files.place import check_inside, place_at, place_of
from toptune.store.files.reading import leave_alone, list_entries, list_folder, may_exist
from toptune.text import counted

logger = logging.getLogger(__name__)

_WITH_DIGEST = re.compile(r"(?P<name>.+)@(?P<digest>[0-9a-f]{8,64})")


class FeatureStore:
    """A folder or bucket of data sets and of their features, shared by many readers and writers.

    Open one with `open` or `create`. Nothing locks: a file appears whole or not at all, and what is committed
    does not change.

    Attributes
    ----------
    root : Path
        Root folder of the store, absolute.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from toptune.store import FeatureStore, import_features
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = FeatureStore.create(folder.name)
    >>> values = np.arange(12, dtype=np.float32).reshape(4, 3)
    >>> cache = import_features(store, {"last": values}, dataset="pets", model="mine", labels=list("abab"))
    >>> store.datasets()
    ['pets']
    >>> features = store.features("mine", "pets")
    >>> [(spec.name, spec.dim) for spec in features.arrays()]
    [('last.imported', 3)]
    >>> features.blocks(["last.imported"]).take([2])
    array([[6., 7., 8.]], dtype=float32)
    >>> features.manifest.labels
    ['a', 'b', 'a', 'b']
    >>> X, rows = store.load("pets", "mine", layers="last")
    >>> X.shape, rows["label"].tolist()
    ((4, 3), ['a', 'b', 'a', 'b'])
    >>> folder.cleanup()
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> "FeatureStore":
        """Open an existing store; reading needs no write permission.

        Raises
        ------
        StoreNotFoundError
            If there is none.
        FormatVersionError
            If another version of the format is there.
        CorruptError
            If its descriptor is damaged.
        """
        folder = place_of(root)
        check_descriptor(folder)
        return cls(folder)

    @classmethod
    def create(cls, root: str | os.PathLike[str]) -> "FeatureStore":
        """Open the store at `root`, made first if there is none.

        Raises
        ------
        ConflictError
            If the folder holds something else.
        FormatVersionError
            If another version of the format is there.
        StoreError
            If it cannot be written.
        """
        folder = place_of(root)
        if not (folder / STORE_FILE).exists():
            if folder.exists() and not folder.is_dir():
                raise ConflictError(f"{folder} is a file; give --store another name", option="store")
            check_folder_name(folder, option="store")
            strangers = folder.is_dir() and bool(list_entries(folder))
            # The descriptor is looked for again, because another process may have made the store meanwhile.
            if strangers and not (folder / STORE_FILE).exists():
                raise ConflictError(
                    f"{folder} {what_is(folder)} and no feature store; give --store an empty or new folder",
                    option="store",
                )
            place_at(folder / STORE_FILE).put_if_absent(DESCRIPTOR)
        check_descriptor(folder)
        return cls(folder)

    # Data sets

    def datasets(self) -> list[str]:
        """List the names of the data sets, sorted and without the parts of data sets that grew."""
        return datasets.whole_names(self.root)

    def manifest(self, dataset: str, *, version: int | None = None) -> Manifest:
        """Return the manifest of a data set, by default of the latest version.

        Raises
        ------
        StoreNotFoundError
            If there is no such data set or version.
        InputError
            If `dataset` is a part of a data set.
        CorruptError
            If the manifest is damaged.
        """
        refuse_part(self.root, dataset)
        return read_dataset_version(self.root, dataset, version).manifest

    def refuse_part(self, dataset: str) -> None:
        """Raise an `InputError` if `dataset` names a part, where a data set is meant."""
        refuse_part(self.root, dataset)

    def part_manifest(self, part: str) -> Manifest:
        """Return the manifest of one part of a data set, as it was registered."""
        return datasets.read_dataset(self.root, part)

    def register(self, dataset: str, manifest: Manifest) -> Manifest:
        """Register a manifest as the first version of a data set, or adopt the same that is there.

        Modification times are no content: those first registered stay. For later versions see `grow`.

        Raises
        ------
        InputError
            If the name is that of a part.
        ConflictError
            If the name is taken by other content, or by a later version; says what differs.
        """
        return register(self.root, dataset, manifest).manifest

    # Caches

    def caches(self, *, dataset: str | None = None) -> list[FeatureCache]:
        """List the caches, sorted by model name and data set; unreadable ones are logged and left out."""
        found: list[FeatureCache] = []
        for folder in self.cache_folders(dataset):
            try:
                found.append(open_cache(self.root, folder))
            except (CorruptError, FormatVersionError, StoreNotFoundError) as error:
                logger.warning("left out: %s [TT203]", error)
        return found

    def features(
        self,
        model: str,
        dataset: str,
        *,
        version: int | None = None,
        label_column: str | None = None,
        relabel: Callable[[Manifest], Manifest] | None = None,
    ) -> FeatureCache | FeatureView:
        """Return what is stored of a model over a version of a data set, by default the latest.

        Parameters
        ----------
        model, dataset : str
            As for `cache`.
        version : int, optional
            Number of the version, from 1.
        label_column : str, optional
            Further column of the data set whose values are the labels; by default its own labels.
        relabel : callable, optional
            Called with the manifest; returns the same rows with the labels that count.

        Returns
        -------
        FeatureCache or FeatureView
            The cache, where one holds the whole version; otherwise a view over the caches of its parts.

        Raises
        ------
        StoreNotFoundError
            If there is no such data set, version or model; lists what there is.
        InputError
            If `dataset` is a part of another, or has no column of that name.
        ConflictError
            If the name means several caches; lists them with their differences.
        """
        refuse_part(self.root, dataset)
        numbers = version_numbers(self.root, dataset)
        if label_column is None and relabel is None and (numbers[-1] if version is None else version) == 1:
            datasets.read_record(self.root, dataset)
            return self._cache_of(model, [dataset])
        found = read_dataset_version(self.root, dataset, version)
        if label_column is not None:
            found = replace(found, manifest=found.manifest.relabeled(label_column))
        if relabel is not None:
            found = replace(found, manifest=relabel(found.manifest))
        digest = self._cache_of(model, found.parts).digest
        view = self.view(found, digest)
        assert view is not None, "the digest is that of a stored part"
        return view

    def load(
        self,
        dataset: str,
        model: str,
        *,
        layers: str | Sequence[str] = ALL,
        pooling: str | None = None,
        version: int | None = None,
        label_column: str | None = None,
        keep_failed: bool = False,
    ) -> tuple[npt.NDArray[np.float32], Any]:
        """Read stored features into memory, with what is known of each image.

        Parameters
        ----------
        dataset, model : str
            Names in the store, in the order of the command line.
        layers : str or sequence of str
            ``"all"``, ``"last"``, or names of arrays, names of taps, or globs over either, with commas or as
            a list.
        pooling : str, optional
            Which pooling to take where a tap is stored with several.
        version : int, optional
            Number of the version of the data set, from 1; by default the latest.
        label_column : str, optional
            Further column of the data set whose values are the labels; by default its own labels.
        keep_failed : bool
            Keep the rows of images that could not be used, as NaN. By default they are left out, with a
            warning that says how many they are.

        Returns
        -------
        X : ndarray of float32, shape (m, d)
            The columns of the arrays side by side, in the order of `layers`; ``4 m d`` bytes.
        rows : pandas.DataFrame or dict of str to ndarray
            Columns ``id``, ``label``, ``split`` and those of the user's own manifest, row for row those of
            `X`; a dict of arrays (m,) where pandas is not installed. ``X[rows["label"] == "cat"]`` works with
            both.

        Raises
        ------
        StoreNotFoundError, ConflictError, InputError
            As `features` raises them; also if a layer is not stored.
        IncompleteError
            If the extraction has not been finished.
        CorruptError
            If a file is damaged; the message names the file.
        """
        features = self.features(model, dataset, version=version, label_column=label_column)
        names = [spec.name for spec in choose_arrays(features.arrays(), layers, pooling)]
        failed = {} if keep_failed else features.failed_rows(names)
        if failed:
            logger.warning(
                "%s of %r could not be used and %s left out (keep_failed=True gives NaN in their place); "
                "the first is %s: %s [TT206]",
                counted(len(failed), "image"), dataset, "is" if len(failed) == 1 else "are",
                features.manifest.image_id(min(failed)), failed[min(failed)],
            )  # fmt: skip
        rows = np.delete(np.arange(features.n_rows), list(failed))
        blocks = features.blocks(names, rows if failed else None)
        return np.asarray(blocks, dtype=np.float32), frame_of(features.manifest, rows)

    def view(self, version: DatasetVersion, digest: str) -> FeatureView | None:
        """Return the view of a version in one recipe; None if the recipe has no part of the version."""
        caches = {}
        for part in version.parts:
            for folder in self.cache_folders(part):
                # Eight digits in the path find the candidates; the full digest decides, because short ones
                # may collide.
                if split_folder(folder)[1] == digest[:8]:
                    cache = open_cache(self.root, folder)
                    if cache.digest == digest:
                        caches[part] = cache
        return FeatureView.over(version, caches) if caches else None

    def cache(self, model: str, dataset: str) -> FeatureCache:
        """Return the cache of a model over a data set that never grew; `features` takes any data set.

        Parameters
        ----------
        model : str
            As given to extract (``arch.tag``, ``local-dir:...``, ``hf-hub:...``), or ``name@digest8``.
        dataset : str
            Name of the data set.

        Raises
        ------
        StoreNotFoundError
            If there is none; the message lists what there is.
        ConflictError
            If there are several, which the message lists with their differences, or the data set has grown.
        """
        datasets.read_record(self.root, dataset)
        refuse_part(self.root, dataset)
        latest = version_numbers(self.root, dataset)[-1]
        if latest > 1:
            raise ConflictError(
                f"data set {dataset!r} has grown to version {latest}, which no single cache holds; "
                "read it by FeatureStore.features"
            )
        return self._cache_of(model, [dataset])

    def _cache_of(self, model: str, parts: Sequence[str]) -> FeatureCache:
        """Return the first cache of the one recipe that a model's name means over some parts."""
        plain, dataset = plain_model_name(model), parts[0]
        caches: dict[str, FeatureCache] = {}
        for part in parts:
            for folder in self.find_folders(model, part):
                cache = open_cache(self.root, folder)
                caches.setdefault(cache.digest, cache)
        if not caches:
            folders = [folder for part in parts for folder in self.cache_folders(part)]
            # Digests are shown to those who give one.
            names = {each.parent.name if "@" in plain else split_folder(each)[0] for each in folders}
            raise StoreNotFoundError(
                f"the store {self.root} has no features of {plain!r} over {dataset!r}; "
                f"{choices(plain, sorted(names))}; toptune extract adds one",
                option="model",
            )
        first, *others = caches.values()
        if others:
            lines = [first.name] + [
                f"{other.name} ({first.name} against this: "
                f"{'; '.join(first.recipe.differences(other.recipe)) or 'the same recipe'})"
                for other in others
            ]
            raise ConflictError(
                f"{len(caches)} caches of {plain!r} over {dataset!r}: {', '.join(lines)}; "
                "give one of these names as --model",
                option="model",
            )
        return first

    def find_folders(self, model: str, dataset: str) -> list[Path]:
        """List the folders of the caches that a model's name means in `cache`, sound or damaged."""
        folders = list(self.cache_folders(dataset))
        plain = plain_model_name(model)
        exact = _WITH_DIGEST.fullmatch(plain)
        chosen = [folder for folder in folders if split_folder(folder)[0] == plain]
        if not chosen and exact:
            name, digest = exact["name"], exact["digest"]
            chosen = [folder for folder in folders if split_folder(folder) == (name, digest[:8])]
        if not chosen:
            # An alias is looked for last: a model name that stands in a path always means that path.
            chosen = [folder for folder in folders if request_path(folder, _alias(plain)).exists()]
        return chosen

    def create_cache(
        self,
        model: str,
        dataset: str,
        recipe: Recipe,
        *,
        unit_rows: int,
        batch_size: int,
        backbone: Mapping[str, object],
        format: str = "zarr",  # noqa: A002
    ) -> FeatureCache:
        """Make a cache, or adopt the cache with the same recipe, whatever its model name.

        Parameters
        ----------
        model : str
            Model as given to extract; the plain name of the model is stored.
        dataset : str
            Name of a registered data set.
        recipe : Recipe
            Everything that decides the numbers.
        unit_rows, batch_size : int
            Rows of a unit and of a forward pass; an adopted cache keeps its own.
        backbone : mapping
            JSON values that load the backbone again.
        format : {"zarr", "hdf5"}
            Format of the arrays; an adopted cache keeps its own.
        """
        record = datasets.read_record(self.root, dataset)
        name, digest = plain_model_name(model), recipe.digest
        for folder in self.cache_folders(dataset):
            if not place_at(folder).has_whole_folders and not (folder / "cache.json").exists():
                continue  # These are the remains of a removed cache, which is made anew below.
            if split_folder(folder)[1] == digest[:8]:
                if is_forsaken(self.root, folder):
                    place_at(folder).remove_folder(aside=self.root / "features")
                    continue
                cache = open_cache(self.root, folder)
                _check_images(cache, record.pictures_sha256)
                # Equal recipes give equal features, whatever the model was called, so that the cache is
                # shared.
                if cache.digest == digest:
                    self._note_alias(cache, name)
                    return cache
        _check_cut(unit_rows, batch_size, record.n_rows)
        check_choice(format, FORMATS, option="format")
        require_format(format)
        folder = self.root / "features" / f"{name}@{digest[:8]}" / check_name(dataset, what="data set")
        files = cache_files(
            name,
            record,
            recipe,
            unit_rows=unit_rows,
            batch_size=batch_size,
            backbone=backbone,
            format=format,
        )
        # Two processes may make the same cache at once. One publishes the folder, and both open what stands
        # there.
        is_new = place_at(check_inside(self.root, folder)).put_folder_if_absent(files)
        try:
            cache = open_cache(self.root, folder)
            _check_images(cache, record.pictures_sha256)
        except StoreError:
            # The data set was removed, or made anew of other images, since its record was read.
            if is_new and is_forsaken(self.root, folder):
                place_at(folder).remove_folder(aside=self.root / "features")
            raise
        if cache.digest != digest:
            raise ConflictError(
                f"{folder} holds another recipe with the same first digits: "
                f"{'; '.join(cache.recipe.differences(recipe))}; use another --store"
            )
        return cache

    def _note_alias(self, cache: FeatureCache, name: str) -> None:
        """Note that `name` also means this cache, so that training finds the cache as extraction did."""
        if name == cache.model or request_path(cache.path, _alias(name)).exists():
            return
        try:
            cache.remember_request(_alias(name), [])
        except StoreError as error:
            logger.info("the name %s is not noted: %s", name, error)

    def find_request(self, dataset: str, key: str) -> tuple[FeatureCache, list[str]] | None:
        """Return the cache and arrays that `FeatureCache.remember_request` noted under `key`.

        None if no cache or several caches have such a note; the caller then works out the request.
        """
        found = []
        for folder in self.cache_folders(dataset):
            if (folder / "requests" / f"{check_name(key, what='request')}.json").exists():
                cache = open_cache(self.root, folder)
                arrays = cache.recall_request(key)
                if arrays is not None:
                    found.append((cache, arrays))
        return found[0] if len(found) == 1 else None

    def cache_folders(self, dataset: str | None = None) -> Iterator[Path]:
        """Yield the folders of the caches over one data set or all, sorted, without opening them."""
        wanted = None if dataset is None else check_name(dataset, what="data set")
        for model in list_entries(self.root / "features"):
            if stray_depth(("features", model.name)) is not None or not model.is_dir():
                leave_alone(model)
                continue
            for folder in list_entries(model):
                if wanted in (None, folder.name) and _is_cache(folder):
                    yield folder


def load_features(
    store: str | os.PathLike[str] | FeatureStore,
    dataset: str,
    model: str,
    layers: str | Sequence[str] = ALL,
    *,
    pooling: str | None = None,
    version: int | None = None,
    label_column: str | None = None,
    keep_failed: bool = False,
) -> tuple[npt.NDArray[np.float32], Any]:
    """Read stored features into memory, with what is known of each image.

    Parameters
    ----------
    store : path or FeatureStore
        Root folder of the store, or the store.
    dataset, model : str
        Names in the store.
    layers : str or sequence of str
        ``"all"``, ``"last"``, or names of arrays, names of taps, or globs over either, with commas or as a
        list.
    pooling : str, optional
        Which pooling to take where a tap is stored with several.
    version : int, optional
        Number of the version of the data set, from 1; by default the latest.
    label_column : str, optional
        Further column of the data set whose values are the labels; by default its own labels.
    keep_failed : bool
        Keep the rows of images that could not be used, as NaN. By default they are left out, with a warning.

    Returns
    -------
    X : ndarray of float32, shape (m, d)
        The columns of the layers side by side; ``4 m d`` bytes.
    rows : pandas.DataFrame or dict of str to ndarray
        Columns ``id``, ``label``, ``split`` and those of the user's own manifest, row for row those of `X`; a
        dict of arrays (m,) where pandas is not installed. ``X[rows["label"] == "cat"]`` works with both.

    Raises
    ------
    StoreNotFoundError, ConflictError, InputError
        If the store has no such data set, model or layer, or the model's name means several caches.
    IncompleteError, CorruptError
        If the extraction has not been finished, or a file is damaged.

    Examples
    --------
    >>> from toptune.extract import extract
    >>> _ = extract("digits", model="resnet10t.toptune_glyphs", store="features")
    >>> X, rows = load_features("features", "digits", "resnet10t.toptune_glyphs", layers="last")
    >>> X.shape, X.dtype.name, rows["label"][0]
    ((1797, 256), 'float32', '0')
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    return opened.load(
        dataset,
        model,
        layers=layers,
        pooling=pooling,
        version=version,
        label_column=label_column,
        keep_failed=keep_failed,
    )


def _check_images(cache: FeatureCache, images: str) -> None:
    """Refuse a cache whose images are not those of the record that the caller read."""
    if cache.images_sha256 != images:
        raise StoreNotFoundError(
            f"data set {cache.dataset!r} of {cache.root} was removed and made anew of other images; "
            "run the same command again"
        )


def _is_cache(folder: Path) -> bool:
    """Whether a folder holds something of a cache, sound or damaged; what else there is is left alone."""
    if any(may_exist(folder / part) for part in ("cache.json", "recipe.json")):
        return True
    # A removal from a bucket that was killed leaves features without records; so did writers of older
    # versions who came too late.
    is_ours = folder.is_dir() and (
        not place_at(folder).has_whole_folders
        or any(map(list_entries, list_entries(folder / "ledger")))
        or any(map(holds_array, list_entries(folder)))
    )
    if not is_ours and list_folder(folder):
        leave_alone(folder)  # An empty folder is a leftover.
    return is_ours


def _alias(name: str) -> str:
    """Return the key of the note that a cache was asked for under another model name."""
    return f"model-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _check_cut(unit_rows: int, batch_size: int, n_rows: int) -> None:
    if unit_rows < 1 or batch_size < 1:
        raise InputError(f"unit_rows {unit_rows} and batch_size {batch_size} must be at least 1")
    if unit_rows < n_rows and unit_rows % batch_size:
        raise InputError(
            f"unit_rows {unit_rows} is no multiple of batch_size {batch_size}; a batch would be cut"
        )
