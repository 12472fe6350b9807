"""`advise`: cheap heads measured and fine-tuning timed on someone's images, and what follows from both."""

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from toptune.costs.meter import CostMeter
from toptune.errors import InputError, StoreError
from toptune.extract.extraction import extract
from toptune.extract.images.source import ImageSource
from toptune.extract.sources.opening import open_source
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.extraction_costs import extraction_costs
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.train.layers.stored_layers import by_depth
from toptune.train.rows.chosen_rows import check_classes, leave_out
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.splits import Split, group_keys, split_manifest
from toptune.workflows.advice.evidence import DEFAULT_MARGIN
from toptune.workflows.advice.frozen_trials import best_of, evidence_of, labels_of, try_frozen
from toptune.workflows.advice.report import AdviceReport
from toptune.workflows.advice.rules import advise_on, duration
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.finetuning.plan import TIMED_STEPS, plan_finetune
from toptune.workflows.rate_sample import SAMPLE_IMAGES, measure_rate

DEFAULT_STORE = "features"
DEFAULT_BUDGET_SECONDS = 600.0
# Forward passes that timing takes an image: steps cost three, of which one warms up; two of scoring.
_TIMING_PASSES = 3 * (1 + TIMED_STEPS) + 2
# The sample that an extraction is foretold from: a part of the images, but a few batches.
_SAMPLE_PART, _LEAST_SAMPLE = 8, 16


def advise(
    data: str | os.PathLike[str] | ImageSource,
    *,
    model: str,
    store: str | os.PathLike[str] = DEFAULT_STORE,
    dataset: str | None = None,
    layers: str | Sequence[str] = "all",
    pooling: str | None = None,
    budget: float = DEFAULT_BUDGET_SECONDS,
    margin: float = DEFAULT_MARGIN,
    finetune_limit: float | None = None,
    finetune: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    img_size: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    seed: int = 0,
    cv: int = 5,
    test_fraction: float = 0.2,
    resplit: bool = False,
    val: str = "train",
    group_by: str | None = None,
    shots: int | None = None,
    train_size: int | None = None,
    allow_failed: bool = False,
    progress: Callable[[str], None] | None = None,
) -> AdviceReport:
    """Say whether to stay with the frozen backbone or to fine-tune it, by which figures, and how surely.

    What the store lacks of the layers is extracted, of all images, and stays there; a few steps of
    fine-tuning are timed; heads are cross-validated on the training rows as far as the budget lasts. Test
    rows are extracted with the others, but their features are not read: they are left to judge what is done
    afterwards.

    Parameters
    ----------
    data, model, store, dataset, layers, pooling, weights, img_size, model_kwargs, workers
        See `toptune.extract.extract`.
    budget : float
        Seconds for everything. An extraction that would take longer is refused before it begins.
    margin : float
        Accuracy, in [0, 1], that fine-tuning has to gain to be worth while.
    finetune_limit : float, optional
        Seconds that fine-tuning may take; where it takes longer it is not recommended.
    finetune : mapping, optional
        Options of `toptune.workflows.finetune` whose cost is asked for, such as ``{"epochs": 20}``.
    device : str
        Of extraction, heads and fine-tuning.
    seed, cv, test_fraction, resplit, val, group_by, shots, train_size, allow_failed
        See `toptune.train.train`; `cv` is a number of folds.
    progress : callable, optional
        Called with a line about what comes next.

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
    """
    start, meter = time.perf_counter(), CostMeter()
    if not budget > 0:
        raise InputError(f"budget is {budget:g} seconds; give more than 0")
    if not 0 <= margin < 1:
        raise InputError(f"margin is {margin:g}; it must be at least 0 and below 1, 0.01 being a point")
    notify = progress or (lambda _line: None)
    of_rows = {
        "seed": seed, "test_fraction": test_fraction, "resplit": resplit, "val": val, "group_by": group_by,
        "shots": shots, "train_size": train_size,
    }  # fmt: skip
    of_backbone = {
        "weights": weights, "img_size": img_size, "model_kwargs": model_kwargs, "device": device,
        "workers": workers,
    }  # fmt: skip
    shared: dict[str, Any] = {**of_backbone, **of_rows, "allow_failed": allow_failed}
    _check_tuning(finetune or {}, shared)
    tuning = FineTuneOptions(**shared, **(finetune or {}))
    of_extraction: dict[str, Any] = {**of_backbone, "layers": layers, "pooling": pooling}
    place: dict[str, Any] = {"model": model, "store": store, "dataset": dataset}
    # What is wrong with the rows shows before anything is extracted.
    _training_rows(open_source(data).manifest(), {}, of_rows, allow_failed, cv)

    def left() -> float:
        return budget - (time.perf_counter() - start)

    meter.begin("sample")
    foreseen = extract(data, **place, dry_run=True, **of_extraction).plan
    if foreseen is not None:
        notify("timing the extraction of a sample")
        _check_extraction(data, foreseen.rows_missing, model, of_extraction, left=left, budget=budget)
    meter.begin("extract")
    notify("extracting what the store lacks")
    summary = extract(data, **place, **of_extraction)
    opened = FeatureStore.open(store)
    cache = opened.features(summary.model, summary.dataset)
    cache.mark_used()
    stored = {each.name: each for each in cache.arrays()}
    arrays = by_depth([stored[each.name] for each in summary.arrays])
    names = [each.name for each in arrays]
    split, n_skipped = _training_rows(cache.manifest, cache.failed_rows(names), of_rows, allow_failed, cv)

    not_tried = []
    plan = None
    expected = _timing_seconds(cache, names, min(tuning.batch_size, len(split.train)))
    if expected <= left():
        meter.begin("time fine-tuning")
        notify("timing a few steps of fine-tuning")
        plan = plan_finetune(data, model=model, **tuning.to_dict())
    else:
        not_tried.append(
            f"timing fine-tuning: about {duration(expected)}, {duration(max(left(), 0))} of the budget left"
        )
    meter.begin("heads")
    notify("cross-validating heads")
    groups = cache.manifest.ids if group_by is None else group_keys(cache.manifest, group_by)
    trials = try_frozen(
        cache, arrays, split, groups=groups, budget_seconds=left(), seed=seed, cv=cv, device=device
    )
    not_tried += [
        f"{each.head} on {each.layers} layers: {each.skipped}" for each in trials if each.skipped is not None
    ]
    best = best_of(trials)
    assert best is not None
    extracted = extraction_costs(cache, list(best.arrays))["extract_seconds"]
    evidence = evidence_of(
        trials,
        list(Counter(labels_of(cache.manifest, split)).values()),
        frozen_seconds=extracted + (best.seconds or 0.0),
        finetune_seconds=None if plan is None else (plan.least_seconds, plan.most_seconds),
        margin=margin,
        finetune_limit=finetune_limit,
    )
    return AdviceReport(
        data=os.fspath(data) if isinstance(data, str | os.PathLike) else data.name,
        store=str(opened.root),
        dataset=summary.dataset,
        model=model,
        stored_model=_stored_name(opened, model, cache),
        evidence=evidence,
        advice=advise_on(evidence),
        best=best,
        trials=tuple(trials),
        all_arrays=tuple(stored),
        plan=plan,
        extract_seconds=extracted,
        costs=meter.to_dict(),
        budget=budget,
        not_tried=tuple(not_tried),
        n_skipped=n_skipped,
        split_rule=split.rule,
        options={**of_rows, "cv": cv, "allow_failed": allow_failed},
        tuning_options=tuning.to_dict(),
    )


