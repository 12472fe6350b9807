"""RUN folders as a report reads them: their records, without head or backbone."""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from toptune.errors import CorruptError, InputError
from toptune.store.files.folder_kinds import what_is
from toptune.store.files.names import plain_model_name
from toptune.store.files.system_errors import not_readable
from toptune.train.figures.metrics import ClassTables
from toptune.train.reports.layer_plot import LayerPoint
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import CONFIG, METRICS, RunRecord
from toptune.train.tasks.names import CLASSIFICATION
from toptune.workflows.report.run_tables import ADVICE, Predictions, read_layer_search, read_predictions
from toptune.workflows.report.task_runs import TaskRun, read_task_run

MAX_RUNS = 2_000


@dataclass(frozen=True)
class ReportedRun:
    """One RUN folder: its record and metrics, the tables of its classes, and the tables beside them."""

    folder: Path
    record: RunRecord
    metrics: RunMetrics
    tables: ClassTables

    @property
    def is_finetuned(self) -> bool:
        """Whether the backbone was trained too."""
        return self.record.is_finetuned

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.record.dataset

    @property
    def images_digest(self) -> str | None:
        """Digest of the ids and sizes of the images of the data set."""
        return self.record.manifest.pictures_digest

    @cached_property
    def model(self) -> str:
        """Name of the backbone, or names of several, without folders and without digests of features."""
        return " + ".join(plain_model_name(model).split("@")[0] for model in self.record.models)

    @property
    def options(self) -> Mapping[str, object]:
        """What was asked for, by the names of Python's keywords."""
        return self.record.options

    @property
    def layers(self) -> object:
        """The layers that were asked for; where none were, ``last`` if that was all, else ``all``."""
        saves = self.record.saves
        n_arrays = 1 if saves is None else saves.n_arrays_trained_on
        return self.options.get("layers") or ("last" if n_arrays == 1 else "all")

    @property
    def seed(self) -> int:
        """Seed of the split, the sample and the random numbers of training."""
        seed = self.record.options["seed"]
        assert isinstance(seed, int), "read_run refuses a run without a seed"
        return seed

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the test rows; None where there are none."""
        return self.metrics.accuracy

    @property
    def seconds(self) -> float:
        """Seconds of choosing hyperparameters, training and testing."""
        return self.metrics.total_seconds

    def cost(self, name: str) -> float | None:
        """Return a cost such as ``energy_joules``; None where the cost was not measured."""
        return self.metrics.cost(name)

    @property
    def has_estimated_energy(self) -> bool:
        """Whether any of the ``energy_joules`` was estimated instead of read from counters."""
        energy = self.metrics.costs.get("energy")
        return isinstance(energy, Mapping) and bool(energy.get("estimate"))

    @property
    def country(self) -> str | None:
        """Country whose electricity decides ``co2e_kg``; None where emissions are not known."""
        emissions = self.metrics.costs.get("co2e")
        country = emissions.get("country") if isinstance(emissions, Mapping) else None
        return None if country is None else str(country)

    def predictions(self) -> Predictions | None:
        """Read what the run said of each test image; see `read_predictions`."""
        return read_predictions(self.folder, n_test=self.metrics.n_test)

    def layer_search(self) -> list[LayerPoint]:
        """Read the layers that a search compared; see `read_layer_search`."""
        return read_layer_search(self.folder)


def read_runs(
    places: Sequence[str | os.PathLike[str]], *, progress: Callable[[int, int], None]
) -> list[ReportedRun]:
    """Read the runs of `read_all` that classify."""
    return read_all(places, progress=progress)[0]


def read_all(
    places: Sequence[str | os.PathLike[str]], *, progress: Callable[[int, int], None]
) -> tuple[list[ReportedRun], list[TaskRun]]:
    """Read every RUN of some folders, sorted by path; runs of other tasks than classification apart.

    Parameters
    ----------
    places : sequence of path
        RUN folders, and folders with RUN folders anywhere below.
    progress : callable
        Called with ``(done, total)``.

    Raises
    ------
    InputError
        If a folder is no RUN and holds none, or there are more than `MAX_RUNS`.
    CorruptError
        If the records of a RUN cannot be read or lack something; the message names the RUN.
    """
    # The folders form a set, because a folder and a folder around it may both be named.
    folders = sorted({folder for place in places for folder in _find_runs(Path(place))})
    if len(folders) > MAX_RUNS:
        raise InputError(f"{len(folders)} runs; a report takes at most {MAX_RUNS}: name fewer folders")
    runs, others = [], []
    for number, folder in enumerate(folders, start=1):
        record = RunRecord.read(folder / CONFIG, advice=ADVICE)
        if record.task_name == CLASSIFICATION:
            runs.append(read_run(folder))
        else:
            record.check_files(folder, record.table_names)
            others.append(read_task_run(folder, record, advice=ADVICE))
        progress(number, len(folders))
    return _with_common_names(runs), others


def _with_common_names(runs: Sequence[ReportedRun]) -> list[ReportedRun]:
    """Call the data set of a fine-tuning, which read the images themselves, as the store calls it."""
    names: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        if not run.is_finetuned and (digest := run.images_digest):
            names[digest].append(run.dataset)
    renamed = []
    for run in runs:
        # Equal digests mean equal images, so that the two names mean one data set and the runs can be
        # compared.
        stored = names.get(run.images_digest or "", [])
        is_other = run.is_finetuned and stored and run.dataset not in stored
        renamed.append(replace(run, record=replace(run.record, dataset=stored[0])) if is_other else run)
    return renamed


def read_run(folder: Path) -> ReportedRun:
    """Read the records of one RUN folder and check the values that a report needs.

    Raises
    ------
    InputError
        If its ``run.json`` is of something else.
    CorruptError
        If a record cannot be read or lacks something.
    """
    record = RunRecord.read(folder / CONFIG, advice=ADVICE)
    record.check_files(folder, record.table_names)
    metrics = RunMetrics.read(folder / METRICS, advice=ADVICE)
    if fault := _fault(record, metrics):
        raise CorruptError(f"run {folder} is damaged: {fault}; {ADVICE}")
    try:
        tables = metrics.tables(folder)
    except CorruptError as error:
        raise CorruptError(f"{error}; {ADVICE}") from error
    # The matrix is kept once, and sparse: a page may be about hundreds of runs.
    return ReportedRun(folder, record, replace(metrics, per_class={}, confusion_matrix=()), tables)


def _fault(record: RunRecord, metrics: RunMetrics) -> str | None:
    """Say what is wrong with the records of a run, or None."""
    try:
        for model in record.models:
            plain_model_name(model)
    except InputError as error:
        return f"run.json names no model ({error})"
    if type(record.options.get("seed")) is not int:
        return "run.json holds no options with a seed"
    # A run without test rows has no accuracy.
    is_tested = metrics.n_test > 0 or metrics.accuracy is not None
    if is_tested and not (metrics.accuracy is not None and 0 <= metrics.accuracy <= 1):
        return "metrics.json holds no accuracy between 0 and 1"
    total = metrics.seconds.get("total", math.nan)
    if not (math.isfinite(total) and total > 0):
        return "metrics.json holds no seconds"
    return None


def _refuse_unread(error: OSError) -> None:
    # A folder that may not be read may hold runs, so that a page without them would be wrong.
    raise not_readable(Path(error.filename), error)


def _find_runs(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        raise InputError(f"{place} is no folder; give RUN folders, or folders that hold some")
    found = False
    for folder, below, files in os.walk(place, onerror=_refuse_unread):
        # Runs that are being written lie in hidden folders, and no run lies within another.
        below[:] = [] if CONFIG in files else sorted(each for each in below if not each.startswith("."))
        if CONFIG in files:
            found = True
            yield Path(folder).resolve()
    if not found:
        raise InputError(
            f"{place} is no RUN folder and holds none (no {CONFIG}): it {what_is(place)}; give what train "
            "--out wrote",
            option="runs",
        )
