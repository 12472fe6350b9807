"""The rows that a head is trained on, as passes see them, and what passes return about them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.store.features.blocks import Blocks
from toptune.train.kernels.maps import Maps
from toptune.train.numerics.calibration import CALIBRATION_ROWS, Temperature, fit_temperature
from toptune.train.numerics.sigmoids import Sigmoids, fit_sigmoids
from toptune.train.passes.sums import FoldSums
from toptune.train.passes.targets import Targets
from toptune.train.rows.block_reading import read_ahead
from toptune.train.rows.device_rows import DeviceRows


class Cluster(Protocol):
    """Workers that do the passes in place of this process."""

    def accumulate(
        self,
        rows: "TrainingRows",
        maps: Maps,
        wanted: Sequence[int],
        *,
        is_raw: Sequence[bool],
        block_rows: int,
        device: torch.device,
        progress: Callable[[int], None] | None = None,
    ) -> list[FoldSums]:
        """Do what `toptune.train.passes.passes.take_sums` does; the sums lie in main memory."""
        ...

    def predict_left_out(
        self,
        rows: "TrainingRows",
        maps: Maps,
        finalists: Sequence[tuple[int, Tensor]],
        *,
        block_rows: int,
        device: torch.device,
        progress: Callable[[int], None] | None = None,
    ) -> "tuple[list[OutOfFold], npt.NDArray[np.int64]]":
        """Do what `toptune.train.passes.passes.predict_left_out` does."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Rows to train on, with the class, weight and fold of each.

    Rows that take no part in cross-validation (see `toptune.train.rows.folds`) have the fold `n_folds`: one
    place more than there are folds, which no fit leaves out and only the final fit sees.

    Attributes
    ----------
    blocks : Blocks
        Features, shape (n, d).
    codes : ndarray of int64, shape (n,)
        Class of each row, 0 to n_classes - 1.
    weights : ndarray of float64, shape (n,)
        Weight of each row in the loss, 1 on average.
    folds : ndarray of int64, shape (n,)
        Fold of each row, 0 to n_folds - 1; `n_folds` for a row that takes no part in cross-validation.
    n_classes, n_folds : int
        Columns of scores, which are classes, labels or numbers; and folds.
    has_aside : bool
        Whether some rows take no part in cross-validation. Parts of the rows keep the answer of the whole.
    offset : int
        Number of the first row, for messages.
    cluster : Cluster, optional
        Workers that do the passes in place of this process.
    kept : DeviceRows, optional
        The same rows where a CUDA device keeps them.
    targets : Targets, optional
        What the rows are regressed to where they have no class; `codes` are 0 then. None stands for the
        one-hot targets of the classes.
    """

    blocks: Blocks
    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    folds: npt.NDArray[np.int64]
    n_classes: int
    n_folds: int
    has_aside: bool = False
    offset: int = 0
    cluster: "Cluster | None" = None
    kept: DeviceRows | None = None
    targets: Targets | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.codes)

    @property
    def n_places(self) -> int:
        """Number of folds, and one more if some rows take no part in cross-validation."""
        return self.n_folds + self.has_aside

    @property
    def is_validated(self) -> npt.NDArray[np.bool_]:
        """Whether each row (n,) takes part in cross-validation."""
        return self.folds < self.n_folds

    @property
    def n_validated(self) -> int:
        """Number of rows that take part in cross-validation."""
        return int(self.is_validated.sum())

    @property
    def validated_weights(self) -> npt.NDArray[np.float64]:
        """Weight of each row (n,) in left-out figures: 0 if it takes no part in cross-validation."""
        return np.where(self.is_validated, self.weights, 0.0)

    @property
    def have_labels(self) -> bool:
        """Whether each row may have several labels."""
        return self.targets is not None and self.targets.are_labels

    def targets_of(self, some: slice | npt.NDArray[np.int64]) -> Tensor:
        """Return the targets (b, n_classes) of some rows, in float64 and main memory.

        Where nobody knows whether a label applies, the mean of the label stands.
        """
        if self.targets is not None:
            return torch.from_numpy(self.targets.filled(some))
        codes = torch.from_numpy(self.codes[some])
        return torch.nn.functional.one_hot(codes, self.n_classes).double()

    def known_targets(self, some: slice | npt.NDArray[np.int64]) -> Tensor:
        """Return what `targets_of` does, with NaN for labels of which nobody knows."""
        if self.targets is None:
            return self.targets_of(some)
        return torch.from_numpy(self.targets.values[some]).double()

    def calibration(
        self, scores: npt.NDArray[np.floating], some: npt.NDArray[np.int64]
    ) -> Temperature | Sigmoids | None:
        """Fit to left-out scores (b, n_classes) of some rows what turns them into probabilities.

        Classes share a temperature, each label has a sigmoid of its own, and numbers have None.
        """
        if self.targets is None:
            return fit_temperature(scores, self.codes[some], self.weights[some])
        if self.targets.are_labels:
            return fit_sigmoids(scores, self.targets.values[some], self.weights[some])
        return None

    def calibration_rows(self) -> npt.NDArray[np.int64]:
        """Return rows that a temperature is fitted to: all validated ones, or `CALIBRATION_ROWS` of them."""
        validated = np.flatnonzero(self.is_validated)
        return validated[even_sample(len(validated), CALIBRATION_ROWS)]


def batches(
    rows: TrainingRows, *, block_rows: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Yield ``(rows, values)`` of training rows as `read_ahead` does, the next block being read meanwhile.

    Rows that the device keeps are read once, in the first pass.
    """
    if rows.kept is not None:
        return rows.kept.iterate(block_rows, dtype)
    return read_ahead(rows.blocks, block_rows=block_rows, dtype=dtype, device=device, offset=rows.offset)


@dataclass(kw_only=True)
class OutOfFold:
    """What the left-out predictions of one finalist amount to.

    Attributes
    ----------
    correct : float
        Weight of the rows that are classified correctly; of rows with several labels, each counts by the
        share of labels that are decided correctly where scores above a half decide for a label. 0 of numbers.
    squared_error : float
        Weighted sum of ``||y - scores||^2`` over the validated rows, y being the target.
    scores : ndarray of float32, shape (n_kept, n_classes)
        Left-out scores of the rows kept for calibration.
    """

    correct: float
    squared_error: float
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOutScores:
    """Scores of training rows by fits that had left the rows out, with the parameters that were chosen.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_kept,)
        Positions among the training rows; see `TrainingRows.calibration_rows`.
    scores : ndarray of float32, shape (n_kept, n_classes)
        Scores to which the temperature was fitted.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def even_sample(n: int, most: int) -> npt.NDArray[np.int64]:
    """Return the positions of all of n rows, or of `most` evenly spread ones."""
    # Rounding may give two of the spread positions the same row.
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
