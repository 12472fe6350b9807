"""`compare_heads`: heads and models over the same repeated splits, with intervals and paired tests."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from toptune.costs.meter import CostMeter
from toptune.errors import InputError, StoreError
from toptune.options import options_of
from toptune.store.datasets.versions import read_dataset_version
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import ModelFeatures, StoredFeatures
from toptune.store.files.json_values import json_ready
from toptune.store.files.writing import check_writable
from toptune.store.joined.joined_features import JoinedFeatures, joined_name
from toptune.train.best.training import train
from toptune.train.fusion.late import share_of_budget
from toptune.train.fusion.members import open_members
from toptune.train.heads.kinds import check_head
from toptune.train.heads.options import AUTO_HEAD, HeadOptions
from toptune.train.reports.comparison_report import (
    UNGROUPED,
    Comparison,
    RunRow,
    compare_rows,
    namer_of,
)
from toptune.train.reports.notes import gather_notes
from toptune.train.reports.options import CompareArguments, CompareOptions
from toptune.train.rows.splits import NAMED, split_manifest
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import CONFIG, METRICS, RunRecord
from toptune.train.runs.run import read_labels
from toptune.train.runs.writing import check_out
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION

RUNS = "runs"
_ADVICE = "remove the folder, or give another --out"


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A run to be made, of one model or of several that share it, and the name of the run."""

    name: str
    head: str
    models: tuple[str, ...]
    seed: int
    is_grouped: bool


def compare_heads(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str | None = None,
    models: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    out: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
    spreadsheet_safe: bool = False,
    **arguments: Unpack[CompareArguments],
) -> Comparison:
    """Train every head on every model with several seeds, and compare the figures of their test rows.

    A seed draws the split (unless the manifest names the test rows), the sample (with `shots` or
    `train_size`) and the head's own random numbers; all of them meet the same rows. Runs lie under
    ``out/runs`` as `train` writes them. A run that is there, of the same options, is not trained again, so
    that the same call resumes, and a call with more heads, models or seeds extends the comparison.

    Parameters
    ----------
    store : path or FeatureStore
        Root folder of the store, or the store.
    dataset : str
        Name of the data set.
    model : str, optional
        Name of the model whose features are in the store.
    models : sequence of str, optional
        In place of `model`, several models that are compared. With ``fusion`` they share each run instead.
    heads : sequence of str, optional
        Names of heads, as for `toptune.train.train`. Each head on each model is tested against the others
        in pairs. By default the default head of `train`, if there are several models to compare.
    out : path
        Folder for ``compare.csv`` (one row for each run), ``compare.json`` and the runs.
    progress : callable, optional
        Called with the number of runs that are done, and the number of all runs.
    spreadsheet_safe : bool
        Put ``'`` before text in CSV that a spreadsheet would compute as a formula.
    **arguments
        The fields of `CompareOptions`.

    Returns
    -------
    Comparison
        Means, intervals and paired tests over the seeds.

    Raises
    ------
    InputError
        As `toptune.train.train`; if neither heads nor several models are given; for heads that do not know
        the task; for an `out` that holds something else or runs of other options.
    """
    options, meter = options_of(CompareOptions, arguments, call="compare_heads"), CostMeter()
    contests = options.contests(model, models)
    names = options.heads_of(heads, contests)
    _check_heads(names, options)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    options = _for_task(opened, dataset, options)
    _check_heads(names, options)
    all_models = [name for contest in contests for name in contest]
    features = open_members(
        opened, dataset, {name: options.of_features.for_model(name) for name in all_models}
    )
    if options.leak:
        _check_leak(features[all_models[0]], options)
    folder = Path(os.fspath(out)).absolute()
    if (folder / RUNS).is_dir():
        # Runs that are there are taken as they are; those that are missing, and the table, are written.
        check_writable(folder / RUNS, option="out")
        check_writable(folder, option="out")
    else:
        check_out(folder)
    planned = _plan(names, contests, options)
    rows: list[RunRow] = []
    warnings: list[Sequence[str]] = []
    devices: dict[str, None] = {}
    for done, run in enumerate(planned):
        if progress is not None:
            progress(done, len(planned))
        wanted = options.training(run.head, run.models, seed=run.seed, is_grouped=run.is_grouped)
        path = folder / RUNS / run.name
        # A RUN folder appears whole, so that a folder that is there is a finished run.
        if not path.exists():
            train(
                opened,
                dataset=dataset,
                out=path,
                dataset_version=options.dataset_version,
                # Nobody updates the runs of a comparison, and sums take about 4 (folds + 1) M^2 bytes a run.
                keep_sums=False,
                **(wanted if len(run.models) > 1 else wanted | {"model": run.models[0]}),
            )
        members = {name: features[name] for name in run.models}
        record, metrics = _finished(path, wanted, members, options)
        split = "" if options.group_by is None else "grouped" if run.is_grouped else UNGROUPED
        row = RunRow.of(
            record, metrics, models=run.models, arrays=_arrays(path, record), split=split,
            folder=f"{RUNS}/{run.name}",
        )  # fmt: skip
        rows.append(row)
        warnings.append(record.warnings)
        # Each training settles what `auto` means by its head and its size, and its run records the device.
        devices[str(record.options.get("device"))] = None
    if progress is not None:
        progress(len(planned), len(planned))
    request = {
        "dataset": dataset,
        "model": ", ".join(map(" + ".join, contests)),
        "heads": names,
        "seeds": options.seeds,
        "leak": options.leak,
    }
    comparison = compare_rows(
        rows,
        folder=folder,
        config=json_ready(request | {"options": options.to_dict() | {"device": " + ".join(devices)}}),
        notes=gather_notes(zip(map(namer_of(rows), rows), warnings, strict=True)),
        costs=meter.to_dict(),
    )
    comparison.write(spreadsheet_safe=spreadsheet_safe)
    return comparison


