"""`StreamingLogisticClassifier`: multinomial logistic regression, penalties and folds sharing each pass."""

import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from toptune.machine.plans import plan_logger
from toptune.train.estimators.arguments import ClassWeight, RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.fit_report import HeadReport, LeftOutFigures
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.kernels.linear_maps import linear_coefficients, linear_maps, linear_scores
from toptune.train.logistic.fit import MAX_ITERATIONS, TOLERANCE, convergence_notes
from toptune.train.logistic.label_loss import logistic_rows
from toptune.train.logistic.log_loss import NO_FOLD
from toptune.train.logistic.path import RowSample, follow
from toptune.train.logistic.plan import logistic_block_rows, sample_rows_for
from toptune.train.logistic.selection import choose_penalty
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.numerics.quasi_newton import MEMORY
from toptune.train.passes.feature_rows import FeatureRows
from toptune.train.passes.peak_memory import host_peak_bytes
from toptune.train.rows.grids import grid_of
from toptune.train.solvers.one_pass import SIGMOIDS

# Up to this many features r the preconditioner is a matrix (r, r), whose factor costs r^3 / 3; above, the
# preconditioner is diagonal.
DENSE_FEATURES = 6_000
# Variances, of which a diagonal preconditioner is made, need fewer rows than a matrix does.
DIAGONAL_ROWS = 1_000


