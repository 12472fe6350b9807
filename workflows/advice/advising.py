"""`advise`: cheap heads measured and fine-tuning timed on someone's images, and what follows from both."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

import numpy as np

from toptune.costs.meter import CostMeter
from toptune.errors import InputError, StoreError
from toptune.extract.extraction import extract
from toptune.extract.images.source import ImageSource
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.sources.opening import open_source
from toptune.options import options_of
from toptune.store.arrays.spec import ArraySpec
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.extraction_costs import extraction_costs
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.train.layers.stored_layers import by_depth
from toptune.train.rows.chosen_rows import check_classes, leave_out
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.splits import Split, group_keys, split_manifest
from toptune.workflows.advice.evidence import Evidence
from toptune.workflows.advice.frozen_trials import FrozenTrial, best_of, evidence_of, labels_of, try_frozen
from toptune.workflows.advice.options import AdviceArguments, AdviceOptions
from toptune.workflows.advice.report import AdviceReport
from toptune.workflows.advice.rules import advise_on, duration
from toptune.workflows.finetuning.plan import TIMED_STEPS, FineTunePlan, plan_finetune
from toptune.workflows.rate_sample import SAMPLE_IMAGES, measure_rate

DEFAULT_STORE = "features"
# Timing a training takes this many forward passes for each image: a step costs three, and one step warms up;
# scoring takes two.
_TIMING_PASSES = 3 * (1 + TIMED_STEPS) + 2
# The sample from which the time of an extraction is foretold is an eighth of the images, but some batches.
_SAMPLE_PART, _LEAST_SAMPLE = 8, 16

Data = str | os.PathLike[str] | ImageSource


def advise(
    data: Data,
    *,
    model: str,
    store: str | os.PathLike[str] = DEFAULT_STORE,
    dataset: str | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[AdviceArguments],
) -> AdviceReport:
    """Say whether to stay with the frozen backbone or to fine-tune it, by which figures, and how surely.

    Layers that the store lacks are extracted, of all images, and stay there; a few steps of fine-tuning are
    timed; heads are cross-validated on the training rows as far as the budget lasts. Test rows are extracted
    with the others, but their features are not read: they are left to judge what is done afterwards.

    Parameters
    ----------
    data, model, store, dataset
        See `toptune.extract.extract`.
    progress : callable, optional
        Called with a line about the next step.
    **arguments
        The fields of `AdviceOptions` and `RowOptions`.

    Returns
    -------
    AdviceReport

    Raises
    ------
    InputError, WeightsError
        If something given cannot be used, or the extraction would take longer than the budget.
    ConflictError
        If the store holds other images under that name; see `toptune.extract.extract`.
    InterruptedRunError
        After Ctrl-C during the extraction; the same call goes on.

    Examples
    --------
    >>> report = advise("digits", model="resnet10t.toptune_glyphs", shots=5, cv=2, layers="last",
    ...                 finetune={"epochs": 3, "batch_size": 8})
    >>> report.advice.recommendation, report.advice.rule
    ('stay-frozen', 'few images')
    """
    asked = options_of(AdviceOptions, arguments, call="advise")
    session = _Session(asked, progress or (lambda _line: None))
    # Errors in the rows show before anything is extracted.
    _training_rows(open_source(data).manifest(), {}, asked)
    summary = _extracted(session, data, model=model, store=store, dataset=dataset)
    features = _open_features(store, summary, asked)
    plan = _timed_plan(session, data, model, features)
    session.begin("heads", "cross-validating heads")
    trials = try_frozen(
        features.cache,
        features.arrays,
        features.split,
        groups=features.groups,
        budget_seconds=session.left,
        seed=asked.rows.seed,
        cv=asked.cv,
        device=asked.device,
    )
    session.not_tried += [
        f"{each.head} on {each.layers} layers: {each.skipped}" for each in trials if each.skipped is not None
    ]
    best = best_of(trials)
    assert best is not None
    extracted = extraction_costs(features.cache, list(best.arrays))["extract_seconds"]
    evidence = _evidence(features, trials, asked, plan, frozen_seconds=extracted + (best.seconds or 0.0))
    return AdviceReport(
        data=os.fspath(data) if isinstance(data, str | os.PathLike) else data.name,
        store=str(features.store.root),
        dataset=summary.dataset,
        model=model,
        stored_model=_stored_name(features.store, model, features.cache),
        evidence=evidence,
        advice=advise_on(evidence),
        best=best,
        trials=tuple(trials),
        all_arrays=tuple(each.name for each in features.cache.arrays()),
        plan=plan,
        extract_seconds=extracted,
        costs=session.meter.to_dict(),
        budget=asked.budget,
        not_tried=tuple(session.not_tried),
        n_skipped=features.n_skipped,
        split_rule=features.split.rule,
        options=asked.training,
        tuning_options=asked.tuning.to_dict(),
    )


@dataclass(eq=False)
class _Session:
    """The clock, the costs and the notes of one call of `advise`."""

    asked: AdviceOptions
    notify: Callable[[str], None]
    start: float = field(default_factory=time.perf_counter)
    meter: CostMeter = field(default_factory=CostMeter)
    not_tried: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; below 0 where more was taken."""
        return self.asked.budget - (time.perf_counter() - self.start)

    def begin(self, phase: str, line: str | None = None) -> None:
        self.meter.begin(phase)
        if line is not None:
            self.notify(line)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Features:
    """Stored layers of the data set, and the rows that may be looked at."""

    store: FeatureStore
    cache: StoredFeatures
    arrays: Sequence[ArraySpec]
    split: Split
    groups: Sequence[str]
    n_skipped: int


