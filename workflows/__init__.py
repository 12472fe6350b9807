"""Workflows need extraction and training: prediction, fine-tuning, export, reports, studies, batch jobs.

Names are loaded when they are first used, so that a finished extraction is recognized without torch. The
names stand in ``__init__.pyi``, where type checkers read them too.
"""

import lazy_loader

_own_name, _, _own = lazy_loader.attach_stub(__name__, __file__)
# These functions live in the room `machine`, which is no public front, and are offered here.
_machine_name, _, _machine = lazy_loader.attach(
    "toptune.machine",
    submod_attrs={
        "doctor": ["examine_machine"],
        "progress": ["extraction_progress", "work_progress"],
        "stop_signals": ["stop_on_signals"],
    },
)

__all__ = [*_own, *_machine]


def __getattr__(name: str) -> object:
    return (_machine_name if name in _machine else _own_name)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
