"""Unfitted heads made from `HeadOptions`."""

from toptune.machine.limits import RunLimits
from toptune.train.heads.heads import Head, make_head
from toptune.train.heads.options import HeadOptions


def new_head(options: HeadOptions, *, seed: int, limits: RunLimits) -> Head:
    """Make the unfitted head that the options name.

    Raises
    ------
    InputError
        For an unknown head or parameter; see `toptune.train.make_head`.
    """
    return make_head(
        options.head,
        params=options.head_params,
        seed=seed,
        cv=options.cv,
        class_weight=options.class_weight,
        device=limits.device,
        memory_limit_bytes=limits.memory_limit_bytes,
        dask=limits.dask,
    )


def new_trial(name: str, options: HeadOptions, *, seed: int, limits: RunLimits) -> Head:
    """Make an unfitted head that head ``auto`` tries: by its defaults, and cross-validated in any case."""
    return make_head(
        name,
        seed=seed,
        cv=options.cv,
        class_weight=options.class_weight,
        device=limits.device,
        memory_limit_bytes=limits.memory_limit_bytes,
        is_compared=True,
    )
