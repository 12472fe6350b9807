"""`FeatureIdentity`: what a cache and a view over several caches have in common."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from toptune.store.arrays.spec import ArraySpec
from toptune.store.features.recipe import Recipe
from toptune.text import repr_line

_SHOWN_ARRAYS = 3


class _Features(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def dataset(self) -> str: ...

    @property
    def n_rows(self) -> int: ...

    def arrays(self) -> list[ArraySpec]: ...


class ArraysOfRows:
    """Stored features as Python and numpy take them: rows are counted, and read only from named arrays."""

    def __len__(self: _Features) -> int:
        return self.n_rows

    def __repr__(self: _Features) -> str:
        # Names of the arrays would be read from the store, whose files may be gone by now.
        return repr_line(self, self.name, dataset=self.dataset, n_rows=self.n_rows)

    def __getitem__(self, rows: object) -> NoReturn:
        raise TypeError(_which_array(self, "indexed"))

    def __iter__(self) -> Iterator[npt.NDArray[np.number]]:
        raise TypeError(_which_array(self, "iterated over"))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> NoReturn:
        raise TypeError(_which_array(self, "an array of numpy"))


def _which_array(features: Any, what: str) -> str:
    """Say that stored features are several arrays, and how the rows of some or all of them are read."""
    names: Sequence[str] = [spec.name for spec in features.arrays()]
    shown = ", ".join(names[:_SHOWN_ARRAYS]) + (", ..." if len(names) > _SHOWN_ARRAYS else "")
    return (
        f"{features.name} over {features.dataset} has {len(names)} stored arrays ({shown or 'none yet'}) and "
        f"cannot be {what} as a whole; .blocks([NAME]) gives rows of the arrays that are named, and "
        "toptune.load_features reads layers with their labels"
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureIdentity(ArraysOfRows):
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
