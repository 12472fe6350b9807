"""`study`: a cross product of trainings, run cell by cell, resumed where it stopped."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toptune.costs.meter import CostMeter
from toptune.costs.values import Costs
from toptune.errors import InterruptedRunError, ToptuneError
from toptune.extract.extraction import extract
from toptune.machine.dask_cluster import each_finished, open_client
from toptune.text import counted
from toptune.train.reports.notes import Notes, gather_notes
from toptune.train.runs.training import train
from toptune.workflows.finetuning.session import finetune
from toptune.workflows.study.cells import Cell, cells_of
from toptune.workflows.study.checks import check_places
from toptune.workflows.study.file import Study, read_study
from toptune.workflows.study.results import result_of, summarize, warnings_of, write_results

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study would do.

    Attributes
    ----------
    cells, done : int
        Trainings in all, and those whose RUN is there.
    extractions : tuple of tuple of str
        Data set and backbone of each.
    seconds_left : float or None
        For the trainings that are left, from the mean of those that are done of the same method, data set and
        backbone, or of the same method; None where nothing of some method is done.
    unknown : tuple of str
        Methods of which nothing is done.
    """

    cells: int
    done: int
    extractions: tuple[tuple[str, str], ...]
    seconds_left: float | None
    unknown: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
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
            else f"about {self.seconds_left:.0f} s, by those that are done"
        )
        return (
            f"{counted(self.cells, 'training')}, {self.done} of them done; {self.cells - self.done} left: "
            f"{left}\nfeatures of {counted(len(self.extractions), 'combination')} of data set and backbone; "
            "what is stored already is not computed again"
        )


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """What a study gave.

    Attributes
    ----------
    out : str
        Folder with ``results.csv`` and ``results.parquet``.
    trained, done_before : int
        Cells of this call, and those that were there.
    failed : mapping of str to str
        Cell to reason.
    summary : list of dict
        See `summarize`.
    notes : Notes
        What the trainings that are there warn of.
    costs : dict
        Of this call, extraction included; dask workers elsewhere are not in it. See
        `toptune.costs.meter.CostMeter`.
    """

    out: str
    trained: int
    done_before: int
    notes: Notes
    costs: Costs
    failed: Mapping[str, str] = field(default_factory=dict)
    summary: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON values."""
        return {
            "out": self.out,
            "trained": self.trained,
            "done_before": self.done_before,
            "notes": asdict(self.notes),
            "costs": self.costs,
            "failed": dict(self.failed),
            "summary": self.summary,
        }


def plan_study(path: str | Path) -> StudyPlan:
    """Say what a study would do, from its file and what is done of it.

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
    rows = [result_of(cell, study.out) for cell in done]
    expected = [_expected_seconds(cell, rows) for cell in cells if not cell.is_done]
    known = [seconds for seconds in expected if seconds is not None]
    left = [cell for cell in cells if not cell.is_done]
    return StudyPlan(
        cells=len(cells),
        done=len(done),
        extractions=tuple((dataset, model) for dataset in study.datasets for model in study.models),
        seconds_left=sum(known) if len(known) == len(expected) else None,
        unknown=tuple(
            dict.fromkeys(cell.method for cell, each in zip(left, expected, strict=True) if each is None)
        ),
    )


def run_study(
    path: str | Path,
    *,
    dask: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> StudyReport:
    """Extract what is missing, train every cell that has no RUN yet, and write the results.

    Interrupted at any moment and called again, it goes on where it stopped: a RUN takes its name when it is
    whole. A cell that fails is told in the report and tried again by the next call; the others go on.

    Parameters
    ----------
    path : path
        The study file; see `read_study`.
    dask : str, optional
        Address of a dask.distributed scheduler, or ``local:N``: cells are trained by its workers, which see
        all paths as this process does. Extraction stays here.
    progress : callable, optional
        Called with ``(done, total)`` after every cell.
    notify : callable, optional
        Called with a line about what comes next.

    Returns
    -------
    StudyReport

    Raises
    ------
    InputError
        See `plan_study`; also if a data set or backbone cannot be extracted.
    """
    meter, study = CostMeter(), read_study(path)
    cells = cells_of(study)
    left = [cell for cell in cells if not cell.is_done]
    if left:
        check_places(study)
    notify = notify or (lambda _line: None)
    report = progress or (lambda _done, _total: None)
    names: dict[tuple[str, str], str] = {}
    if any(cell.kind == "train" for cell in left):
        names = extract_all(study, notify)
    results = {str(cell.folder): result_of(cell, study.out) for cell in cells if cell.is_done}

    def in_order() -> list[dict[str, Any]]:
        return [results[str(cell.folder)] for cell in cells if str(cell.folder) in results]

    failed: dict[str, str] = {}
    with _runner(dask) as run_all:
        jobs = [(cell, _arguments(study, cell, names)) for cell in left]
        for number, (cell, reason) in enumerate(run_all(jobs), start=1):
            if reason is None:
                results[str(cell.folder)] = result_of(cell, study.out)
            else:
                failed[str(cell)] = reason
                logger.warning("%s: %s", cell, reason)
            report(len(cells) - len(left) + number, len(cells))
            write_results(in_order(), study.out)
    rows = in_order()
    write_results(rows, study.out)
    return StudyReport(
        out=str(study.out),
        trained=len(left) - len(failed),
        done_before=len(cells) - len(left),
        notes=gather_notes((cell.method, warnings_of(cell)) for cell in cells if cell.is_done),
        costs=meter.to_dict(),
        failed=failed,
        summary=summarize(rows),
    )


def extract_all(study: Study, notify: Callable[[str], None]) -> dict[tuple[str, str], str]:
    """Extract every backbone over every data set; give the names by which training finds them."""
    is_deep = any(of_head.get("layers", layers) != "last" for of_head in study.heads.values()
                  for layers in study.layers)  # fmt: skip
    names = {}
    for dataset, of_dataset in study.datasets.items():
        for model, of_model in study.models.items():
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


def train_cell(kind: str, arguments: Mapping[str, Any]) -> str | None:
    """Train one cell; return why it could not be, or None. Runs in a dask worker too."""
    try:
        if kind == "finetune":
            finetune(**arguments)
        else:
            train(**arguments)
    except InterruptedRunError:
        raise
    except ToptuneError as error:
        return str(error)
    return None


Job = tuple[Cell, dict[str, Any]]
RunAll = Callable[[Sequence[Job]], Iterator[tuple[Cell, str | None]]]


@contextmanager
def _runner(dask: str | None) -> Iterator[RunAll]:
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


def _arguments(study: Study, cell: Cell, names: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    if cell.kind == "finetune":
        return {
            "data": study.datasets[cell.dataset]["data"],
            "out": str(cell.folder),
            **study.models[cell.model],
            **cell.options,
        }
    return {
        "store": str(study.store),
        "dataset": cell.dataset,
        "model": names[cell.dataset, cell.model],
        "out": str(cell.folder),
        **cell.options,
    }


def _expected_seconds(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> float | None:
    same = [row for row in rows if (row["method"], row["layers"]) == (cell.method, cell.layers)]
    closer = [row for row in same if (row["dataset"], row["model"]) == (cell.dataset, cell.model)]
    found = [float(row["seconds"]) for row in closer or same]
    return sum(found) / len(found) if found else None
