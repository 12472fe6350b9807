"""Any scikit-learn classifier by its dotted path: ``sklearn:sklearn.ensemble.ExtraTreesClassifier``."""

import inspect
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from toptune.errors import InputError
from toptune.train.heads.kind import PREFIX, HeadKind, SklearnForm
from toptune.train.heads.problem_size import forest_bytes, svm_bytes, unknown_bytes


def class_of(name: str) -> type:
    """Import the class of a head ``sklearn:package.Class``, from an installed package only.

    Raises
    ------
    InputError
        If there is no such package or class, or the package is not an installed one.
    """
    path = name.removeprefix(PREFIX)
    package, _, attribute = path.rpartition(".")
    if not package:
        raise InputError(
            f"head {name!r} names no package; write {PREFIX}package.Class, such as "
            f"{PREFIX}sklearn.ensemble.ExtraTreesClassifier"
        )
    top = package.split(".")[0]
    check_installed(top, name)
    try:
        found = getattr(import_module(package), attribute, None)
    except ImportError as error:
        raise InputError(f"head {name!r}: {package!r} cannot be imported ({error})") from error
    # A module of scikit-learn also holds classes that the module imports from elsewhere; they are no heads.
    if not inspect.isclass(found) or (top == "sklearn" and found.__module__.split(".")[0] != top):
        raise InputError(f"head {name!r}: {package} has no class {attribute!r}")
    return found


def check_installed(package: str, name: str) -> None:
    """Refuse a top-level package that no installed distribution brings, before any of its code runs.

    Importing a module runs its code. Modules of the standard library (``antigravity`` opens a browser) and
    files of the current folder, where data may lie, are no source of classifiers.

    Raises
    ------
    InputError
        If the package is not installed, or would be imported from the current folder.
    """
    if package == "sklearn":
        return
    if package not in packages_distributions():
        raise InputError(
            f"head {name!r}: {package!r} is not part of an installed package, and only such packages are "
            "imported; check the name, or install the package with pip"
        )
    # Looking for a top-level package does not import the package.
    spec = find_spec(package)
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    if any(Path(place).parent == Path.cwd() for place in places if place):
        raise InputError(
            f"head {name!r}: {package!r} would be imported from the current folder, {Path.cwd()}, where data "
            "could run as code; run the command in another folder"
        )


def kind_of_path(name: str) -> HeadKind:
    """Return the record of a head ``sklearn:package.Class``; no estimator is made yet.

    Raises
    ------
    InputError
        For a package or class that does not exist; see `class_of`.
    """
    signature = inspect.signature(class_of(name)).parameters.values()
    named = tuple(
        each.name for each in signature if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    )
    package, _, attribute = name.removeprefix(PREFIX).rpartition(".")
    return HeadKind(
        name=name,
        form=SklearnForm(
            estimator=f"{package}:{attribute}",
            description=f"{package}.{attribute}, lists among its parameters cross-validated",
            # Forests and support vector machines are told by parameters that no other classifier has.
            peak_bytes=(
                forest_bytes
                if {"bootstrap", "max_depth"} <= {*named}
                else svm_bytes
                if "decision_function_shape" in named
                else unknown_bytes
            ),
            is_scored_by_pairs="decision_function_shape" in named,
            is_seeded="random_state" in named,
        ),
        parameters=named,
        takes_class_weight="class_weight" in named,
    )
