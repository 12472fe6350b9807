"""`JoinedFeatures`: the features of several backbones over one data set, read as one table."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import cast

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.arrays.spec import ArraySpec
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_identity import ArraysOfRows
from toptune.store.features.feature_view import ModelFeatures, StoredFeatures
from toptune.store.joined.joined_blocks import JoinedBlocks

# Models and arrays are parts of paths, so that neither has a separator of paths in its name.
SEPARATOR = "/"


@dataclass(frozen=True, eq=False, repr=False)
class JoinedFeatures(ArraysOfRows):
    """The arrays of several backbones over one version of a data set; read only.

    Make one with `of`. An array is called ``<member>/<tap>.<pooling>``.

    Attributes
    ----------
    members : Mapping of str to FeatureCache or FeatureView
        What is stored of each backbone, by the name of the member; at least one.
    """

    members: Mapping[str, ModelFeatures]

    def __post_init__(self) -> None:
        for member, features in self.members.items():
            same = features.manifest.pictures_digest == self.manifest.pictures_digest
            if features.n_rows != self.n_rows or not same:
                raise InputError(
                    f"{member} has {features.n_rows} images of version {features.dataset_version} of "
                    f"{features.dataset}, and {next(iter(self.members))} has {self.n_rows} of version "
                    f"{self.dataset_version} of {self.dataset}: rows of other images cannot be joined; "
                    "extract all models over one data set, and train on one version of it"
                )

    @classmethod
    def of(cls, features: Sequence[ModelFeatures]) -> "JoinedFeatures":
        """Join features; members are called by their models, or by their caches where a name is shared."""
        plain = Counter(own.model for own in features)
        return cls({own.model if plain[own.model] == 1 else own.name: own for own in features})

    # The data set, which all members share

    @property
    def first(self) -> ModelFeatures:
        """The first member, which says of the rows what all members say."""
        return next(iter(self.members.values()))

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.first.dataset

    @property
    def dataset_version(self) -> int:
        """Number of the version."""
        return self.first.dataset_version

    @property
    def manifest(self) -> Manifest:
        """The version's rows."""
        return self.first.manifest

    @property
    def n_rows(self) -> int:
        """Number of images of the version."""
        return self.first.n_rows

    # The features

    @property
    def name(self) -> str:
        """Names of the caches, with `` + `` between."""
        return " + ".join(features.name for features in self.members.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the digests of the members in order: what tells these features from others."""
        digests = "\n".join(features.digest for features in self.members.values())
        return hashlib.sha256(digests.encode()).hexdigest()

    def arrays(self) -> list[ArraySpec]:
        """List the feature arrays, member after member, by their joined names."""
        return [
            replace(spec, name=joined_name(member, spec.name))
            for member, features in self.members.items()
            for spec in features.arrays()
        ]

    def array(self, name: str) -> ArraySpec:
        """Return one array's spec, by its joined name."""
        member, own = self._split(name)
        return replace(self.members[member].array(own), name=name)

    def is_complete(self, names: Sequence[str] | None = None) -> bool:
        """Whether every row is done in the named arrays (default: all) of each member."""
        return all(
            features.is_complete(None if names is None else own)
            for member, features in self.members.items()
            if (own := [each for of, each in map(self._split, names or ()) if of == member]) or names is None
        )

    def failed_rows(self, names: Sequence[str] | None = None) -> dict[int, str]:
        """Return row to reason for images that a member could not use in the named arrays (default: all)."""
        found: dict[int, str] = {}
        for member, features in self.members.items():
            own = None if names is None else [each for of, each in map(self._split, names) if of == member]
            if own != []:
                # The reason of the first member that failed stands for all.
                found = features.failed_rows(own) | found
        return dict(sorted(found.items()))

    def blocks(self, names: Sequence[str], rows: npt.ArrayLike | None = None) -> JoinedBlocks:
        """Return the columns of some arrays side by side; see `FeatureCache.blocks`.

        Parameters
        ----------
        names : sequence of str
            Arrays by their joined names, in the order of their columns.
        rows : array of int (m,), optional
            Rows of the version, in any order; by default all of them.

        Raises
        ------
        IncompleteError
            If a member lacks an array, or a unit that holds one of the rows is not done.
        CorruptError
            If a file is damaged; the message names the file.
        """
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise InputError(f"arrays {names!r} must be a list of different names")
        runs = groupby(map(self._split, names), key=lambda pair: pair[0])
        return JoinedBlocks(
            [self.members[member].blocks([own for _, own in pairs], rows) for member, pairs in runs]
        )

    def content_digests(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the SHA-256 of each image's bytes, as `FeatureCache.content_digests` does, of any member."""
        digests, known = self.first.content_digests()
        for features in self.members.values():
            theirs, they_know = features.content_digests()
            digests, known = np.where(known[:, None], digests, theirs), known | they_know
        return digests, known

    def mark_used(self) -> None:
        """Note for ``store gc`` that every member is being used."""
        for features in self.members.values():
            features.mark_used()

    def _split(self, name: str) -> tuple[str, str]:
        member, own = split_name(name)
        if member not in self.members:
            raise InputError(
                f"array {name!r} is of none of the members {', '.join(self.members)}; an array of several "
                f"models is named MODEL{SEPARATOR}LAYER.POOLING"
            )
        return member, own


def joined_name(member: str, array: str) -> str:
    """Return the name of an array among those of all members; a single model, called ``""``, has its own."""
    return f"{member}{SEPARATOR}{array}" if member else array


def split_name(name: str) -> tuple[str, str]:
    """Split the name of an array into member and own name; the array of a single model has member ``""``."""
    member, _, own = name.rpartition(SEPARATOR)
    return member, own


def members_of(features: StoredFeatures) -> Mapping[str, ModelFeatures]:
    """Return the members of joined features; those of a single model are one member, called ``""``."""
    if isinstance(features, JoinedFeatures):
        return features.members
    return {"": cast("ModelFeatures", features)}
