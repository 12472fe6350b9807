"""Cheap heads on stored layers of a frozen backbone are cross-validated on training rows, within a budget."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.stored_layers import LAST, tap_of
from toptune.store.features.feature_view import StoredFeatures
from toptune.train.heads.budget import attempt_within, estimated_seconds
from toptune.train.heads.heads import make_head
from toptune.train.heads.kinds import heads_for
from toptune.train.heads.problem_size import ProblemSize
from toptune.train.layers.options import SearchOptions
from toptune.train.layers.search import search_layers
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.chosen_rows import ChosenRows
from toptune.train.tasks.task import TargetMatrix
from toptune.workflows.advice.evidence import DEFAULT_MARGIN, Evidence

# The cheapest head comes first, because the first one is tried whatever the budget is.
LAST_HEADS = ("ridge", "logistic", "falkon")
INNER_HEADS = ("falkon", "logistic")
SEARCH_HEAD = "falkon"
PREPROCESSING = "standardise"


@dataclass(frozen=True, kw_only=True)
class FrozenTrial:
    """A head on some layers: figures of left-out training rows, or the reason why it was not tried.

    Attributes
    ----------
    head : str
        Name of the head.
    layers : {"last", "all", "searched"}
        Which layers the head saw.
    arrays : tuple of str
        Names of the layers' arrays, by depth; empty for a search that was not done.
    accuracy, log_loss : float or None
        Accuracy and log-loss of left-out rows; of several labels the accuracy is the share of labels that are
        decided rightly. None of numbers.
    r2 : float or None
        Of numbers, R2 of left-out rows, the mean over targets.
    seconds : float or None
        Seconds of cross-validation and fit, reading included.
    skipped : str or None
        Reason why the head was not tried.
    """

    head: str
    layers: str
    arrays: tuple[str, ...]
    accuracy: float | None = None
    log_loss: float | None = None
    r2: float | None = None
    seconds: float | None = None
    skipped: str | None = None

    @property
    def figure(self) -> float | None:
        """The leading figure, the larger the better: accuracy or R2; None where nothing was fitted."""
        return self.r2 if self.accuracy is None else self.accuracy

    @property
    def is_last(self) -> bool:
        """Whether the head saw the last layer alone."""
        return self.layers == LAST

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self) | {"arrays": list(self.arrays)}


def try_frozen(
    cache: StoredFeatures,
    arrays: Sequence[ArraySpec],
    rows: ChosenRows,
    *,
    budget_seconds: float,
    cv: int = 5,
    device: str | None = None,
) -> list[FrozenTrial]:
    """Cross-validate heads on the last layer, on all layers, and on layers that a search chooses.

    Heads are tried in that order, as far as the budget lasts (see `attempt_within`); one head on the last
    layer is always tried. All heads have the same folds.

    Parameters
    ----------
    cache : StoredFeatures
        Features of the data set.
    arrays : sequence of ArraySpec
        Stored layers, by depth.
    rows : ChosenRows
        The rows that train, with their groups. Test rows are not read.
    budget_seconds, cv, device
        See `toptune.train.train`.

    Raises
    ------
    InputError, NumericalError
        If no head could be fitted; the error is that of the first head.
    """
    heads = _Heads(cache, arrays, rows, cv=cv, device=device)
    plan = heads.plan()
    jobs = [(seconds, partial(work, layers, head)) for layers, head, seconds, work in plan]
    trials = []
    for (layers, head, *_), attempt in zip(plan, attempt_within(budget_seconds, jobs), strict=True):
        if attempt.result is None:
            names = tuple(each.name for each in heads.of_layers.get(layers, ()))
            trials.append(FrozenTrial(head=head, layers=layers, arrays=names, skipped=attempt.skipped))
        else:
            trials.append(replace(attempt.result, seconds=attempt.seconds))
    return trials


class _Heads:
    """Heads on stored layers, cross-validated on the same training rows."""

    def __init__(
        self,
        cache: StoredFeatures,
        arrays: Sequence[ArraySpec],
        rows: ChosenRows,
        *,
        cv: int,
        device: str | None,
    ) -> None:
        self._cache, self._arrays, self._rows, self._cv, self._device = cache, arrays, rows, cv, device
        self._targets, self._groups, self._task = rows.train_targets, rows.train_groups, rows.task.name
        self._make = partial(make_head, seed=rows.options.seed, cv=cv, device=device, task=self._task)
        self._prepared: dict[str, PreprocessedBlocks] = {}
        # A store without the layer ``last`` has its deepest layer in that place.
        self.of_layers = {LAST: [each for each in arrays if tap_of(each) == LAST] or list(arrays[-1:])}
        if len(arrays) > 1:
            self.of_layers["all"] = list(arrays)

    def plan(self) -> Sequence[tuple[str, str, float, Callable[[str, str], FrozenTrial]]]:
        """List the trials in their order: layers, head, expected seconds, and the function that works."""
        known = heads_for(self._task)
        last, inner = ([head for head in each if head in known] for each in (LAST_HEADS, INNER_HEADS))
        plan = [(LAST, head, self._seconds(LAST, head), self._fit) for head in last]
        if "all" in self.of_layers:
            plan += [("all", head, self._seconds("all", head), self._fit) for head in inner]
            # A search fits ridge on all layers, then its head on the short list and on the last layer.
            seconds = self._seconds("all", "ridge")
            seconds += (SearchOptions.n_short_list + 1) * self._seconds("all", SEARCH_HEAD)
            plan.append(("searched", SEARCH_HEAD, seconds, self._search))
        return plan

    def _seconds(self, layers: str, head: str) -> float:
        """Estimate the seconds of cross-validating a head on some layers."""
        columns = sum(each.dim for each in self.of_layers[layers])
        size = ProblemSize(
            n=len(self._targets), d=columns, n_classes=len(self._rows.classes), n_folds=self._cv
        )
        return estimated_seconds(head, size)

    def _fit(self, layers: str, head: str) -> FrozenTrial:
        """Cross-validate and fit a head on some layers."""
        fitted = self._make(head).fit(self._blocks(layers), self._targets, groups=self._groups)
        left_out = fitted.report["left_out"]
        return FrozenTrial(
            head=head,
            layers=layers,
            arrays=tuple(each.name for each in self.of_layers[layers]),
            accuracy=left_out["accuracy"],
            log_loss=left_out["log_loss"],
            # The squared error is that of standardized targets, summed over them.
            r2=1.0 - left_out["squared_error"] / len(self._targets.names)
            if left_out["accuracy"] is None and isinstance(self._targets, TargetMatrix)
            else None,
        )

    def _search(self, layers: str, head: str) -> FrozenTrial:
        """Search the layers, with a head that decides among the short list."""
        found = search_layers(
            self._cache,
            self._arrays,
            self._rows.split,
            groups=self._rows.groups,
            seed=self._rows.options.seed,
            cv=self._cv,
            task=self._task,
            preprocess=PREPROCESSING,
            device=self._device,
            short_list_head=partial(self._make, head),
        ).chosen
        return FrozenTrial(
            head=head,
            layers=layers,
            arrays=found.arrays,
            accuracy=found.head_accuracy,
            log_loss=found.head_log_loss,
            r2=found.head_r2,
        )

    def _blocks(self, layers: str) -> PreprocessedBlocks:
        """Fit the preprocessing of some layers once, for all heads on these layers."""
        if layers not in self._prepared:
            arrays = self.of_layers[layers]
            names = [each.name for each in arrays]
            blocks = self._cache.blocks(names, self._rows.split.train)
            fitted, _ = fit_preprocessing(PREPROCESSING, blocks, tuple(each.dim for each in arrays))
            self._prepared[layers] = PreprocessedBlocks(blocks, fitted, names)
        return self._prepared[layers]


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the first trial of the highest left-out figure, or None if no head was fitted."""
    done = [each for each in trials if each.figure is not None]
    return max(done, key=lambda each: each.figure or 0.0, default=None)


