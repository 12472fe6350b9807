"""Several labels of an image stand in the manifest's column ``labels``, joined with ``|``."""

import re
from collections.abc import Iterable, Sequence

from toptune.errors import InputError
from toptune.extract.images.remarks import Remarks
from toptune.store.datasets.manifest import LABEL_SEPARATOR
from toptune.store.datasets.outside_text import outside_column, outside_text

_SEPARATORS = re.compile(r"[|;]")


def split_labels(text: str | None) -> list[str]:
    """Return the names in a field of text, separated by ``|`` or ``;``; empty names do not count."""
    return [name for name in outside_column(_SEPARATORS.split(text or "")) if name is not None]


def check_class_folders(names: Iterable[str | None], where: str, remarks: Remarks) -> None:
    """Say that blanks around a class folder's name are taken away; refuse two that then are one class.

    Folders whose names differ in their Unicode form only are one class.

    Parameters
    ----------
    names : iterable of str or None
        Name of the class folder of each image, as it is on disk.
    where : str
        Where the folders are, for messages.
    remarks : Remarks
        Takes the folders whose names have blanks around them.

    Raises
    ------
    InputError
        If two folders are called alike but for blanks.
    """
    classes: dict[str | None, set[str | None]] = {}
    for name in set(names):
        classes.setdefault(outside_text(name), set()).add(outside_text(name, keeps_blanks=True))
    for label, folders in classes.items():
        if len(folders) > 1:
            both = " and ".join(repr(name) for name in sorted(map(str, folders)))
            raise InputError(
                f"{where} has the class folders {both}, which differ in blanks around the name only; "
                "rename one of them, or move its images to the other"
            )
        if folders != {label}:
            remarks.add(
                "class folder",
                "with blanks around the name, which are taken away",
                *map(repr, folders),
                code="TT009",
                is_left_out=False,
            )


def join_labels(
    rows: Sequence[Sequence[object] | None], where: str
) -> tuple[list[str | None], list[str | None]]:
    """Turn the list of names of each image into the manifest's columns ``label`` and ``labels``.

    Parameters
    ----------
    rows : sequence of sequence of str, number or None (n,)
        The names of each image, in the order given; None where nothing is known, and no names where no label
        applies.
    where : str
        Origin of the names, for messages.

    Returns
    -------
    labels : list of str or None (n,)
        The name of each image that has exactly one name.
    joined : list of str or None (n,)
        All names of each image, joined with ``|``; empty text where no label applies.

    Raises
    ------
    InputError
        If a name contains ``|``, is empty or occurs twice for one image.
    """
    labels: list[str | None] = []
    joined: list[str | None] = []
    for row, given in enumerate(rows):
        if given is None:
            labels.append(None)
            joined.append(None)
            continue
        found = outside_column(given)
        names = [name for name in found if name is not None and LABEL_SEPARATOR not in name]
        if len(names) < len(found):
            wrong = next(raw for raw, name in zip(given, found, strict=True) if name not in names)
            raise InputError(
                f"{where}: row {row} (from 0) has the label {wrong!r}; several labels are kept with "
                f"{LABEL_SEPARATOR!r} between them, so no name may hold it or be empty: rename it"
            )
        if len(set(names)) < len(names):
            raise InputError(
                f"{where}: row {row} (from 0) has a label twice: {list(names)!r}; give each once"
            )
        # The column `label` serves heads with one class an image: an image with several labels has none
        # there.
        labels.append(names[0] if len(names) == 1 else None)
        joined.append(LABEL_SEPARATOR.join(names))
    return labels, joined