class StreamingLogisticClassifier(ScoredClassifier):
    """Multinomial logistic regression by L-BFGS on blocks, the penalty chosen along a path.

    The fit minimizes ``(1/n) sum_i w_i logloss(softmax(W^T x_i + b), y_i) + penalty |W|^2`` over W and
    intercepts b that are not penalized. From the largest penalty down each solution starts the next, and all
    folds share every pass over the rows (`toptune.train.logistic.path`, the solver of
    `FalkonLogisticClassifier`). Rows are kept in memory where the limit allows, in which case they are read
    once. With fewer rows than columns the problem is solved in the coordinates of the rows' span, which gives
    the same answer.

    Parameters
    ----------
    penalty : float, sequence of float or None
        The λ of the equation above; scikit-learn's ``LogisticRegression(C)`` is ``penalty = 1 / (2 n C)``. A
        number is fixed (its left-out figures are reported all the same), a sequence is a grid, None a default
        grid in units of the total variance of the features. The grid is left once the left-out log-loss has
        risen twice.
    cv : int or "leave-one-group-out"
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one.
    class_weight : None, "balanced" or dict
        Weights of the rows by their class; ``"balanced"`` weighs by the inverse of a class's frequency.
    random_state : int, RandomState or None
        Seed of the folds and of the preconditioner's sample.
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
    penalty_ : float
        Chosen value.
    temperature_ : float
        Near 1. Probabilities are ``softmax(scores / temperature_)``.
    report_ : HeadReport

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows that are not finite, fewer than two classes, or a
        projected peak above the memory limit.

    References
    ----------
    Nocedal & Wright 2006, Alg. 7.4 (L-BFGS); Hastie, Tibshirani & Friedman 2009, section 4.4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import StreamingLogisticClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = StreamingLogisticClassifier(penalty=1e-3, random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2)
    0.99
    >>> head.coef_.shape
    (3, 4)
    """

    takes_values: ClassVar[bool] = True

    def __init__(
        self,
        penalty: float | Sequence[float] | None = None,
        cv: int | str = 5,
        class_weight: ClassWeight = None,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.penalty = penalty
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes

    def _check(self) -> None:
        grid_of(self.penalty, "penalty")

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows, (n, d) = given.rows, given.rows.blocks.shape
        block_rows, is_cached, peak_bytes = self._plan(given)
        maps = linear_maps(rows.blocks, device=given.device)
        features = FeatureRows(rows, maps, block_rows=block_rows, is_cached=is_cached, device=given.device)
        problem = logistic_rows(features, None)
        # The preconditioner stands for all rows, so the sample is uniform.
        drawn = np.sort(np.random.default_rng(given.seed).permutation(n)[: _sample_rows(n, features.rank)])
        sample = RowSample(
            features.sample(drawn) - problem.feature_mean,
            torch.from_numpy(rows.weights[drawn]).to(given.device),
            have_labels=rows.have_labels,
        )
        seconds, start = {"setup": given.seconds}, time.perf_counter()
        selection = choose_penalty(problem, grid_of(self.penalty, "penalty"), sample)
        n_selection = problem.n_evaluations
        seconds["path"], start = time.perf_counter() - start, time.perf_counter()
        # The fits without a fold differ little from the fit to all rows, so their mean is near its solution.
        (found,) = follow(
            problem, [selection.penalty], folds=[NO_FOLD], starts=[problem.start_of(selection.points)],
            sample=sample, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS,
        )  # fmt: skip
        seconds["fit"] = time.perf_counter() - start
        seconds["total"] = sum(seconds.values())
        beta = found.points[0]
        self.coef_ = np.ascontiguousarray(linear_coefficients(maps, beta[:-1]).T.cpu().numpy())
        # The iteration sees centered features; the intercept of plain features takes the mean back.
        self.intercept_ = (beta[-1] - problem.feature_mean @ beta[:-1]).cpu().numpy()
        self.penalty_, self.temperature_ = selection.penalty, selection.temperature
        self.sigmoids_ = selection.sigmoids
        self.report_ = HeadReport(
            solver=f"{'binary' if rows.have_labels else 'multinomial'} logistic regression by L-BFGS, "
            "penalty cross-validated",
            n_rows=n,
            n_features=d,
            n_folds=rows.n_folds,
            # C is scikit-learn's name of the same penalty, for a loss that is summed instead of averaged.
            chosen={"penalty": selection.penalty, "C": 1 / (2 * n * selection.penalty)},
            left_out=LeftOutFigures(
                accuracy=selection.accuracy, log_loss=selection.log_loss, n_rows=rows.n_validated
            ),
            temperature=selection.temperature,
            calibration=SIGMOIDS
            if rows.have_labels
            else "softmax of a logistic fit's scores with one temperature, near 1, fitted out of fold",
            table=[*selection.table],
            warnings=[*selection.warnings, *convergence_notes(found)],
            peak_bytes=peak_bytes,
            seconds=seconds,
            iteration={
                "reason": found.reason,
                "n_iterations": problem.n_evaluations - n_selection,
                "selection_iterations": n_selection,
                "decrease": found.decrease,
                "tolerance": TOLERANCE,
                "is_cached": is_cached,
                "n_passes": features.n_passes,
            },
        )
        return selection.left_out

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        return linear_scores(self, X)

    def _plan(self, given: FitInputs) -> tuple[int, bool, int]:
        """Return rows of a block, whether features are kept in memory, and the projected peak in bytes."""
        n, d = given.rows.blocks.shape
        rank, n_classes = min(n, d), given.rows.n_classes
        columns = given.rows.n_folds * n_classes
        block_rows = logistic_block_rows(
            d=d, rank=rank, n_columns=columns, cuda_bytes=given.limits.cuda_bytes
        )
        is_dense = rank <= DENSE_FEATURES or n < d
        peak_bytes = (
            (8 * 8 * (rank + 1) ** 2 if is_dense else 0)  # preconditioner
            + 2 * 8 * _sample_rows(n, rank) * rank  # sample of the preconditioner, twice
            + 8 * (rank + 1) * columns * (2 * MEMORY + 14)  # L-BFGS pairs and points of every fold
            # Probabilities of the sample with their squares; or blocks of rows and rows of the calibration.
            + max(
                3 * 8 * _sample_rows(n, rank) * n_classes,
                2 * 8 * min(n, block_rows) * (3 * d + 4 * rank + 8 * columns)
                + 8 * min(n, CALIBRATION_ROWS) * (2 * n_classes + rank),
            )
            + (2 * 8 * n * d if n < d else 0)  # factor of the span of the rows
            + 40 * n  # codes, weights and folds
        )
        host_bytes = host_peak_bytes(
            n=n, d=d, rank=rank, n_maps=int(n < d), n_classes=n_classes, n_folds=given.rows.n_places,
            n_finalists=1, block_rows=block_rows, keeps_sums=False,
        )  # fmt: skip
        given.check_memory(
            peak_bytes,
            host_bytes=host_bytes,
            what=f"logistic regression on {n} rows of {d} features, {n_classes} classes",
            instead="take fewer layers, head 'falkon-logistic' with fewer centers, or raise --memory-limit",
        )
        # Coordinates of the span are float64, columns of stored features float32.
        kept_bytes = n * rank * (8 if n < d else 4)
        is_cached = peak_bytes + kept_bytes <= given.limit_bytes
        peak_bytes += kept_bytes if is_cached else 0
        plan_logger.debug(
            "logistic: about %d MiB (rows %s); %d MiB may be taken",
            peak_bytes // 2**20,
            "kept" if is_cached else "read again in every pass",
            given.limit_bytes // 2**20,
        )
        return block_rows, is_cached, peak_bytes


def _sample_rows(n: int, rank: int) -> int:
    """Return how many rows the preconditioner is made of; fewer rows than features make it diagonal."""
    return sample_rows_for(n=n, rank=rank) if rank <= DENSE_FEATURES or n <= rank else DIAGONAL_ROWS
