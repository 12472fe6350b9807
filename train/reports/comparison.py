"""`compare_heads`: several heads over the same repeated splits, with intervals and paired tests."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toptune.costs.meter import CostMeter
from toptune.errors import InputError, StoreError
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.json_values import json_ready
from toptune.train.heads.heads import parameters_of
from toptune.train.heads.options import AUTO_HEAD
from toptune.train.reports.comparison_report import UNGROUPED, Comparison, RunRow, compare_rows
from toptune.train.reports.notes import gather_notes
from toptune.train.rows.splits import NAMED, split_manifest
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import CONFIG, METRICS, RunRecord
from toptune.train.runs.run import read_labels
from toptune.train.runs.training import train
from toptune.train.runs.writing import check_out

RUNS = "runs"


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A run to be made, and what it is called."""

    name: str
    head: str
    seed: int
    is_grouped: bool


def compare_heads(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str,
    heads: Sequence[str],
    out: str | os.PathLike[str],
    seeds: int = 5,
    leak: bool = False,
    dataset_version: int | None = None,
    layers: str | Sequence[str] | None = None,
    pooling: str | None = None,
    preprocess: str | None = None,
    memory_limit: int | str | None = None,
    cv: int | str | None = 5,
    test_fraction: float = 0.2,
    resplit: bool = False,
    val: str = "train",
    group_by: str | None = None,
    shots: int | None = None,
    train_size: int | None = None,
    class_weight: str | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    budget: float | None = None,
    allow_failed: bool = False,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Train every head with seeds 0 to ``seeds - 1`` and compare the figures of their test rows.

    A seed draws the split (unless the manifest names it), the sample (with `shots` or `train_size`) and the
    head's own random numbers; all heads meet the same rows. Runs lie under ``out/runs`` as `train` writes
    them; those that are there, of the same options, are not trained again, so that the same call resumes, and
    one with more heads or seeds extends.

    Parameters
    ----------
    heads : sequence of str
        Two or more are tested in pairs.
    out : path
        Folder for ``compare.csv`` (a row a run), ``compare.json`` and the runs.
    seeds : int
        Runs of each head.
    leak : bool
        Run everything without `group_by` too, and say by how much such splits overstate the figures.
    params : mapping, optional
        Parameters of each head, by its name.
    budget : float, optional
        Seconds of each run of head ``auto``.
    progress : callable, optional
        Called with the runs done and their number.
    **others
        As in `toptune.train.train`.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        As `toptune.train.train`; for an `out` that holds something else or runs of other options.
    """
    meter, names = CostMeter(), [str(head) for head in heads]
    given = {head: dict(values) for head, values in (params or {}).items()}
    _check(names, given, seeds, budget)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    cache = opened.features(model, dataset, version=dataset_version)
    if leak:
        _check_leak(cache, group_by, resplit=resplit, val=val)
    folder = Path(os.fspath(out)).absolute()
    if not (folder / RUNS).is_dir():
        check_out(folder)
    common: dict[str, Any] = {
        "layers": layers, "pooling": pooling, "preprocess": preprocess, "memory_limit": memory_limit,
        "cv": cv, "test_fraction": test_fraction, "resplit": resplit, "val": val, "shots": shots,
        "train_size": train_size, "class_weight": class_weight, "allow_failed": allow_failed,
        "device": device,
    }  # fmt: skip
    planned = [
        _Planned(
            name=f"{_folder_name(head)}{'' if is_grouped else f'-{UNGROUPED}'}-seed{seed}",
            head=head,
            seed=seed,
            is_grouped=is_grouped,
        )
        for is_grouped in ((True, False) if leak else (True,))
        for seed in range(seeds)
        for head in names
    ]
    rows: list[RunRow] = []
    warnings: list[tuple[str, list[str]]] = []
    for done, run in enumerate(planned):
        if progress is not None:
            progress(done, len(planned))
        options = common | {
            "head": run.head,
            "seed": run.seed,
            "group_by": group_by if run.is_grouped else None,
            "params": given.get(run.head, {}),
            "budget": budget if run.head == AUTO_HEAD else None,
        }
        path = folder / RUNS / run.name
        if not path.exists():
            train(
                opened, dataset=dataset, model=model, dataset_version=dataset_version, out=path,
                keep_sums=False, **options,
            )  # fmt: skip
        record, metrics = _finished(path, options, cache)
        split = "" if group_by is None else "grouped" if run.is_grouped else UNGROUPED
        rows.append(RunRow.of(record, metrics, split=split, folder=f"{RUNS}/{run.name}"))
        warnings.append((run.head, list(record.warnings)))
    if progress is not None:
        progress(len(planned), len(planned))
    request = {"dataset": dataset, "model": model, "heads": names, "seeds": seeds, "leak": leak}
    options = common | {"group_by": group_by, "params": given, "budget": budget}
    comparison = compare_rows(
        rows,
        folder=folder,
        config=json_ready(request | {"options": options}),
        notes=gather_notes(warnings),
        costs=meter.to_dict(),
    )
    comparison.write()
    return comparison


def _check(heads: Sequence[str], params: Mapping[str, Any], seeds: int, budget: float | None) -> None:
    if not heads or len(set(heads)) < len(heads):
        raise InputError(f"heads are {', '.join(heads) or 'none'}; name each once, and at least one")
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; give at least 1, and 2 or more for a deviation")
    for head in heads:
        if head != AUTO_HEAD:
            parameters_of(head)
    if budget is not None and AUTO_HEAD not in heads:
        raise InputError(f"budget is that of head {AUTO_HEAD!r}, which is not among the heads; leave it out")
    if strange := sorted(params.keys() - set(heads)):
        raise InputError(
            f"params are given for {strange[0]!r}, which is not among the heads {', '.join(heads)}; give "
            "parameters by the name of their head"
        )


def _check_leak(cache: StoredFeatures, group_by: str | None, *, resplit: bool, val: str) -> None:
    if group_by is None:
        raise InputError("leak compares splits with and without group_by, and none is given; give --group-by")
    if not resplit and split_manifest(cache.manifest, val=val).rule.startswith(NAMED):
        raise InputError(
            "leak compares drawn splits, but the manifest names the test rows; draw them anew with --resplit"
        )


def _folder_name(head: str) -> str:
    return re.sub(r"[^\w.-]+", "_", head)


def _finished(path: Path, options: Mapping[str, Any], cache: StoredFeatures) -> tuple[RunRecord, RunMetrics]:
    """Read the record and the metrics of a run, or refuse the run where it is of something else."""
    advice = "remove the folder, or give another --out"
    try:
        record = RunRecord.read(path / CONFIG, advice=advice, needed=("cache", "manifest", "options"))
        metrics = RunMetrics.read(path / METRICS, advice=advice)
    except StoreError as error:
        raise InputError(f"{path} is no finished run ({error})") from error
    features = None if record.cache is None else record.cache.digest
    made = {**record.options, "features": features, "pictures": record.manifest.pictures_digest}
    wanted = dict(options) | {"features": cache.digest, "pictures": cache.manifest.pictures_digest}
    for name, value in json_ready(wanted).items():
        if made.get(name) != value:
            raise InputError(
                f"{path} is a run with {name} {made.get(name)!r}, and {value!r} is asked for; give another "
                "--out, or remove it"
            )
    labels = cache.manifest.labels
    if any(labels[row] != label for row, label in read_labels(path).items()):
        raise InputError(f"{path} is a run with other labels than the data set has now; give another --out")
    return record, metrics
