"""`HeadOptions`: the head to train, with its hyperparameters, checked without loading torch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from toptune.errors import InputError
from toptune.options import check_choice
from toptune.train.heads.kind import is_path
from toptune.train.heads.kinds import KINDS, default_preprocessing, is_cross_validated, kind_of
from toptune.train.kernels.names import check_kernel

AUTO_HEAD = "auto"
SOLVERS = ("auto", "direct", "falkon", "falkon-lib")
# Defaults of the options that only some heads take, in the order in which they are checked. Any other value
# counts as given, and is refused for a head that does not take the option.
_DEFAULTS = {"solver": "auto", "sigma": None, "penalty": None, "kernel": "gaussian", "n_centers": 1000}
_UNCHOSEN = {"head": "falkon", "params": None}


class HeadArguments(TypedDict, total=False):
    """The keywords of `HeadOptions`."""

    head: str
    params: Mapping[str, Any] | None
    penalty: float | Sequence[float] | None
    sigma: float | Sequence[float] | None
    kernel: str
    n_centers: int
    solver: str
    cv: int | str | None
    class_weight: str | None
    best: bool
    budget: float | None
    threshold: str | float
    ordinal: bool


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """The head to train, and its hyperparameters.

    Attributes
    ----------
    head : str
        One of `toptune.train.HEADS`; or ``sklearn:package.Class``, any scikit-learn classifier; or ``auto``,
        which tries heads within `budget` and keeps the best one by cross-validation.
    params : mapping, optional
        Parameters of the head itself, such as ``{"n_neighbors": 5}`` for ``knn``.
    penalty, sigma : float or sequence of float, optional
        Penalty of heads ``falkon``, ``falkon-logistic``, ``ridge``, ``logistic`` and ``head2toe``; width of
        the kernel of the first two. A sequence is a grid to select from. By default cross-validation selects
        among values that fit the data.
    kernel : str
        ``gaussian``, ``laplacian``, ``matern12``, ``matern32``, ``matern52`` or ``linear``, for heads
        ``falkon`` and ``falkon-logistic``.
    n_centers : int
        Nystroem centers of the two kernel heads.
    solver : {"auto", "direct", "falkon", "falkon-lib"}
        How head ``falkon`` is solved: from Gram matrices summed in one pass, by preconditioned conjugate
        gradient, or by the library FalkonML; ``auto`` takes the cheaper of the first two.
    cv : int, "leave-one-group-out" or None
        Folds of the selection, over which ids (or whole groups) are dealt out within each class; or one fold
        for each group of `group_by`; or none, for heads ``falkon`` and ``ridge`` with one width and one
        penalty.
    class_weight : None or "balanced"
        ``balanced`` weighs rows by the inverse frequency of their class.
    best : bool
        Compare everything that is stored: heads, sets of layers, models and their fusion. The head and its
        hyperparameters are then not for others to choose.
    threshold : "f1", "precision:P" or float
        Of several labels an image: from which probability a label is taken to apply. By the highest F1 of
        left-out rows, by a precision P that they reach, or one number for all labels.
    ordinal : bool
        Of numbers: they are steps of a scale (grades, stages), to which answers are rounded.
    budget : float, optional
        Seconds that head ``auto`` may take for all its fits, 120 by default; or `best`, 600 by default.

    Raises
    ------
    InputError
        For a head, kernel or solver that there is not, or an option that the head does not take.
    """

    head: str = "falkon"
    params: Mapping[str, Any] | None = None
    penalty: float | Sequence[float] | None = None
    sigma: float | Sequence[float] | None = None
    kernel: str = "gaussian"
    n_centers: int = 1000
    solver: str = "auto"
    cv: int | str | None = 5
    class_weight: str | None = None
    best: bool = False
    budget: float | None = None
    threshold: str | float = "f1"
    ordinal: bool = False

    def __post_init__(self) -> None:
        # A package that ``sklearn:package.Class`` names is looked for later, because importing it takes long.
        if not self.is_auto and not is_path(self.head):
            kind_of(self.head)
        check_choice(self.solver, SOLVERS, option="solver")
        self._refuse_without_meaning()
        check_kernel(self.kernel)
        if self.best:
            refuse_with_best([name for name in ("head", "params", *_DEFAULTS) if self._is_changed(name)])
        if self.is_auto or self.best:
            self._check_search()
        elif self.budget is not None:
            raise InputError(
                f"budget has no meaning for head {self.head!r}; leave it out, or use head {AUTO_HEAD!r}, or "
                "best"
            )

    @property
    def is_auto(self) -> bool:
        """Whether several heads are tried."""
        return self.head == AUTO_HEAD

    @property
    def folds_to_fill(self) -> int | str | None:
        """Folds for which every class needs rows; None for a head that is fitted without folds."""
        return self.cv if is_cross_validated(self.head) else None

    @property
    def preprocessing(self) -> str:
        """The preprocessing of the head where none is asked for."""
        return default_preprocessing(self.head)

    @property
    def head_params(self) -> dict[str, Any]:
        """All parameters of the head: `params`, and the options above that this head takes."""
        kind = KINDS.get(self.head)
        # Options at their defaults are left to the estimator, unless the head's file is to name them.
        taken = kind.options if kind else ()
        is_recorded = kind is not None and kind.records_options
        options = {name: getattr(self, name) for name in taken if is_recorded or self._is_given(name)}
        return options | dict(self.params or {})

    def _is_given(self, name: str) -> bool:
        # A grid may be an array, which compares with a number value by value; None comes first therefore.
        value, default = getattr(self, name), _DEFAULTS[name]
        return value is not None if default is None else bool(value != default)

    def _refuse_without_meaning(self) -> None:
        given = [name for name in _DEFAULTS if self._is_given(name)]
        refuse_without_meaning(self.head, given)
        for name in given:
            if name in (self.params or {}):
                raise InputError(
                    f"{name} is given twice, as {getattr(self, name)!r} and in params as "
                    f"{(self.params or {})[name]!r}; leave one of them out",
                    option=name,
                )

    def _is_changed(self, name: str) -> bool:
        return self._is_given(name) if name in _DEFAULTS else bool(getattr(self, name) != _UNCHOSEN[name])

    def _check_search(self) -> None:
        what = "best" if self.best else f"head {AUTO_HEAD!r}"
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"budget is {self.budget:g} seconds; give more than 0")
        if self.params:
            raise InputError(
                f"params {', '.join(self.params)} have no meaning for head 'auto', which takes every head by "
                "its defaults; name the head"
            )
        if self.cv is None:
            raise InputError(f"cv is None, but {what} compares by cross-validation; give a number of folds")


def refuse_without_meaning(head: str, given: Collection[str]) -> None:
    """Refuse options of the fit that a head does not take, also where their values are the default ones.

    Parameters
    ----------
    head : str
    given : collection of str
        Names of the fields of `HeadOptions` that were given.

    Raises
    ------
    InputError
        For the first of the options without a meaning for the head; the message names heads that take it.
    """
    taken = KINDS[head].options if head in KINDS else ()
    for name in _DEFAULTS:
        if name in given and name not in taken:
            raise InputError(
                f"{name} has no meaning for head {head!r}; leave it out, or use head "
                f"{' or '.join(repr(kind.name) for kind in KINDS.values() if name in kind.options)}",
                option=name,
            )


def refuse_with_best(given: Collection[str]) -> None:
    """Refuse options of the fit with `best`, which chooses them.

    Parameters
    ----------
    given : collection of str
        Names of the fields of `HeadOptions` that were given.

    Raises
    ------
    InputError
        For the first of the options that best chooses.
    """
    for name in ("head", "params", *_DEFAULTS):
        if name in given:
            raise InputError(
                f"{name} has no meaning with best, which chooses the head and its parameters; leave it out, "
                "or train without best",
                option=name,
            )
