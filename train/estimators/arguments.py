"""Types of the arguments that estimators and heads take."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks

# Rows (b, d) of features in memory, of any type of float.
Values = npt.NDArray[np.floating]
# Features (n, d) of a head.
Features = Values | Blocks
# Features (n, d) of an estimator, which also takes what scikit-learn takes: data frames, tensors, lists.
RowsLike = Blocks | npt.ArrayLike
# Names of labels (n,), which may be text, numbers or booleans.
Labels = npt.NDArray[np.generic]
# None, "balanced", or weights by the label of the class.
ClassWeight = str | Mapping[Any, float] | None
RandomState = int | np.random.RandomState | None
# Parameters of an estimator by name; their types differ from estimator to estimator.
Params = Mapping[str, Any]
