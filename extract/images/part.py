"""`PartSource`: the images of one part of a data set that grew, found among the images of DATA."""

import copy

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toptune.errors import UnreadableImageError
from toptune.extract.images.source import ImageSource
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.versions import DatasetVersion
from toptune.store.features.image_digests import GONE


class PartSource:
    """The images of a part, in the order of the part; images that DATA no longer has cannot be read.

    Parameters
    ----------
    source : ImageSource
        Images in the order of `version`.
    version : DatasetVersion
        The version of the data set that DATA is now.
    part : str
        Name of the part.
    manifest : Manifest
        Manifest of the part, as the part was registered.

    Attributes
    ----------
    whole : ImageSource
        All images of DATA, the images of the part among them.
    is_there : array (n,) of bool
        Rows of the part that the version has.
    """

    def __init__(self, source: ImageSource, version: DatasetVersion, part: str, manifest: Manifest) -> None:
        self.name = part
        self.whole = source
        rows = version.rows_of(part)
        self._rows: npt.NDArray[np.intp] = np.full(manifest.n_rows, -1, dtype=np.intp)
        self._rows[version.part_row[rows]] = rows
        self.is_there: npt.NDArray[np.bool_] = self._rows >= 0
        # The part knows the time at which its file was registered, and a file that was touched since without
        # a change has another time in the version. An image that has the version's time now was compared when
        # the version was made, and need not be read again.
        there, now = version.manifest.modified_ns, source.manifest().modified_ns
        times = manifest.modified_ns.copy()
        times[version.part_row[rows]] = np.where(
            there[rows] == now[rows], times[version.part_row[rows]], now[rows]
        )
        column = manifest.table.column_names.index("modified_ns")
        self._manifest = Manifest(manifest.table.set_column(column, "modified_ns", pa.array(times)))

    def manifest(self) -> Manifest:
        return self._manifest

    def over(self, whole: ImageSource) -> "PartSource":
        """Return the same part over another reader of the same images."""
        other = copy.copy(self)
        other.whole = whole
        return other

    def read(self, row: int) -> bytes:
        if not self.is_there[row]:
            raise UnreadableImageError(GONE)
        return self.whole.read(int(self._rows[row]))
