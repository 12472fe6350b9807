"""`NearestNeighborClassifier`: votes of the nearest training rows, exact, k chosen from one search."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.memory import MemoryLimits
from toptune.machine.plans import plan_logger
from toptune.machine.precision import full_precision
from toptune.train.estimators.arguments import Params, RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.nearest_mean import METRICS, check_metrics
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.estimators.settings_comparison import compare, score_left_out
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.peak_memory import neighbors_peak_bytes
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_bytes_for, check_finite, to_tensor
from toptune.train.rows.grids import values_of
from toptune.train.rows.inputs import predict_inputs
from toptune.train.solvers.one_pass import SIGMOIDS

Matrix = npt.NDArray[np.float64]
NEIGHBORS = (1, 3, 5, 10, 20, 50, 100, 200)
WEIGHTS = ("similarity", "uniform")
# Temperature of the similarities that weigh votes, from Caron et al. 2021 and Oquab et al. 2023 (DINOv2).
VOTE_TEMPERATURE = 0.07
# Similarities of a block of rows to all rows take about this much memory, with their votes.
_BLOCK_BYTES = 64 * 2**20


class NearestNeighborClassifier(ScoredClassifier):
    """k nearest neighbors among all training rows, blocked, with k and weights chosen from one search.

    The neighbors of each row among the rows of other folds are found once, as many as the largest k asks for;
    every k and weighting is a tally of these neighbors. Scores are logarithms of the votes' shares with one
    neighbor added that votes evenly for all classes, so that no class is impossible.

    Parameters
    ----------
    n_neighbors : int, sequence of int or None
        Neighbors k that vote. A number is fixed, a sequence is compared, None compares those of `NEIGHBORS`
        that are at most half of the rows.
    metric : {"cosine", "euclidean"}
    weights : {"similarity", "uniform"}, sequence of these or None
        ``"similarity"`` weighs a neighbor by ``exp(cosine / 0.07)``, as DINO and DINOv2 do, and needs the
        cosine. A sequence is compared; None compares both where the metric is the cosine.
    cv : int or "leave-one-group-out"
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one.
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak, all rows included, is above this, in main memory or on a CUDA device, is
        refused; None is half of the machine's memory, and 85 % of what is free on the device.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted.
    rows_ : ndarray, shape (n, d)
        Training rows, of unit length for the cosine.
    codes_ : ndarray, shape (n,) or (n, n_labels)
        Position of each row's class in ``classes_``; of several labels 1, 0, and -1 where unknown.
    n_neighbors_ : int
    weights_, metric_ : str
        Chosen values.
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
    Caron et al. 2021 (DINO); Oquab et al. 2023 (DINOv2), for the weights of votes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import NearestNeighborClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = NearestNeighborClassifier(random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2), head.n_neighbors_
    (0.98, 3)
    """

    takes_values: ClassVar[bool] = True

    def __init__(
        self,
        n_neighbors: int | Sequence[int] | None = None,
        metric: str = "cosine",
        weights: str | Sequence[str] | None = None,
        cv: int | str = 5,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.weights = weights
        self.cv = cv
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes

    def _check(self) -> None:
        (metric,) = check_metrics([self.metric], METRICS)
        check_neighbor_weights(self.weights, metric)

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows, metric = given.rows, self.metric
        counts = check_neighbor_counts(self.n_neighbors, rows.n)
        settings = [
            {"n_neighbors": count, "weights": weighting, "metric": metric}
            for count, weighting in product(counts, check_neighbor_weights(self.weights, metric))
        ]
        peak_bytes = self._plan(given, n_settings=len(settings), n_neighbors=counts[-1])
        dtype = torch.float64 if rows.blocks.dtype == np.float64 else torch.float32
        kept = torch.empty(rows.blocks.shape, dtype=dtype, device=given.device)
        for where, values in rows.blocks.iterate():
            check_finite(values, start=where.start)
            kept[where] = ready(to_tensor(values, dtype=dtype, device=given.device), metric)
        votes = _left_out(kept, rows, settings, metric, given.limits.cuda_bytes)
        left = score_left_out(votes, rows, n_settings=len(settings))
        compared = compare(settings, left, rows)
        self.rows_, self.codes_ = kept.cpu().numpy(), _codes(rows)
        self.n_neighbors_, self.weights_ = compared.chosen["n_neighbors"], compared.chosen["weights"]
        self.metric_, self.temperature_ = metric, compared.temperature
        self.sigmoids_ = compared.sigmoids
        self.report_ = compared.report(
            rows,
            solver="exact nearest neighbors, k and weights cross-validated from one search",
            calibration=SIGMOIDS
            if rows.have_labels
            else "shares of the votes, smoothed, with one temperature fitted out of fold",
            peak_bytes=peak_bytes,
            seconds={"total": given.seconds},
        )
        return compared.scores

    def _plan(self, given: FitInputs, *, n_settings: int, n_neighbors: int) -> int:
        """Return the projected peak in bytes, or refuse a fit that is above the memory limit."""
        rows, (n, d) = given.rows, given.rows.blocks.shape
        value_bytes = max(4, rows.blocks.dtype.itemsize)
        peak_bytes = neighbors_peak_bytes(
            n=n, d=d, n_classes=rows.n_classes, n_neighbors=n_neighbors, n_settings=n_settings,
            n_kept=min(n, CALIBRATION_ROWS), value_bytes=value_bytes,
            block_rows=compared_rows(n, d, rows.n_classes, cuda_bytes=given.limits.cuda_bytes),
        )  # fmt: skip
        given.check_memory(
            peak_bytes,
            host_bytes=value_bytes * n * d + 40 * n,  # the rows that the head keeps
            what=f"knn, which keeps all rows, on {n} rows of {d} features",
            instead="take fewer layers, a head that streams its rows ('ridge'), or raise --memory-limit",
        )
        plan_logger.debug(
            "knn: about %d MiB; %d MiB may be taken", peak_bytes // 2**20, given.limit_bytes // 2**20
        )
        return peak_bytes

    def scores(self, X: RowsLike) -> Matrix:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        check_is_fitted(self)
        blocks = predict_inputs(self, X)
        dtype = torch.float64 if self.rows_.dtype == np.float64 else torch.float32
        kept = torch.from_numpy(self.rows_).to(device_of(self.device))
        codes = torch.from_numpy(self.codes_).to(kept.device)
        result = np.empty((blocks.shape[0], len(self.classes_)))
        limits = MemoryLimits.on(kept.device, self.memory_limit_bytes or None)
        n, d = kept.shape
        block_rows = compared_rows(n, d, len(self.classes_), cuda_bytes=limits.cuda_bytes)
        with full_precision():
            for where, values in blocks.iterate(block_rows):
                check_finite(values, start=where.start)
                queries = ready(to_tensor(values, dtype=dtype, device=kept.device), self.metric_)
                nearness, at = nearness_of(queries, kept, self.metric_).topk(self.n_neighbors_, dim=1)
                scores = scores_of_votes(nearness, at, codes, len(self.classes_), self.weights_)
                result[where] = scores.cpu().numpy()
        return result


def ready(values: Tensor, metric: str) -> Tensor:
    """Return rows (b, d) as they are compared: of length 1 for the cosine."""
    return torch.nn.functional.normalize(values, dim=1) if metric == "cosine" else values


def nearness_of(queries: Tensor, kept: Tensor, metric: str) -> Tensor:
    """Return cosines (b, n), or minus half the squared distances without the query's own part."""
    if metric == "cosine":
        return queries @ kept.T
    # The expanded square needs one matrix product; the omitted -|q|^2 / 2 does not change a query's order.
    return torch.addmm(kept.square().sum(dim=1), queries, kept.T, beta=-0.5)


