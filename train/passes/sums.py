"""Block sums of one pass over the rows: all that ridge regression needs to know of them.

For features phi (r,), weights w and targets y (one-hot, several labels or numbers) let ``z = (phi, 1)``. For
each fold f the sums are

    G_f = sum w z z^T  (r + 1, r + 1),   c_f = sum w z y^T  (r + 1, n_targets),   s_f = sum w ||y||^2

over its rows. The last row of G_f holds the sums of the features and of the weights, from which any set of
folds can be centered. The ridge system without fold f uses ``sum_g G_g - G_f``, so that cross-validation over
all folds and penalties costs a single pass, and the squared error on fold f follows from G_f, c_f and s_f in
closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.numerics.cholesky import panels, product_of_factor
from toptune.train.passes.fold_parts import FoldPart
from toptune.train.passes.targets import Targets
from toptune.train.rows.block_reading import sent_ahead

# Rows of a fold that are multiplied together; half as many that come at once do not wait for more. The second
# figure bounds the memory of waiting rows.
BATCH_ROWS = 1024
BATCH_BYTES = 128 * 2**20
# Targets that are multiplied together, in float64.
TARGETS_BYTES = 8 * 2**20
# On CUDA, rows of so many classes are sorted by class before they are added up. Their product with one-hot
# targets would take as long as the Gram matrix where there are half as many classes as features; of few
# classes it is short, and sorted rows would be added by too few threads.
SORTED_CLASSES = 64


@dataclass(frozen=True, kw_only=True)
class FoldSums:
    """Weighted sums over the rows of each fold of ``z = (phi, 1)`` and the targets y.

    Sums only add: blocks may come in any order and from anywhere, and rows may be taken out again.

    Attributes
    ----------
    gram : Tensor of float64, shape (n_folds, r + 1, r + 1)
        G, sum of ``w z z^T``.
    cross : Tensor of float64, shape (n_folds, r + 1, n_targets)
        c, sum of ``w z y^T``.
    square : Tensor of float64, shape (n_folds,)
        s, sum of ``w ||y||^2``.
    factor : Tensor of float64, shape (r, r), or None
        L where phi stands for plain kernel values: features are then ``phi L^-T``, and the penalty of
        coefficients b of phi is ``b^T L L^T b``. None where phi are features.
    product : Tensor of float64, shape (r, r), or None
        ``L L^T``, where it is in memory.
    has_aside : bool
        Whether the last of the sums are over the rows that take no part in cross-validation.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    factor: Tensor | None = None
    product: Tensor | None = None
    has_aside: bool = False

    def __add__(self, other: "FoldSums") -> "FoldSums":
        """Add the sums of other rows, fold by fold."""
        return replace(
            self,
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            square=self.square + other.square,
        )

    def __sub__(self, other: "FoldSums") -> "FoldSums":
        """Take the sums of some rows out again, fold by fold."""
        return replace(
            self,
            gram=self.gram - other.gram,
            cross=self.cross - other.cross,
            square=self.square - other.square,
        )

    def whitened(self) -> "FoldSums":
        """Turn sums over kernel values into sums over features, in place: ``L^-1 G L^-T`` and ``L^-1 c``."""
        if self.factor is None:
            return self
        for gram, cross in zip(self.gram, self.cross, strict=True):
            # The last row and column belong to the 1 of the intercept, which is not whitened.
            half = torch.linalg.solve_triangular(self.factor, gram[:-1], upper=False)
            gram[:-1, :-1] = torch.linalg.solve_triangular(self.factor, half[:, :-1].T, upper=False)
            gram[:-1, -1] = gram[-1, :-1] = half[:, -1]
            cross[:-1] = torch.linalg.solve_triangular(self.factor, cross[:-1], upper=False)
        return replace(self, factor=None, product=None)

    def whitened_cross(self, fold: int) -> Tensor:
        """Return c (r + 1, n_targets) of one fold as `whitened` does, as a copy."""
        cross = self.cross[fold].clone()
        if self.factor is not None:
            cross[:-1] = torch.linalg.solve_triangular(self.factor, cross[:-1], upper=False)
        return cross

    @property
    def metric(self) -> Tensor | None:
        """The matrix ``L L^T`` (r, r) that penalizes coefficients of phi, or None for the identity."""
        if self.factor is None or self.product is not None:
            return self.product
        return product_of_factor(self.factor)

    def of_features(self, beta: Tensor) -> Tensor:
        """Turn coefficients (r + 1, n_targets) of phi, the intercept last, into coefficients of features."""
        return beta if self.factor is None else torch.cat([self.factor.T @ beta[:-1], beta[-1:]])

    def validated(self) -> "FoldSums":
        """Return the sums of the folds alone, without rows that take no part in cross-validation; views."""
        if not self.has_aside:
            return self
        return replace(
            self, gram=self.gram[:-1], cross=self.cross[:-1], square=self.square[:-1], has_aside=False
        )

    def total(self) -> "FoldSums":
        """Return the sum over all rows, as one fold."""
        return replace(
            self,
            has_aside=False,
            gram=self.gram.sum(dim=0, keepdim=True),
            cross=self.cross.sum(dim=0, keepdim=True),
            square=self.square.sum(dim=0, keepdim=True),
        )

    def fold(self, number: int) -> "FoldSums":
        """Return the sums of one fold, as a copy."""
        one = slice(number, number + 1)
        return replace(
            self,
            gram=self.gram[one].clone(),
            cross=self.cross[one].clone(),
            square=self.square[one].clone(),
            has_aside=False,
        )

    def to(self, device: torch.device) -> "FoldSums":
        """Return these sums on a device, without `product`, which the factor can make again."""
        return replace(
            self,
            product=None,
            gram=self.gram.to(device),
            cross=self.cross.to(device),
            square=self.square.to(device),
            factor=None if self.factor is None else self.factor.to(device),
        )

    def cpu(self) -> "FoldSums":
        """Return these sums in main memory, without `product`."""
        return self.to(torch.device("cpu"))

    @property
    def weights(self) -> Tensor:
        """Weight of the rows of each fold, shape (n_folds,)."""
        return self.gram[:, -1, -1]


