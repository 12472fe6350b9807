"""Which stored features a run was trained on, of one backbone or of several, and how they are opened."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.features.recipe import IMPORTED, Recipe
from toptune.store.joined.joined_features import JoinedFeatures, split_name

# Values that another room makes and reads have no class of their own.
JsonObject = Mapping[str, object]


@dataclass(frozen=True)
class RunArray:
    """A stored array that a run's features are made of: name, columns, type on disk.

    In a run of several backbones the name begins with that of the member: ``resnet50.a1_in1k/last.none``.
    """

    name: str
    dim: int
    dtype: str

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a value."""
        return 2 if self.dtype == "float16" else 4

    @property
    def member(self) -> str:
        """Name of the backbone among those of the run; empty in a run of one backbone."""
        return split_name(self.name)[0]

    @property
    def own_name(self) -> str:
        """Name of the array in the cache of its backbone."""
        return split_name(self.name)[1]


@dataclass(frozen=True, kw_only=True)
class CacheIdentity:
    """Which features a run was trained on: the name of their cache and the digest of their recipe."""

    name: str
    digest: str
    others: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """The features of one backbone of a run.

    Attributes
    ----------
    name : str
        Name of the member, with which the names of its arrays begin; empty in a run of one backbone.
    model : str
        The backbone, spelled as the caller did.
    cache : CacheIdentity
    recipe, backbone : mapping
        How the features were computed, and the options that load the backbone again.
    """

    name: str
    model: str
    cache: CacheIdentity
    recipe: JsonObject
    backbone: JsonObject
    others: JsonObject = field(default_factory=dict)

    def full_recipe(self) -> Recipe:
        """Return how the features were computed, as a value that can be compared.

        Raises
        ------
        CorruptError
            If the recipe of the run is damaged.
        """
        return Recipe.from_json(json.dumps(self.recipe))

    @property
    def is_imported(self) -> bool:
        """Whether the features were imported, so that no extraction repeats them."""
        return self.recipe.get("architecture") == IMPORTED

    def of(self, arrays: Sequence[RunArray]) -> list[RunArray]:
        """Return those of the arrays of a run that this backbone computes, in their order."""
        return [array for array in arrays if array.member == self.name]


def open_sources(
    store: FeatureStore,
    sources: Sequence[RunSource],
    dataset: str,
    *,
    version: int | None = None,
    label_column: str | None = None,
    relabel: Callable[[Manifest], Manifest] | None = None,
) -> StoredFeatures:
    """Open the features of a run's backbones; parameters and errors are those of `FeatureStore.features`.

    Returns
    -------
    FeatureCache, FeatureView or JoinedFeatures
        What is stored of the one backbone, or of all of them as one table.
    """
    members = {
        source.name: store.features(
            source.cache.name, dataset, version=version, label_column=label_column, relabel=relabel
        )
        for source in sources
    }
    return members[""] if "" in members else JoinedFeatures(members)
