"""`ShrinkageDiscriminantClassifier`: linear discriminant analysis from one pass over the rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import InputError
from toptune.train.estimators.arguments import ClassWeight, RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.estimators.settings_comparison import compare
from toptune.train.kernels.linear_maps import linear_coefficients, linear_maps, linear_scores
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.peak_memory import host_peak_bytes, one_pass_peak_bytes
from toptune.train.passes.sums import FoldSums
from toptune.train.rows.grids import values_of
from toptune.train.solvers.class_moments import ClassMoments

# Shrinkages that are compared where none is given.
SHRINKAGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 0.6, 0.9)


class ShrinkageDiscriminantClassifier(ScoredClassifier):
    """Linear discriminant analysis, the covariance shrunk toward a multiple of the identity.

    All classes share the covariance ``(1 - shrinkage) S + shrinkage v I``, where S is the covariance within
    classes and v the mean of the diagonal of S; scores are log-posteriors but for a constant. One pass takes
    the sums of each class and the Gram matrix of each fold, from which every shrinkage is fitted without
    every fold; a second pass scores the rows left out. The fit is that of scikit-learn's
    ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)``. With fewer rows than columns the covariance is
    taken in the coordinates of the rows' span, which gives the same answer.

    Parameters
    ----------
    shrinkage : float, sequence of float or None
        From 0 (the covariance as it is) to 1 (a sphere). A number is fixed, a sequence is a grid, None stands
        for `SHRINKAGES`.
    cv : int or "leave-one-group-out"
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one.
    class_weight : None, "balanced" or dict
        Weights of the rows by their class; ``"balanced"`` weighs by the inverse of a class's frequency. The
        classes' shares are weighted too.
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak is above this, in main memory or on a CUDA device, is refused; None is half
        of the machine's memory, and 85 % of what is free on the device.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted.
    coef_ : ndarray of float64, shape (n_classes, d)
    intercept_ : ndarray of float64, shape (n_classes,)
        Scores of a row x are ``coef_ @ x + intercept_``.
    shrinkage_ : float
        Chosen value.
    temperature_ : float
        Probabilities are ``softmax(scores / temperature_)``.
    report_ : HeadReport

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows that are not finite, fewer than two classes, or a
        projected peak above the memory limit.
    NumericalError
        By ``fit``: if no jitter makes a covariance positive definite.

    References
    ----------
    Friedman 1989 (regularized discriminant analysis), with one covariance for all classes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import ShrinkageDiscriminantClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = ShrinkageDiscriminantClassifier(random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2), head.shrinkage_
    (0.98, 0.03)
    """

    def __init__(
        self,
        shrinkage: float | Sequence[float] | None = None,
        cv: int | str = 5,
        class_weight: ClassWeight = None,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.shrinkage = shrinkage
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes

    def _check(self) -> None:
        _shrinkages(self.shrinkage)

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows, (n, d) = given.rows, given.rows.blocks.shape
        shrinkages = _shrinkages(self.shrinkage)
        block_rows = given.block_rows(rank=min(n, d))
        peak_bytes = one_pass_peak_bytes(
            n=n, d=d, rank=min(n, d), n_maps=1, n_classes=rows.n_classes, n_folds=rows.n_places,
            # The coefficients of whitened features, and those of kernel values that they are changed into.
            block_rows=block_rows, n_fits=2 * len(shrinkages) * rows.n_places, n_finalists=len(shrinkages),
            n_calibration=min(n, CALIBRATION_ROWS),
        )  # fmt: skip
        host_bytes = host_peak_bytes(
            n=n, d=d, rank=min(n, d), n_maps=int(n < d), n_classes=rows.n_classes, n_folds=rows.n_places,
            n_finalists=len(shrinkages), block_rows=block_rows, keeps_sums=False,
        )  # fmt: skip
        given.check_memory(
            peak_bytes,
            host_bytes=host_bytes,
            what=f"lda on {n} rows of {d} features",
            instead="take fewer layers, head 'falkon' with fewer centers, or raise --memory-limit",
        )
        rows, peak_bytes = given.planned_rows(peak_bytes, name="lda")
        maps = linear_maps(rows.blocks, device=given.device)
        (sums,) = accumulate(rows, maps, [0], block_rows=block_rows, device=given.device)
        seconds = {"pass": given.seconds}
        fits, fold_jitter = _without_each_fold(sums, shrinkages, n_columns=d)
        # A fit is of whitened features, whose triangular solve the second pass saves by scoring plain kernel
        # values: the coefficients are changed once in place of every row.
        on_basis = [torch.cat([maps.on_basis(0, fit[:, :-1]), fit[:, -1:]], dim=1) for fit in fits]
        del fits
        left, _ = predict_left_out(
            rows, maps, [(0, fit) for fit in on_basis], block_rows=block_rows, device=given.device
        )
        settings = [{"shrinkage": shrinkage} for shrinkage in shrinkages]
        compared = compare(settings, left, rows)
        self.shrinkage_, self.temperature_ = compared.chosen["shrinkage"], compared.temperature
        moments = ClassMoments.of(sums.gram.sum(dim=0), sums.cross.sum(dim=0), n_columns=d)
        beta, jitter = moments.solve(self.shrinkage_)
        seconds["total"] = given.seconds
        self.coef_ = np.ascontiguousarray(linear_coefficients(maps, beta[:-1]).T.cpu().numpy())
        self.intercept_ = beta[-1].cpu().numpy()
        self.report_ = compared.report(
            rows,
            solver="linear discriminant analysis, shrinkage cross-validated from one pass's sums",
            calibration="posteriors with one temperature fitted out of fold",
            peak_bytes=peak_bytes,
            seconds=seconds,
            notes=_notes(max(fold_jitter, jitter)),
        )
        return compared.scores

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        return linear_scores(self, X)


def _without_each_fold(
    sums: FoldSums, shrinkages: Sequence[float], *, n_columns: int
) -> tuple[Tensor, float]:
    """Fit every shrinkage without every fold.

    Returns
    -------
    Tensor of float64, shape (n_shrinkages, n_folds, r + 1, n_classes)
        Coefficients, the intercept last; 0 for a fold without rows, for which nothing is predicted.
    float
        Largest jitter that a covariance took.
    """
    sums = sums.validated()
    gram, cross = sums.gram.sum(dim=0), sums.cross.sum(dim=0)
    n_folds, jitter = len(sums.gram), 0.0
    fits = sums.gram.new_zeros((len(shrinkages), n_folds, *cross.shape))
    for fold in range(n_folds):
        if float(sums.weights[fold]) == 0:
            continue
        # Sums only add, so the rows outside a fold are the total less the fold: no further pass is needed.
        moments = ClassMoments.of(gram - sums.gram[fold], cross - sums.cross[fold], n_columns=n_columns)
        for at, shrinkage in enumerate(shrinkages):
            fits[at, fold], added = moments.solve(shrinkage)
            jitter = max(jitter, added)
    return fits, jitter


def _shrinkages(given: float | Sequence[float] | None) -> list[float]:
    values = values_of(given, SHRINKAGES, "shrinkage")
    for value in values:
        # True and False are ints to Python, and nobody means them as a shrinkage.
        if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value <= 1):
            raise InputError(f"shrinkage is {value!r}; it must be from 0 to 1, or a list of such numbers")
    return sorted({float(value) for value in values})


def _notes(jitter: float) -> list[str]:
    if jitter == 0:
        return []
    return [
        f"some covariances needed jitter, at most {jitter:.1e} of their mean diagonal; raise the shrinkage "
        "[TT402]"
    ]
