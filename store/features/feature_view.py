"""`FeatureView`: the features of a data set that grew, read as if they were in one cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from toptune.errors import ConflictError, IncompleteError, InputError
from toptune.store.arrays.spec import ArraySpec
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.versions import DatasetVersion
from toptune.store.features.blocks import Blocks, row_numbers
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_identity import FeatureIdentity
from toptune.store.features.recipe import Recipe
from toptune.store.features.view_blocks import ViewBlocks


class StoredFeatures(Protocol):
    """Stored features as training reads them: of one model, or `JoinedFeatures` of several."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def dataset(self) -> str: ...

    @property
    def dataset_version(self) -> int: ...

    @property
    def n_rows(self) -> int: ...

    @property
    def manifest(self) -> Manifest: ...

    def arrays(self) -> list[ArraySpec]: ...

    def array(self, name: str) -> ArraySpec: ...

    def is_complete(self, names: Sequence[str] | None = None) -> bool: ...

    def failed_rows(self, names: Sequence[str] | None = None) -> dict[int, str]: ...

    def blocks(self, names: Sequence[str], rows: npt.ArrayLike | None = None) -> Blocks: ...

    def content_digests(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]: ...

    def mark_used(self) -> None: ...


class ModelFeatures(StoredFeatures, Protocol):
    """Stored features of one model: a `FeatureCache`, or a `FeatureView` of several."""

    @property
    def model(self) -> str: ...

    @property
    def recipe(self) -> Recipe: ...

    @property
    def backbone(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureView(FeatureIdentity):
    """The arrays of one recipe over a version of a data set that grew; read only.

    `FeatureStore.features` makes one. The rows are the version's, whatever part holds them.

    Attributes
    ----------
    model, digest, recipe, backbone
        See `FeatureIdentity`; all parts share them.
    version : DatasetVersion
        Rows of the view, and the part that holds each row.
    caches : Mapping of str to FeatureCache
        Caches by part; a part that was never extracted has none.
    """

    version: DatasetVersion
    caches: Mapping[str, FeatureCache]

    @classmethod
    def over(cls, version: DatasetVersion, caches: Mapping[str, FeatureCache]) -> "FeatureView":
        """Make the view of a version over caches of one recipe, at least one, by part."""
        # All parts share one recipe, so that any cache can say how the features were computed.
        first = next(caches[part] for part in version.parts if part in caches)
        return cls(
            version=version,
            caches=caches,
            model=first.model,
            digest=first.digest,
            recipe=first.recipe,
            backbone=first.backbone,
        )

    # The version

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.version.dataset

    @property
    def dataset_version(self) -> int:
        """Number of the version."""
        return self.version.number

    @property
    def manifest(self) -> Manifest:
        """The version's rows."""
        return self.version.manifest

    @property
    def n_rows(self) -> int:
        """Number of images of the version."""
        return self.version.n_rows

    # Arrays

    def arrays(self) -> list[ArraySpec]:
        """List the feature arrays that any of the parts has, sorted by name."""
        names = {spec.name for cache in self.caches.values() for spec in cache.arrays()}
        return [self._spec(name) for name in sorted(names)]

    def array(self, name: str) -> ArraySpec:
        """Return one array's spec: that of the first part, with the version's rows and the widest type.

        Raises
        ------
        IncompleteError
            If a part lacks it.
        ConflictError
            If parts differ in the number of columns.
        """
        self._require([name])
        return self._spec(name)

    def _spec(self, name: str) -> ArraySpec:
        specs = [spec for cache in self.caches.values() for spec in cache.all_arrays() if spec.name == name]
        if not specs:
            self._require([name])
        if len({spec.dim for spec in specs}) > 1:
            dims = ", ".join(str(spec.dim) for spec in specs)
            raise ConflictError(
                f"array {name!r} of {self.name} has {dims} columns in the parts of {self.dataset}, although "
                "the recipe is the same; the backbone's code may have changed: use another --store"
            )
        # Parts may have been extracted with other types on disk. The widest type holds all values exactly.
        dtype = str(np.result_type(*(np.dtype(spec.dtype) for spec in specs)))
        return replace(specs[0], n_rows=self.n_rows, dtype=dtype)

    def _require(self, names: Sequence[str]) -> None:
        """Refuse to read arrays that a part lacks altogether."""
        lacking: dict[str, list[str]] = {}
        for part in self.version.parts:
            cache = self.caches.get(part)
            there = set() if cache is None else {spec.name for spec in cache.all_arrays()}
            absent = [name for name in names if name not in there]
            if absent:
                lacking[part] = absent
        if lacking:
            what = "; ".join(
                f"{', '.join(absent)} of {len(self.version.rows_of(part))} images in part {part}"
                for part, absent in lacking.items()
            )
            raise IncompleteError(
                f"{self.name} over version {self.dataset_version} of {self.dataset} ({self.n_rows} images) "
                f"lacks {what}; run extract with the same options and layers, it computes only these"
            )

    # Ledger

    def missing_units(self, name: str) -> dict[str, list[int]]:
        """List, by part, the units that hold rows of the version and are not done."""
        missing = {}
        for part in self.version.parts:
            cache, rows = self.caches.get(part), self.version.part_row[self.version.rows_of(part)]
            if cache is None:
                # A part without a cache has no unit size yet, so that its first unit stands for all.
                missing[part] = [0]
                continue
            # Units that hold removed images only are not needed, and nobody can compute them any more.
            needed = set(np.unique(rows // cache.unit_rows).tolist())
            units = sorted(needed & set(cache.missing_units(name)))
            if units:
                missing[part] = units
        return missing

    def is_complete(self, names: Sequence[str] | None = None) -> bool:
        """Whether every row of the version is done in the named arrays (default: all that any part has)."""
        if names is None:
            names = sorted({spec.name for cache in self.caches.values() for spec in cache.all_arrays()})
        return bool(names) and not any(self.missing_units(name) for name in names)

    def failed_rows(self, names: Sequence[str] | None = None) -> dict[int, str]:
        """Return row to reason for images that could not be used in the named arrays (default: all)."""
        found: dict[int, str] = {}
        for part, cache in self.caches.items():
            rows = self.version.rows_of(part)
            there = {spec.name for spec in cache.all_arrays()}
            failed = cache.failed_rows(None if names is None else [name for name in names if name in there])
            if failed:
                places = self.version.part_row[rows].tolist()
                found |= {
                    row: failed[place]
                    for row, place in zip(rows.tolist(), places, strict=True)
                    if place in failed
                }
        return dict(sorted(found.items()))

    # Reading

    def blocks(self, names: Sequence[str], rows: npt.ArrayLike | None = None) -> ViewBlocks:
        """Return the columns of some arrays side by side; see `FeatureCache.blocks`.

        Parameters
        ----------
        names : sequence of str
            Arrays, in the order of their columns.
        rows : array of int (m,), optional
            Rows of the version, in any order; by default all of them.

        Raises
        ------
        IncompleteError
            If a part lacks an array, or a unit that holds one of the rows is not done.
        CorruptError
            If a file is damaged; the message names the file.
        """
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise InputError(f"arrays {names!r} must be a list of different names")
        self._require(names)
        for name in names:
            self._spec(name)  # This refuses arrays whose widths differ between the parts.
        wanted = np.arange(self.n_rows) if rows is None else row_numbers(rows, self.n_rows)
        owner, places = self.version.part[wanted], self.version.part_row[wanted]
        used = np.unique(owner).tolist() or [0]
        pieces = []
        for number in used:
            cache = self.caches[self.version.parts[number]]
            mine = places[owner == number]
            # A part that is wanted whole and in order is read in whole units, which land straight in their
            # final place.
            is_whole = len(mine) == cache.n_rows and bool(np.all(mine == np.arange(cache.n_rows)))
            pieces.append(cache.blocks(names, None if is_whole else mine))
        return ViewBlocks(pieces, np.searchsorted(used, owner))

    def content_digests(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the SHA-256 of each image's bytes, as `FeatureCache.content_digests` does."""
        digests, known = np.zeros((self.n_rows, 32), dtype=np.uint8), np.zeros(self.n_rows, dtype=np.bool_)
        for part, cache in self.caches.items():
            rows = self.version.rows_of(part)
            theirs, they_know = cache.content_digests()
            places = self.version.part_row[rows]
            digests[rows], known[rows] = theirs[places], they_know[places]
        return digests, known

    def mark_used(self) -> None:
        """Note for ``store gc`` that every part is being used."""
        for cache in self.caches.values():
            cache.mark_used()
