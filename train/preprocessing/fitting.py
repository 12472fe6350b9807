"""Fitting a preprocessing to training rows, step after step."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.features.blocks import Blocks
from toptune.train.preprocessing.finite_rows import FiniteRows, moments, non_finite_rows
from toptune.train.preprocessing.preprocessing import Preprocessing
from toptune.train.preprocessing.principal_components import fit_principal_components
from toptune.train.preprocessing.spec import MIXING, WEIGH, StepSpec, parse_preprocessing
from toptune.train.preprocessing.steps import (
    Balance,
    Layers,
    Power,
    Standardise,
    Step,
    Ternary,
    UnitNorm,
    Weigh,
)
from toptune.train.preprocessing.weighing import learn_layer_weights, weighed_rows


def fit_preprocessing(
    spec: str,
    blocks: Blocks,
    layer_dims: Layers,
    *,
    members: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    memory_limit_bytes: int | None = None,
) -> tuple[Preprocessing, npt.NDArray[np.int64]]:
    """Fit the steps that a text names, in order, each in float64 on the output of the step before.

    ``standardise``
        Each column is centered and divided by its deviation. Then, with L layers of together d columns, the
        columns of a layer of d_l columns are multiplied by ``sqrt(d / (L d_l))``, which gives every layer the
        same sum of variances.
    ``l2``
        Each layer of each row is scaled to unit Euclidean norm.
    ``power``, ``power:0.3``
        ``sign(x) |x|^0.5``, or another exponent.
    ``pca``, ``pca:256``, ``pca:0.95``
        Principal components of all layers together: all of them, a number, or as few as have a share of the
        variance.
    ``whiten`` (arguments of ``pca``)
        Principal components of unit variance.
    ``ternary``
        -1, 0 or 1, by the standardized value.
    ``weigh``
        Each layer times a factor; together they are those with which kernel ridge regression has the least
        log-loss on rows that it leaves out one by one (`learn_layer_weights`). Always the last step.
    ``none``
        Values as stored.

    Parameters
    ----------
    spec : str
        Names of steps with commas, such as ``l2,standardise``.
    blocks : Blocks
        Training rows only, shape (n, d).
    layer_dims : tuple of int
        Columns of each layer, in order, d together.
    members : sequence of str, optional
        Backbone of each layer. Where there are several, every backbone is scaled to the same total variance,
        after the steps and before ``pca`` or ``whiten``, which mix the layers.
    labels : sequence of str, optional
        Class of each row, from which ``weigh`` learns.
    memory_limit_bytes : int, optional
        Limit for the matrices of ``pca`` and ``whiten``; by default half of the machine's memory.

    Returns
    -------
    Preprocessing
        The fitted steps.
    ndarray of int64
        Rows with a value that is not finite, which the statistics leave out.

    Raises
    ------
    InputError
        For a text that names no steps, d x d matrices above the memory limit, or ``weigh`` without labels or
        with one layer.
    NumericalError
        If principal components are asked for and no column varies.

    Examples
    --------
    >>> from toptune.store import ArrayBlocks
    >>> rows = np.array([[0.0, 10.0], [2.0, 30.0]], dtype=np.float32)
    >>> preprocessing, bad = fit_preprocessing("standardise", ArrayBlocks(rows), (2,))
    >>> preprocessing.apply(rows).tolist(), bad.tolist()
    ([[-1.0, -1.0], [1.0, 1.0]], [])
    """
    fitted = Preprocessing(spec=spec, layer_dims=tuple(layer_dims), steps=())
    bad: npt.NDArray[np.int64] | None = None
    for step in _with_balance(parse_preprocessing(spec), members):
        rows = FiniteRows(blocks, fitted.steps, n_columns=fitted.n_outputs)
        dims = fitted.layers_between[-1]
        if step.name == Balance.name:
            new: Step = _balance(rows, dims, members)
        elif step.name == WEIGH:
            new = _weigh(rows, dims, labels)
        else:
            new = _fit(step, rows, dims, memory_limit_bytes)
        fitted = Preprocessing(spec=spec, layer_dims=fitted.layer_dims, steps=(*fitted.steps, new))
        bad = rows.bad if bad is None else bad
    return fitted, non_finite_rows(blocks) if bad is None else bad


def _with_balance(steps: Sequence[StepSpec], members: Sequence[str]) -> list[StepSpec]:
    """Put the step that balances several backbones before the first step that mixes or weighs layers."""
    if len(set(members)) < 2:
        return list(steps)
    mixing = [place for place, step in enumerate(steps) if step.name in (*MIXING, WEIGH)]
    place = mixing[0] if mixing else len(steps)
    return [*steps[:place], StepSpec(Balance.name), *steps[place:]]


def _balance(rows: FiniteRows, layer_dims: Layers, members: Sequence[str]) -> Balance:
    """Measure the total variance of each backbone, and scale all of them to their mean."""
    of_columns = moments(rows).deviation ** 2
    of_layers = np.array([part.sum() for part in np.split(of_columns, np.cumsum(layer_dims)[:-1])])
    names, member = np.unique(members, return_inverse=True)
    totals = np.bincount(member, weights=of_layers, minlength=len(names))
    # A backbone whose columns are constant has nothing to weigh, and must not lower the mean of the others.
    varies = totals > 0
    scale = np.ones(len(names))
    scale[varies] = np.sqrt(totals[varies].mean() / totals[varies])
    return Balance(layer_dims=layer_dims, scale=scale[member])


def _weigh(rows: FiniteRows, layer_dims: Layers, labels: Sequence[str] | None) -> Weigh:
    """Learn the factors of layers from a sample that has the shares of the classes."""
    if labels is None:
        raise InputError(
            f"preprocessing step {WEIGH} learns from one class an image, and no classes are given here; give "
            "standardise alone",
            option="preprocess",
        )
    codes = np.unique(labels, return_inverse=True)[1]
    wanted = weighed_rows(codes, n_layers=len(layer_dims))
    values, at = rows.take(wanted)
    found = learn_layer_weights(values, codes[at], layer_dims)
    return Weigh(layer_dims=layer_dims, scale=found, n_rows=len(at))


def fit_layer_scaling(rows: FiniteRows, layer_dims: Layers) -> Standardise:
    """Fit the step ``standardise``: see `fit_preprocessing`, and `LayerScaler` for a transformer of it."""
    statistics = moments(rows)
    dims = np.asarray(layer_dims, dtype=np.float64)
    weights = np.repeat(np.sqrt(dims.sum() / (len(dims) * dims)), layer_dims)
    return Standardise(mean=statistics.mean, scale=statistics.inverse_deviation * weights)


def _fit(step: StepSpec, rows: FiniteRows, layer_dims: Layers, memory_limit_bytes: int | None) -> Step:
    match step.name:
        case "standardise":
            return fit_layer_scaling(rows, layer_dims)
        case "ternary":
            statistics = moments(rows)
            return Ternary(mean=statistics.mean, scale=statistics.inverse_deviation)
        case "l2":
            return UnitNorm(layer_dims=layer_dims)
        case "power":
            return Power(exponent=0.5 if step.value is None else float(step.value))
        case _:  # pca or whiten
            return fit_principal_components(
                rows, step.value, is_whitened=step.name == "whiten", memory_limit_bytes=memory_limit_bytes
            )