def evidence_of(
    trials: Sequence[FrozenTrial],
    class_counts: Sequence[int],
    *,
    frozen_seconds: float | None = None,
    finetune_seconds: tuple[float, float] | None = None,
    margin: float = DEFAULT_MARGIN,
    finetune_limit: float | None = None,
) -> Evidence:
    """Put together the evidence of heads and images.

    Where no head on the last layer could be fitted, the best of the other heads stands in.

    Parameters
    ----------
    trials : sequence of FrozenTrial
        Trials, of which at least one was done.
    class_counts : sequence of int
        Training images of each class.
    frozen_seconds, finetune_seconds, margin, finetune_limit
        See `Evidence`.
    """
    best = best_of(trials)
    last = best_of([each for each in trials if each.is_last]) or best
    inner = best_of([each for each in trials if not each.is_last])
    assert last is not None
    assert last.accuracy is not None
    return Evidence(
        n_train=sum(class_counts),
        n_classes=len(class_counts),
        pictures_per_class=float(np.median(class_counts)),
        last_accuracy=last.accuracy,
        inner_accuracy=None if inner is None else inner.accuracy,
        frozen_seconds=frozen_seconds,
        finetune_seconds=finetune_seconds,
        margin=margin,
        finetune_limit=finetune_limit,
    )
