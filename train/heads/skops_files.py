"""scikit-learn estimators in skops files, and which types these may be made of before they are loaded."""

import inspect
import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from toptune.errors import CorruptError, InputError, StoreError

# Types that somebody says are safe to load, by their dotted paths with commas between them.
TRUSTED_VARIABLE = "TOPTUNE_TRUSTED_TYPES"


def untrusted_types(found: Iterable[str]) -> list[str]:
    """Return, of the types that skops does not trust by itself, those that are not trusted here either.

    Classes of scikit-learn are: a forest, for one, is made of its tree structures. Its functions are not, nor
    is anything that its modules have imported from elsewhere. All else must be named in the environment
    variable ``TOPTUNE_TRUSTED_TYPES``.
    """
    named = trusted_names()
    return sorted(name for name in found if name not in named and not is_sklearn_class(name))


def trusted_names() -> set[str]:
    """Types that the environment says are safe to load."""
    return {name.strip() for name in os.environ.get(TRUSTED_VARIABLE, "").split(",") if name.strip()}


def is_sklearn_class(name: str) -> bool:
    """Tell whether a dotted path is that of a class which scikit-learn itself defines."""
    package, _, attribute = name.rpartition(".")
    if package.split(".")[0] != "sklearn":
        return False
    try:
        found = getattr(import_module(package), attribute, None)
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__.split(".")[0] == "sklearn"


def check_trusted(dotted: str, path: Path) -> None:
    """Refuse a class outside scikit-learn that nobody has named, before it is imported.

    Raises
    ------
    InputError
        Says how to name it.
    """
    if not (is_sklearn_class(dotted) or dotted in trusted_names()):
        raise InputError(
            f"{path} holds a {dotted}, which is none of scikit-learn's: loading it runs that package's code; "
            f"if you trust it, set {TRUSTED_VARIABLE}={dotted}"
        )


def write_estimator(path: Path, estimator: Any) -> None:
    """Write a fitted estimator.

    Raises
    ------
    StoreError
        If skops cannot write what it is made of.
    """
    import skops.io

    try:
        skops.io.dump(estimator, path)
    except OSError:
        raise
    except Exception as error:  # skops has no one type for what it cannot write
        raise StoreError(f"a {type(estimator).__name__} cannot be saved by skops: {error}") from error


def read_estimator(path: Path, estimator_type: type) -> Any:
    """Read an estimator of a given type.

    Raises
    ------
    CorruptError
        If the file is missing or damaged, is of another type, or holds types that are not trusted.
    """
    import skops.io

    try:
        found = skops.io.get_untrusted_types(file=path)
        if strange := untrusted_types(found):
            raise CorruptError(
                f"{path} holds types that a {estimator_type.__name__} of scikit-learn is not made of: "
                f"{', '.join(strange)}; it is not loaded, because loading could run foreign code. Train "
                f"again, or, if you trust whoever made it, set {TRUSTED_VARIABLE}={','.join(strange)}"
            )
        estimator = skops.io.load(path, trusted=found)
    except CorruptError:
        raise
    except Exception as error:  # whatever a damaged archive makes skops stumble over
        raise CorruptError(f"{path} cannot be read ({error}); train again") from error
    if type(estimator) is not estimator_type:
        raise CorruptError(
            f"{path} holds a {type(estimator).__name__} where a {estimator_type.__name__} should be; "
            "train again"
        )
    return estimator
