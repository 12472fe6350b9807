"""Any scikit-learn classifier by its dotted path: ``sklearn:sklearn.ensemble.ExtraTreesClassifier``."""

import inspect
from importlib import import_module

from toptune.errors import InputError
from toptune.train.heads.kind import PREFIX, HeadKind, SklearnForm


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
            # The same rows as for the support vector machine: what a class outside `KINDS` takes is unknown.
            peak_bytes=lambda n, d: 28 * n * d,
            is_seeded="random_state" in named,
        ),
        parameters=named,
        takes_class_weight="class_weight" in named,
    )
