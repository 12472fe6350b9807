"""What to say of pictures with several labels, which no head takes yet."""

import numpy as np
import numpy.typing as npt

from toptune.store.datasets.manifest import LABEL_SEPARATOR, LABELS_COLUMN, Manifest
from toptune.text import counted


def advice_on_several_labels(manifest: Manifest, rows: npt.NDArray[np.int64]) -> str:
    """Say which of some rows have several labels and what to do; nothing where none has.

    Parameters
    ----------
    manifest : Manifest
    rows : array (m,) of int
        Rows without a label.

    Returns
    -------
    str
        A sentence, or an empty text.
    """
    if LABELS_COLUMN not in manifest.extra_names:
        return ""
    joined = manifest.column(LABELS_COLUMN)
    several = [row for row in rows.tolist() if LABEL_SEPARATOR in (joined[row] or "")]
    if not several:
        return ""
    first = several[0]
    return (
        f"{counted(len(several), 'picture')} with several labels, for instance {manifest.ids[first]!r} with "
        f"{joined[first]!r}; toptune's heads take one label a picture: give each picture one where the "
        "labels stand (for instance in a manifest's column 'label') and extract with --update, which "
        "computes nothing anew for labels"
    )
