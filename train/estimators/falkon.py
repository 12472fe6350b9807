"""`FalkonClassifier`: Nystrom kernel ridge classification, cross-validated in one pass."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import row_slices
from toptune.train.estimators.arguments import ClassWeight, RandomState, RowsLike
from toptune.train.estimators.kernel_ridge import KernelRidge
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.numerics.calibration import softmax
from toptune.train.partial.partial_fit import PartialClassifier


class FalkonClassifier(KernelRidge, PartialClassifier, ScoredClassifier):
    """Kernel ridge classification on Nystrom centers, width and penalty cross-validated in one pass.

    One-hot targets y are regressed: the fit minimizes
    ``(1/n) sum_i w_i |y_i - f(x_i) - b|^2 + penalty |f|^2`` over f in the span of the centers' kernel
    functions, with an intercept b that is not penalized. Features and targets are centered by the means of
    the rows fitted, fold by fold, in closed form. `X` is used as given: standardize it in a pipeline, or
    train through `toptune.train.train`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian", "matern12", "matern32", "matern52", "linear"}
        With Euclidean distance d, gaussian is ``exp(-d^2 / (2 sigma^2))`` and laplacian ``exp(-d / sigma)``.
    sigma : float, sequence of float or None
        Width of the kernel, in units of the features. A number is fixed, a sequence is a grid, None stands
        for the multiples `WIDTHS` of the median distance between centers, or for the widest of them with
        at most `FEW_ROWS` rows a class on average.
    penalty : float, sequence of float or None
        The λ of the equation above. A number is fixed, a sequence is a grid, None stands for
        `RELATIVE_PENALTIES` times the total variance of each width's features.
    n_centers : int
        Nystrom centers M; ``min(n_centers, n)`` are used.
    centers : {"uniform", "class-balanced", "kmeans++"} or array-like, shape (M, d)
        How centers are drawn from the training rows, see `choose_centers`; or the centers themselves.
    solver : {"auto", "direct", "falkon", "falkon-lib"}
        ``"direct"`` adds up Gram matrices in one pass. ``"falkon"`` chooses width, penalty and temperature
        by these sums on at most `SELECTION_CENTERS` of the centers and then fits on all centers by
        preconditioned conjugate gradient. ``"auto"`` takes the cheaper of these two, see `choose_solver`.
        ``"falkon-lib"`` selects like ``"falkon"`` and leaves the last fit to FalkonML, if FalkonML is
        installed.
    cv : int, "leave-one-group-out" or None
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one. None fits once, with the
        one width and penalty given, and calibrates the probabilities on leave-one-out scores.
    selection : {"accuracy", "one-se", "squared-error"}
        Rule that chooses width and penalty by left-out figures; see `choose_candidate`.
    class_weight : None, "balanced" or dict
        Weights of the rows by their class; ``"balanced"`` weighs by the inverse of a class's frequency.
    random_state : int, RandomState or None
        Seed of the centers and folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak is above this, in main memory or on a CUDA device, is refused; None is half
        of the machine's memory, and 85 % of what is free on the device.
    dask : str or None
        Address of a dask.distributed scheduler whose workers add up the sums, or ``local:N``.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted.
    centers_ : ndarray, shape (rank, d)
    center_indices_ : ndarray of int64, shape (rank,), or None
        Training rows that are centers; None where the centers were given.
    dual_coef_ : ndarray of float64, shape (rank, n_classes)
    intercept_ : ndarray of float64, shape (n_classes,)
        Scores of a row x are ``k(x, centers_) @ dual_coef_ + intercept_``.
    sigma_, penalty_ : float
        Chosen values; the width of the linear kernel is None.
    temperature_ : float
        Probabilities are ``softmax(scores / temperature_)``.
    sums_ : SavedSums or None
        Sums that the fit was made from, with which a run is updated; None after an iterative fit.
    report_ : FitReport

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows that are not finite, fewer than two classes, or a
        projected peak above the memory limit.
    NumericalError
        By ``fit``: if no combination of the grid can be solved.

    References
    ----------
    Williams & Seeger 2001 (Nystrom method); Rudi, Carratino & Rosasco 2017, Alg. 1 (FALKON).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import FalkonClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = FalkonClassifier(n_centers=30, random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2)
    0.99
    >>> head.centers_.shape
    (30, 4)
    """

    def __init__(
        self,
        kernel: str = "gaussian",
        sigma: float | Sequence[float] | None = None,
        penalty: float | Sequence[float] | None = None,
        n_centers: int = 1000,
        centers: str | npt.ArrayLike = "uniform",
        solver: str = "auto",
        cv: int | str | None = 5,
        selection: str = "accuracy",
        class_weight: ClassWeight = None,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
        dask: str | None = None,
    ) -> None:
        self.kernel = kernel
        self.sigma = sigma
        self.penalty = penalty
        self.n_centers = n_centers
        self.centers = centers
        self.solver = solver
        self.cv = cv
        self.selection = selection
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes
        self.dask = dask

    def left_out_probabilities(
        self, X: RowsLike, y: npt.ArrayLike, *, groups: Sequence[str] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the probabilities of each row by a fit that has not seen the fold of the row.

        Kernel, centers, penalty and temperature are those of this fit, and so are the folds if the arguments
        are. All folds are solved from the sums of one pass, and a second pass scores the rows.

        Parameters
        ----------
        X, y, groups
            The arguments of `fit`.

        Returns
        -------
        ndarray of float32, shape (n, n_classes)
            Rows sum to 1, but those of several labels a row. NaN for the rows of classes that lie in one
            fold: no fit without them knows the class.

        Raises
        ------
        InputError
            If this classifier was fitted with ``cv=None`` and has no folds, or the probabilities of all rows
            are above the memory limit.
        NumericalError
            If the fit without a fold cannot be solved.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> head = FalkonClassifier(n_centers=30, random_state=0).fit(X, y)
        >>> left = head.left_out_probabilities(X, y)
        >>> left.shape, bool((left.argmax(axis=1) == y).mean() > 0.9)
        ((150, 3), True)
        """
        scores = self._left_out_scores(X, y, groups=groups)
        for some in row_slices(scores.shape, scores.dtype):
            if self.sigmoids_ is None:
                scores[some] = softmax(scores[some], self.temperature_)
            else:
                scores[some] = self.sigmoids_.probabilities(scores[some])
        return scores
