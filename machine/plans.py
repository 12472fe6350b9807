"""`plan_logger` is told what a fit is going to do and how much memory it will take, before the fit does it.

Its level is ``DEBUG``; the left-out figures of the heads that ``--head auto`` tries come as ``INFO``.
The logger has one home, because a handler that listens to a misspelt name would hear nothing.
"""

import logging

plan_logger = logging.getLogger("toptune.train.plan")
