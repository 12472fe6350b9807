"""Features in, heads out: splits, preprocessing, the one-pass solver, heads, RUN folders.

Names are loaded when they are first used, so that ``import toptune.train`` costs nothing. They stand in
``__init__.pyi``, where type checkers read them too.
"""

import lazy_loader

_own_name, _, _own = lazy_loader.attach_stub(__name__, __file__)
# Which arrays `layers` means is the store's to know; the name is offered here, too, where layers are chosen.
_store_name, _, _store = lazy_loader.attach(
    "toptune.store", submod_attrs={"arrays.stored_layers": ["choose_arrays"]}
)

__all__ = [*_own, *_store]


def __getattr__(name: str) -> object:
    return (_store_name if name in _store else _own_name)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
