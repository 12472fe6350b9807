"""`ScoredEstimator` and `ScoredClassifier`: what estimators have in common, from checks to probabilities."""

import operator
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.devices import device_of
from toptune.machine.memory import MemoryLimits
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.arguments import Labels, RowsLike, Values
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.kernels.kernels import ReferenceRows, kernel_of
from toptune.train.numerics.calibration import softmax
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.partial.running_sums import RunningSums
from toptune.train.passes.dask_passes import open_cluster
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.rows.block_reading import block_rows_for, read_ahead, to_tensor
from toptune.train.rows.inputs import predict_inputs
from toptune.train.solvers.one_pass import Solution, solve
from toptune.train.solvers.single_fit import solve_once

FIT_KNOBS = (
    "free memory there, lower --memory-limit (memory_limit_bytes) so that less is planned, take fewer "
    "--centers (n_centers)"
)


class ScoredEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """An estimator whose fit leaves a way to score rows.

    A subclass says what it checks (`_check`), how it fits (`_fit`) and how it scores rows (`scores`). It has
    at least the parameters ``cv``, ``random_state`` and ``memory_limit_bytes``; ``device``, ``class_weight``
    and ``dask`` are used where it has them.

    Attributes
    ----------
    left_out_scores_ : LeftOutScores or None
        Scores of training rows by the fits that left them out, with the parameters that were chosen; at most
        `CALIBRATION_ROWS` of them. None where no fold was left out.
    """

    needs_folds: ClassVar[bool] = True
    # Whether rows are given numbers, in place of classes or labels.
    gives_numbers: ClassVar[bool] = False
    # Whether targets may be a matrix: several labels, or numbers.
    takes_values: ClassVar[bool] = False
    classes_: Labels
    left_out_scores_: LeftOutScores | None
    report_: Any

    def fit(self, X: RowsLike, y: npt.ArrayLike, *, groups: Sequence[str] | None = None) -> Self:
        """Fit to rows of features.

        Parameters
        ----------
        X : array-like or Blocks, shape (n, d)
            Features. Blocks are streamed and never held whole.
        y : array-like, shape (n,) or (n, n_labels)
            Labels; or an indicator matrix of 0 and 1 where a row may have several labels, with NaN where
            nobody knows whether a label applies. Numbers for a regressor.
        groups : sequence of str, optional
            Ids or groups of the rows. Rows of equal groups share a fold, and folds follow from groups and
            labels, whatever the order of the rows.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For parameters out of range, rows that are not finite (named), fewer than two classes, or a
            projected peak above the memory limit.
        NumericalError
            If no combination of the grid can be solved.
        DeviceMemoryError
            If the device's memory is full, for instance because other programs took it meanwhile.
        """
        start = time.perf_counter()
        self._check()
        _HELD.pop(self, None)
        # Sums of blocks that came before have no part in this fit.
        self.__dict__.pop("_running", None)
        explained = explained_out_of_memory(
            f"fitting {type(self).__name__}", device=getattr(self, "device", None), knobs=FIT_KNOBS
        )
        with open_cluster(getattr(self, "dask", None)) as cluster, full_precision(), explained:
            given = FitInputs.of(self, X, y, groups=groups, cluster=cluster, start=start)
            given.folds.warn()
            left_out = self._fit(given)
        # A head of several fits may have told the same of each.
        told = dict.fromkeys([*given.folds.notes, *self.report_.warnings])
        peak_bytes = given.whole_peak_bytes(self.report_.peak_bytes)
        self.report_ = replace(self.report_, warnings=list(told), peak_bytes=peak_bytes)
        self._take_classes(given)
        self._take_left_out(given, left_out, given.rows.calibration_rows())
        return self

    def _take_left_out(
        self, given: FitInputs, left_out: npt.NDArray[np.floating] | None, rows: npt.NDArray[np.int64]
    ) -> None:
        """Set ``left_out_scores_`` of these rows, in the unit of the targets."""
        self.left_out_scores_ = None
        if left_out is not None:
            left_out = left_out if given.scaling is None else given.scaling.restored(left_out)
            self.left_out_scores_ = LeftOutScores(rows=rows, scores=np.asarray(left_out, np.float32))

    def _solve_partial(
        self, running: RunningSums, penalties: Sequence[float] | None, rule: str
    ) -> tuple[Solution, FitInputs]:
        """Fit from sums of blocks that came one after the other, and set what no basis decides."""
        problem = running.problem()
        given = FitInputs.of_running(self, running, problem)
        common: dict[str, Any] = {"block_rows": running.block_rows, "device": running.device}
        cv = self.get_params()["cv"]
        if cv is None:
            penalty = (penalties or [0.0])[0]
            solution = solve_once(
                problem.rows,
                running.maps,
                running.sigmas[0],
                penalty=penalty,
                taken=problem.sums[0],
                **common,
            )
        else:
            solution = solve(
                problem.rows, running.maps, running.sigmas, penalties=penalties, selection=rule,
                taken=problem.sums, **common,
            )  # fmt: skip
        _HELD.pop(self, None)
        self._take_classes(given)
        self._take_calibration(solution, given)
        self._take_left_out(given, solution.left_out, problem.numbers[problem.rows.calibration_rows()])
        return solution, given

    def _take_classes(self, given: FitInputs) -> None:
        """Set ``classes_``, or what a regressor has in its place."""
        self.classes_ = given.classes

    def _take_calibration(self, found: Solution, given: FitInputs) -> None:
        """Set what turns the scores of `scores` into probabilities or predictions."""
        del given
        self.temperature_, self.sigmoids_ = found.temperature, found.sigmoids

    @abstractmethod
    def _check(self) -> None:
        """Refuse parameters out of range with InputError, before any row is read."""

    @abstractmethod
    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        """Fit, and set every fitted attribute but ``classes_`` and ``left_out_scores_``.

        Returns
        -------
        ndarray, shape (n_kept, n_classes), or None
            Left-out scores of `TrainingRows.calibration_rows`, by the parameters that were chosen.
        """

    @abstractmethod
    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""


