"""Columns of a manifest are told by their names, or named by the caller."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from toptune.errors import InputError
from toptune.extract.images.kinds.boxes import COLUMNS
from toptune.extract.images.layout import is_image_name
from toptune.extract.images.remarks import Remarks
from toptune.store.datasets.manifest import LABELS_COLUMN

# The first of these names that a manifest has is taken, whatever the case and with or without "_", "-" and
# blanks between the words.
PATH_NAMES = (
    *("path", "filepath", "filename", "file", "imagepath", "imagefile", "imagename", "imagefilename"),
    *("image", "img", "imgpath", "imgname", "picture"),
)
LABEL_NAMES = ("label", "class", "classname", "labelname", "classlabel", "category", "categoryname", "target")
_BETWEEN = re.compile(r"[\s_-]+")


@dataclass(frozen=True, kw_only=True)
class ManifestColumns:
    """Columns that toptune takes from a manifest, by their names in the file.

    Attributes
    ----------
    path : str
        Column of the images' files.
    label, several, split, identity : str, optional
        Columns of one label, of several labels, of the splits and of the ids.
    box : tuple of str
        Columns of the edges of boxes, left, upper, right and lower; empty where there are none.
    """

    path: str
    label: str | None
    several: str | None
    split: str | None
    identity: str | None
    box: tuple[str, ...] = ()

    @property
    def taken(self) -> tuple[str, ...]:
        """Names of these columns."""
        found = (self.path, self.label, self.several, self.split, self.identity)
        return tuple(name for name in found if name is not None)


def choose_manifest_columns(
    names: Sequence[str],
    where: str,
    remarks: Remarks,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
) -> ManifestColumns:
    """Tell the columns of a manifest apart, and say which are taken under another name than toptune's own.

    Parameters
    ----------
    names : sequence of str
        All columns of the manifest.
    where : str
        The manifest, for messages.
    remarks : Remarks
        Takes the columns that are taken under other names than toptune's.
    path_column, label_column : str, optional
        Columns that the caller names.

    Raises
    ------
    InputError
        If a named column is not there, no column holds paths, or a box lacks columns.
    """
    for option, name in (("--path-column", path_column), ("--label-column", label_column)):
        if name is not None and name not in names:
            raise InputError(
                f"{where} has no column {name!r} for {option}; its columns are {', '.join(names)}"
            )
    path = path_column or first_named(names, PATH_NAMES)
    if path is None:
        raise InputError(f"{where} has no column 'path'; {_advice_on_paths(names)}")
    rest = [name for name in names if name != path]
    label = label_column or first_named(rest, LABEL_NAMES)
    several = None if label_column is not None else first_named(rest, (LABELS_COLUMN,))
    chosen = ManifestColumns(
        path=path,
        label=label,
        several=several,
        split=first_named(rest, ("split",)),
        # Earlier toptunes took the ids of `id` alone: other ids would be other images.
        identity="id" if "id" in rest else None,
        box=_box_columns(rest, where),
    )
    for own, name in (
        ("path", chosen.path),
        ("label", chosen.label),
        (LABELS_COLUMN, chosen.several),
        ("split", chosen.split),
    ):
        if name not in (None, own, path_column, label_column):
            remarks.add("column", f"taken for the {own}", name, code="TT010", is_left_out=False)
    return chosen


def _box_columns(names: Sequence[str], where: str) -> tuple[str, ...]:
    found = {each: next((name for name in names if name.casefold() == each), None) for each in COLUMNS}
    there = tuple(name for name in found.values() if name is not None)
    if there and len(there) < len(COLUMNS):
        lacking = ", ".join(each for each, name in found.items() if name is None)
        raise InputError(
            f"{where} has {', '.join(there)} and not {lacking}; a box of an image needs x0, y0, x1 and y1: "
            "add what is missing, or rename the columns where they are none of a box"
        )
    return there


def _advice_on_paths(names: Sequence[str]) -> str:
    """Say what to do about a table in which no name of a column is one of paths."""
    if not names:
        return "its columns are none, because it is empty"
    advice = f"its columns are {', '.join(names):.200}: name the one of the images' files with --path-column"
    if any(is_image_name(name) for name in names):
        return f"{advice}, or write a first line with the names of the columns, such as path,label"
    if len(names) == 1:
        return f"{advice}, or put commas, semicolons or tabs between the columns"
    return advice


def first_named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the column with the first of the wanted names, if there is one; exact names go before others.

    Parameters
    ----------
    names : sequence of str
        The columns there are.
    wanted : sequence of str
        Names in lower case without blanks, ``_`` and ``-``, the most telling first.
    """
    for name in wanted:
        if name in names:
            return name
        found = next((each for each in names if _BETWEEN.sub("", each.casefold()) == name), None)
        if found is not None:
            return found
    return None
