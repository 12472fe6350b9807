"""`KINDS`: the heads that there are, one record each; docs/develop/add-a-head.md says how to add one.

This module imports neither numpy nor torch, so that a command can list the heads at once.
"""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from toptune.errors import InputError
from toptune.options import choices
from toptune.train.heads.kind import (
    DEFAULT_PREPROCESSING,
    PREFIX,
    HeadKind,
    NativeForm,
    SklearnForm,
    is_path,
)
from toptune.train.heads.problem_size import (
    SVM_CACHE_MIB,
    ProblemSize,
    factor_work,
    forest_bytes,
    gram_work,
    kernel_path_work,
    kernel_work,
    path_work,
    ridge_work,
    svm_bytes,
)
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Multiply-adds below which `auto` leaves a fit on the CPU; from launches of 10 us, to be confirmed on a GPU.
SMALL_WORK = 1e9
# Centers of the kernel heads where no number is given.
USUAL_CENTERS = 1000
# Head `auto` tries several heads, of which the kernel head has the most work for a GPU.
LARGEST_TRIAL = "falkon"

_ESTIMATORS = "toptune.train.estimators"
_REGRESSORS = "toptune.train.regressors"
_MODULES = "toptune.workflows.deploy.head_modules"
_KERNEL_ARRAYS = ("centers", "dual_coef", "intercept")
_LINEAR_ARRAYS = ("coef", "intercept")
_SCALING_ARRAYS = ("target_mean", "target_scale")


def _lda_work(size: ProblemSize) -> float:
    systems = factor_work(size.rank, 2 * 9 * size.n_folds)
    return 2 * gram_work(size) + systems + 10 * size.n * size.rank * size.n_classes


def _logistic_work(size: ProblemSize) -> float:
    return path_work(size, size.rank) + (gram_work(size) if size.n < size.d else 0)


def _ncm_work(size: ProblemSize) -> float:
    return 4 * size.n * size.d * size.n_classes + 20 * size.n * size.d


def _knn_work(size: ProblemSize) -> float:
    return size.n * size.n * (size.d + 100) + size.n * 3_000 * (1 + size.n_classes / 50)


def _svm_work(size: ProblemSize) -> float:
    return 12 * (size.n_folds + 1) * size.n * size.n * size.d * 5


def _forest_work(size: ProblemSize) -> float:
    return (size.n_folds + 1) * 100 * size.n * math.log2(size.n + 1) * math.sqrt(size.d) * 800


def _svm_grid(values: "npt.NDArray[np.generic]") -> dict[str, list[Any]]:
    # Widths follow the scale of the features; multiples of one unit serve any preprocessing.
    unit = 1 / max(float(values.shape[1] * values.var()), 1e-12)  # scikit-learn's gamma="scale"
    return {"C": [1.0, 10.0, 100.0], "gamma": [unit * multiple for multiple in (0.1, 0.3, 1.0, 3.0)]}


