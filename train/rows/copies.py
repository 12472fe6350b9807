"""Images of equal bytes that train and test: figures on such a test are too good."""

import logging
from typing import Protocol

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.text import counted
from toptune.train.rows.splits import Split

logger = logging.getLogger(__name__)

Digests = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


class Digested(Protocol):
    """Stored features that know the digests of their images."""

    def content_digests(self) -> Digests:
        """Return the SHA-256 (n, 32) of the bytes of each image, and which of them are known (n,)."""
        ...


def digests_of(features: Digested) -> Digests | None:
    """Return the digests of images; None if they are damaged, which keeps nothing from being trained."""
    try:
        return features.content_digests()
    except CorruptError as error:
        logger.warning("copies of images across the split were not looked for: %s [TT310]", error)
        return None


def note_copies(digests: Digests, split: Split) -> list[str]:
    """Say how many test images have the same bytes as a training image; no note if there are none.

    Parameters
    ----------
    digests : tuple of array (n, 32) of uint8, and of array (n,) of bool
        SHA-256 of the bytes of each image, zeros where the image could not be read; and whether the digest is
        known.
    split : Split
    """
    values, known = digests
    is_read = known & values.any(axis=1)
    train, test = (rows[is_read[rows]] for rows in (split.train, split.test))
    if not len(train) or not len(test):
        return []
    both = np.ascontiguousarray(values[np.concatenate([train, test])]).view("V32").ravel()
    _, codes = np.unique(both, return_inverse=True)
    copied = int(np.isin(codes[len(train) :], codes[: len(train)]).sum())
    if not copied:
        return []
    verb = "has" if copied == 1 else "have"
    return [
        f"leak: {counted(copied, 'test image')} of {len(split.test)} {verb} the same bytes as a training "
        "image, and figures on them are too good; toptune inspect names them, and near-duplicates [TT309]"
    ]
