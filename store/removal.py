"""Taking arrays out of a cache."""

import shutil
from collections.abc import Sequence

from toptune.store.feature_cache import CONTENT_ARRAY, FeatureCache


def remove_arrays(cache: FeatureCache, names: Sequence[str]) -> None:
    """Remove arrays of a cache, as if they had never been extracted.

    The ledger goes first, so that a removal that is killed leaves the arrays incomplete and never
    wrong. With the last feature array the digests of the pictures go too.

    Parameters
    ----------
    cache : FeatureCache
    names : sequence of str
        ``<tap>.<pooling>``; those that are not there are passed over.
    """
    others = {spec.name for spec in cache.arrays()} - set(names)
    for name in [*names, *([] if others else [CONTENT_ARRAY])]:
        for folder in (cache.entry_path(name, 0).parent, cache.path / name):
            if folder.exists():
                shutil.rmtree(folder)
