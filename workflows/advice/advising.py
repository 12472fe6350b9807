"""`advise` measures cheap heads and times fine-tuning on someone's images, and says what follows."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from toptune.costs.phases import Phases
from toptune.errors import InputError, StoreError
from toptune.extract.backbone.model_name import check_is_timm
from toptune.extract.extraction import extract
from toptune.extract.images.remarks import each_said_once
from toptune.extract.images.source import ImageData
from toptune.extract.request.plan import ExtractSummary
from toptune.extract.sources.opening import open_source
from toptune.machine.devices import settle_head_device
from toptune.options import options_of
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.stored_layers import by_depth
from toptune.store.features.extraction_costs import extraction_costs
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import ModelFeatures
from toptune.train.rows.chosen_rows import ChosenRows, choose_rows
from toptune.train.rows.copies import digests_of
from toptune.train.tasks.choice import task_of, told_task
from toptune.train.tasks.names import CLASSIFICATION
from toptune.workflows.advice.evidence import Evidence
from toptune.workflows.advice.frozen_trials import FrozenTrial, best_of, evidence_of, try_frozen
from toptune.workflows.advice.options import AdviceArguments, AdviceOptions
from toptune.workflows.advice.report import AdviceReport
from toptune.workflows.advice.rules import advise_on, advise_on_task, duration
from toptune.workflows.finetuning.plan import TIMED_STEPS, FineTunePlan, plan_finetune
from toptune.workflows.rate_sample import SAMPLE_IMAGES, measure_rate

DEFAULT_STORE = "features"
# Timing a training takes this many forward passes for each image: a step costs three, and one step warms up;
# scoring takes two.
_TIMING_PASSES = 3 * (1 + TIMED_STEPS) + 2
# Extraction is timed on an eighth of the missing images, so that timing costs little beside the whole, and on
# at least 16 images.
_SAMPLE_PART, _LEAST_SAMPLE = 8, 16

Data = ImageData


@each_said_once()
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
    data : path, str or ImageSource
        A folder of images, a file or the name of a built-in data set, with labels.
    model : str
        Name of the backbone.
    store : path
        Store of the features; a new one is made if none is there.
    dataset : str, optional
        Name of the data set in the store; the source's own name by default.
    progress : callable, optional
        Called with a line about the next step.
    **arguments
        The fields of `AdviceOptions` and `RowOptions`.

    Returns
    -------
    AdviceReport
        The advice, its evidence, and the commands that come next.

    Raises
    ------
    InputError, WeightsError
        If something given cannot be used, or the extraction would take longer than the budget.
    ConflictError
        If the store holds other images under that name.
    InterruptedRunError
        If Ctrl-C ended the extraction; the same call goes on.

    Examples
    --------
    >>> report = advise("digits", model="resnet10t.toptune_glyphs", shots=5, cv=2, layers="last",
    ...                 finetune={"epochs": 3, "batch_size": 8})
    >>> report.advice.recommendation, report.advice.rule
    ('stay-frozen', 'few images')
    """
    asked = options_of(AdviceOptions, arguments, call="advise")
    # Half of the advice is a fine-tuning.
    check_is_timm(model)
    # Errors in the rows show before anything is extracted.
    asked = _checked(data, asked)
    session = _Session(asked, Phases(progress))
    summary = _extracted(session, data, model=model, store=store, dataset=dataset)
    features = _open_features(store, summary, asked)
    # Fine-tuning is timed before heads are tried: its time is known from few steps, while heads take all of
    # the budget that is left.
    plan = _timed_plan(session, data, model, features)
    with session.phases("heads", line="cross-validating heads"):
        trials = try_frozen(
            features.cache,
            features.arrays,
            features.rows,
            budget_seconds=session.left,
            cv=asked.cv,
            device=settle_head_device(asked.device),
        )
    session.not_tried += [
        f"{each.head} on {each.layers} layers: {each.skipped}" for each in trials if each.skipped is not None
    ]
    best = best_of(trials)
    assert best is not None
    extracted = extraction_costs(features.cache, list(best.arrays))["extract_seconds"]
    evidence = None
    if asked.is_of_classes:
        evidence = _evidence(features, trials, asked, plan, frozen_seconds=extracted + (best.seconds or 0.0))
    return AdviceReport(
        data=os.fspath(data) if isinstance(data, str | os.PathLike) else summary.dataset,
        store=str(features.store.root),
        dataset=summary.dataset,
        model=model,
        stored_model=_stored_name(features.store, model, features.cache),
        measured=evidence,
        task=features.rows.task.name,
        n_train=len(features.rows.split.train),
        n_classes=len(features.rows.classes),
        advice=advise_on_task(asked.rows.task) if evidence is None else advise_on(evidence),
        best=best,
        trials=tuple(trials),
        all_arrays=tuple(each.name for each in features.cache.arrays()),
        plan=plan,
        extract_seconds=extracted,
        costs=session.phases.costs(),
        budget=asked.budget,
        not_tried=tuple(session.not_tried),
        notes=(*features.rows.notes, *features.rows.folds.notes),
        n_skipped=features.rows.n_skipped,
        split_rule=features.rows.split.rule,
        options=asked.training,
        tuning_options=asked.tuning.to_dict(),
    )


