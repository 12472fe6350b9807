"""`write_atlas`: the images with coordinates and neighbors as a table that embedding-atlas opens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.store.datasets.outside_text import escaped
from toptune.workflows.gallery.findings_page import Album

# Rows of a group: thumbnails of so many images take a few megabytes.
_GROUP_ROWS = 1000
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("predicted", pa.string()),
        ("probability", pa.float32()),
        ("findings", pa.string()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        # Numbers of rows of this table, and distances, as the program reads them.
        ("neighbors", pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])),
        ("thumbnail", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """What a head says of rows that it has not seen.

    Attributes
    ----------
    classes : sequence of str
    codes : ndarray of int64, shape (n,)
        Position of the class of each row; -1 where nothing is known.
    probabilities : ndarray of float32, shape (n,)
        Probability of the class.
    """

    classes: Sequence[str]
    codes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    def of(self, row: int) -> tuple[str | None, float | None]:
        """Return the class of a row and its probability, or None for both."""
        code = int(self.codes[row])
        return (None, None) if code < 0 else (self.classes[code], float(self.probabilities[row]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Nearby:
    """Neighbors of some of the rows.

    Attributes
    ----------
    of : ndarray of int64, shape (m,)
        Rows whose neighbors are known, ascending.
    rows : ndarray of int64, shape (m, k)
        The neighbors of each, the nearest first, as positions in `of`.
    distances : ndarray, shape (m, k)
    """

    of: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    distances: npt.NDArray[np.floating]


def write_atlas(
    path: Path,
    album: Album,
    *,
    nearby: Nearby,
    predicted: Predicted,
    findings: Mapping[str, Sequence[str]],
) -> None:
    """Write a Parquet file with a row for each image, some rows at a time.

    The columns are ``id``, ``label``, ``split``, ``predicted`` and ``probability`` (what a head says that has
    left the image out), ``findings`` (kinds with commas between, or ``none``), ``x`` and ``y``, ``neighbors``
    (numbers of rows, and distances; the row itself where there are no features), and ``thumbnail`` (a JPEG).
    What else is not known is null.

    Parameters
    ----------
    path : path
        The file, which must not exist.
    album : Album
    nearby : Nearby
    predicted : Predicted
    findings : mapping of str to sequence of str
        Kinds of findings by id.
    """
    n = len(album.ids)
    place = np.full(n, -1)
    place[nearby.of] = np.arange(len(nearby.of))
    jpegs: Iterator[tuple[bytes | None, str | None]] | None = (
        None if album.thumbnails is None else album.thumbnails.jpegs(album.ids)
    )
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, n, _GROUP_ROWS):
            rows = range(start, min(start + _GROUP_ROWS, n))
            shown = [None if jpegs is None else next(jpegs)[0] for _ in rows]
            told = [predicted.of(row) for row in rows]
            ids = [album.ids[row] for row in rows]
            columns = {
                "id": map(escaped, ids),
                "label": [album.labels[row] for row in rows],
                "split": [album.splits[row] for row in rows],
                "predicted": [label for label, _ in told],
                "probability": [probability for _, probability in told],
                "findings": [", ".join(dict.fromkeys(findings.get(each, ("none",)))) for each in ids],
                "x": _coordinate(album, rows, 0),
                "y": _coordinate(album, rows, 1),
                "neighbors": [_neighbors(nearby, row, int(place[row])) for row in rows],
                "thumbnail": [
                    None if jpeg is None else {"bytes": jpeg, "path": each}
                    for each, jpeg in zip(ids, shown, strict=True)
                ],
            }
            arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))


def opening_command(path: str, *, has_images: bool) -> str:
    """Return the command that opens the file in embedding-atlas."""
    image = " --image thumbnail" if has_images else ""
    return f"uvx embedding-atlas {quote(path)} --x x --y y --neighbors neighbors --text id{image}"


def _coordinate(album: Album, rows: range, axis: int) -> list[float | None]:
    if album.coordinates is None:
        return [None] * len(rows)
    values = album.coordinates.points[rows.start : rows.stop, axis]
    return [float(value) if np.isfinite(value) else None for value in values]


def _neighbors(nearby: Nearby, row: int, place: int) -> dict[str, list[float]]:
    """Return the neighbors of a row, or the row itself where none are known: all rows need as many."""
    if place < 0:
        k = nearby.rows.shape[1]
        return {"ids": [row] * k, "distances": [0.0] * k}
    return {"ids": nearby.of[nearby.rows[place]].tolist(), "distances": nearby.distances[place].tolist()}