def _extracted(
    session: _Session, data: Data, *, model: str, store: str | os.PathLike[str], dataset: str | None
) -> ExtractSummary:
    """Extract the layers that the store lacks, if a sample says that the budget is enough."""
    asked = session.asked
    session.begin("sample")
    foreseen = extract(data, model=model, store=store, dataset=dataset, dry_run=True, **asked.extraction).plan
    if foreseen is not None:
        session.notify("timing the extraction of a sample")
        _check_extraction(session, data, foreseen.rows_missing, model)
    session.begin("extract", "extracting what the store lacks")
    return extract(data, model=model, store=store, dataset=dataset, **asked.extraction)


def _check_extraction(session: _Session, data: Data, n_missing: int, model: str) -> None:
    """Foretell from a sample how long the missing images take; refuse what is beyond the budget.

    Raises
    ------
    InputError
        With the expected seconds and those that are left.
    """
    n_sample = min(SAMPLE_IMAGES, max(_LEAST_SAMPLE, n_missing // _SAMPLE_PART))
    rate = measure_rate(data, model=model, options=session.asked.extraction, n_pictures=n_sample)
    expected = n_missing / rate
    if expected > session.left:
        raise InputError(
            f"extracting {n_missing} images takes about {duration(expected)} at {rate:.1f} images/s here; "
            f"of the budget of {duration(session.asked.budget)} {duration(max(session.left, 0))} are left; "
            "give more --budget, "
            "extract first (toptune extract ... --layers all, which can be stopped, resumed and shared out), "
            "or choose a smaller --model or fewer --layers"
        )


def _open_features(store: str | os.PathLike[str], summary: ExtractSummary, asked: AdviceOptions) -> _Features:
    opened = FeatureStore.open(store)
    cache = opened.features(summary.model, summary.dataset)
    cache.mark_used()
    stored = {each.name: each for each in cache.arrays()}
    arrays = by_depth([stored[each.name] for each in summary.arrays])
    failed = cache.failed_rows([each.name for each in arrays])
    split, n_skipped = _training_rows(cache.manifest, failed, asked)
    group_by = asked.rows.group_by
    return _Features(
        store=opened,
        cache=cache,
        arrays=arrays,
        split=split,
        groups=cache.manifest.ids if group_by is None else group_keys(cache.manifest, group_by),
        n_skipped=n_skipped,
    )


def _timed_plan(session: _Session, data: Data, model: str, features: _Features) -> FineTunePlan | None:
    """Time a few steps of fine-tuning; None where the budget would not last."""
    tuning = session.asked.tuning
    names = [each.name for each in features.arrays]
    batch_size = min(tuning.batch_size, len(features.split.train))
    expected = _timing_seconds(features.cache, names, batch_size)
    if expected > session.left:
        session.not_tried.append(
            f"timing fine-tuning: about {duration(expected)}, {duration(max(session.left, 0))} of the budget "
            "left"
        )
        return None
    session.begin("time fine-tuning", "timing a few steps of fine-tuning")
    return plan_finetune(data, model=model, **tuning.to_dict())


def _timing_seconds(cache: StoredFeatures, names: list[str], batch_size: int) -> float:
    """Guess how long it takes to time fine-tuning, from what extraction took."""
    costs = extraction_costs(cache, names)
    return _TIMING_PASSES * batch_size * float(costs["extract_seconds"] / costs["extract_pictures"])


def _evidence(
    features: _Features,
    trials: Sequence[FrozenTrial],
    asked: AdviceOptions,
    plan: FineTunePlan | None,
    *,
    frozen_seconds: float,
) -> Evidence:
    return evidence_of(
        trials,
        list(Counter(labels_of(features.cache.manifest, features.split)).values()),
        frozen_seconds=frozen_seconds,
        finetune_seconds=None if plan is None else (plan.least_seconds, plan.most_seconds),
        margin=asked.margin,
        finetune_limit=asked.finetune_limit,
    )


def _training_rows(manifest: Manifest, failed: Mapping[int, str], asked: AdviceOptions) -> tuple[Split, int]:
    """Return the rows that `train` would train on, without its test rows, and the number that failed."""
    rows = asked.rows
    split = split_manifest(
        manifest,
        seed=rows.seed,
        test_fraction=rows.test_fraction,
        resplit=rows.resplit,
        val=rows.val,
        group_by=rows.group_by,
    )
    split = replace(split, test=split.test[:0])
    split, n_skipped = leave_out(
        split, np.array(sorted(failed), dtype=np.int64), manifest, allow=rows.allow_failed, reasons=failed
    )
    split = draw_training_rows(split, manifest, shots=rows.shots, train_size=rows.train_size, seed=rows.seed)
    check_classes(manifest, split, cv=asked.cv, is_cross_validated=True)
    return split, n_skipped


def _stored_name(opened: FeatureStore, model: str, cache: StoredFeatures) -> str:
    """Give the name by which `train` finds the features: the model's, unless it means several."""
    try:
        is_found = opened.features(model, cache.dataset).digest == cache.digest
    except (StoreError, InputError):
        is_found = False
    return model if is_found else cache.name
