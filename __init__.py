"""Extract a frozen backbone's layers once, and train classifiers on them in seconds.

The names that most programs need are offered here, and everything else by the four packages
``toptune.store``, ``toptune.extract``, ``toptune.train`` and ``toptune.workflows``. The two stages are
functions of the packages that are called like them::

    from toptune.extract import extract
    from toptune.train import train

Names are loaded when they are first used, so that ``import toptune`` costs nothing. They stand in
``__init__.pyi``, where type checkers read them too.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
