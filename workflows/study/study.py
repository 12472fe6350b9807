"""`study`: a cross product of trainings, run cell by cell, resumed where it stopped."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from toptune.costs.meter import CostMeter
from toptune.costs.values import Costs
from toptune.errors import InterruptedRunError, ToptuneError
from toptune.extract.extraction import extract
from toptune.extract.images.remarks import each_said_once
from toptune.machine.dask_cluster import each_finished, open_client
from toptune.text import counted
from toptune.train.best.training import train
from toptune.train.reports.notes import Notes, gather_notes
from toptune.workflows.finetuning.finetune import finetune
from toptune.workflows.study.cells import Cell, cells_of
from toptune.workflows.study.checks import check_places
from toptune.workflows.study.file import Keywords, Study, read_study
from toptune.workflows.study.results import (
    Result,
    Summary,
    TaskSummary,
    result_of,
    summarize,
    summary_row,
    write_results,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study would do.

    Attributes
    ----------
    cells, done : int
        Number of all trainings, and of the trainings whose RUN folder is there.
    extractions : tuple of tuple of str
        Pairs of data set and backbone whose features are needed.
    seconds_left : float or None
        Time of the trainings that are left. The estimate of a training is the mean over finished trainings of
        the same method, data set and backbone, or else of the same method. None if a method has no finished
        training.
    unknown : tuple of str
        Methods that have no finished training.
    """

    cells: int
    done: int
    extractions: tuple[tuple[str, str], ...]
    seconds_left: float | None
    unknown: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Give the plan as JSON values."""
        return {
            "cells": self.cells,
            "done": self.done,
            "extractions": [list(each) for each in self.extractions],
            "seconds_left": self.seconds_left,
            "unknown": list(self.unknown),
        }

    def __str__(self) -> str:
        left = (
            f"their time is not known yet for {', '.join(self.unknown)}"
            if self.seconds_left is None
            else f"about {self.seconds_left:.0f} s, by the trainings that are done"
        )
        return (
            f"{counted(self.cells, 'training')}, {self.done} of them done; {self.cells - self.done} left: "
            f"{left}\nfeatures of {counted(len(self.extractions), 'combination')} of data set and backbone; "
            "what is stored already is not computed again"
        )


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """What a call of `run_study` trained, and what all finished trainings amount to.

    Attributes
    ----------
    out : str
        Folder with ``results.csv`` and ``results.parquet``.
    trained, done_before : int
        Number of trainings of this call, and of trainings that were finished before.
    failed : mapping of str to str
        Cells that failed, with the reason.
    summary : list of Summary or TaskSummary
        Means over seeds of all finished trainings.
    notes : Notes
        Warnings of all finished trainings, gathered.
    costs : Costs
        Costs of this call, extraction included. Work of dask workers on other machines is not counted.
    """

    out: str
    trained: int
    done_before: int
    notes: Notes
    costs: Costs
    failed: Mapping[str, str] = field(default_factory=dict)
    summary: list[Summary | TaskSummary] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Give the report as JSON values."""
        return {
            "out": self.out,
            "trained": self.trained,
            "done_before": self.done_before,
            "notes": asdict(self.notes),
            "costs": self.costs,
            "failed": dict(self.failed),
            "summary": [summary_row(row) for row in self.summary],
        }


def plan_study(path: str | Path) -> StudyPlan:
    """Say what a study would do, from the study file and the RUN folders that are there.

    Raises
    ------
    InputError
        See `read_study`, `check_options` and, where something is left to do, `check_places`.
    """
    study = read_study(path)
    cells = cells_of(study)
    done = [cell for cell in cells if cell.is_done]
    if len(done) < len(cells):
        check_places(study)
    results = [result_of(cell, study.out) for cell in done]
    expected = [_expected_seconds(cell, results) for cell in cells if not cell.is_done]
    known = [seconds for seconds in expected if seconds is not None]
    left = [cell for cell in cells if not cell.is_done]
    return StudyPlan(
        cells=len(cells),
        done=len(done),
        extractions=tuple((dataset, model) for dataset in study.datasets for model in study.backbones),
        seconds_left=sum(known) if len(known) == len(expected) else None,
        unknown=tuple(
            dict.fromkeys(cell.method for cell, each in zip(left, expected, strict=True) if each is None)
        ),
    )


