"""`LayerScaler`: columns standardized, and layers of equal variance, as a transformer of scikit-learn."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from toptune.errors import InputError
from toptune.store.features.blocks import ArrayBlocks
from toptune.train.preprocessing.finite_rows import FiniteRows
from toptune.train.preprocessing.fitting import fit_layer_scaling


class LayerScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Standardize each column, and give every layer of a network the same total variance.

    Features of several layers side by side have a few hundred to a few thousand columns each. Plain
    standardizing gives every column the variance 1, and a wide layer then decides the distances between rows
    alone. Here the columns of a layer of d_l of together d columns in L layers are multiplied by
    ``sqrt(d / (L d_l))`` as well. This is the step ``standardise`` of `toptune.train.fit_preprocessing`,
    which `toptune.train.train` takes by default.

    Parameters
    ----------
    layer_dims : sequence of int, optional
        Columns of each layer, in order, together as many as X has. By default all columns are one layer,
        which is plain standardizing.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (n_features,)
        Mean of each column.
    weight_ : ndarray of float64, shape (n_features,)
        What a centered column is multiplied by: the weight of its layer divided by its deviation; 0 for a
        column that is constant.
    n_features_in_ : int
        Number of columns.

    Raises
    ------
    InputError
        By ``fit``: if `layer_dims` are no positive whole numbers, or do not add up to the columns of X.

    See Also
    --------
    sklearn.preprocessing.StandardScaler : The same without layers.

    Examples
    --------
    >>> import numpy as np
    >>> from toptune.train import LayerScaler
    >>> X = np.random.default_rng(0).normal(size=(50, 12))
    >>> scaled = LayerScaler(layer_dims=[2, 10]).fit_transform(X)
    >>> [round(float(part.var(axis=0).sum()), 3) for part in np.split(scaled, [2], axis=1)]
    [6.0, 6.0]
    """

    def __init__(self, layer_dims: Sequence[int] | None = None) -> None:
        self.layer_dims = layer_dims

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Take mean and deviation of each column of X (n_samples, n_features); `y` is not used."""
        values = validate_data(self, X, dtype=[np.float64, np.float32])
        dims = self._dims(values.shape[1])
        step = fit_layer_scaling(FiniteRows(ArrayBlocks(values), (), values.shape[1]), dims)
        self.mean_, self.weight_ = step.mean, step.scale
        return self

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scale X (n_samples, n_features)."""
        check_is_fitted(self)
        values = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        result: npt.NDArray[np.float64] = (values - self.mean_) * self.weight_
        return result

    def inverse_transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Undo `transform`; a column that was constant is its mean."""
        check_is_fitted(self)
        values = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        undone = np.divide(1, self.weight_, out=np.zeros_like(self.weight_), where=self.weight_ != 0)
        result: npt.NDArray[np.float64] = values * undone + self.mean_
        return result

    def _dims(self, n_columns: int) -> tuple[int, ...]:
        if self.layer_dims is None:
            return (n_columns,)
        dims = tuple(self.layer_dims)
        if not dims or any(isinstance(dim, bool) or int(dim) != dim or dim < 1 for dim in dims):
            raise InputError(
                f"layer_dims is {self.layer_dims!r}; give the number of columns of each layer, at least 1"
            )
        if sum(dims) != n_columns:
            raise InputError(
                f"layer_dims {list(dims)} are {sum(dims)} columns together, and X has {n_columns}; give the "
                "columns of each layer, in the order of X"
            )
        return dims
