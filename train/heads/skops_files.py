"""scikit-learn estimators in skops files, whose types are checked before anything is loaded."""

import inspect
import io
import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from toptune.errors import CorruptError, InputError, StoreError
from toptune.store.files.reading import check_zip, read_linked
from toptune.store.files.writing import write_file

# The environment variable names types that the user trusts: dotted paths with commas between them.
TRUSTED_VARIABLE = "TOPTUNE_TRUSTED_TYPES"


def untrusted_types(found: Iterable[str]) -> list[str]:
    """Return the types that must not be loaded, among those that skops does not trust by itself.

    Classes of scikit-learn are trusted, because a forest, for one, is made of its tree structures. Functions
    of scikit-learn are not, nor is anything that its modules import from elsewhere. Every other type must be
    named in the environment variable ``TOPTUNE_TRUSTED_TYPES``.
    """
    named = trusted_names()
    return sorted(name for name in found if name not in named and not is_sklearn_class(name))


def trusted_names() -> set[str]:
    """Return the types that the environment variable names as trusted."""
    return {name.strip() for name in os.environ.get(TRUSTED_VARIABLE, "").split(",") if name.strip()}


def is_sklearn_class(name: str) -> bool:
    """Tell whether a dotted path leads to a class that scikit-learn itself defines."""
    # The first part of the path is compared before anything is imported: importing a package runs its code.
    package, _, attribute = name.rpartition(".")
    if package.split(".")[0] != "sklearn":
        return False
    try:
        found = getattr(import_module(package), attribute, None)
    except ImportError:
        return False
    # A module of scikit-learn also holds names that it imports, such as modules of the standard library.
    return inspect.isclass(found) and found.__module__.split(".")[0] == "sklearn"


def check_trusted(dotted: str, path: Path) -> None:
    """Refuse a class outside scikit-learn that is not named as trusted, before the class is imported.

    Raises
    ------
    InputError
        If the class is not trusted; the message says how to name it as trusted.
    """
    # Within scikit-learn only its own classes are taken, which whoever imports the class checks.
    if not (dotted.split(".")[0] == "sklearn" or dotted in trusted_names()):
        raise InputError(
            f"{path} names {dotted}, which is not of scikit-learn: importing it would run that package's "
            f"code; if you trust it, set {TRUSTED_VARIABLE}={dotted}"
        )


def write_estimator(path: Path, estimator: object) -> None:
    """Write a fitted estimator.

    Raises
    ------
    StoreError
        If skops cannot write the types of which the estimator is made.
    """
    import skops.io

    try:
        data = skops.io.dumps(estimator)
    except Exception as error:  # skops has no one type for what it cannot write
        raise StoreError(f"a {type(estimator).__name__} cannot be saved by skops: {error}") from error
    write_file(path, data)


def read_estimator(path: Path, estimator_type: type) -> Any:
    """Read a fitted estimator, which must be of a given type.

    Raises
    ------
    CorruptError
        If the file is missing or damaged, is of another type, or holds types that are not trusted.
    """
    return _checked(path, _read(path, estimator_type), estimator_type)


def read_estimators(path: Path, estimator_type: type) -> list[Any]:
    """Read a list of fitted estimators, which must all be of a given type; see `read_estimator`."""
    found = _read(path, estimator_type)
    if type(found) is not list:
        raise CorruptError(f"{path} holds a {type(found).__name__} where a list should be; train again")
    return [_checked(path, each, estimator_type) for each in found]


def _read(path: Path, estimator_type: type) -> Any:
    import skops.io

    try:
        data = read_linked(path)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is missing; train again", path) from error
    try:
        check_zip(io.BytesIO(data), len(data))
        found = skops.io.get_untrusted_types(data=data)
        if strange := untrusted_types(found):
            raise CorruptError(
                f"{path} holds types that a {estimator_type.__name__} of scikit-learn is not made of: "
                f"{', '.join(strange)}; it is not loaded, because loading could run foreign code. Train "
                f"again, or, if you trust whoever made it, set {TRUSTED_VARIABLE}={','.join(strange)}"
            )
        estimator = skops.io.loads(data, trusted=found)
    except CorruptError:
        raise
    except Exception as error:  # whatever a damaged archive makes skops stumble over
        raise CorruptError(f"{path} cannot be read ({error}); train again") from error
    return estimator


def _checked(path: Path, estimator: object, estimator_type: type) -> Any:
    if type(estimator) is not estimator_type:
        raise CorruptError(
            f"{path} holds a {type(estimator).__name__} where a {estimator_type.__name__} should be; "
            "train again"
        )
    return estimator
