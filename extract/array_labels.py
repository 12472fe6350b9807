"""Labels that stand beside pictures in arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.several_labels import join_labels
from toptune.store.datasets.manifest import LABELS_COLUMN


def array_labels(
    values: npt.NDArray[np.generic], n: int, where: str
) -> tuple[list[str | None], dict[str, list[str | None]]]:
    """Turn an array into labels and further columns.

    Parameters
    ----------
    values : array (n,), (n, 1) or (n, k)
        Integers or texts; a matrix of zeros and ones says which of k labels each picture has.
    n : int
        Number of pictures.
    where : str
        Its name, for messages.

    Raises
    ------
    InputError
        If there are not as many as pictures, or they are neither.
    """
    if values.ndim not in (1, 2) or len(values) != n:
        raise InputError(f"{where} has the shape {values.shape} for {n} pictures; it needs one row a picture")
    if values.ndim == 2 and values.shape[1] > 1:
        if values.dtype.kind not in "biu" or not np.isin(values, (0, 1)).all():
            raise InputError(
                f"{where} has {values.shape[1]} columns that are not all 0 and 1; give one label a "
                "picture, or "
                "a column of zeros and ones for each label"
            )
        rows = [[str(column) for column in np.flatnonzero(row)] for row in values]
        labels, joined = join_labels(rows, where)
        return labels, {LABELS_COLUMN: joined}
    return label_texts(values.reshape(n), where), {}


def label_texts(
    values: npt.NDArray[np.generic], where: str, names: Sequence[str] | None = None
) -> list[str | None]:
    """Turn integers or texts into labels, integers by name where there are names.

    Raises
    ------
    InputError
        If they are neither, or a number has no name.
    """
    kind = values.dtype.kind
    if kind == "S":
        return [bytes(value).decode("utf-8", "backslashreplace") for value in values.tolist()]
    if kind not in "biuU":
        raise InputError(f"{where} is of {values.dtype}; labels are integers or texts: convert it")
    if kind == "U" or names is None:
        return [str(value) for value in values.tolist()]
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < len(names):
        raise InputError(
            f"{where} has labels from {values.min()} to {values.max()} for {len(names)} names; one of the "
            "two "
            "files is another data set's, or damaged"
        )
    return [names[int(value)] for value in values.tolist()]