def _for_task(store: FeatureStore, dataset: str, options: CompareOptions) -> CompareOptions:
    """Return the options with the task that was asked for or, by ``auto``, that the data set's labels say."""
    found = options.of_features
    # A column that is named has one label an image, so that the labels of the data set say nothing.
    if found.rows.task == AUTO_TASK and found.rows.label_column is None:
        manifest = read_dataset_version(store.root, dataset, options.dataset_version).manifest
        found = found.for_task(manifest)
    task = CLASSIFICATION if found.rows.task == AUTO_TASK else found.rows.task
    return replace(options, task=task)


def _check_heads(names: Sequence[str], options: CompareOptions) -> None:
    """Refuse heads that there are not, or that do not know the task, before the first run."""
    task = options.of_features.rows.task
    for name in names:
        if name != AUTO_HEAD:
            params = (options.params or {}).get(name)
            check_head(name, params, cv=options.cv, class_weight=options.class_weight, task=task)


def _plan(
    heads: Sequence[str], contests: Sequence[tuple[str, ...]], options: CompareOptions
) -> list[_Planned]:
    """List the runs: all with one seed come before the next seed, so that all have equally many."""
    of_model = {each: f"{_folder_name(each[0])}-" if len(contests) > 1 else "" for each in contests}
    return [
        _Planned(
            name=f"{of_model[models]}{_folder_name(head)}{'' if is_grouped else f'-{UNGROUPED}'}-seed{seed}",
            head=head,
            models=models,
            seed=seed,
            is_grouped=is_grouped,
        )
        for is_grouped in ((True, False) if options.leak else (True,))
        for seed in range(options.seeds)
        for models in contests
        for head in heads
    ]


def _check_leak(features: StoredFeatures, options: CompareOptions) -> None:
    """Refuse to compare splits where the manifest decides which rows are tested."""
    if options.resplit:
        return
    if split_manifest(features.manifest, val=options.val, task=options.task).rule.startswith(NAMED):
        raise InputError(
            "leak compares drawn splits, but the manifest names the test rows; draw them anew with --resplit"
        )


def _folder_name(head: str) -> str:
    return re.sub(r"[^\w.-]+", "_", head)


def _finished(
    path: Path, wanted: Mapping[str, Any], members: Mapping[str, ModelFeatures], options: CompareOptions
) -> tuple[RunRecord, RunMetrics]:
    """Read the record and the metrics of a run, or refuse a run of something else."""
    try:
        record = RunRecord.read(path / CONFIG, advice=_ADVICE, needed=("manifest", "options"))
        record.check_files(path, record.table_names)
        digests, stored = _digests(path, record, members)
        metrics = RunMetrics.read(path / METRICS, advice=_ADVICE)
    except StoreError as error:
        raise InputError(f"{path} is no finished run ({error})") from error
    manifest = next(iter(members.values())).manifest
    # Runs that are older than tasks record none.
    older: dict[str, Any] = {"task": CLASSIFICATION, "target": None, "drop_missing": False, "ordinal": False}
    older["threshold"] = HeadOptions.threshold
    made = {**older, **record.options, "features": digests, "pictures": record.manifest.pictures_digest}
    # A file of decisions under the same name may have other content since.
    made["decisions"] = {name: file.sha256 for name, file in (record.decisions or {}).items()}
    decided = {name: file.sha256 for name, file in options.of_features.rows.decisions.files.items()}
    wanted = {**wanted, "features": stored, "pictures": manifest.pictures_digest, "decisions": decided}
    if record.is_fused and wanted["head"] == AUTO_HEAD:
        wanted["budget"] = share_of_budget(wanted["budget"], len(members))
    # A run of other options or images under the same name would enter the means unnoticed. The device changes
    # no result beyond rounding, and the runs of a comparison may come from several machines.
    for name, value in json_ready(wanted).items():
        if name != "device" and made.get(name) != value:
            raise InputError(
                f"{path} is a run with {name} {made.get(name)!r}, and {value!r} is asked for; give another "
                "--out, or remove it"
            )
    labels = manifest.labels
    # Labels are no part of the digest of the images, so that they are compared one by one.
    if any(labels[row] != label for row, label in read_labels(path).items()):
        raise InputError(f"{path} is a run with other labels than the data set has now; give another --out")
    return record, metrics


def _digests(path: Path, record: RunRecord, members: Mapping[str, ModelFeatures]) -> tuple[Any, Any]:
    """Return what tells the features that trained a run from others, and what tells those of the store."""
    if record.fusion is None:
        stored = [*members.values()]
        features: StoredFeatures = stored[0] if len(stored) == 1 else JoinedFeatures.of(stored)
        return None if record.cache is None else record.cache.digest, features.digest
    # The features of a model that weighs nothing are no part of the run.
    made = {name: head.cache and head.cache.digest for name, head in _heads(path, record).items()}
    return made, {name: members[name].digest if name in members else None for name in made}


def _arrays(path: Path, record: RunRecord) -> list[str]:
    """List the stored arrays that a run uses; the names of several models stand before theirs."""
    if record.fusion is None:
        return [array.name for array in record.arrays or ()]
    heads = _heads(path, record)
    return [joined_name(name, array.name) for name, head in heads.items() for array in head.arrays or ()]


def _heads(path: Path, record: RunRecord) -> dict[str, RunRecord]:
    """Read the records of the heads of a late fusion, by the names of the members."""
    members = () if record.fusion is None else record.fusion.members
    return {
        member.name: RunRecord.read(path / member.folder / CONFIG, advice=_ADVICE, needed=("cache", "arrays"))
        for member in members
    }