@each_said_once()
def run_study(
    path: str | Path,
    *,
    dask: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
    spreadsheet_safe: bool = False,
) -> StudyReport:
    """Extract missing features, train every cell that has no RUN folder yet, and write the results.

    A study that was interrupted at any moment is called again and goes on where it stopped, because a RUN
    folder takes its name when the folder is whole. A cell that fails does not stop the other cells: the
    report gives the reason, and the next call tries the cell again.

    Parameters
    ----------
    path : path
        The study file; see `read_study`.
    dask : str, optional
        Address of a dask.distributed scheduler, or ``local:N``, whose workers train the cells. All paths must
        be the same for the workers. Extraction runs in this process.
    progress : callable, optional
        Called with ``(done, total)`` after every cell.
    notify : callable, optional
        Called with a line of text before each extraction.
    spreadsheet_safe : bool
        Put ``'`` before text in CSV that a spreadsheet would compute as a formula.

    Returns
    -------
    StudyReport

    Raises
    ------
    InputError
        See `plan_study`. Also if features of a data set and backbone cannot be extracted.
    """
    meter, study = CostMeter(), read_study(path)
    cells = cells_of(study)
    left = [cell for cell in cells if not cell.is_done]
    if left:
        check_places(study)
    notify = notify or (lambda _line: None)
    report = progress or (lambda _done, _total: None)
    names: dict[tuple[str, str], str] = {}
    # Features are extracted before the first training, so that a fault of the images shows at once.
    if any(cell.kind == "train" for cell in left):
        names = extract_all(study, notify)
    results = {cell.folder: result_of(cell, study.out) for cell in cells if cell.is_done}

    def in_order() -> list[Result]:
        return [results[cell.folder] for cell in cells if cell.folder in results]

    failed: dict[str, str] = {}
    with _runner(dask) as run_all:
        jobs = [(cell, _arguments(study, cell, names)) for cell in left]
        for number, (cell, reason) in enumerate(run_all(jobs), start=1):
            if reason is None:
                results[cell.folder] = result_of(cell, study.out)
            else:
                failed[str(cell)] = reason
                logger.warning("%s: %s [TT507]", cell, reason)
            report(len(cells) - len(left) + number, len(cells))
            # The tables are written after each cell, so that a study that is stopped has its results so far.
            write_results(in_order(), study.out, spreadsheet_safe=spreadsheet_safe)
    finished = in_order()
    write_results(finished, study.out, spreadsheet_safe=spreadsheet_safe)
    return StudyReport(
        out=str(study.out),
        trained=len(left) - len(failed),
        done_before=len(cells) - len(left),
        notes=gather_notes((each.cell.method, each.warnings) for each in finished),
        costs=meter.to_dict(),
        failed=failed,
        summary=summarize(finished),
    )


def extract_all(study: Study, notify: Callable[[str], None]) -> dict[tuple[str, str], str]:
    """Extract every backbone over every data set; return the names by which training finds the features."""
    is_deep = any(of_head.get("layers", layers) != "last" for of_head in study.heads.values()
                  for layers in study.layers)  # fmt: skip
    names = {}
    for dataset, of_dataset in study.datasets.items():
        for model, of_model in study.backbones.items():
            notify(f"features of {model} over {dataset}")
            summary = extract(
                of_dataset["data"],
                store=study.store,
                dataset=dataset,
                split=of_dataset.get("split"),
                **{"layers": "all" if is_deep else "last", **study.extract, **of_model},
            )
            names[dataset, model] = summary.model
    return names


def train_cell(kind: str, arguments: Keywords) -> str | None:
    """Train one cell; return the reason if the training failed. Dask workers call this function too."""
    try:
        if kind == "finetune":
            finetune(**arguments)
        else:
            train(**arguments)
    # An interruption ends the study. Any other error of a cell is a result of that cell.
    except InterruptedRunError:
        raise
    except ToptuneError as error:
        return str(error)
    return None


Job = tuple[Cell, Keywords]
RunAll = Callable[[Sequence[Job]], Iterator[tuple[Cell, str | None]]]


@contextmanager
def _runner(dask: str | None) -> Iterator[RunAll]:
    """Give a function that trains cells, one after the other here or side by side on dask workers."""
    if dask is None:
        yield lambda jobs: ((cell, train_cell(cell.kind, arguments)) for cell, arguments in jobs)
        return
    with open_client(dask) as client:

        def run_all(jobs: Sequence[Job]) -> Iterator[tuple[Cell, str | None]]:
            futures = {
                client.submit(train_cell, cell.kind, arguments, pure=False): cell for cell, arguments in jobs
            }
            for future in each_finished(list(futures)):
                yield futures[future], future.result()

        yield run_all


def _arguments(study: Study, cell: Cell, names: Mapping[tuple[str, str], str]) -> Keywords:
    if cell.kind == "finetune":
        return {
            "data": study.datasets[cell.dataset]["data"],
            "out": str(cell.folder),
            **study.models[cell.model],
            **cell.options,
        }
    members = {name: names[cell.dataset, name] for name in study.members(cell.model)}
    options = dict(cell.options)
    if isinstance(options["layers"], Mapping):
        options["layers"] = {members[name]: layers for name, layers in options["layers"].items()}
    stored = [*members.values()]
    return {
        "store": str(study.store),
        "dataset": cell.dataset,
        **({"models": stored} if "fusion" in options else {"model": stored[0]}),
        "out": str(cell.folder),
        **options,
    }


def _expected_seconds(cell: Cell, results: Sequence[Result]) -> float | None:
    """Estimate the time of a training from finished ones: the closest that there are."""
    same = [each for each in results if (each.cell.method, each.cell.layers) == (cell.method, cell.layers)]
    closer = [each for each in same if (each.cell.dataset, each.cell.model) == (cell.dataset, cell.model)]
    # Trainings on another data set are a poor estimate, but better than none.
    seconds = [each.metrics.total_seconds for each in closer or same]
    return sum(seconds) / len(seconds) if seconds else None
