"""`blend`: a late fusion of runs that exist, trained on the same rows and folds."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.machine.limits import LimitArguments, RunLimits
from toptune.options import options_of
from toptune.store.features.feature_store import FeatureStore
from toptune.text import counted
from toptune.train.numerics.thresholds import F1
from toptune.train.rows.options import ways_of
from toptune.train.runs.options import JOIN, LATE
from toptune.train.runs.record import HASHED, RunRecord
from toptune.train.runs.writing import check_out
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL

if TYPE_CHECKING:  # it imports torch, which runs that are refused do not need
    from toptune.train.fusion.fused_run import FusedRun


def blend(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[LimitArguments],
) -> "FusedRun":
    """Make one run of runs that exist: their heads as they are, weighed by their left-out rows.

    A run does not keep its left-out scores. The fits without each fold are done once more for each run, with
    the parameters that the run has chosen and on the folds that it has stored. The heads stay those of the
    runs, whose folders are copied; the runs themselves stay as they are.

    Parameters
    ----------
    runs : sequence of path
        RUN folders of heads, two at least, that were trained on the same rows with the same folds. They may
        be of different models, layers and heads.
    out : path
        RUN folder to make.
    store : path or FeatureStore, optional
        Where the features are; by default the store that each run was trained from.
    progress : callable, optional
        Called with the name of each phase as the phase begins.
    **arguments
        The fields of `toptune.machine.limits.RunLimits`: device, memory limit and dask workers.

    Raises
    ------
    InputError
        For fewer than two runs, a run that is given twice, runs of other rows, splits, classes or folds than
        the first, or with other answers of things; a run without folds, of numbers, of several models, or a
        fine-tuned network.
    StoreError
        If the store does not hold the features of a run.

    Examples
    --------
    >>> from toptune.extract import extract
    >>> from toptune.train import train
    >>> model = "resnet10t.toptune_glyphs"
    >>> _ = extract("digits", model=model, store="store")
    >>> options = {"dataset": "digits", "model": model, "train_size": 200}
    >>> _ = train("store", out="run-ridge", head="ridge", **options)
    >>> _ = train("store", out="run-lda", head="lda", **options)
    >>> run = blend(["run-ridge", "run-lda"], out="blended")
    >>> sum(member.weight for member in run.fusion.members)
    1.0
    """
    limits = options_of(RunLimits, arguments, call="blend")
    phases = Phases(progress)
    path = check_out(out)
    records = _read(runs)
    _check_alike(records)
    # torch and scikit-learn are imported now that the runs are known to belong together.
    from toptune.train.fusion.repeated_fits import blended

    return blended([*records], path=path, store=store, limits=limits, phases=phases)


def _read(runs: Sequence[str | os.PathLike[str]]) -> dict[Path, RunRecord]:
    """Read the records of runs of heads, each of them once."""
    if isinstance(runs, str | os.PathLike):
        raise InputError(f"runs is {str(runs)!r}; give a list of at least 2 RUN folders", option="runs")
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise InputError(f"{counted(len(folders), 'run')} to blend; give at least 2", option="runs")
    seen: set[Path] = set()
    records = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError(f"run {folder} is given twice; give it once", option="runs")
        seen.add(folder.resolve())
        record = RunRecord.of_folder(folder)
        if record.fusion is not None:
            raise InputError(
                f"{folder} is a run of several models; give its heads: "
                f"{', '.join(str(folder / member.folder) for member in record.fusion.members)}",
                option="runs",
            )
        if record.is_finetuned:
            raise InputError(
                f"{folder} is a fine-tuned network, which has no left-out rows on the folds of heads; blend "
                "runs of toptune train",
                option="runs",
            )
        records[folder] = record
    return records


def _check_alike(records: Mapping[Path, RunRecord]) -> None:
    """Refuse runs of other rows or folds than the first, and runs whose fits cannot be repeated."""
    for folder, record in records.items():
        if record.task_name not in (CLASSIFICATION, MULTILABEL):
            raise InputError(
                f"run {folder} has learned --task {record.task_name}, and blend weighs probabilities of "
                f"classes or of labels; train the models in one command, with --fusion {JOIN}",
                option="runs",
            )
        if record.folds is None or record.folds.rule == HASHED:
            why = "was fitted without folds" if record.folds is None else "is older than stored folds"
            raise InputError(
                f"run {folder} {why}, by whose left-out rows heads are weighed; train again (head "
                f"forest: several models in one command, with --fusion {LATE})",
                option="runs",
            )
        saves = record.saves
        if record.sources is not None and saves and saves.n_columns < saves.n_columns_trained_on:
            raise InputError(
                f"run {folder} keeps {saves.n_columns} of {saves.n_columns_trained_on} columns of several "
                "models side by side, and blend cannot choose these anew without a fold; train its head "
                f"{record.options.get('head')!r} on the models with --fusion {LATE}, or blend a run of a "
                "head that keeps all columns, such as ridge",
                option="runs",
            )
    (first, expected), *others = ((folder, _identity(record)) for folder, record in records.items())
    for folder, identity in others:
        for what, (value, remedy) in identity.items():
            if value != expected[what][0]:
                raise InputError(
                    f"runs {first} and {folder} differ in {what}: {expected[what][0]} and {value}; {remedy}",
                    option="runs",
                )


def _identity(record: RunRecord) -> dict[str, tuple[object, str]]:
    """Give what runs must share, in the order in which a difference is told, and what closes each gap."""
    assert record.folds is not None
    same = "train both with the same --seed, --test-fraction, --group-by, --shots and --skip-failed"
    images = record.manifest.pictures_digest
    # Runs that are older than versions of data sets were trained on the first.
    version = 1 if record.dataset_version is None else record.dataset_version
    return {
        "the data set": (record.dataset, "blend runs of one data set"),
        "the version of the data set": (version, "bring both up to date (train --update)"),
        "the images of the data set": (images and images[:12], "train again on the same images"),
        "the task": (record.task_name, "blend runs of one task"),
        "the classes": (len(record.classes), same),
        "the number of training rows": (record.split.n_train, same),
        "the number of test rows": (record.split.n_test, same),
        "the rows, labels and split": ((record.split.rows_digest or "")[:12], same),
        "the number of folds": (record.folds.count, "train both with the same --cv"),
        "the folds": ((record.folds.digest or "")[:12], "train both with the same --cv and --group-by"),
        # The run has one answer for a thing, and one rule from which probability labels apply.
        "the things": (record.options.get("answer_by"), "train both with the same --answer-by"),
        "the answers of things": (
            record.options.get("answer_from") or ways_of(record.task_name)[0],
            "train both with the same --answer-from",
        ),
        "the thresholds": (record.options.get("threshold") or F1, "train both with the same --threshold"),
    }
