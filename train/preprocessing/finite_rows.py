"""Passes over the rows that are finite, and column statistics from one such pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks
from toptune.train.preprocessing.steps import Step, apply_steps

Values = npt.NDArray[np.float64]

# A column whose deviation is below this share of its mean is constant but for rounding in float32.
_CONSTANT = 1e-7
# Bytes of a block in float64; several blocks are held at a time.
_BLOCK_BYTES = 2 * 2**20


class FiniteRows:
    """The finite rows of some `Blocks`, in float64, after the steps that are fitted already.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
        Rows as stored.
    steps : sequence of Step
        Steps that are fitted already, applied in order.
    n_columns : int
        Columns after these steps.

    Attributes
    ----------
    bad : ndarray of int64 or None
        Rows that the last complete pass left out; None before the first pass.
    """

    def __init__(self, blocks: Blocks, steps: Sequence[Step], n_columns: int) -> None:
        self.blocks = blocks
        self.steps = tuple(steps)
        self.n_columns = n_columns
        self.bad: npt.NDArray[np.int64] | None = None

    def __iter__(self) -> Iterator[npt.NDArray[np.number]]:
        return self.iterate(_BLOCK_BYTES)

    def iterate(self, block_bytes: int) -> Iterator[npt.NDArray[np.number]]:
        """Yield values (b, n_columns), in blocks of about `block_bytes` before or after the steps."""
        bad: list[npt.NDArray[np.int64]] = []
        widest = max(self.blocks.shape[1], self.n_columns)
        for where, values in self.blocks.iterate(max(1, block_bytes // (8 * widest))):
            good = np.isfinite(values).all(axis=1)
            if not good.all():
                bad.append(np.flatnonzero(~good) + where.start)
            if good.any():
                yield apply_steps(self.steps, values[good].astype(np.float64))
        self.bad = np.concatenate(bad) if bad else np.zeros(0, np.int64)

    def take(self, wanted: npt.NDArray[np.int64]) -> tuple[Values, npt.NDArray[np.int64]]:
        """Return the finite ones of some rows, (m, n_columns), and their positions.

        Parameters
        ----------
        wanted : ndarray of int64
            Positions of rows, ascending.
        """
        values = np.asarray(self.blocks.take(wanted))
        good = np.isfinite(values).all(axis=1)
        return apply_steps(self.steps, values[good].astype(np.float64)).astype(np.float64), wanted[good]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and deviation of each column, shape (d,)."""

    mean: Values
    deviation: Values

    @property
    def inverse_deviation(self) -> Values:
        """1 / deviation, or 0 for a column that is constant up to rounding."""
        varies = self.deviation > _CONSTANT * np.abs(self.mean)
        inverse = np.zeros_like(self.deviation)
        inverse[varies] = 1 / self.deviation[varies]
        return inverse


def moments(rows: FiniteRows) -> Moments:
    """Take means and deviations in one pass.

    Blocks are merged by the pairwise update of Chan, Golub & LeVeque (1979), which does not cancel as the
    difference of the mean square and the squared mean does: with means m_a, m_b of n_a, n_b rows, the sum of
    squares grows by ``(m_b - m_a)^2 n_a n_b / (n_a + n_b)``.
    """
    count, mean, squares = 0, np.zeros(rows.n_columns), np.zeros(rows.n_columns)
    for block in rows:
        block_mean = block.mean(axis=0)
        delta = block_mean - mean
        total = count + len(block)
        squares += ((block - block_mean) ** 2).sum(axis=0) + delta**2 * (count * len(block) / total)
        mean += delta * (len(block) / total)
        count = total
    return Moments(mean=mean, deviation=np.sqrt(squares / max(1, count)))


def non_finite_rows(blocks: Blocks) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows with a value that is NaN or infinite."""
    bad = [np.flatnonzero(~np.isfinite(values).all(axis=1)) + rows.start for rows, values in blocks.iterate()]
    return np.concatenate(bad) if bad else np.zeros(0, np.int64)
