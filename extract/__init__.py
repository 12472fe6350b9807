"""Images become features: sources, decoding, backbones, and the pass that stores layers.

Names are loaded when they are first used, so that a finished extraction needs no torch. All names stand in
``__init__.pyi``, where type checkers read the names too.
"""

import lazy_loader

_own_name, _, _own = lazy_loader.attach_stub(__name__, __file__)
_machine_name, _, _machine = lazy_loader.attach("toptune.machine", submod_attrs={"watch": ["Clocks"]})

__all__ = [*_own, *_machine]


def __getattr__(name: str) -> object:
    return (_machine_name if name in _machine else _own_name)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