def _left_out(
    kept: Tensor, rows: TrainingRows, settings: Sequence[Params], metric: str, cuda_bytes: int | None
) -> Iterator[tuple[slice, Iterator[Matrix]]]:
    """Yield the votes of each block's neighbors in other folds, for every setting from one search."""
    codes, folds = (torch.from_numpy(each).to(kept.device) for each in (_codes(rows), rows.folds))
    most = max(setting["n_neighbors"] for setting in settings)
    step = compared_rows(len(kept), kept.shape[1], rows.n_classes, cuda_bytes=cuda_bytes)
    for start in range(0, rows.n, step):
        where = slice(start, min(start + step, rows.n))
        nearness = nearness_of(kept[where], kept, metric)
        # Rows of the same fold never vote: a row is scored as if its fold were no part of the training rows.
        # Neither do rows that take no part in cross-validation; their own scores count for nothing.
        nearness.masked_fill_((folds[where, None] == folds) | (folds == rows.n_folds), -torch.inf)
        nearest, at = nearness.topk(most, dim=1)
        votes = (
            scores_of_votes(nearest[:, :k], at[:, :k], codes, rows.n_classes, setting["weights"])
            .cpu()
            .numpy()
            for setting in settings
            for k in [setting["n_neighbors"]]
        )
        yield where, votes


