"""`NearestMeanClassifier`: the class whose mean is nearest, its metric cross-validated from fold sums."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from toptune.machine.plans import plan_logger
from toptune.options import check_choice
from toptune.train.estimators.arguments import RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.estimators.settings_comparison import compare, score_left_out
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.peak_memory import marked_rows, means_peak_bytes, scoring_rows
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import check_finite, parts
from toptune.train.rows.grids import values_of
from toptune.train.rows.inputs import predict_inputs

Matrix = npt.NDArray[np.float64]
Float = TypeVar("Float", np.float32, np.float64)
METRICS = ("euclidean", "cosine")


class NearestMeanClassifier(ScoredClassifier):
    """Score a row by its nearness to the mean of each class.

    ``"euclidean"`` scores by minus half the squared distance, without the part that all classes share.
    ``"cosine"`` scales rows to unit length, takes their means, and scores by the cosine. Sums of each class
    in each fold, from one pass, give the means without every fold; a second pass scores the rows left out.
    A mean does not depend on how many rows a class has, so every class weighs alike.

    Parameters
    ----------
    metric : {"euclidean", "cosine"}, sequence of these or None
        A name is fixed, a sequence is compared, None compares both.
    cv : int or "leave-one-group-out"
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one.
    random_state : int, RandomState or None
        Seed of the folds.
    memory_limit_bytes : int or None
        A fit whose projected peak is above this is refused; None is half of the machine's memory.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted.
    means_ : ndarray of float64, shape (n_classes, d)
        Means of the classes, of unit length for the cosine.
    metric_ : str
        Chosen value.
    temperature_ : float
        Probabilities are ``softmax(scores / temperature_)``.
    report_ : HeadReport

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows that are not finite, fewer than two classes, or a
        projected peak above the memory limit.

    References
    ----------
    Mensink, Verbeek, Perronnin & Csurka 2013 (nearest class mean); Wang et al. 2019 (SimpleShot).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import NearestMeanClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = NearestMeanClassifier(random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2), head.metric_
    (0.97, 'cosine')
    """

    def __init__(
        self,
        metric: str | Sequence[str] | None = None,
        cv: int | str = 5,
        random_state: RandomState = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.metric = metric
        self.cv = cv
        self.random_state = random_state
        self.memory_limit_bytes = memory_limit_bytes

    def _check(self) -> None:
        check_metrics(self.metric, METRICS)

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows, metrics = given.rows, check_metrics(self.metric, METRICS)
        peak_bytes = self._plan(given, n_metrics=len(metrics))
        sums, counts = _class_sums(rows, metrics)
        means = {
            metric: [
                _means(sums[metric][: rows.n_folds], counts[: rows.n_folds], metric, without=fold)
                for fold in range(rows.n_folds)
            ]
            for metric in metrics
        }
        left = score_left_out(_left_out(rows, means, counts), rows, n_settings=len(metrics))
        compared = compare([{"metric": metric} for metric in metrics], left, rows)
        self.metric_, self.temperature_ = compared.chosen["metric"], compared.temperature
        self.means_ = _means(sums[self.metric_], counts, self.metric_)
        self.report_ = compared.report(
            rows,
            solver="nearest class mean, metric cross-validated from fold sums",
            calibration="softmax of scores with one temperature fitted out of fold",
            peak_bytes=peak_bytes,
            seconds={"total": given.seconds},
        )
        return compared.scores

    def _plan(self, given: FitInputs, *, n_metrics: int) -> int:
        """Return the projected peak in bytes, or refuse a fit that is above the memory limit."""
        rows, (n, d) = given.rows, given.rows.blocks.shape
        peak_bytes = means_peak_bytes(
            n=n, d=d, n_classes=rows.n_classes, n_folds=rows.n_places, n_metrics=n_metrics,
            n_kept=min(n, CALIBRATION_ROWS),
        )  # fmt: skip
        given.check_memory(
            peak_bytes,
            what=f"ncm on {d} features of {rows.n_classes} classes in {rows.n_folds} folds",
            instead="take fewer layers, or raise --memory-limit",
        )
        plan_logger.debug(
            "ncm: about %d MiB; %d MiB may be taken", peak_bytes // 2**20, given.limit_bytes // 2**20
        )
        return peak_bytes

    def scores(self, X: RowsLike) -> Matrix:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        check_is_fitted(self)
        blocks = predict_inputs(self, X)
        result = np.empty((blocks.shape[0], len(self.classes_)))
        for where, values in blocks.iterate():
            check_finite(values, start=where.start)
            result[where] = _scores(values, self.means_, self.metric_)
        return result


def check_metrics(
    given: str | Sequence[str] | None, known: Sequence[str], default: Sequence[str] | None = None
) -> list[str]:
    """Return the metrics to compare, or refuse an unknown metric with InputError."""
    metrics = values_of(given, default or known, "metric")
    for metric in metrics:
        check_choice(metric, known, option="metric")
    return metrics


def unit_rows(values: npt.NDArray[Float]) -> npt.NDArray[Float]:
    """Return rows (b, d) scaled to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: npt.NDArray[Float] = values / np.maximum(lengths, np.finfo(values.dtype).tiny)
    return scaled


