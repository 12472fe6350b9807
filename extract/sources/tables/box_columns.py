"""Columns of a manifest hold boxes of images."""

import math
from collections.abc import Sequence

from toptune.errors import InputError
from toptune.extract.images.kinds.boxes import Box
from toptune.extract.images.remarks import Remarks
from toptune.store.datasets.outside_tables import OutsideTable
from toptune.store.datasets.outside_text import outside_text

# The pattern of `--group-by` that takes the path out of the id of a row.
_IMAGE_OF_ID = "'^([^[]+)'"


def read_boxes(
    table: OutsideTable,
    columns: Sequence[str],
    where: str,
    remarks: Remarks,
    *,
    paths: Sequence[str],
    has_ids: bool,
) -> list[Box | None]:
    """Return the box of each row; None where a row has no value of the four, which is the whole image.

    Edges count from the upper left corner of the upright image. They are shares of width and height if no
    value of the table is above 1, and pixels otherwise; a remark says which. Whether a box lies inside its
    image is known once the image is decoded: then the row fails.

    Parameters
    ----------
    table : OutsideTable
        The table.
    columns : sequence of str
        Columns of the left, upper, right and lower edges; empty where the table has none.
    where : str
        What the table is called in messages.
    remarks : Remarks
        Takes the unit of the boxes and, where an image has several, how a split keeps them together.
    paths : sequence of str
        The image of each row.
    has_ids : bool
        Whether a column names the rows, so that their ids do not begin with the path.

    Raises
    ------
    InputError
        If an edge is no number or negative, a row has some of the four only, edges of a box are swapped or
        equal, or rows of shares stand among rows of pixels.
    """
    if not columns:
        return [None] * table.n_rows
    cells = zip(*(table.values(name) for name in columns), strict=True)
    rows = [_edges(each, row, columns, where) for row, each in enumerate(cells)]
    there = [edges for edges in rows if edges is not None]
    are_shares = all(max(edges) <= 1 for edges in there)
    if not are_shares:
        _refuse_shares(rows, where)
    for row, edges in enumerate(rows):
        if edges is not None and (edges[2] <= edges[0] or edges[3] <= edges[1]):
            is_empty = edges[2] == edges[0] or edges[3] == edges[1]
            raise InputError(
                f"{where}: row {row} (from 0) has the box {_shown(edges)}, "
                + ("which is empty" if is_empty else "whose edges are swapped")
                + "; x0 must be below x1 and y0 below y1: correct the row, or take it out"
            )
    if there:
        unit = "as shares of the image's width and height" if are_shares else "in pixels"
        remarks.add(
            "row", f"of a box of an image, {unit}", None,
            code="TT023", count=len(there), is_left_out=False, advice=_together(paths, has_ids=has_ids),
        )  # fmt: skip
    return [None if edges is None else Box(*edges, are_shares=are_shares) for edges in rows]


def _together(paths: Sequence[str], *, has_ids: bool) -> str:
    """Say how a split keeps the boxes of an image together, if one has several: they look alike."""
    if len(set(paths)) == len(paths):
        return ""
    group = "a column that names the image" if has_ids else _IMAGE_OF_ID
    return f"several of one image may train and test a run: train --group-by with {group} keeps them together"


def _edges(
    cells: Sequence[object], row: int, columns: Sequence[str], where: str
) -> tuple[float, float, float, float] | None:
    texts = [outside_text(cell) for cell in cells]
    if all(text is None for text in texts):
        return None
    if lacking := [name for name, text in zip(columns, texts, strict=True) if text is None]:
        raise InputError(
            f"{where}: row {row} (from 0) has no {', '.join(lacking)}; a box has all of x0, y0, x1 and y1, "
            "and a row without all four is the whole image: fill the cells, or empty the others"
        )
    edges = []
    for name, text in zip(columns, texts, strict=True):
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise InputError(
                f"{where}: row {row} (from 0) has {name} {text!r:.60}; edges of boxes are numbers from 0, in "
                "pixels or as shares of the image: correct the cell"
            )
        edges.append(value)
    return edges[0], edges[1], edges[2], edges[3]


def _refuse_shares(rows: Sequence[tuple[float, float, float, float] | None], where: str) -> None:
    """Refuse a table that has boxes in pixels and boxes that can only be shares."""
    small, large = None, None
    for row, edges in enumerate(rows):
        if edges is None:
            continue
        if max(edges) > 1:
            large = row if large is None else large
        elif any(edge != round(edge) for edge in edges):
            small = row if small is None else small
    if small is not None and large is not None:
        raise InputError(
            f"{where}: row {small} (from 0) has the box {_shown(rows[small] or ())}, shares of an image, and "
            f"row {large} has {_shown(rows[large] or ())}, which are above 1; write all boxes in pixels, or "
            "all as shares from 0 to 1"
        )


def _shown(edges: Sequence[float]) -> str:
    return ",".join(f"{edge:.12g}" for edge in edges)