def _checked(data: Data, asked: AdviceOptions) -> AdviceOptions:
    """Settle the task by the labels of the images, and refuse rows that no head could learn from."""
    source = open_source(data, label_column=asked.rows.label_column if asked.is_of_classes else None)
    manifest = source.manifest()
    task = told_task(asked.rows.task, asked.rows.wanted, manifest)
    if task != CLASSIFICATION:
        asked = replace(asked, rows=replace(asked.rows, task=task))
        manifest = task_of(task).labeled(manifest, asked.rows.wanted)
    choose_rows(
        asked.rows.decisions.check(manifest).relabeled(manifest), asked.rows, cv=asked.cv, needs_test=False
    )
    return asked


@dataclass(eq=False)
class _Session:
    """One call of `advise`: its options, the time that it takes, and what it leaves out."""

    asked: AdviceOptions
    phases: Phases
    not_tried: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; below 0 if the work took longer."""
        return self.asked.budget - self.phases.elapsed


@dataclass(frozen=True, eq=False, kw_only=True)
class _Features:
    """Stored layers of the data set, by depth, and the rows that may be looked at."""

    store: FeatureStore
    cache: ModelFeatures
    arrays: Sequence[ArraySpec]
    rows: ChosenRows


def _extracted(
    session: _Session, data: Data, *, model: str, store: str | os.PathLike[str], dataset: str | None
) -> ExtractSummary:
    """Extract the layers that the store lacks, if a sample says that the budget is enough."""
    options = session.asked.extraction
    # Whether there is anything to time, and to tell of, shows only after the dry run.
    with session.phases("sample", line=""):
        planned = extract(data, model=model, store=store, dataset=dataset, dry_run=True, **options)
        if planned.plan is not None:
            session.phases.notify("timing the extraction of a sample")
            _check_extraction(session, data, planned.plan.rows_missing, model)
    with session.phases("extract", line="extracting what the store lacks"):
        return extract(data, model=model, store=store, dataset=dataset, **options)


def _check_extraction(session: _Session, data: Data, n_missing: int, model: str) -> None:
    """Foretell from a sample how long the missing images take; refuse what is beyond the budget.

    Raises
    ------
    InputError
        If the extraction would take longer than the seconds that are left; the message has both.
    """
    n_sample = min(SAMPLE_IMAGES, max(_LEAST_SAMPLE, n_missing // _SAMPLE_PART))
    rate = measure_rate(data, models=[model], options=session.asked.extraction, n_pictures=n_sample)
    expected = n_missing / rate
    if expected > session.left:
        raise InputError(
            f"extracting {n_missing} images takes about {duration(expected)} at {rate:.1f} images/s here; "
            f"of the budget of {duration(session.asked.budget)} {duration(max(session.left, 0))} are left; "
            "give more --budget, extract first (toptune extract ... --layers all, which can be stopped, "
            "resumed and shared out), or choose a smaller --model or fewer --layers"
        )


def _open_features(store: str | os.PathLike[str], summary: ExtractSummary, asked: AdviceOptions) -> _Features:
    """Open the layers that were extracted, by depth, and choose the rows among images that could be read."""
    opened = FeatureStore.open(store)
    cache = opened.features(
        summary.model, summary.dataset, **asked.rows.reading(asked.rows.decisions.relabel)
    )
    cache.mark_used()
    stored = {each.name: each for each in cache.arrays()}
    arrays = by_depth([stored[each.name] for each in summary.arrays])
    failed = cache.failed_rows([each.name for each in arrays])
    rows = choose_rows(
        cache.manifest, asked.rows, cv=asked.cv, failed=failed, needs_test=False, digests=digests_of(cache)
    )
    return _Features(store=opened, cache=cache, arrays=arrays, rows=rows)


def _timed_plan(session: _Session, data: Data, model: str, features: _Features) -> FineTunePlan | None:
    """Time a few steps of fine-tuning; None where the budget would not last."""
    if not session.asked.is_of_classes:
        session.not_tried.append("timing fine-tuning: it knows one class an image")
        return None
    tuning = session.asked.tuning
    names = [each.name for each in features.arrays]
    # With fewer images than a batch, a step takes all of them.
    batch_size = min(tuning.batch_size, len(features.rows.split.train))
    expected = _timing_seconds(features.cache, names, batch_size)
    if expected > session.left:
        session.not_tried.append(
            f"timing fine-tuning: about {duration(expected)}, {duration(max(session.left, 0))} "
            "of the budget left"
        )
        return None
    with session.phases("time fine-tuning", line="timing a few steps of fine-tuning"):
        return plan_finetune(data, model=model, progress=session.phases.notify, **tuning.to_dict())


def _timing_seconds(cache: ModelFeatures, names: list[str], batch_size: int) -> float:
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
    """Put together what heads and fine-tuning were measured to do and to take."""
    return evidence_of(
        trials,
        list(features.rows.classes.values()),
        frozen_seconds=frozen_seconds,
        finetune_seconds=None if plan is None else (plan.least_seconds, plan.most_seconds),
        margin=asked.margin,
        finetune_limit=asked.finetune_limit,
    )


def _stored_name(opened: FeatureStore, model: str, cache: ModelFeatures) -> str:
    """Give the name by which `train` finds the features: the model's, unless it means several."""
    try:
        is_found = opened.features(model, cache.dataset).digest == cache.digest
    except (StoreError, InputError):
        is_found = False
    return model if is_found else cache.name
