"""Which of toptune's own classifiers stand behind heads, what they take and what is saved of them."""

from dataclasses import dataclass

from toptune.train.estimators.discriminant import ShrinkageDiscriminantClassifier
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.estimators.falkon_logistic import FalkonLogisticClassifier
from toptune.train.estimators.head2toe import Head2ToeClassifier
from toptune.train.estimators.logistic import StreamingLogisticClassifier
from toptune.train.estimators.nearest_mean import NearestMeanClassifier
from toptune.train.estimators.nearest_neighbors import NearestNeighborClassifier
from toptune.train.estimators.ridge import StreamingRidgeClassifier
from toptune.train.estimators.scored_classifier import ScoredClassifier

_KERNEL_ARRAYS = ("centers", "dual_coef", "intercept")
_LINEAR_ARRAYS = ("coef", "intercept")


@dataclass(frozen=True, kw_only=True)
class OwnKind:
    """What a head of toptune's own is made of.

    Attributes
    ----------
    parameters : tuple of str
        What ``params`` may name.
    arrays, values : tuple of str
        Fitted attributes that are saved, without their trailing underscores: arrays, and numbers or names.
    options : tuple of str
        Parameters without which the fitted attributes mean nothing, saved with them.
    takes_class_weight, takes_device : bool
    """

    estimator_type: type[ScoredClassifier]
    parameters: tuple[str, ...]
    arrays: tuple[str, ...]
    values: tuple[str, ...]
    options: tuple[str, ...] = ()
    takes_class_weight: bool = True
    takes_device: bool = True


OWN: dict[str, OwnKind] = {
    "falkon": OwnKind(
        estimator_type=FalkonClassifier,
        parameters=("kernel", "sigma", "penalty", "n_centers", "centers", "solver"),
        arrays=_KERNEL_ARRAYS,
        values=("penalty", "sigma"),
        options=("kernel",),
    ),
    "falkon-logistic": OwnKind(
        estimator_type=FalkonLogisticClassifier,
        parameters=("kernel", "sigma", "penalty", "n_centers", "centers"),
        arrays=_KERNEL_ARRAYS,
        values=("penalty", "sigma"),
        options=("kernel",),
    ),
    "ridge": OwnKind(
        estimator_type=StreamingRidgeClassifier,
        parameters=("penalty",),
        arrays=_LINEAR_ARRAYS,
        values=("penalty",),
    ),
    "logistic": OwnKind(
        estimator_type=StreamingLogisticClassifier,
        parameters=("penalty",),
        arrays=_LINEAR_ARRAYS,
        values=("penalty",),
    ),
    "lda": OwnKind(
        estimator_type=ShrinkageDiscriminantClassifier,
        parameters=("shrinkage",),
        arrays=_LINEAR_ARRAYS,
        values=("shrinkage",),
    ),
    "ncm": OwnKind(
        estimator_type=NearestMeanClassifier,
        parameters=("metric",),
        arrays=("means",),
        values=("metric",),
        takes_class_weight=False,
        takes_device=False,
    ),
    "knn": OwnKind(
        estimator_type=NearestNeighborClassifier,
        parameters=("n_neighbors", "metric", "weights"),
        arrays=("rows", "codes"),
        values=("n_neighbors", "metric", "weights"),
        takes_class_weight=False,
    ),
    "head2toe": OwnKind(
        estimator_type=Head2ToeClassifier,
        parameters=("solver", "selection", "fraction", "group_penalty", "final", "penalty", "unit_norm"),
        arrays=("columns", "kept_dims", *_LINEAR_ARRAYS, "centers"),
        values=("penalty", "sigma"),
    ),
}
