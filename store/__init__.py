"""What is on disk and how it is cut; knows nothing of images or kernels.

Names are loaded when they are first used, so that ``import toptune.store`` costs nothing. They stand in
``__init__.pyi``, where type checkers read them too.
"""

import lazy_loader

_own_name, _, _own = lazy_loader.attach_stub(__name__, __file__)
_error, _, _errors = lazy_loader.attach(
    "toptune",
    submod_attrs={
        "errors": [
            "ConflictError",
            "CorruptError",
            "DeviceMemoryError",
            "FoldsError",
            "FormatVersionError",
            "IncompleteError",
            "InputError",
            "InterruptedRunError",
            "NumericalError",
            "StoreError",
            "StoreNotFoundError",
            "ToptuneError",
            "UnreadableImageError",
            "WeightsError",
        ]
    },
)

__all__ = [*_own, *_errors]


def __getattr__(name: str) -> object:
    return (_error if name in _errors else _own_name)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