def _codes(rows: TrainingRows) -> npt.NDArray[np.integer]:
    """Return the class of each row (n,), or its labels (n, n_labels): 1, 0, and -1 where unknown."""
    if rows.targets is None:
        return rows.codes
    marks: npt.NDArray[np.int8] = np.nan_to_num(rows.targets.values, nan=-1.0).astype(np.int8)
    return marks


def scores_of_votes(nearness: Tensor, at: Tensor, codes: Tensor, n_classes: int, weights: str) -> Tensor:
    """Return scores (b, n_classes) from the neighbors of rows.

    Parameters
    ----------
    nearness : Tensor, shape (b, k)
        Of each row's neighbors, nearest first.
    at : Tensor of int64, shape (b, k)
        Which rows the neighbors are.
    codes : Tensor, shape (n,) or (n, n_labels)
        See `NearestNeighborClassifier.codes_`.
    n_classes : int
    weights : {"uniform", "similarity"}
    """
    if codes.ndim == 1:
        return vote_scores(nearness, codes[at], n_classes, weights)
    shares, counts = _shares(nearness, weights)
    # One product serves all labels: the shares stand where the neighbors are among all rows.
    of_rows = shares.new_zeros((len(at), len(codes))).scatter_add_(1, at, shares)
    with_label = of_rows @ (codes == 1).double() * counts
    known = of_rows @ (codes >= 0).double() * counts
    # One further neighbor that votes half for and half against keeps every share off 0 and 1.
    return torch.logit((with_label + 0.5) / (known + 1))


def _shares(nearness: Tensor, weights: str) -> tuple[Tensor, Tensor]:
    """Return the share of each neighbor's vote (b, k), and how many neighbors vote (b, 1)."""
    # Where fewer than k rows lie in other folds, the last places are masked rows, which have no vote.
    is_there = torch.isfinite(nearness)
    counts = is_there.sum(dim=1, keepdim=True)
    if weights == "similarity":
        return torch.softmax(nearness.double() / VOTE_TEMPERATURE, dim=1), counts
    return is_there.double() / counts, counts


def vote_scores(nearness: Tensor, classes: Tensor, n_classes: int, weights: str) -> Tensor:
    """Return scores (b, n_classes) from nearness and class of each row's neighbors (b, k), nearest first."""
    shares, counts = _shares(nearness, weights)
    votes = shares.new_zeros((shares.shape[0], n_classes)).scatter_add_(1, classes, shares)
    # One further neighbor that votes evenly keeps every share above 0, whose logarithm would be infinite.
    smoothed = (votes * counts + 1 / n_classes) / (counts + 1)
    return smoothed.log()


def compared_rows(n: int, d: int, n_classes: int, *, cuda_bytes: int | None) -> int:
    """Return how many rows are compared with all n at a time; more within the limit of a CUDA device."""
    budget = _BLOCK_BYTES if cuda_bytes is None else block_bytes_for(cuda_bytes, on_cuda=True)
    return max(16, budget // (8 * (n + d + 4 * n_classes)))


def check_neighbor_counts(given: int | Sequence[int] | None, n: int) -> list[int]:
    """Return the numbers of neighbors to compare, ascending, or refuse what is none with InputError."""
    usable = [k for k in NEIGHBORS if 2 * k <= n] or [1]
    counts = values_of(given, usable, "n_neighbors")
    for count in counts:
        is_number = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not (is_number and 1 <= count <= n):
            raise InputError(f"n_neighbors is {count!r}; it must be a whole number from 1 to the {n} rows")
    return sorted({int(count) for count in counts})


def check_neighbor_weights(given: str | Sequence[str] | None, metric: str) -> list[str]:
    """Return the weightings to compare, or refuse one that the metric does not know with InputError."""
    # exp(similarity / 0.07) is defined for cosines, which lie between -1 and 1; distances have no such scale.
    usable = WEIGHTS if metric == "cosine" else ("uniform",)
    weightings = values_of(given, usable, "weights")
    for weighting in weightings:
        if weighting not in usable:
            raise InputError(
                f"weights is {weighting!r} with metric {metric!r}; "
                f"it must be {' or '.join(map(repr, usable))}"
            )
    return weightings
