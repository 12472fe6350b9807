"""Cheap heads on a frozen backbone's stored layers, cross-validated on training rows within a budget."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache as remembered
from functools import partial
from typing import Any

import numpy as np

from toptune.store.arrays.spec import ArraySpec
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_view import StoredFeatures
from toptune.train.heads.budget import attempt_within
from toptune.train.heads.expected_seconds import estimated_seconds
from toptune.train.heads.heads import make_head
from toptune.train.heads.problem_size import ProblemSize
from toptune.train.layers.search import N_SHORT_LIST, search_layers
from toptune.train.layers.stored_layers import LAST, tap_of
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.splits import Split
from toptune.workflows.advice.evidence import Evidence

LAST_HEADS = ("ridge", "logistic", "falkon")
INNER_HEADS = ("falkon", "logistic")
SEARCH_HEAD = "falkon"
PREPROCESSING = "standardise"


@dataclass(frozen=True, kw_only=True)
class FrozenTrial:
    """A head on some layers: how well it does on left-out training rows, or why it was not tried.

    Attributes
    ----------
    head : str
    layers : {"last", "all", "searched"}
    arrays : tuple of str
        By depth; of a search that was not done, none.
    accuracy, log_loss : float or None
        Of left-out rows.
    seconds : float or None
        Of cross-validation and fit, reading included.
    skipped : str or None
    """

    head: str
    layers: str
    arrays: tuple[str, ...]
    accuracy: float | None = None
    log_loss: float | None = None
    seconds: float | None = None
    skipped: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the head saw the last layer alone."""
        return self.layers == LAST

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        return asdict(self) | {"arrays": list(self.arrays)}


def try_frozen(
    cache: StoredFeatures,
    arrays: Sequence[ArraySpec],
    split: Split,
    *,
    groups: Sequence[str],
    budget_seconds: float,
    seed: int = 0,
    cv: int = 5,
    device: str | None = None,
) -> list[FrozenTrial]:
    """Cross-validate heads on the last layer, on all layers, and on layers that a search chooses.

    In that order, as far as the budget lasts (see `attempt_within`); one head on the last layer is always
    tried. All heads have the same folds.

    Parameters
    ----------
    cache : StoredFeatures
    arrays : sequence of ArraySpec
        By depth.
    split : Split
        Only its training rows are read.
    groups : sequence of str
        Group, or id, of every row of the manifest.
    budget_seconds, seed, cv, device
        See `toptune.train.train`.

    Raises
    ------
    InputError, NumericalError
        Of the first head, if none could be fitted.
    """
    of_layers = {LAST: [each for each in arrays if tap_of(each) == LAST] or list(arrays[-1:])}
    if len(arrays) > 1:
        of_layers["all"] = list(arrays)
    keys = [groups[row] for row in split.train]
    labels = labels_of(cache.manifest, split)
    make = partial(make_head, seed=seed, cv=cv, device=device)

    @remembered
    def prepared(layers: str) -> PreprocessedBlocks:
        names = [each.name for each in of_layers[layers]]
        blocks = cache.blocks(names, split.train)
        fitted, _ = fit_preprocessing(PREPROCESSING, blocks, tuple(each.dim for each in of_layers[layers]))
        return PreprocessedBlocks(blocks, fitted, names)

    def fit(layers: str, head: str) -> FrozenTrial:
        left_out = make(head).fit(prepared(layers), labels, groups=keys).report["left_out"]
        return FrozenTrial(
            head=head,
            layers=layers,
            arrays=tuple(each.name for each in of_layers[layers]),
            accuracy=left_out["accuracy"],
            log_loss=left_out["log_loss"],
        )

    def search(layers: str, head: str) -> FrozenTrial:
        found = search_layers(
            cache, arrays, split, groups=groups, seed=seed, cv=cv, preprocess=PREPROCESSING, device=device,
            short_list_head=partial(make, head),
        ).chosen  # fmt: skip
        return FrozenTrial(
            head=head,
            layers=layers,
            arrays=found.arrays,
            accuracy=found.head_accuracy,
            log_loss=found.head_log_loss,
        )

    def expected(layers: str, head: str) -> float:
        columns = sum(each.dim for each in of_layers[layers])
        size = ProblemSize(n=len(labels), d=columns, n_classes=len(set(labels)), n_folds=cv)
        return estimated_seconds(head, size)

    plan = [(LAST, head, expected(LAST, head), fit) for head in LAST_HEADS]
    if "all" in of_layers:
        plan += [("all", head, expected("all", head), fit) for head in INNER_HEADS]
        # Ridge on everything, then the head on the short list and on the last layer.
        seconds = expected("all", "ridge") + (N_SHORT_LIST + 1) * expected("all", SEARCH_HEAD)
        plan.append(("searched", SEARCH_HEAD, seconds, search))
    trials = []
    errors = []
    jobs = [(seconds, partial(work, layers, head)) for layers, head, seconds, work in plan]
    for (layers, head, *_), attempt in zip(plan, attempt_within(budget_seconds, jobs), strict=True):
        if attempt.error is not None:
            errors.append(attempt.error)
        if attempt.result is None:
            names = tuple(each.name for each in of_layers.get(layers, ()))
            trials.append(FrozenTrial(head=head, layers=layers, arrays=names, skipped=attempt.skipped))
        else:
            trials.append(replace(attempt.result, seconds=attempt.seconds))
    if errors and not any(each.accuracy is not None for each in trials):
        raise errors[0]
    return trials


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Give the trial of the highest left-out accuracy, of equals the first; None where none was done."""
    done = [each for each in trials if each.accuracy is not None]
    return max(done, key=lambda each: each.accuracy or 0.0, default=None)


def labels_of(manifest: Manifest, split: Split) -> list[str]:
    """Labels of the training rows."""
    return [str(manifest.labels[row]) for row in split.train]


def evidence_of(trials: Sequence[FrozenTrial], class_counts: Sequence[int], **others: Any) -> Evidence:
    """Put together what heads and images say.

    Where no head on the last layer could be fitted, the best of the others stands for it.

    Parameters
    ----------
    trials : sequence of FrozenTrial
        One at least was done.
    class_counts : sequence of int
        Training images of each class.
    others
        Further fields of `Evidence`.
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
        **others,
    )
