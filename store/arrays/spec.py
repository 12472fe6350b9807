"""`ArraySpec`: shape and cut of one array of a cache, whatever the format that stores it."""

from dataclasses import asdict, dataclass

import numpy as np

from toptune.errors import InputError

DTYPES = ("float16", "float32", "uint8")
FORMATS = ("zarr", "hdf5")
# The error of a file that is sound by itself and stands where the ledger names another.
OF_ANOTHER_UNIT = "it is not the file that the ledger names; was it moved?"


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """Shape and cut of one array of a cache.

    Attributes
    ----------
    name : str
        Name of the array, ``<tap>.<pooling>``.
    dim : int
        Number of columns.
    dtype : str
        ``"float16"``, ``"float32"`` or ``"uint8"``.
    unit_rows, chunk_rows : int
        Rows of a unit (one file) and of a chunk (one checksum); `chunk_rows` divides `unit_rows`.
    n_rows : int
        Rows of the data set.
    format : str
        ``"zarr"`` or ``"hdf5"``.
    """

    name: str
    dim: int
    dtype: str
    unit_rows: int
    chunk_rows: int
    n_rows: int
    format: str = "zarr"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"array {self.name} has dtype {self.dtype!r}; it must be one of {DTYPES}")
        if self.format not in FORMATS:
            raise InputError(f"array {self.name} has format {self.format!r}; it must be one of {FORMATS}")
        for field in ("dim", "unit_rows", "chunk_rows", "n_rows"):
            if getattr(self, field) < 1:
                raise InputError(f"array {self.name} has {field} {getattr(self, field)}; at least 1 needed")
        # Zarr's shards consist of whole chunks.
        if self.unit_rows % self.chunk_rows:
            raise InputError(
                f"array {self.name} has {self.chunk_rows} rows a chunk, which does not divide "
                f"{self.unit_rows} rows a unit"
            )

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)

    @property
    def is_feature(self) -> bool:
        """Whether the columns are features (floating point) rather than bytes."""
        return self.dtype != "uint8"

    @property
    def fill_value(self) -> float | int:
        """Value of rows that nobody has written: NaN for features, else 0."""
        return float("nan") if self.is_feature else 0

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return self.dim * np.dtype(self.dtype).itemsize

    def unit_length(self, unit: int) -> int:
        """Return the rows of a unit; the last unit may hold fewer than ``unit_rows``."""
        return min(self.unit_rows, self.n_rows - unit * self.unit_rows)
