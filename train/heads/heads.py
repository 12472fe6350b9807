"""`Head`: a classifier that turns features into labels and probabilities, whichever library does the work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from toptune.machine.devices import AUTO
from toptune.machine.limits import RunLimits
from toptune.train.estimators.arguments import Features, Labels, Params
from toptune.train.estimators.fit_report import LeftOutFigures
from toptune.train.heads.files import read_description
from toptune.train.heads.kind import NativeForm
from toptune.train.heads.kinds import KINDS, check_head, kind_of
from toptune.train.heads.label_forests import LabelForestHead
from toptune.train.heads.native_heads import OwnHead
from toptune.train.heads.options import HeadOptions
from toptune.train.heads.sklearn_heads import SklearnHead
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.solvers.falkon_lib import check_library
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL
from toptune.train.tasks.task import TargetMatrix

HEADS = tuple(KINDS)


class Head(Protocol):
    """A classifier on features that can be saved, and needs no training data once loaded."""

    name: str
    params: dict[str, Any]
    task: str
    thresholds: npt.NDArray[np.float64] | None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of scores and probabilities."""
        ...

    @property
    def answer_form(self) -> AnswerForm:
        """How probabilities become answers."""
        ...

    @property
    def report(self) -> dict[str, Any]:
        """Account of the fit as JSON values, with its ``warnings``."""
        ...

    @property
    def left_out(self) -> LeftOutFigures | None:
        """Figures of the fit on left-out rows; None for a fit that left out no rows."""
        ...

    @property
    def temperature(self) -> float | None:
        """Probabilities are the softmax of scores divided by it; None where they are the estimator's own."""
        ...

    @property
    def left_out_scores(self) -> LeftOutScores | None:
        """Scores of training rows by fits that left them out; None without folds, and after `load_head`."""
        ...

    @property
    def table(self) -> list[dict[str, Any]]:
        """Everything that was compared: a mapping for each row of ``selection.csv``."""
        ...

    @property
    def columns(self) -> npt.NDArray[np.int64] | None:
        """Positions, ascending, of the only inputs that the fitted head uses; None if it may use all."""
        ...

    def on_columns(self) -> "Head":
        """Return the fitted head for rows of only its `columns`; the head itself if `columns` is None."""
        ...

    def fit(
        self, X: Features, y: npt.ArrayLike | TargetMatrix, *, groups: Sequence[str] | None = None
    ) -> Self:
        """Fit to features (n, d) and labels (n,), or to targets; rows of equal `groups` share a fold."""
        ...

    def probabilities_of(self, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the probabilities (n, n_classes) of scores (n, n_classes), left-out ones for instance."""
        ...

    def rounded(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return numbers (n, n_targets) as answers: of a scale, the nearest step that training rows had."""
        ...

    def decision_function(self, X: Features) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d); a higher score is likelier."""
        ...

    def predict_proba(self, X: Features) -> npt.NDArray[np.float64]:
        """Return probabilities (n, n_classes) of rows (n, d); each row sums to 1."""
        ...

    def predict(self, X: Features) -> Labels:
        """Return the labels (n,) of rows (n, d)."""
        ...

    def save(self, folder: Path, *, keep_sums: bool = True) -> None:
        """Write ``head.json`` and ``head.safetensors`` (scikit-learn's: ``head.skops``).

        Heads that can be updated write ``sums.safetensors`` too, if `keep_sums`.
        """
        ...


def make_head(
    name: str,
    *,
    params: Params | None = None,
    seed: int = 0,
    cv: int | str | None = 5,
    class_weight: str | None = None,
    device: str | None = None,
    memory_limit_bytes: int | None = None,
    dask: str | None = None,
    is_compared: bool = False,
    task: str = CLASSIFICATION,
    threshold: str | float = "f1",
    ordinal: bool = False,
) -> Head:
    """Make an unfitted head of a name in `HEADS`, or ``sklearn:package.Class``.

    Parameters
    ----------
    name : str
    params : mapping, optional
        The head's own parameters; see `parameters_of`.
    seed : int
        Seed of the folds, of drawn centers and of scikit-learn's estimators.
    cv : int, "leave-one-group-out" or None
        Folds of the selection.
    class_weight : str, optional
        ``balanced`` weighs rows by the inverse frequency of their class.
    device : str, optional
        torch device of toptune's own heads, or ``auto``; the CPU by default, as for every estimator.
    memory_limit_bytes : int, optional
        A fit whose projected peak is above this is refused; by default half of the machine's memory.
    dask : str, optional
        Scheduler's address, or ``local:N``, for heads falkon and ridge.
    is_compared : bool
        Cross-validate every head: forest, which has nothing to choose, is fitted once by itself.
    task : str
        What the head learns; ``auto`` is classification.
    threshold : str or float
        See `HeadOptions`.
    ordinal : bool
        See `HeadOptions`.

    Raises
    ------
    InputError
        For an unknown name or parameter; the message lists the valid ones. For solver ``falkon-lib`` where
        FalkonML cannot be imported.
    """
    task = CLASSIFICATION if task == AUTO_TASK else task
    kind = check_head(name, params, cv=cv, class_weight=class_weight, dask=dask, task=task)
    # A missing library is refused before any feature is read.
    if (params or {}).get("solver") == "falkon-lib":
        device = None if device == AUTO else device
        check_library(device)
    if isinstance(kind.form, NativeForm):
        return OwnHead(name, params or {}, seed=seed, cv=cv, class_weight=class_weight, device=device,
                       memory_limit_bytes=memory_limit_bytes, dask=dask, task=task,
                       threshold=threshold, ordinal=ordinal)  # fmt: skip
    if task == MULTILABEL:
        return LabelForestHead(name, params or {}, seed=seed, cv=cv, memory_limit_bytes=memory_limit_bytes,
                               threshold=threshold)  # fmt: skip
    return SklearnHead(name, params or {}, seed=seed, cv=cv, class_weight=class_weight,
                       memory_limit_bytes=memory_limit_bytes, is_compared=is_compared, task=task,
                       ordinal=ordinal)  # fmt: skip


def parameters_of(name: str) -> tuple[str, ...]:
    """List the parameters that a head takes.

    Raises
    ------
    InputError
        For an unknown head; the message lists the known ones. For a dotted path that leads to no class.
    """
    return kind_of(name).parameters


def new_head(
    options: HeadOptions,
    *,
    seed: int,
    limits: RunLimits,
    is_compared: bool = False,
    task: str = CLASSIFICATION,
) -> Head:
    """Make the unfitted head that the options name, cross-validated in any case if it `is_compared`.

    Raises
    ------
    InputError
        For an unknown head or parameter; see `toptune.train.make_head`.
    """
    return make_head(
        options.head,
        params=options.head_params,
        seed=seed,
        cv=options.cv,
        class_weight=options.class_weight,
        device=limits.device,
        memory_limit_bytes=limits.left_for_head(),
        dask=limits.dask,
        is_compared=is_compared,
        task=task,
        threshold=options.threshold,
        ordinal=options.ordinal,
    )


def new_trial(
    name: str, options: HeadOptions, *, seed: int, limits: RunLimits, task: str = CLASSIFICATION
) -> Head:
    """Make an unfitted head that head ``auto`` tries: by its defaults, and cross-validated in any case."""
    return make_head(
        name,
        seed=seed,
        cv=options.cv,
        class_weight=options.class_weight,
        device=limits.device,
        memory_limit_bytes=limits.left_for_head(),
        is_compared=True,
        task=task,
        threshold=options.threshold,
        ordinal=options.ordinal,
    )


def load_head(folder: Path, *, device: str | None = None) -> Head:
    """Read a saved head.

    Parameters
    ----------
    folder : Path
        Folder that `Head.save` wrote.
    device : str, optional
        torch device on which toptune's own heads then compute; the CPU by default, and for heads of
        scikit-learn.

    Raises
    ------
    CorruptError
        If a file is missing, damaged, or holds types that no head of toptune is made of.
    InputError
        If the head is of a class outside scikit-learn that nobody has said may be loaded.
    """
    description = read_description(folder)
    kind = KINDS.get(description.head)
    if kind is not None and isinstance(kind.form, NativeForm):
        return OwnHead.load(folder, description, device=device)
    if description.task == MULTILABEL:
        return LabelForestHead.load(folder, description)
    return SklearnHead.load(folder, description)
