"""Standardising columns so that layers of different size and scale weigh the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from toptune.store import Blocks, CorruptError

# A column whose deviation is below this share of its mean is constant but for rounding in float32.
_CONSTANT = 1e-7
FILE = "standardise.safetensors"
# Of a block in float64, several of which are held at a time.
_BLOCK_BYTES = 2 * 2**20


@dataclass(frozen=True, kw_only=True)
class Standardiser:
    """``(x - mean) * scale``, column by column.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (d,)
        `scale` is 1 / deviation times the weight of the column's layer; 0 for a constant column.
    """

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    @property
    def n_constant(self) -> int:
        """Columns that are constant over the training rows and so carry nothing."""
        return int((self.scale == 0).sum())

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Standardise rows (b, d)."""
        return ((values - self.mean) * self.scale).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write ``standardise.safetensors`` into a folder."""
        save_file({"mean": self.mean, "scale": self.scale}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "Standardiser":
        """Read what `save` wrote.

        Raises
        ------
        CorruptError
            If the file is missing or is not what was written.
        """
        try:
            tensors = load_file(folder / FILE)
            return cls(mean=tensors["mean"], scale=tensors["scale"])
        except Exception as error:  # safetensors raises its own bare exception type
            raise CorruptError(f"{folder / FILE} cannot be read: {error}; train again") from error


def fit_standardiser(blocks: Blocks, layer_dims: Sequence[int]) -> tuple[Standardiser, npt.NDArray[np.int64]]:
    """Take means and deviations in one pass, in float64 (merging blocks after Chan et al. 1979).

    With L layers of together d columns, those of a layer of d_l columns are scaled by
    ``sqrt(d / (L d_l))`` beside 1 / deviation: every layer then has the same sum of variances, and
    one layer alone is plainly standardised.

    Parameters
    ----------
    blocks : Blocks
        Training rows only, shape (n, d).
    layer_dims : sequence of int
        Columns of each layer, in order, d together.

    Returns
    -------
    Standardiser
    ndarray of int64
        Rows with a value that is not finite; they have been left out of the statistics.
    """
    d = blocks.shape[1]
    count, mean, squares = 0, np.zeros(d), np.zeros(d)
    bad: list[npt.NDArray[np.int64]] = []
    for where, values in blocks.iterate(max(1, _BLOCK_BYTES // (8 * d))):
        good = np.isfinite(values).all(axis=1)
        if not good.all():
            bad.append(np.flatnonzero(~good) + where.start)
        block = values[good].astype(np.float64)
        if len(block) == 0:
            continue
        block_mean = block.mean(axis=0)
        delta = block_mean - mean
        total = count + len(block)
        squares += ((block - block_mean) ** 2).sum(axis=0) + delta**2 * (count * len(block) / total)
        mean += delta * (len(block) / total)
        count = total
    deviation = np.sqrt(squares / max(1, count))
    varies = deviation > _CONSTANT * np.abs(mean)
    scale = np.zeros(d)
    scale[varies] = 1 / deviation[varies]
    weights = np.sqrt(d / (len(layer_dims) * np.asarray(layer_dims, dtype=np.float64)))
    scale *= np.repeat(weights, layer_dims)
    return Standardiser(mean=mean, scale=scale), np.concatenate(bad) if bad else np.zeros(0, np.int64)


class StandardisedBlocks:
    """`Blocks` that standardise another's rows as they are read."""

    def __init__(self, blocks: Blocks, standardiser: Standardiser) -> None:
        self.blocks = blocks
        self.standardiser = standardiser

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        for rows, values in self.blocks.iterate(block_rows):
            yield rows, self.standardiser.apply(values)

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        return self.standardiser.apply(self.blocks.take(rows))


def non_finite_rows(blocks: Blocks) -> npt.NDArray[np.int64]:
    """Rows of `blocks` with a value that is NaN or infinite."""
    bad = [np.flatnonzero(~np.isfinite(values).all(axis=1)) + rows.start for rows, values in blocks.iterate()]
    return np.concatenate(bad) if bad else np.zeros(0, np.int64)