class ScoredClassifier(ClassifierMixin, ScoredEstimator):  # type: ignore[misc]
    """A classifier whose fit leaves ``classes_``, ``temperature_`` and a way to score every class.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted; numbers of the labels where a row may have several.
    temperature_ : float
        Probabilities are the softmax of scores divided by the temperature; 1 where a row may have several
        labels.
    sigmoids_ : Sigmoids or None
        What turns the scores of several labels a row into probabilities; None where a row has one class.
    """

    temperature_: float
    sigmoids_: Sigmoids | None = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.takes_values
        return tags

    def decision_function(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return scores (n, n_classes), or for two classes the lead (n,) of the second over the first.

        Of several labels a row, the logarithms of their odds (n, n_labels).
        """
        scores = self.scores(X)
        if self.sigmoids_ is not None:
            return self.sigmoids_.log_odds(scores)
        # scikit-learn's convention for two classes: above 0 is the second class.
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: RowsLike) -> Labels:
        """Return the labels (n,) of the highest scores of rows (n, d).

        Of several labels a row, an indicator matrix (n, n_labels) of those that are likelier than not.
        """
        scores = self.scores(X)
        if self.sigmoids_ is not None:
            return (self.sigmoids_.log_odds(scores) > 0).astype(np.int64)
        labels: Labels = self.classes_[scores.argmax(axis=1)]
        return labels

    def predict_proba(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return probabilities (n, n_classes) of rows (n, d): softmax of scores over the temperature.

        Of several labels a row, the probability of each (n, n_labels).
        """
        scores = self.scores(X)
        if self.sigmoids_ is not None:
            return self.sigmoids_.probabilities(scores)
        return softmax(scores, self.temperature_)


class KernelHead(Protocol):
    """A fitted kernel classifier, by the attributes from which scores are made."""

    kernel: str
    device: str | None
    memory_limit_bytes: int | None
    centers_: Values
    sigma_: float | None
    dual_coef_: npt.NDArray[np.float64]
    intercept_: npt.NDArray[np.float64]


def kernel_scores(estimator: KernelHead, X: RowsLike) -> npt.NDArray[np.float64]:
    """Return scores (n, n_classes) of rows (n, d), ``k(X, centers_) dual_coef_ + intercept_``, by blocks.

    Parameters
    ----------
    estimator : FalkonClassifier or FalkonLogisticClassifier
        Fitted classifier.
    X : array-like or Blocks, shape (n, d)
    """
    check_is_fitted(estimator)
    blocks = predict_inputs(estimator, X)
    scores = np.empty((blocks.shape[0], len(estimator.intercept_)))
    for where, basis, fit in _bases(estimator, blocks):
        scores[where] = torch.addmm(fit.intercept, basis, fit.dual).cpu().numpy()
    return scores


def center_shares(
    estimator: KernelHead, X: RowsLike, codes: npt.ArrayLike
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield what each center adds to the score of one class: ``k(x, center) dual_coef_``, by blocks of rows.

    The shares of a row and the intercept of the class add up to the score of the row.

    Parameters
    ----------
    estimator : FalkonClassifier or FalkonLogisticClassifier
        Fitted classifier.
    X : array-like or Blocks, shape (n, d)
    codes : array-like of int, shape (n,)
        Position in ``classes_`` of the class whose score is taken apart, for each row.

    Yields
    ------
    slice
        Rows of the block.
    ndarray of float64, shape (b, M)
        Signed shares of the centers, in the order of ``centers_``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import FalkonClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = FalkonClassifier(n_centers=30, random_state=0).fit(X, y)
    >>> ((rows, shares),) = center_shares(head, X[:2], [0, 0])
    >>> bool(np.allclose(shares.sum(axis=1) + head.intercept_[0], head.scores(X[:2])[:, 0]))
    True
    """
    check_is_fitted(estimator)
    chosen = torch.as_tensor(np.asarray(codes, dtype=np.int64))
    for where, basis, fit in _bases(estimator, predict_inputs(estimator, X)):
        duals = fit.dual.T[chosen[where].to(fit.dual.device)]
        yield where, (basis * duals).cpu().numpy()


def _bases(estimator: KernelHead, blocks: Blocks) -> Iterator[tuple[slice, Tensor, "_FitOnDevice"]]:
    """Yield the kernel values (b, M) of blocks of rows, in float64, with what was fitted."""
    device = device_of(estimator.device)
    fit = _FitOnDevice.of(estimator, device)
    dtype = fit.centers.rows.dtype
    kernel = kernel_of(estimator.kernel, estimator.sigma_)
    on_cuda = device.type == "cuda"
    given_bytes = estimator.memory_limit_bytes
    block_rows = block_rows_for(
        d=blocks.shape[1],
        rank=len(fit.centers),
        limit_bytes=MemoryLimits.on(device, given_bytes).bytes if on_cuda else given_bytes,
        on_cuda=on_cuda,
    )
    for where, values in read_ahead(blocks, block_rows=block_rows, dtype=dtype, device=device):
        # Precision is a setting of the whole process, which must not stay changed while the caller works.
        with full_precision():
            basis = kernel(values, fit.centers).double()
        yield where, basis, fit


@dataclass(frozen=True, kw_only=True)
class _FitOnDevice:
    """What a kernel classifier has fitted, on the device that scores rows.

    Attributes
    ----------
    fitted : tuple of ndarray
        The attributes of the estimator that the tensors were made of.
    centers : ReferenceRows of shape (M, d)
    dual : Tensor of float64, shape (M, n_classes)
    intercept : Tensor of float64, shape (n_classes,)
    """

    fitted: tuple[npt.NDArray[np.generic], ...]
    centers: ReferenceRows
    dual: Tensor
    intercept: Tensor

    @classmethod
    def of(cls, estimator: KernelHead, device: torch.device) -> "_FitOnDevice":
        """Return what was fitted; on a GPU the tensors stay until the estimator is gone or fitted again.

        Images are predicted in many small batches, and the centers may take longer to copy than a batch to
        score.
        """
        fitted = estimator.centers_, estimator.dual_coef_, estimator.intercept_
        held = _HELD.get(estimator)
        # The name "cuda" stands for the current device, which a new tensor tells.
        if (
            held is not None
            and all(map(operator.is_, held.fitted, fitted))
            and held.intercept.device == torch.empty(0, device=device).device
        ):
            return held
        # Kernel values have the type that the fit had, or coefficients would meet slightly different values.
        dtype = torch.float64 if estimator.centers_.dtype == np.float64 else torch.float32
        made = cls(
            fitted=fitted,
            centers=ReferenceRows.of(to_tensor(estimator.centers_, dtype=dtype, device=device)),
            dual=to_tensor(estimator.dual_coef_, dtype=torch.float64, device=device),
            intercept=torch.from_numpy(estimator.intercept_).to(device),
        )
        if device.type == "cuda":
            _HELD[estimator] = made
        return made


# Beside the estimators, not in them: a copy or a file of an estimator holds no tensors of a device.
_HELD: WeakKeyDictionary[Any, _FitOnDevice] = WeakKeyDictionary()