@dataclass(frozen=True, kw_only=True)
class PassTargets:
    """What a pass knows of its rows before it reads any, prepared once for the sums of all maps.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row.
    roots : Tensor of float64, shape (n,)
        Square roots of the weights, on the device of the sums.
    is_plain : bool
        Whether every weight is 1. Rows are then not multiplied by their roots, which saves a copy of each
        block.
    by_class : Tensor of float64, shape (n_folds, n_classes)
        Weighted sum of the targets of each fold, in main memory: of classes, the weight of their rows.
    by_fold : Tensor of float64, shape (n_folds,)
        Weight of the rows of each fold, in main memory.
    square : Tensor of float64, shape (n_folds,)
        Weighted sum of the squared lengths of the targets of each fold, in main memory.
    values : Tensor, shape (n, n_classes), or None
        Targets of rows that have no class, on the device of the sums; NaN for labels that are unknown.
    means : Tensor of float64, shape (n_classes,), or None
        What stands for an unknown label, on the device of the sums; None if all labels are known.
    """

    codes: npt.NDArray[np.int64]
    roots: Tensor
    is_plain: bool
    by_class: Tensor
    by_fold: Tensor
    square: Tensor
    values: Tensor | None = None
    means: Tensor | None = None

    @classmethod
    def of(
        cls,
        codes: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float64],
        folds: npt.NDArray[np.int64],
        *,
        n_folds: int,
        n_classes: int,
        device: torch.device,
        targets: Targets | None = None,
    ) -> "PassTargets":
        """Prepare the classes, weights and folds (n,) of all rows, and targets in place of classes.

        Weights are added up in main memory: on CUDA, adding by index happens in no fixed order.
        """
        w, of_fold, of_class = (torch.from_numpy(each) for each in (weights, folds, codes))
        by_class = torch.zeros((n_folds, n_classes), dtype=torch.float64)
        by_fold = torch.zeros(n_folds, dtype=torch.float64).index_add_(0, of_fold, w)
        if targets is None:
            by_class.index_put_((of_fold, of_class), w, accumulate=True)
            # A one-hot target has length 1, so the sum of w ||y||^2 is the weight.
            square = by_fold.clone()
        else:
            square = torch.zeros_like(by_fold)
            for some in targets.parts_of_rows():
                part = torch.from_numpy(targets.filled(some))
                square.index_add_(0, of_fold[some], w[some] * part.square().sum(dim=1))
                by_class.index_add_(0, of_fold[some], w[some, None] * part)
        means = None if targets is None else targets.known_means
        return cls(
            codes=codes,
            roots=w.sqrt().to(device),
            is_plain=bool((weights == 1).all()),
            by_class=by_class,
            by_fold=by_fold,
            square=square,
            values=None if targets is None else torch.from_numpy(targets.values).to(device),
            means=None if means is None else torch.from_numpy(means).to(device),
        )

    def add_products(self, sums: Tensor, numbers: npt.NDArray[np.int64], rows: Tensor) -> None:
        """Add the products of the targets of rows and of weighted features (b, r) to sums (n_classes, r)."""
        if self.values is None:
            _add_by_class(sums, self.codes[numbers], rows)
            return
        there = sent_ahead(torch.from_numpy(numbers), self.values.device)
        # A block of few features has many rows, and its targets in float64 may be larger than all else.
        step = max(64, TARGETS_BYTES // (8 * self.values.shape[1]))
        for some, part in zip(torch.split(there, step), torch.split(rows, step), strict=True):
            targets = self.values[some].double()
            if self.means is not None:
                targets = torch.where(torch.isfinite(targets), targets, self.means)
            sums.addmm_(targets.T, part)


class SumsBuilder:
    """Adds blocks of rows up to `FoldSums`, all in float64.

    A block has few rows of each fold, and products of few rows are slow: rows wait until their fold has a
    batch of them. Products in float32 (of whitened features) would take half the time and move scores by
    about 2e-6. That is less than float32 kernel values do, but more than sums over the same rows, added in
    another order, may differ by.

    Parameters
    ----------
    targets : PassTargets
        Targets and weights of the rows to come, which all come. The sums lie on the device of its roots.
    rank : int
        Features r.
    """

    def __init__(self, targets: PassTargets, *, rank: int) -> None:
        n_folds, n_classes = targets.by_class.shape
        device = targets.roots.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.targets = targets
        self.gram = zeros(n_folds, rank + 1, rank + 1)
        self.by_class = zeros(n_folds, n_classes, rank + 1)
        self.capacity = batch_rows(n_folds=n_folds, rank=rank, n_rows=len(targets.codes))
        self._features = torch.empty((n_folds, self.capacity, rank), dtype=torch.float64, device=device)
        self._numbers = np.empty((n_folds, self.capacity), dtype=np.int64)
        self._roots = torch.empty((n_folds, self.capacity), dtype=torch.float64, device=device)
        self._waiting = [0] * n_folds

    def add(self, phi: Tensor, where: slice, parts: Sequence[FoldPart]) -> None:
        """Add a block of rows.

        Parameters
        ----------
        phi : Tensor of float64, shape (b, r)
            Features, or kernel values that are to be whitened later.
        where : slice
            Which of all rows these are.
        parts : sequence of FoldPart
            The rows of each fold within the block.
        """
        roots, numbers = self.targets.roots[where], np.arange(where.start, where.stop)
        for part in parts:
            fold = part.fold
            z, mine, root = phi[part.there], numbers[part.rows], roots[part.there]
            if not self.targets.is_plain:
                z = z * root[:, None]
            # Many rows of one fold at once need not be copied to wait for others.
            if 2 * len(z) >= self.capacity:
                self._multiply(fold, z, mine, root)
                continue
            if self._waiting[fold] + len(z) > self.capacity:
                self._flush(fold)
            at = self._waiting[fold]
            some = slice(at, at + len(z))
            self._features[fold, some], self._numbers[fold, some] = z, mine
            self._roots[fold, some] = root
            self._waiting[fold] += len(z)

    def result(self) -> FoldSums:
        """Return the sums of all rows, which have been added by now."""
        for fold in range(len(self._waiting)):
            self._flush(fold)
        device = self.gram.device
        weights = self.targets.by_fold.to(device, copy=True)
        self.by_class[:, :, -1] = self.targets.by_class.to(device)
        # `_multiply` fills the lower triangle by panels; here the upper one is mirrored from it.
        for gram, weight in zip(self.gram, weights, strict=True):
            for rows in panels(len(gram)):
                square = gram[rows, rows]
                square.copy_(square.tril() + square.tril(-1).T)
                gram[: rows.start, rows] = gram[rows, : rows.start].T
            gram[-1, -1] = weight
        square = self.targets.square.to(device, copy=True)
        return FoldSums(gram=self.gram, cross=self.by_class.mT.contiguous(), square=square)

    def _flush(self, fold: int) -> None:
        """Multiply the rows of a fold that are waiting."""
        count, self._waiting[fold] = self._waiting[fold], 0
        if count:
            self._multiply(
                fold, self._features[fold, :count], self._numbers[fold, :count], self._roots[fold, :count]
            )

    def _multiply(self, fold: int, z: Tensor, numbers: npt.NDArray[np.int64], roots: Tensor) -> None:
        """Add the products of rows of one fold.

        Parameters
        ----------
        z : Tensor, shape (b, r)
            Features times the square root of the rows' weights, so that ``z^T z`` is weighted once.
        numbers : ndarray of int64, shape (b,)
            Which of all rows these are.
        roots : Tensor, shape (b,)
            Square roots of the weights, with which z is weighted once more where it meets the targets.
        """
        gram = self.gram[fold]
        # Gram matrices are symmetric: only the lower triangle is multiplied, panel by panel.
        for some in panels(z.shape[1]):
            gram[some, : some.stop].addmm_(z[:, some].T, z[:, : some.stop])
        gram[-1, :-1] += roots @ z
        weighted = z if self.targets.is_plain else z * roots[:, None]
        self.targets.add_products(self.by_class[fold, :, :-1], numbers, weighted)


def _add_by_class(sums: Tensor, codes: npt.NDArray[np.int64], rows: Tensor) -> None:
    """Add rows (b, r) to the sums (n_classes, r) of their classes (b,): the product with one-hot targets."""
    classes = torch.from_numpy(codes)
    if not sums.is_cuda:
        sums.index_add_(0, classes, rows)
    # On CUDA, adding by index happens in no fixed order, and sums would differ from run to run.
    elif len(sums) < SORTED_CLASSES:
        marks = torch.nn.functional.one_hot(sent_ahead(classes, sums.device), len(sums))
        sums.addmm_(marks.to(rows.dtype).T, rows)
    else:
        order = sent_ahead(torch.from_numpy(np.argsort(codes, kind="stable")), sums.device)
        lengths = sent_ahead(torch.from_numpy(np.bincount(codes, minlength=len(sums))), sums.device)
        # The lengths are right; torch's check of them would wait for the device.
        sums += torch.segment_reduce(rows[order], "sum", lengths=lengths, unsafe=True)


def batch_rows(*, n_folds: int, rank: int, n_rows: int) -> int:
    """Return how many rows of each fold wait for a common product, at most."""
    affordable = BATCH_BYTES // (8 * n_folds * (rank + 1))
    return max(1, min(n_rows, BATCH_ROWS, max(64, affordable)))


def sums_bytes(*, n_folds: int, rank: int, n_targets: int) -> int:
    """Return the bytes that `FoldSums` hold."""
    return 8 * n_folds * ((rank + 1) * (rank + 1) + (rank + 1) * n_targets + 1)
