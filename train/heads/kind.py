"""`HeadKind`: one record with all that the package knows of a head by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from toptune.train.heads.problem_size import FitSizes, ProblemSize
from toptune.train.tasks.names import CLASSIFICATION, REGRESSION

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEFAULT_PREPROCESSING = "standardise"
# This prefix stands before the dotted path of any scikit-learn classifier: ``sklearn:package.Class``.
PREFIX = "sklearn:"


@dataclass(frozen=True, kw_only=True)
class NativeForm:
    """How one of toptune's own estimators is made and saved.

    Attributes
    ----------
    estimator : str
        ``package.module:Class`` of a `ScoredClassifier`, imported when a head is made.
    arrays, values : tuple of str
        Fitted attributes that are saved, without their trailing underscores: arrays to ``head.safetensors``,
        numbers and names to ``head.json``.
    settings : tuple of str
        Parameters that scoring needs beside the fitted attributes, and that are saved with these.
    takes_device : bool
        Whether the estimator computes on a torch device of choice.
    """

    estimator: str
    arrays: tuple[str, ...]
    values: tuple[str, ...]
    settings: tuple[str, ...] = ()
    takes_device: bool = True


@dataclass(frozen=True, kw_only=True)
class SklearnForm:
    """How one of scikit-learn's estimators is made and compared; skops saves it whole.

    Attributes
    ----------
    estimator : str
        ``package.module:Class`` of a classifier, imported when a head is made.
    description : str
        Description of the fit in words, for the report.
    fixed : mapping
        Arguments of the constructor that users may not choose.
    grid : callable (values) -> mapping of str to list
        Values of each parameter to compare on rows (n, d) where the user gives none.
    peak_bytes : callable (FitSizes) -> int
        Projected peak memory of a fit by the estimator, the rows included.
    is_scored_by_pairs : bool
        Whether the estimator scores a row by a vote of all pairs of classes, which takes their number of
        values.
    is_seeded : bool
        Whether the constructor takes a ``random_state``.
    is_selected : bool
        Whether the head is cross-validated. If not, the estimator is fitted once and nothing is calibrated.
    """

    estimator: str
    description: str
    peak_bytes: Callable[[FitSizes], int]
    is_scored_by_pairs: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: "Callable[[npt.NDArray[np.floating]], Mapping[str, list[Any]]]" = lambda _values: {}
    is_seeded: bool = True
    is_selected: bool = True


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """A head that ``--head NAME`` can ask for.

    Attributes
    ----------
    name : str
        Name that ``--head`` takes, and by which runs, tables and reports call the head.
    form : NativeForm or SklearnForm
        The estimator behind the head.
    parameters : tuple of str
        Names that ``params`` may have.
    options : tuple of str
        Options of `train` that are parameters of this head too, among ``kernel``, ``sigma``, ``penalty``,
        ``n_centers`` and ``solver``.
    records_options : bool
        Whether ``head.json`` names the `options` even where they have their defaults.
    preprocessing : str
        Preprocessing of the features where none is asked for.
    takes_class_weight : bool
        Whether classes can be weighted.
    is_summed : bool
        Whether the fit is made from sums over rows. Only such a head can do without folds (``cv=None``), be
        added up by several processes (``dask``), and be updated.
    tasks : tuple of str
        The tasks that the head knows, but for regression.
    regression : NativeForm or SklearnForm or None
        The estimator behind the head of a regression; None of a head that knows no numbers.
    place : int or None
        Place in the order in which ``--head auto`` tries heads, cheap ones first; None is never tried.
    work : callable (ProblemSize) -> float, optional
        Multiply-adds of a fit with the default grids, cross-validation included, for estimates of its
        seconds. Required of a head that has a `place`.
    scores_module : str or None
        ``package.module:Class`` of a torch module, made as ``Class(estimator, dtype)``, that computes scores
        (b, n_classes) from rows (b, d) in an exported file; None if the head cannot be exported.
    number_module : str or None
        The same for a regression, if `scores_module` does not serve both.
    """

    name: str
    form: NativeForm | SklearnForm
    parameters: tuple[str, ...]
    options: tuple[str, ...] = ()
    records_options: bool = False
    preprocessing: str = DEFAULT_PREPROCESSING
    takes_class_weight: bool = True
    is_summed: bool = False
    tasks: tuple[str, ...] = (CLASSIFICATION,)
    regression: NativeForm | SklearnForm | None = None
    place: int | None = None
    work: Callable[[ProblemSize], float] | None = None
    scores_module: str | None = None
    number_module: str | None = None

    def __post_init__(self) -> None:
        if self.place is not None and self.work is None:
            raise ValueError(f"head {self.name!r} has a place among those of head auto, but no work: add it")

    def knows(self, task: str) -> bool:
        """Tell whether the head knows a task."""
        return self.regression is not None if task == REGRESSION else task in self.tasks

    def for_task(self, task: str) -> "HeadKind":
        """Return the record with the estimator of a task in the place of the classifier."""
        if task != REGRESSION or self.regression is None:
            return self
        return replace(
            self, form=self.regression, takes_class_weight=False,
            scores_module=self.number_module or self.scores_module,
        )  # fmt: skip

    @property
    def estimator_type(self) -> type:
        """The class of the estimator, imported on the first call."""
        found: type = resolved(self.form.estimator)
        return found


def is_path(name: str) -> bool:
    """Tell ``sklearn:package.Class`` from the names of heads."""
    return name.startswith(PREFIX)


def resolved(path: str) -> Any:
    """Import the object that ``package.module:name`` names."""
    # Imported on use: a command that lists heads must not load torch and scikit-learn.
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
