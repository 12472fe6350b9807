"""Gram matrices of all layers, of columns (primal) or of rows (dual), that give those of any subset."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.store.features.blocks import Blocks
from toptune.train.kernels.maps import IdentityMap
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.numerics.cholesky import cholesky_with_jitter, solve_factored
from toptune.train.passes.passes import accumulate, predict_left_out, share_right
from toptune.train.passes.peak_memory import calibration_bytes, scoring_bytes
from toptune.train.passes.sums import FoldSums, batch_rows, sums_bytes
from toptune.train.passes.training_rows import OutOfFold, TrainingRows
from toptune.train.rows.block_reading import BLOCK_BYTES, block_bytes_for
from toptune.train.solvers.ridge import CenteredSystem, left_out

# Bytes of the coefficients and left-out scores of candidates that one pass scores, at most.
_FINALISTS_BYTES = 128 * 2**20
_PANEL_COLUMNS = 4096
# A subset of layers, by their numbers, and the penalty in (1/n) loss + penalty norm^2.
Fit = tuple[tuple[int, ...], float]


class LayerGrams(Protocol):
    """Left-out figures of ridge regression on any subset of layers.

    Attributes
    ----------
    scales : sequence of float
        Variance of each layer, summed over the columns; penalties are measured in these.
    """

    scales: Sequence[float]

    def squared_error(self, layers: Sequence[int], penalty: float) -> float:
        """Return the left-out squared error of one-hot or other targets, for each row."""
        ...

    def left_out(self, fits: Sequence[Fit]) -> Iterator[OutOfFold]:
        """Yield left-out predictions of several fits, with the scores of `TrainingRows.calibration_rows`.

        Few are held at a time: of a hundred subsets and ten thousand classes, all would take 20 GB.
        """
        ...


class PrimalGrams:
    """Sums over the columns of all layers from one pass; the sums of a subset are blocks of these.

    Parameters
    ----------
    rows : TrainingRows
        Rows whose blocks have all layers side by side, preprocessed.
    dims : sequence of int
        Columns of each layer.
    """

    def __init__(
        self, rows: TrainingRows, dims: Sequence[int], *, block_rows: int, device: torch.device
    ) -> None:
        self._rows, self._block_rows, self._device = rows, block_rows, device
        ends = np.cumsum(dims).tolist()
        self._columns = [
            torch.arange(end - dim, end, device=device) for end, dim in zip(ends, dims, strict=True)
        ]
        (self._sums,) = accumulate(rows, IdentityMap(ends[-1]), [0], block_rows=block_rows, device=device)
        whole = self._sums.total()
        system = CenteredSystem.of(whole.gram[0], whole.cross[0])
        variances = system.variances
        self.scales: Sequence[float] = [float(variances[columns].sum()) for columns in self._columns]

    def squared_error(self, layers: Sequence[int], penalty: float) -> float:
        sums = self._block(layers).validated()
        return float(left_out(sums, [penalty]).errors.sum() / sums.weights.sum().cpu())

    def left_out(self, fits: Sequence[Fit]) -> Iterator[OutOfFold]:
        for group in self._groups(fits):
            maps = SubsetMaps([self._of(layers) for layers, _ in group])
            betas = [
                (index, left_out(self._block(layers), [penalty]).coefficients[0])
                for index, (layers, penalty) in enumerate(group)
            ]
            scored, _ = predict_left_out(
                self._rows, maps, betas, block_rows=self._block_rows, device=self._device
            )
            del betas
            while scored:
                yield scored.pop(0)

    def _of(self, layers: Sequence[int]) -> Tensor:
        return torch.cat([self._columns[layer] for layer in layers])

    def _block(self, layers: Sequence[int]) -> FoldSums:
        last = torch.tensor([self._sums.gram.shape[1] - 1], device=self._device)
        kept = torch.cat([self._of(layers), last])
        return FoldSums(
            gram=self._sums.gram[:, kept[:, None], kept],
            cross=self._sums.cross[:, kept],
            square=self._sums.square,
            has_aside=self._sums.has_aside,
        )

    def _groups(self, fits: Sequence[Fit]) -> Iterator[list[Fit]]:
        group: list[Fit] = []
        held = 0
        for fit in fits:
            size = _fit_bytes(
                n_rows=self._rows.n,
                n_columns=len(self._of(fit[0])),
                n_folds=self._rows.n_folds,
                n_classes=self._rows.n_classes,
            )
            if group and held + size > _FINALISTS_BYTES:
                yield group
                group, held = [], 0
            group.append(fit)
            held += size
        if group:
            yield group


class SubsetMaps:
    """Feature `Maps`, each of which takes some of the columns.

    Parameters
    ----------
    columns : sequence of Tensor of int64
        Columns that each map takes.
    """

    def __init__(self, columns: Sequence[Tensor]) -> None:
        self._columns = columns
        self.ranks = [len(each) for each in columns]
        self.dtype = torch.float64

    def features(self, rows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        for index in wanted:
            yield rows[:, self._columns[index]]

    basis = features

    def whitened(self, index: int, basis: Tensor) -> Tensor:  # noqa: ARG002
        return basis

    def raw_factor(self, index: int, *, n: int) -> Tensor | None:  # noqa: ARG002
        return None

    def take_metric(self, index: int) -> Tensor | None:  # noqa: ARG002
        return None

    def on_basis(self, index: int, beta: Tensor) -> Tensor:  # noqa: ARG002
        return beta

    def to(self, device: torch.device) -> "SubsetMaps":
        return SubsetMaps([each.to(device) for each in self._columns])

    def bare(self) -> "SubsetMaps":
        return self


class DualGrams:
    """A linear kernel matrix (n, n) for each layer; the kernel matrix of a subset is a sum of these.

    The estimator is the same as in the primal form; a fit costs about n^3, whatever the number of columns.

    Parameters
    ----------
    rows : TrainingRows
        Classes, weights and folds of the rows; the blocks are not read.
    layers : iterable of Blocks
        Preprocessed columns of each layer, read once.
    """

    def __init__(self, rows: TrainingRows, layers: Iterable[Blocks], *, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self._kernels = [_linear_kernel(blocks, rows.n, device) for blocks in layers]
        self._weights = torch.from_numpy(rows.weights).to(device)
        self._validated = torch.from_numpy(rows.validated_weights).to(device)
        self._targets = rows.targets_of(slice(None)).to(device)
        self.scales: Sequence[float] = [self._variance(kernel) for kernel in self._kernels]

    def squared_error(self, layers: Sequence[int], penalty: float) -> float:
        scores = self._scores(layers, penalty)
        total = self._validated @ (self._targets - scores).square().sum(dim=1)
        return float(total / self._validated.sum())

    def left_out(self, fits: Sequence[Fit]) -> Iterator[OutOfFold]:
        kept = self._rows.calibration_rows()
        known = self._rows.known_targets(slice(None)).to(self._device)
        for layers, penalty in fits:
            scores = self._scores(layers, penalty)
            found = OutOfFold(
                correct=float(self._validated @ self._hits(scores, known)),
                # No score is wrong where a label is unknown, NaN.
                squared_error=float(self._validated @ (known - scores).square_().nansum(dim=1)),
                scores=scores[torch.from_numpy(kept).to(self._device)].float().cpu().numpy(),
            )
            del scores
            yield found

    def _hits(self, scores: Tensor, known: Tensor) -> Tensor:
        """Return the share (n,) of each row that is decided rightly; 0 of numbers."""
        if self._rows.targets is None:
            return (scores.argmax(dim=1) == known.argmax(dim=1)).double()
        return share_right(scores, known) if self._rows.have_labels else torch.zeros_like(self._weights)

    def _variance(self, kernel: Tensor) -> float:
        weight = self._weights.sum()
        spread = self._weights @ kernel.diagonal() - self._weights @ kernel @ self._weights / weight
        return float(spread / weight)

    def _scores(self, layers: Sequence[int], penalty: float) -> Tensor:
        """Scores (n, n_classes) of every row by the fit that left its fold out.

        With the training rows' weighted means taken out of features and targets, kernel K, weights w and
        D = diag(sqrt(w)): ``(D K D + sum(w) penalty I) a = D Y``, scores ``k(x) D a``.
        """
        kernel = self._kernels[layers[0]].clone()
        for layer in layers[1:]:
            kernel += self._kernels[layer]
        scores = torch.zeros_like(self._targets)
        folds = torch.from_numpy(self._rows.folds).to(self._device)
        # Rows behind the last fold take no part in cross-validation.
        is_validated = folds < self._rows.n_folds
        for fold in torch.unique(folds[is_validated]).tolist():
            held = torch.nonzero(folds == fold)[:, 0]
            rest = torch.nonzero(is_validated & (folds != fold))[:, 0]
            weights, targets = self._weights[rest], self._targets[rest]
            weight = weights.sum()
            between = kernel.index_select(0, rest).index_select(1, rest)
            means = between @ weights / weight
            grand = means @ weights / weight
            between += grand - means[:, None] - means
            to_held = kernel.index_select(0, held).index_select(1, rest)
            to_held += grand - (to_held @ weights / weight)[:, None] - means
            roots = weights.sqrt()
            system = between.mul_(roots[:, None]).mul_(roots)
            system.diagonal().add_(weight * penalty)
            factor, _ = cholesky_with_jitter(system, what=f"the ridge system at penalty {penalty:g}")
            target_mean = weights @ targets / weight
            dual = solve_factored(factor, roots[:, None] * (targets - target_mean))
            scores[held] = to_held @ (roots[:, None] * dual) + target_mean
        return scores


def primal_bytes(
    *,
    n_rows: int,
    n_columns: int,
    n_layers: int,
    n_folds: int,
    n_classes: int,
    cuda_bytes: int | None = None,
) -> int:
    """Return the projected peak of `PrimalGrams`, whose blocks are larger within `cuda_bytes` of a device.

    The terms are the sums of all folds and a copy for the subset at hand; systems to solve; a block; and the
    rows that wait to be summed, or the coefficients and scores of the candidates of a pass with those that
    are made at a time, or the calibration.
    """
    sums = sums_bytes(n_folds=n_folds, rank=n_columns, n_targets=n_classes)
    waiting = 8 * n_folds * batch_rows(n_folds=n_folds, rank=n_columns, n_rows=n_rows) * (n_columns + 2)
    fit = _fit_bytes(n_rows=n_rows, n_columns=n_columns, n_folds=n_folds, n_classes=n_classes)
    # Each layer alone, and layer after layer from the first, from the last, and by both greedy searches.
    fits = max(fit, min(_FINALISTS_BYTES, 5 * n_layers * fit))
    scoring = max(
        scoring_bytes(n=n_rows, n_classes=n_classes),
        calibration_bytes(n_kept=min(n_rows, CALIBRATION_ROWS), n_classes=n_classes),
    )
    block = min(4 * block_bytes_for(cuda_bytes, on_cuda=cuda_bytes is not None), 4 * 8 * n_rows * n_columns)
    return 2 * sums + 5 * 8 * (n_columns + 1) ** 2 + max(waiting, fits + scoring) + block


def _fit_bytes(*, n_rows: int, n_columns: int, n_folds: int, n_classes: int) -> int:
    """Return the bytes of a candidate in a pass: coefficients, again as the pass takes them, and scores."""
    return (2 * 8 * n_folds * (n_columns + 1) + 4 * min(n_rows, CALIBRATION_ROWS)) * n_classes


def dual_bytes(*, n_rows: int, n_layers: int, largest_layer: int, n_folds: int, n_classes: int) -> int:
    """Return the projected peak of `DualGrams`.

    The terms are a matrix for each layer and four more; a layer's rows; targets and scores of all rows; and
    targets of the rows outside a fold, the right-hand side made of them, and what solves for it twice.
    """
    layer = layer_bytes(n_rows=n_rows, largest_layer=largest_layer)
    scores = 8 * n_classes * (2 * n_rows + 4 * (n_rows - n_rows // n_folds))
    return 8 * n_rows * n_rows * (n_layers + 4) + max(layer, scores)


def layer_bytes(*, n_rows: int, largest_layer: int) -> int:
    """Return the projected bytes of a layer's rows and a panel of them, which lie in main memory at first."""
    return n_rows * (4 * largest_layer + 3 * 8 * min(largest_layer, _PANEL_COLUMNS)) + BLOCK_BYTES


def _linear_kernel(blocks: Blocks, n: int, device: torch.device) -> Tensor:
    values: npt.NDArray[np.generic] = np.empty(blocks.shape, dtype=np.float32)
    for where, block in blocks.iterate():
        values[where] = block
    kernel = torch.zeros((n, n), dtype=torch.float64, device=device)
    for start in range(0, values.shape[1], _PANEL_COLUMNS):
        panel = torch.from_numpy(values[:, start : start + _PANEL_COLUMNS].astype(np.float64)).to(device)
        kernel.addmm_(panel, panel.T)
    return kernel
