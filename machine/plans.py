"""`plan_logger` is told what a fit is going to do and how much memory it will take, before the fit does it.

The logger has one home, because a handler that listens to a misspelt name would hear nothing.
"""

import logging

plan_logger = logging.getLogger("toptune.train.plan")