_NATIVE = (
    HeadKind(
        name="falkon",
        form=NativeForm(
            estimator=f"{_ESTIMATORS}.falkon:FalkonClassifier",
            arrays=_KERNEL_ARRAYS,
            values=("penalty", "sigma"),
            settings=("kernel",),
        ),
        regression=NativeForm(
            estimator=f"{_REGRESSORS}.falkon:FalkonRegressor",
            arrays=(*_KERNEL_ARRAYS, *_SCALING_ARRAYS),
            values=("penalty", "sigma"),
            settings=("kernel",),
        ),
        parameters=("kernel", "sigma", "penalty", "n_centers", "centers", "solver"),
        options=("kernel", "sigma", "penalty", "n_centers", "solver"),
        records_options=True,
        is_summed=True,
        tasks=(CLASSIFICATION, MULTILABEL),
        place=6,
        work=kernel_work,
        scores_module=f"{_MODULES}:KernelScores",
    ),
    HeadKind(
        name="falkon-logistic",
        form=NativeForm(
            estimator=f"{_ESTIMATORS}.falkon_logistic:FalkonLogisticClassifier",
            arrays=_KERNEL_ARRAYS,
            values=("penalty", "sigma"),
            settings=("kernel",),
        ),
        parameters=("kernel", "sigma", "penalty", "n_centers", "centers"),
        options=("kernel", "sigma", "penalty", "n_centers"),
        records_options=True,
        tasks=(CLASSIFICATION, MULTILABEL),
        place=9,
        work=kernel_path_work,
        scores_module=f"{_MODULES}:KernelScores",
    ),
    HeadKind(
        name="ridge",
        form=NativeForm(
            estimator=f"{_ESTIMATORS}.ridge:StreamingRidgeClassifier",
            arrays=_LINEAR_ARRAYS,
            values=("penalty",),
        ),
        regression=NativeForm(
            estimator=f"{_REGRESSORS}.ridge:RidgeRegressor",
            arrays=(*_LINEAR_ARRAYS, *_SCALING_ARRAYS),
            values=("penalty",),
        ),
        parameters=("penalty",),
        options=("penalty",),
        is_summed=True,
        tasks=(CLASSIFICATION, MULTILABEL),
        place=2,
        work=ridge_work,
        scores_module=f"{_MODULES}:LinearScores",
    ),
    HeadKind(
        name="logistic",
        form=NativeForm(
            estimator=f"{_ESTIMATORS}.logistic:StreamingLogisticClassifier",
            arrays=_LINEAR_ARRAYS,
            values=("penalty",),
        ),
        parameters=("penalty",),
        options=("penalty",),
        tasks=(CLASSIFICATION, MULTILABEL),
        place=5,
        work=_logistic_work,
        scores_module=f"{_MODULES}:LinearScores",
    ),
    HeadKind(
        name="lda",
        form=NativeForm(
            estimator=f"{_ESTIMATORS}.discriminant:ShrinkageDiscriminantClassifier",
            arrays=_LINEAR_ARRAYS,
            values=("shrinkage",),
        ),
        parameters=("shrinkage",),
        place=3,
        work=_lda_work,
        scores_module=f"{_MODULES}:LinearScores",
    ),
    HeadKind(
        name="ncm",
        form=NativeForm(
            estimator=f"{_ESTIMATORS}.nearest_mean:NearestMeanClassifier",
            arrays=("means",),
            values=("metric",),
            takes_device=False,
        ),
        parameters=("metric",),
        takes_class_weight=False,
        place=1,
        work=_ncm_work,
        scores_module=f"{_MODULES}:NearestMeanScores",
    ),
    HeadKind(
        name="knn",
        form=NativeForm(
            estimator=f"{_ESTIMATORS}.nearest_neighbors:NearestNeighborClassifier",
            arrays=("rows", "codes"),
            values=("n_neighbors", "metric", "weights"),
        ),
        regression=NativeForm(
            estimator=f"{_REGRESSORS}.nearest_neighbors:NearestNeighborRegressor",
            arrays=("rows", "targets", *_SCALING_ARRAYS),
            values=("n_neighbors", "metric", "weights"),
        ),
        parameters=("n_neighbors", "metric", "weights"),
        takes_class_weight=False,
        tasks=(CLASSIFICATION, MULTILABEL),
        place=4,
        work=_knn_work,
        scores_module=f"{_MODULES}:NeighborScores",
        number_module=f"{_MODULES}:NeighborMeans",
    ),
)

_SKLEARN = (
    HeadKind(
        name="svm",
        form=SklearnForm(
            estimator="sklearn.svm:SVC",
            description="RBF support vector machine, C and gamma cross-validated",
            # With break_ties a row gets the class of the highest score, as in every other head. Otherwise
            # votes between pairs of classes decide, and a tie goes to the first class.
            fixed={"kernel": "rbf", "break_ties": True, "cache_size": SVM_CACHE_MIB},
            grid=_svm_grid,
            peak_bytes=svm_bytes,
            is_scored_by_pairs=True,
        ),
        parameters=("C", "gamma"),
        place=7,
        work=_svm_work,
    ),
    HeadKind(
        name="forest",
        form=SklearnForm(
            estimator="sklearn.ensemble:RandomForestClassifier",
            description="random forest with scikit-learn's defaults",
            peak_bytes=forest_bytes,
            is_selected=False,
        ),
        regression=SklearnForm(
            estimator="sklearn.ensemble:RandomForestRegressor",
            description="random forest with scikit-learn's defaults",
            # Rows that a tree was not grown on are predicted by it: left-out predictions without folds.
            fixed={"oob_score": True},
            peak_bytes=forest_bytes,
            is_selected=False,
        ),
        parameters=("n_estimators", "max_depth", "max_features", "min_samples_leaf", "n_jobs"),
        tasks=(CLASSIFICATION, MULTILABEL),
        place=8,
        work=_forest_work,
    ),
)

# Head2Toe is for many layers and was published with a preprocessing of its own, so head auto does not try it.
_HEAD2TOE = HeadKind(
    name="head2toe",
    form=NativeForm(
        estimator=f"{_ESTIMATORS}.head2toe:Head2ToeClassifier",
        arrays=("columns", "kept_dims", *_LINEAR_ARRAYS, "centers"),
        values=("penalty", "sigma"),
    ),
    parameters=("solver", "selection", "fraction", "group_penalty", "final", "penalty", "unit_norm"),
    options=("penalty",),
    tasks=(CLASSIFICATION, MULTILABEL),
    preprocessing="l2",
    scores_module=f"{_MODULES}:Head2ToeScores",
)

KINDS: dict[str, HeadKind] = {kind.name: kind for kind in (*_NATIVE, *_SKLEARN, _HEAD2TOE)}


def kind_of(name: str) -> HeadKind:
    """Return the record of a head, or make the record of ``sklearn:package.Class``.

    Raises
    ------
    InputError
        For an unknown head (the message lists the known ones), or a dotted path that leads to no class.
    """
    if name in KINDS:
        return KINDS[name]
    if is_path(name):
        from toptune.train.heads.sklearn_paths import kind_of_path

        return kind_of_path(name)
    raise InputError(
        f"head {name!r} is unknown; {choices(name, KINDS)}, {PREFIX}package.Class, or, in train, auto",
        option="head",
    )


