"""Features in, heads out: splits, preprocessing, the one-pass solver, heads, RUN folders.

Names are loaded when they are first used, so that ``import toptune.train`` costs nothing. They stand in
``__init__.pyi``, where type checkers read them too.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
