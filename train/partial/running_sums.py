"""`RunningSums`: the sums of all rows that came so far, and a sample of these rows.

Rows are dealt out over folds by their number. The sums of a block are added to the sums of the blocks before,
and ridge regression needs nothing else of the rows. What is chosen and calibrated by scores of left-out rows
is taken from a sample of at most twice `CALIBRATION_ROWS` rows, which are all rows while there are no more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.train.kernels.maps import Maps
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.passes import take_sums
from toptune.train.passes.sums import FoldSums
from toptune.train.passes.targets import Scaling, Targets
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.inputs import Given

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RunningProblem:
    """A problem whose sums are taken already.

    Attributes
    ----------
    sums : list of FoldSums
        Sums of each map over all rows.
    rows : TrainingRows
        The sampled rows.
    scaling : Scaling or None
        How numbers are standardized in both.
    numbers : ndarray of int64
        Which of all rows are sampled.
    """

    sums: list[FoldSums]
    rows: TrainingRows
    scaling: Scaling | None
    numbers: Numbers


@dataclass(kw_only=True)
class RunningSums:
    """What is known of the rows that came so far.

    Attributes
    ----------
    maps : Maps
    sigmas : sequence of float or None
        Width of each map.
    classes : ndarray, shape (n_classes,)
        Labels of the classes, sorted; numbers of the labels, or of the targets.
    n_folds : int
        Row i is in fold ``i % n_folds``.
    block_rows : int
        Rows of a block that is computed at a time.
    device : torch.device
    scaling : Scaling or None
        How numbers are standardized in the sums: by the first block. `problem` does so anew, by all rows.
    settings : mapping of str to str
        Parameters of the estimator at the first block, as text.
    is_flat : bool
        Whether the first targets were given as (b,).
    n : int
        Rows that came.
    sums : list of FoldSums
        Sums of each map over all rows.
    squares : ndarray of float64, shape (n_folds, n_classes)
        Weighted sums of the squared targets.
    """

    maps: Maps
    sigmas: Sequence[float | None]
    classes: npt.NDArray[np.generic]
    n_folds: int
    block_rows: int
    device: torch.device
    scaling: Scaling | None
    settings: Mapping[str, str]
    is_flat: bool = True
    n: int = 0
    sums: list[FoldSums] | None = None
    squares: npt.NDArray[np.float64] | None = None
    # Parts of the sampled rows, with what `TrainingRows` say of them.
    _kept: "list[_Part] | None" = None
    # Every so many rows one is sampled.
    _stride: int = 1

    def add(self, given: Given, weights: npt.NDArray[np.float64]) -> None:
        """Add the sums of a block of rows; nothing is changed where the rows are refused.

        Raises
        ------
        InputError
            If a value of the rows is not finite.
        """
        numbers = np.arange(self.n, self.n + len(given.codes))
        rows = self._rows(given, weights, numbers)
        maps = list(range(len(self.sigmas)))
        found = take_sums(
            rows, self.maps, maps, is_raw=[False] * len(maps), block_rows=self.block_rows, device=self.device
        )
        squares = np.zeros((self.n_folds, len(self.classes)))
        if rows.targets is not None:
            np.add.at(squares, rows.folds, weights[:, None] * rows.targets.values**2)
        self.sums = found if self.sums is None else [
            before + new for before, new in zip(self.sums, found, strict=True)
        ]  # fmt: skip
        self.squares = squares if self.squares is None else self.squares + squares
        self.n += len(numbers)
        self._sample(rows, numbers)

    def problem(self) -> "RunningProblem":
        """Return what is to be solved: numbers are standardized by all rows.

        Weights have the mean 1 over all rows.
        """
        assert self.sums is not None
        assert self._kept is not None
        sums, part = self.sums, _Part.joined(self._kept)
        total = float(sums[0].weights.sum())
        share = self.n / total
        scaling = self.scaling
        values = part.values
        if scaling is not None:
            scaling, sums = self._rescaled(sums)
            if values is not None:
                values = scaling.standardized(values)
        rows = TrainingRows(
            blocks=ArrayBlocks(part.rows),
            codes=part.codes,
            weights=part.weights * share,
            folds=part.numbers % self.n_folds,
            n_classes=len(self.classes),
            n_folds=self.n_folds,
            targets=None if values is None else Targets(values=values, are_labels=scaling is None),
        )
        if share != 1.0:
            sums = [
                replace(each, gram=each.gram * share, cross=each.cross * share, square=each.square * share)
                for each in sums
            ]
        return RunningProblem(sums=sums, rows=rows, scaling=scaling, numbers=part.numbers)

    def _rescaled(self, sums: list[FoldSums]) -> tuple[Scaling, list[FoldSums]]:
        """Return how all rows standardize their targets, and the sums of such targets."""
        assert self.scaling is not None
        assert self.squares is not None
        weight = float(sums[0].weights.sum())
        first = sums[0].cross[:, -1].cpu().numpy()
        mean = first.sum(axis=0) / weight
        variance = np.maximum(self.squares.sum(axis=0) / weight - mean**2, 0.0)
        scaling = self.scaling.then(mean, np.sqrt(variance))
        # A target y of the sums is (y - mean) / scale in the new ones.
        scale = scaling.scale / self.scaling.scale
        of_fold = sums[0].weights.cpu().numpy()
        squares = (self.squares - 2 * mean * first + of_fold[:, None] * mean**2) / scale**2
        shift, divisor = (torch.from_numpy(each).to(self.device) for each in (mean, scale))
        square = torch.from_numpy(squares.sum(axis=1)).to(self.device)
        return scaling, [
            replace(each, cross=(each.cross - each.gram[:, :, -1:] * shift) / divisor, square=square)
            for each in sums
        ]

    def _rows(self, given: Given, weights: npt.NDArray[np.float64], numbers: Numbers) -> TrainingRows:
        values = given.values
        targets = None
        if values is not None:
            known = values if self.scaling is None else self.scaling.standardized(values)
            targets = Targets(values=known, are_labels=self.scaling is None)
        return TrainingRows(
            blocks=given.blocks,
            codes=given.codes,
            weights=weights,
            folds=numbers % self.n_folds,
            n_classes=len(self.classes),
            n_folds=self.n_folds,
            targets=targets,
        )

    def _sample(self, rows: TrainingRows, numbers: Numbers) -> None:
        """Keep every so many rows; where they become too many, every other of those kept is let go."""
        parts = [*(self._kept or []), _Part.of(rows, numbers, self.scaling, stride=self._stride)]
        while sum(len(part.numbers) for part in parts) > 2 * CALIBRATION_ROWS:
            self._stride *= 2
            parts = [part.thinned(self._stride) for part in parts]
        self._kept = [part for part in parts if len(part.numbers)] or parts[:1]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Sampled rows of a block, with what `TrainingRows` say of them; targets are in their own unit."""

    rows: npt.NDArray[np.number]
    numbers: Numbers
    codes: Numbers
    weights: npt.NDArray[np.float64]
    values: npt.NDArray[np.floating] | None

    @classmethod
    def of(cls, rows: TrainingRows, numbers: Numbers, scaling: Scaling | None, *, stride: int) -> "_Part":
        at = np.flatnonzero(_is_sampled(numbers, stride))
        values = None if rows.targets is None else rows.targets.values[at]
        return cls(
            rows=_taken(rows.blocks, at),
            numbers=numbers[at],
            codes=rows.codes[at],
            weights=rows.weights[at],
            values=values if scaling is None or values is None else scaling.restored(values),
        )

    def thinned(self, stride: int) -> "_Part":
        at = _is_sampled(self.numbers, stride)
        return _Part(
            rows=self.rows[at], numbers=self.numbers[at], codes=self.codes[at], weights=self.weights[at],
            values=None if self.values is None else self.values[at],
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: "Sequence[_Part]") -> "_Part":
        values = [part.values for part in parts if part.values is not None]
        return cls(
            rows=np.concatenate([part.rows for part in parts]),
            numbers=np.concatenate([part.numbers for part in parts]),
            codes=np.concatenate([part.codes for part in parts]),
            weights=np.concatenate([part.weights for part in parts]),
            values=np.concatenate(values) if values else None,
        )


def _is_sampled(numbers: Numbers, stride: int) -> npt.NDArray[np.bool_]:
    # Numbers are scattered first: every other row would be of the same folds if these are even in number.
    scattered = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    is_sampled: npt.NDArray[np.bool_] = scattered % np.uint64(stride) == 0
    return is_sampled


def _taken(blocks: Blocks, at: Numbers) -> npt.NDArray[np.number]:
    return np.array(blocks.take(at)) if len(at) else np.empty((0, blocks.shape[1]), dtype=blocks.dtype)