def _check_tuning(given: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Refuse options that fine-tuning does not know, or that are the same for heads."""
    known = {field.name for field in dataclasses.fields(FineTuneOptions)}
    if unknown := sorted(given.keys() - known):
        raise InputError(
            f"finetune has an option {unknown[0]!r}; it takes {', '.join(sorted(known - taken.keys()))}"
        )
    if strange := sorted(taken.keys() & given.keys()):
        raise InputError(
            f"finetune has {strange[0]!r}, which must be the same for heads: give it to advise itself"
        )


def _check_extraction(
    data: str | os.PathLike[str] | ImageSource,
    n_missing: int,
    model: str,
    options: Mapping[str, Any],
    *,
    left: Callable[[], float],
    budget: float,
) -> None:
    """Foretell from a sample how long the missing images take; refuse what is beyond the budget."""
    n_sample = min(SAMPLE_IMAGES, max(_LEAST_SAMPLE, n_missing // _SAMPLE_PART))
    rate = measure_rate(data, model=model, options=options, n_pictures=n_sample)
    expected = n_missing / rate
    if expected > left():
        raise InputError(
            f"extracting {n_missing} images takes about {duration(expected)} at {rate:.1f} images/s here; "
            f"of the budget of {duration(budget)} {duration(max(left(), 0))} are left; give more --budget, "
            "extract first (toptune extract ... --layers all, which can be stopped, resumed and shared out), "
            "or choose a smaller --model or fewer --layers"
        )


def _timing_seconds(cache: StoredFeatures, names: list[str], batch_size: int) -> float:
    """Guess how long it takes to time fine-tuning, from what extraction took."""
    costs = extraction_costs(cache, names)
    return _TIMING_PASSES * batch_size * float(costs["extract_seconds"] / costs["extract_pictures"])


def _training_rows(
    manifest: Manifest, failed: Mapping[int, str], options: Mapping[str, Any], allow_failed: bool, cv: int
) -> tuple[Split, int]:
    """Give the rows that `train` would train on, without its test rows, and how many failed."""
    sampled = {name: options[name] for name in ("shots", "train_size")}
    split = split_manifest(
        manifest, **{name: value for name, value in options.items() if name not in sampled}
    )
    split = replace(split, test=split.test[:0])
    split, n_skipped = leave_out(
        split, np.array(sorted(failed), dtype=np.int64), manifest, allow=allow_failed, reasons=failed
    )
    split = draw_training_rows(split, manifest, **sampled, seed=options["seed"])
    check_classes(manifest, split, cv=cv, is_cross_validated=True)
    return split, n_skipped


def _stored_name(opened: FeatureStore, model: str, cache: StoredFeatures) -> str:
    """Give the name by which `train` finds the features: the model's, unless it means several."""
    try:
        is_found = opened.features(model, cache.dataset).digest == cache.digest
    except (StoreError, InputError):
        is_found = False
    return model if is_found else cache.name
