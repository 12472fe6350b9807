"""`FeatureIdentity`: what a cache and a view over several caches have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toptune.store.features.recipe import Recipe


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureIdentity:
    """Which features these are: the recipe, and the names by which people know the features.

    Attributes
    ----------
    model : str
        Plain model name.
    digest : str
        Full digest of the recipe.
    recipe : Recipe
        What decides the numbers.
    backbone : Mapping
        JSON values that load the backbone again.
    """

    model: str
    digest: str
    recipe: Recipe
    backbone: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``<model>@<digest8>``: what tells these features from others of the same model name."""
        return f"{self.model}@{self.digest[:8]}"
