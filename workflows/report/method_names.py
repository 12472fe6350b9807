"""What decides the outcome of a run, and the names that tell settings apart."""

import json
from collections import defaultdict
from collections.abc import Sequence

from toptune.train.rows.options import OF_DECISIONS
from toptune.train.runs.record import JOIN, LATE
from toptune.workflows.report.runs import ReportedRun

FINE_TUNING = "fine-tuning"
_SIZE = "size"
# How several backbones share a run, in the name of its method.
_FUSIONS = {LATE: "late fusion", JOIN: "joined features"}
# These options change where and how fast something is computed, but not the result.
_OF_NO_EFFECT = frozenset(
    {"seed", "device", "memory_limit", "workers", "cache_memory_bytes", "allow_failed", "max_failures"}
)
# These options belong to a data set or a backbone. Two data sets may have other values of such an option and
# still share the name of a method, so values are compared within one data set or backbone only.
_OF_SPLIT = frozenset({"group_by", "resplit", "test_fraction", "val", *OF_DECISIONS})
_OF_IMAGES = frozenset({"dataset_version", "labels"})
_OF_BACKBONE = frozenset({"weights", "img_size", "model_kwargs"})


def identity_of(run: ReportedRun) -> dict[str, object]:
    """Give the options that decide the outcome of a run besides data set, backbone and seed."""
    # The models stand in a column of their own, and the way that they share a run is part of the method.
    left_out = _OF_NO_EFFECT | {"shots", "train_size", "models", "fusion"}
    options = {name: value for name, value in run.options.items() if name not in left_out}
    if not run.is_finetuned:
        # No layers and all layers are the same arrays, and must not make two settings.
        options["layers"] = run.layers
    return options | {
        "method": _base(run),
        _SIZE: _size(run),
        "dataset_version": run.record.dataset_version,
        "features": "" if run.record.cache is None else run.record.cache.digest[:8],
        # Runs that an earlier toptune made by `train --relabel` were trained for other labels.
        "labels": (run.record.relabelled or {}).get("labels"),
        "updated": run.record.update is not None,
    }


def name_methods(runs: Sequence[ReportedRun]) -> list[str]:
    """Name the method of each run by its head, or ``fine-tuning``, and by options that tell settings apart.

    Equal names mean equal settings, on all data sets. Every name has the training size unless that is the
    same for all runs. A name has the options that differ between settings of the same head. Options that
    belong to a data set or a backbone are compared within one.
    """
    identities = [identity_of(run) for run in runs]
    options = sorted({name for identity in identities for name in identity})
    values: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for run, identity in zip(runs, identities, strict=True):
        for name in options:
            values[name, *_compared_within(name, run)].add(spelt(identity.get(name)))
    # Only options that differ stand in a name, so that names stay short; an option counts as different if
    # it differs within one data set, backbone or head.
    varying: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        varying[_base(run)] |= {
            name for name in options if len(values[name, *_compared_within(name, run)]) > 1
        }
    return [
        _name(identity, [name for name in options if name in varying[_base(run)]])
        for run, identity in zip(runs, identities, strict=True)
    ]


def spelt(value: object) -> str:
    """Write the value of an option as text; equal values give equal text."""
    return json.dumps(value, sort_keys=True, default=str)


def _base(run: ReportedRun) -> str:
    if run.is_finetuned:
        return FINE_TUNING
    shared = _FUSIONS.get(run.record.kind or "")
    head = str(run.options.get("head", "head"))
    return head if shared is None else f"{head}, {shared}"


def _size(run: ReportedRun) -> str:
    if (shots := run.options.get("shots")) is not None:
        return f"{shots} a class"
    size = run.options.get("train_size")
    return "all images" if size is None else f"{size} images"


def _compared_within(name: str, run: ReportedRun) -> tuple[object, ...]:
    """Return a key: values of an option are compared among the runs that have the same key."""
    if name == _SIZE:
        return ()
    if name in _OF_SPLIT:
        return (run.dataset,)
    if name in _OF_IMAGES:
        return run.dataset, run.is_finetuned
    if name == "features":
        return run.dataset, run.model, _base(run)
    return (_base(run), run.model) if name in _OF_BACKBONE else (_base(run),)


def _name(identity: dict[str, object], varying: Sequence[str]) -> str:
    parts = [str(identity["method"]), *([str(identity[_SIZE])] if _SIZE in varying else [])]
    for name in varying:
        value = identity.get(name)
        if value is True:
            parts.append(name.replace("_", " "))
        elif name != _SIZE and value not in (None, False, "", {}, []):
            text = value if isinstance(value, str) else spelt(value)
            parts.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)