def _class_sums(rows: TrainingRows, metrics: Sequence[str]) -> tuple[dict[str, Matrix], Matrix]:
    """Return sums (n_places, n_classes, d) of the rows for each metric, and counts (n_places, n_classes)."""
    shape = (rows.n_places, rows.n_classes)
    counts = np.zeros(shape)
    np.add.at(counts, (rows.folds, rows.codes), 1.0)
    sums = {metric: np.zeros((*shape, rows.blocks.shape[1])) for metric in metrics}
    for where, values in parts(rows.blocks, marked_rows(n_cells=rows.n_places * rows.n_classes)):
        check_finite(values, start=where.start)
        block = values.astype(np.float64)
        cells = rows.folds[where] * rows.n_classes + rows.codes[where]
        present, position = np.unique(cells, return_inverse=True)
        # The sums of a block are one product with a 0/1 matrix, of the cells (fold, class) that occur in the
        # block only: with many classes most cells have no row.
        indicator = np.zeros((len(present), len(block)))
        indicator[position, np.arange(len(block))] = 1.0
        for metric in metrics:
            added = indicator @ (unit_rows(block) if metric == "cosine" else block)
            sums[metric].reshape(-1, block.shape[1])[present] += added
    return sums, counts


def _means(sums: Matrix, counts: Matrix, metric: str, *, without: int | None = None) -> Matrix:
    """Return the means (n_classes, d) over all folds, or all but one; 0 for a class without rows."""
    total, number = sums.sum(axis=0), counts.sum(axis=0)
    if without is not None:
        total, number = total - sums[without], number - counts[without]
    means: Matrix = total / np.maximum(number, 1)[:, None]
    return unit_rows(means) if metric == "cosine" else means


def _scores(values: npt.NDArray[np.number], means: Matrix, metric: str) -> Matrix:
    block = values.astype(np.float64)
    if metric == "cosine":
        cosines: Matrix = unit_rows(block) @ means.T
        return cosines
    # -|x - m|^2 / 2 = x m - |m|^2 / 2 - |x|^2 / 2, and the last term is the same for every class m.
    nearness: Matrix = block @ means.T - np.square(means).sum(axis=1) / 2
    return nearness


def _left_out(
    rows: TrainingRows, means: dict[str, list[Matrix]], counts: Matrix
) -> Iterator[tuple[slice, list[Matrix]]]:
    """Yield the scores of each block's rows by the means without the rows' own fold, for each metric.

    A class that takes no part in cross-validation has no such mean, and comes last.
    """
    is_known = counts[: rows.n_folds].any(axis=0)
    for where, values in parts(rows.blocks, scoring_rows(n_classes=rows.n_classes, n_fits=len(means))):
        folds = rows.folds[where]
        results = []
        for metric, of_fold in means.items():
            scores = np.zeros((len(values), rows.n_classes))
            for fold in np.unique(folds[folds < rows.n_folds]):
                mine = folds == fold
                scores[mine] = _scores(values[mine], of_fold[fold], metric)
                lowest = scores[np.ix_(mine, is_known)].min(axis=1, keepdims=True)
                scores[np.ix_(mine, ~is_known)] = lowest - 1.0
            results.append(scores)
        yield where, results
