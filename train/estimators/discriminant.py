"""`ShrinkageDiscriminantClassifier`: linear discriminant analysis from one pass over the rows."""

import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.memory import check_memory, memory_limit_bytes
from toptune.machine.plans import plan_logger
from toptune.train.estimators.fit_rows import rows_to_fit
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.estimators.settings_comparison import compare
from toptune.train.kernels.linear_maps import linear_coefficients, linear_maps, linear_scores
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.peak_memory import one_pass_peak_bytes
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.rows.grids import values_of
from toptune.train.solvers.class_moments import ClassMoments

SHRINKAGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 0.6, 0.9)
# What a fit is going to do, said before it does it.


class ShrinkageDiscriminantClassifier(ScoredClassifier):
    """Linear discriminant analysis, its covariance shrunk to a multiple of the identity.

    Class sums and one Gram matrix a fold, all from one pass, give every shrinkage without every fold; a
    second pass scores the rows left out. The fit is that of scikit-learn's
    ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)``. With fewer rows than columns it is taken in
    the coordinates of the rows' span, which changes nothing.

    Parameters
    ----------
    shrinkage : float, sequence of float or None
        From 0 (the covariance as it is) to 1 (a sphere); a number is fixed, a sequence a grid, None is
        `SHRINKAGES`.
    cv : int or "leave-one-group-out"
        Folds. A class with fewer members makes it fewer, with a `FoldsReducedWarning`.
    class_weight : None, "balanced" or dict
        Weights of the classes, in their shares as in the covariance.
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
    memory_limit_bytes : int or None
        Refuse a fit whose projected peak is above; None is half of the machine's memory.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray of float64, shape (n_classes, d)
    intercept_ : ndarray of float64, shape (n_classes,)
    shrinkage_, temperature_ : float
    report_ : HeadReport
    """

    def __init__(
        self,
        shrinkage: float | Sequence[float] | None = None,
        cv: int | str = 5,
        class_weight: Any = None,
        random_state: Any = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.shrinkage = shrinkage
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes

    def fit(self, X: Any, y: Any, *, groups: Sequence[str] | None = None) -> Self:
        """Fit to rows of features; parameters and errors as in `FalkonClassifier.fit`."""
        start = time.perf_counter()
        shrinkages, device = _checked(self.shrinkage), device_of(self.device)
        rows, classes, _ = rows_to_fit(self, X, y, groups)
        n, d = rows.blocks.shape
        limit_bytes = self.memory_limit_bytes or memory_limit_bytes()
        block_rows = block_rows_for(d=d, rank=min(n, d), limit_bytes=limit_bytes)
        peak_bytes = one_pass_peak_bytes(
            n=n, d=d, rank=min(n, d), n_maps=1, n_classes=len(classes), n_folds=rows.n_folds,
            block_rows=block_rows, n_penalties=len(shrinkages), n_finalists=len(shrinkages),
            n_calibration=min(n, CALIBRATION_ROWS),
        )  # fmt: skip
        check_memory(
            peak_bytes,
            limit_bytes=limit_bytes,
            what=f"lda on {n} rows of {d} features",
            instead="take fewer layers, head 'falkon' with fewer centers, or raise --memory-limit",
        )
        plan_logger.info("lda: about %d MiB; memory limit %d MiB", peak_bytes // 2**20, limit_bytes // 2**20)
        maps = linear_maps(rows.blocks, device=device)
        (sums,) = accumulate(rows, maps, [0], block_rows=block_rows, device=device)
        seconds = {"pass": time.perf_counter() - start}
        gram, cross = sums.gram.sum(dim=0), sums.cross.sum(dim=0)
        betas = sums.gram.new_zeros((len(shrinkages), rows.n_folds, gram.shape[0], len(classes)))
        jitter = 0.0
        for fold in range(rows.n_folds):
            # Nothing is predicted for a fold without rows.
            if float(sums.weights[fold]) == 0:
                continue
            moments = ClassMoments.of(gram - sums.gram[fold], cross - sums.cross[fold], n_columns=d)
            for at, shrinkage in enumerate(shrinkages):
                betas[at, fold], added = moments.solve(shrinkage)
                jitter = max(jitter, added)
        on_basis = [torch.cat([maps.on_basis(0, beta[:, :-1]), beta[:, -1:]], dim=1) for beta in betas]
        left, _ = predict_left_out(
            rows, maps, [(0, beta) for beta in on_basis], block_rows=block_rows, device=device
        )
        settings = [{"shrinkage": shrinkage} for shrinkage in shrinkages]
        compared = compare(settings, left, codes=rows.codes, weights=rows.weights)
        beta, added = ClassMoments.of(gram, cross, n_columns=d).solve(compared.chosen["shrinkage"])
        jitter = max(jitter, added)
        seconds["total"] = time.perf_counter() - start
        self.classes_ = classes
        self.coef_ = np.ascontiguousarray(linear_coefficients(maps, beta[:-1]).T.cpu().numpy())
        self.intercept_ = beta[-1].cpu().numpy()
        self.shrinkage_, self.temperature_ = compared.chosen["shrinkage"], compared.temperature
        self.report_ = compared.report(
            rows,
            solver="linear discriminant analysis, shrinkage cross-validated from one pass's sums",
            calibration="posteriors with one temperature fitted out of fold",
            peak_bytes=peak_bytes,
            seconds=seconds,
            notes=_notes(jitter),
        )
        return self

    def scores(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes) of rows (n, d), also for two classes."""
        return linear_scores(self, X)


def _checked(given: Any) -> list[float]:
    values = values_of(given, SHRINKAGES, "shrinkage")
    for value in values:
        if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value <= 1):
            raise InputError(f"shrinkage is {value!r}; it must be from 0 to 1, or a list of such numbers")
    return sorted({float(value) for value in values})


def _notes(jitter: float) -> list[str]:
    if jitter == 0:
        return []
    return [
        f"some covariances needed jitter, at most {jitter:.1e} of their mean diagonal; raise the shrinkage"
    ]