def check_head(
    name: str,
    params: Mapping[str, Any] | None,
    *,
    cv: int | str | None = 5,
    class_weight: str | None = None,
    dask: str | None = None,
    task: str = CLASSIFICATION,
) -> HeadKind:
    """Return the record of a head that can be made with these options; no estimator is imported for it.

    Raises
    ------
    InputError
        For an unknown name or parameter; the message lists the valid ones. For no folds, weights of classes,
        workers or a task, where the head does not know them.
    """
    kind = kind_of(name)
    if not kind.knows(task):
        refuse_task(task, name, ())
    unknown = sorted(set(params or {}) - set(kind.parameters))
    if unknown:
        raise InputError(
            f"head {name!r} has no parameter {unknown[0]!r}; {choices(unknown[0], kind.parameters)}",
            option="params",
        )
    if cv is None and not kind.is_summed:
        raise InputError(f"cv is None, which head {name!r} does not know; give a number of folds")
    if class_weight is not None and task not in (AUTO_TASK, CLASSIFICATION):
        raise InputError(
            f"class_weight is {class_weight!r}, which --task {task} does not know: a row has no one "
            "class; leave it out",
            option="class_weight",
        )
    if class_weight is not None and not kind.takes_class_weight:
        raise InputError(f"head {name!r} cannot weigh classes; leave class_weight out")
    if dask is not None and not kind.is_summed:
        raise InputError(f"dask is {dask!r}, which head {name!r} does not know; use {summed_heads()}")
    return kind


def heads_for(task: str) -> tuple[str, ...]:
    """Return the names of the heads that know a task."""
    return tuple(kind.name for kind in KINDS.values() if kind.knows(task))


def refuse_task(task: str, head: str, known: Collection[str]) -> None:
    """Refuse a task that a head does not know.

    Raises
    ------
    InputError
        The message names the heads that know the task.
    """
    if task == AUTO_TASK or task in known:
        return
    others = heads_for(task)
    raise InputError(
        f"head {head!r} does not know --task {task}"
        + (f"; the heads that do are {', '.join(others)}" if others else ", and no head does")
        + (
            ". Where images should have one label each, name a column of such labels with --label-column"
            if task == MULTILABEL
            else ""
        ),
        option="head",
    )


def why_on_cpu(name: str, params: Mapping[str, Any] | None) -> str | None:
    """Say why a head computes on the CPU wherever the head is fitted; None if a device can be chosen."""
    form = KINDS[name].form if name in KINDS else None
    if is_path(name) or isinstance(form, SklearnForm):
        return f"head {name!r} is scikit-learn's"
    if isinstance(form, NativeForm) and not form.takes_device:
        return f"head {name!r} computes there alone"
    if (params or {}).get("solver") == "falkon-lib":
        return "solver 'falkon-lib' computes there"
    return None


def why_small(name: str, params: Mapping[str, Any] | None, *, n_rows: int, n_columns: int) -> str | None:
    """Say why a fit is too small for a CUDA device; None if the device is worth asking.

    A selection launches about 10,000 operations of some 10 us each, whatever the size of the rows. In that
    time a core of a CPU does `SMALL_WORK` multiply-adds.

    Examples
    --------
    >>> why_small("ridge", None, n_rows=300, n_columns=64)
    '300 rows of 64 columns take 4e+06 multiply-adds, and a GPU is worth its launches from 1e+09'
    >>> why_small("ridge", None, n_rows=50_000, n_columns=768) is None
    True
    """
    has_centers = "n_centers" in KINDS[name].parameters if name in KINDS else False
    given = (params or {}).get("n_centers", USUAL_CENTERS)
    widest = max(n_columns, given) if has_centers and isinstance(given, int) else n_columns
    rank = min(n_rows, widest)
    # Kernel values and sums of five widths, and the systems of eight penalties and five folds.
    work = n_rows * rank * (n_columns + (5 * rank if has_centers else rank)) + 40 * rank**3 / 6
    if work > SMALL_WORK:
        return None
    return (
        f"{n_rows} rows of {n_columns} columns take {work:.0e} multiply-adds, and a GPU is worth its "
        f"launches from {SMALL_WORK:.0e}"
    )


def default_preprocessing(name: str) -> str:
    """Return the preprocessing of a head where none is asked for; head ``auto`` has the usual one."""
    return KINDS[name].preprocessing if name in KINDS else DEFAULT_PREPROCESSING


def is_cross_validated(name: str) -> bool:
    """Tell whether a head leaves out folds; one that does not needs no second row of a class."""
    form = KINDS[name].form if name in KINDS else None
    return form.is_selected if isinstance(form, SklearnForm) else True


def summed_heads() -> str:
    """Name the heads that are made from sums, for messages: ``falkon or ridge``."""
    return " or ".join(kind.name for kind in KINDS.values() if kind.is_summed)


def tried_heads() -> tuple[str, ...]:
    """Return the heads that ``--head auto`` tries, in its order."""
    places = {kind.name: kind.place for kind in KINDS.values() if kind.place is not None}
    return tuple(sorted(places, key=places.__getitem__))
