"""Several labels of an image stand in the manifest's column ``labels``, joined with ``|``."""

import re
from collections.abc import Sequence

from toptune.errors import InputError
from toptune.store.datasets.manifest import LABEL_SEPARATOR

_SEPARATORS = re.compile(r"[|;]")


def split_labels(text: str | None) -> list[str]:
    """Return the names in a field of text, separated by ``|`` or ``;``; empty names do not count."""
    return [name.strip() for name in _SEPARATORS.split(text or "") if name.strip()]


def join_labels(
    rows: Sequence[Sequence[str] | None], where: str
) -> tuple[list[str | None], list[str | None]]:
    """Turn the list of names of each image into the manifest's columns ``label`` and ``labels``.

    Parameters
    ----------
    rows : sequence of sequence of str or None (n,)
        The names of each image, in the order given; None where nothing is known.
    where : str
        Origin of the names, for messages.

    Returns
    -------
    labels : list of str or None (n,)
        The name of each image that has exactly one name.
    joined : list of str or None (n,)
        All names of each image, joined with ``|``.

    Raises
    ------
    InputError
        If a name contains ``|``, is empty or occurs twice for one image.
    """
    labels: list[str | None] = []
    joined: list[str | None] = []
    for row, names in enumerate(rows):
        names = names or ()
        wrong = [name for name in names if LABEL_SEPARATOR in name or not name]
        if wrong:
            raise InputError(
                f"{where}: row {row} (from 0) has the label {wrong[0]!r}; several labels are kept with "
                f"{LABEL_SEPARATOR!r} between them, so no name may hold it or be empty: rename it"
            )
        if len(set(names)) < len(names):
            raise InputError(
                f"{where}: row {row} (from 0) has a label twice: {list(names)!r}; give each once"
            )
        # The column `label` serves heads with one class an image: an image with several labels has none
        # there.
        labels.append(names[0] if len(names) == 1 else None)
        joined.append(LABEL_SEPARATOR.join(names) if names else None)
    return labels, joined
