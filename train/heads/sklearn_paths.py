"""Any scikit-learn classifier by its dotted path: ``sklearn:sklearn.ensemble.ExtraTreesClassifier``."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy.typing as npt
from sklearn.base import is_classifier

from toptune.errors import InputError
from toptune.train.heads.sklearn_kinds import Grid, Kind, combinations

PREFIX = "sklearn:"


def is_path(name: str) -> bool:
    """Tell ``sklearn:package.Class`` from the names of heads."""
    return name.startswith(PREFIX)


def class_of(name: str) -> type:
    """Import the class of a head ``sklearn:package.Class``.

    Raises
    ------
    InputError
        If there is no such package or class.
    """
    path = name.removeprefix(PREFIX)
    package, _, attribute = path.rpartition(".")
    if not package:
        raise InputError(
            f"head {name!r} names no package; write {PREFIX}package.Class, such as "
            f"{PREFIX}sklearn.ensemble.ExtraTreesClassifier"
        )
    try:
        found = getattr(import_module(package), attribute, None)
    except ImportError as error:
        raise InputError(f"head {name!r}: {package!r} cannot be imported ({error})") from error
    if not inspect.isclass(found):
        raise InputError(f"head {name!r}: {package} has no class {attribute!r}")
    return found


def kind_of_path(name: str) -> Kind:
    """Tell what a head ``sklearn:package.Class`` is made of; nothing is made yet.

    Raises
    ------
    InputError
        As `class_of`.
    """
    estimator_type = class_of(name)
    signature = inspect.signature(estimator_type).parameters.values()
    named = tuple(
        each.name for each in signature if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    )

    def make(params: Mapping[str, Any], *, seed: int, class_weight: str | None) -> Any:
        options: dict[str, Any] = {"random_state": seed} if "random_state" in named else {}
        options |= {"class_weight": class_weight} if class_weight is not None else {}
        try:
            estimator = estimator_type(**{**options, **params})
        except (TypeError, ValueError) as error:
            raise InputError(
                f"head {name!r} cannot be made with {dict(params)}: {error}; give what it needs in params"
            ) from error
        if not (hasattr(estimator, "fit") and is_classifier(estimator)):
            raise InputError(f"head {name!r} is no classifier; only scikit-learn classifiers can be heads")
        return estimator

    def grid(params: Mapping[str, Any], _values: npt.NDArray[Any]) -> Grid:
        return combinations(params, {})

    return Kind(
        estimator_type=estimator_type,
        description=f"{name.removeprefix(PREFIX)}, lists among its parameters cross-validated",
        parameters=named,
        grid=grid,
        make=make,
        peak_bytes=lambda n, d: 28 * n * d,
        takes_class_weight="class_weight" in named,
        is_selected=True,
    )
