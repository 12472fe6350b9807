"""`write_report`: one page that opens from disk, from the RUN folders of a study."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from toptune.costs.meter import CostMeter, describe_costs
from toptune.costs.values import Costs
from toptune.errors import InputError
from toptune.options import choices
from toptune.store.files.system_errors import explained_writing
from toptune.store.files.writing import is_writable_folder, replace_file
from toptune.text import counted
from toptune.workflows.gallery.rendering import render_page
from toptune.workflows.gallery.thumbnails import Thumbnails
from toptune.workflows.report.command_lines import command_of, extraction_of
from toptune.workflows.report.cost_figures import MAX_PANELS, draw_accuracy_against
from toptune.workflows.report.details import choose_detailed, look_closely
from toptune.workflows.report.drawing import make_legend
from toptune.workflows.report.figures import draw_layer_searches, draw_overview, draw_speedups
from toptune.workflows.report.pairs import compare_with_finetuning, find_answers
from toptune.workflows.report.runs import ReportedRun, read_all
from toptune.workflows.report.settings import Setting, make_settings, methods_of
from toptune.workflows.report.table import ACCURACY, DASH, in_digits, make_table
from toptune.workflows.report.task_runs import counted_tasks

_TEMPLATE = Path(__file__).parent / "report.html"
# The answer names this many settings that cannot be told apart from the best; the figure shows all.
MOST_ALIKE = 3
_LIBRARIES = ("toptune", "torch", "scikit-learn", "timm")


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """What a page holds.

    Attributes
    ----------
    out : str
        File of the page.
    runs, settings, datasets : int
        Numbers of runs, settings and data sets on the page.
    n_bytes : int
        Size of the page.
    notes : tuple of str
        What the page leaves out.
    costs : Costs
        Costs of making the page.
    """

    out: str
    runs: int
    settings: int
    datasets: int
    n_bytes: int
    notes: tuple[str, ...]
    costs: Costs

    def to_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        first = (
            f"{counted(self.runs, 'run')}, {counted(self.settings, 'setting')}, "
            f"{counted(self.datasets, 'data set')} in {self.out} ({self.n_bytes / 1e6:.2f} MB)"
        )
        return "\n".join([first, *(f"note: {note}" for note in self.notes), describe_costs(self.costs)])


def write_report(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    data: Mapping[str, str | os.PathLike[str]] | None = None,
    title: str = "toptune report",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ReportSummary:
    """Write one self-contained HTML page about some runs.

    Runs that differ by their seed only are one setting. The page holds its styles, script, drawings and
    thumbnails, and loads nothing. Each figure has at most 24 panels; at most 12 settings get a closer look.

    Parameters
    ----------
    runs : sequence of path
        RUN folders, and folders with RUN folders anywhere below, 2,000 runs in all.
    out : path
        File of the page.
    data : mapping of data set to path, optional
        Places of images (see `toptune.extract.open_source`), for thumbnails of the most confident mistakes.
        For other data sets the page shows ids alone.
    title : str
    overwrite : bool
        Replace a file that exists.
    progress : callable, optional
        Called with ``(done, total)``: runs that are read, then settings that are looked at.

    Returns
    -------
    ReportSummary

    Raises
    ------
    InputError
        If a folder holds no RUN, `out` exists or cannot be written, or `data` names a data set that no run
        is on, or a place with other images.
    CorruptError
        If a RUN is damaged; the message names it.
    """
    meter, notify = CostMeter(), progress or (lambda _done, _total: None)
    path = _check_out(out, overwrite=overwrite)
    found, others = read_all(runs, progress=notify)
    settings, repeated = make_settings(found)
    detailed = choose_detailed(settings)
    sources = _open_data(data or {}, settings)
    details = look_closely(detailed, sources, progress=notify)
    legend = make_legend(methods_of(settings))
    answers = find_answers(settings)
    overview, n_rows = draw_overview(answers, settings, legend)
    by_seconds, n_seconds = draw_accuracy_against("seconds", settings, legend)
    by_energy, n_energy = draw_accuracy_against("energy", settings, legend)
    layers, n_layers = draw_layer_searches(settings)
    comparisons = compare_with_finetuning(settings)
    columns, rows = make_table(settings)
    notes = _notes(settings, repeated, n_detailed=len(details), n_panels=max(n_seconds, n_energy, n_layers),
                   n_rows=n_rows)  # fmt: skip
    n_datasets = len({setting.dataset for setting in settings} | {run.dataset for run in others})
    told = counted_tasks(others)
    content = render_page(
        _TEMPLATE,
        title=title,
        counts=f"{counted(len(found) + len(others), 'run')}{f' ({told})' if told else ''}, "
        f"{counted(len(settings), 'setting')}, {counted(n_datasets, 'data set')}",
        others=others,
        notes=notes,
        answers=answers,
        most_alike=MOST_ALIKE,
        overview=overview,
        has_several_seeds=any(len(setting.tested) > 1 for setting in settings),
        legend=legend,
        by_seconds=by_seconds,
        by_energy=by_energy,
        has_extraction=any(setting.cost("extract_seconds") for setting in settings),
        has_extraction_energy=any(setting.cost("extract_joules") for setting in settings),
        has_estimated_energy=any(setting.has_estimated_energy for setting in settings),
        has_emissions=any(setting.cost("co2e_kg") is not None for setting in settings),
        comparisons=comparisons,
        speedups=draw_speedups(comparisons, legend) if comparisons else None,
        median=np.median,
        in_digits=in_digits,
        dash=DASH,
        layers=layers,
        settings=settings,
        columns=columns,
        sorted_by=ACCURACY,
        rows=rows,
        details=details,
        sources=sources,
        records=[_record(setting, (data or {}).get(setting.dataset)) for setting in settings],
    )  # fmt: skip
    with explained_writing(path, elsewhere="give another --out", kept="no page was written"):
        replace_file(path, content)
    return ReportSummary(
        out=str(out), runs=len(found) + len(others), settings=len(settings), datasets=n_datasets,
        n_bytes=len(content),
        notes=tuple(notes), costs=meter.to_dict(),
    )  # fmt: skip


def _check_out(out: str | os.PathLike[str], *, overwrite: bool) -> Path:
    path = Path(os.fspath(out)).absolute()
    if path.is_dir():
        raise InputError(f"out {path} is a folder; give a file, such as report.html")
    if path.exists() and not overwrite:
        raise InputError(f"out {path} exists; give another file, or --overwrite")
    if not is_writable_folder(path.parent):
        raise InputError(f"out {path} cannot be made: {path.parent} is not a folder that you may write to")
    return path


def _open_data(
    data: Mapping[str, str | os.PathLike[str]], settings: Sequence[Setting]
) -> dict[str, Thumbnails]:
    names = sorted({setting.dataset for setting in settings})
    if unknown := sorted(data.keys() - set(names)):
        raise InputError(f"no run is on data set {unknown[0]!r}; {choices(unknown[0], names)}", option="data")
    sources = {}
    for name, place in data.items():
        sources[name] = Thumbnails(place)
        told = next(
            (
                found
                for setting in settings
                if setting.dataset == name
                for run in setting.tested
                if (found := run.predictions()) is not None
            ),
            None,
        )
        if told is not None:
            # One id of a run suffices to notice that the images of another data set were given.
            sources[name].check_known(str(told.ids[0]), name)
    return sources


def _notes(
    settings: Sequence[Setting],
    repeated: Sequence[ReportedRun],
    *,
    n_detailed: int,
    n_panels: int,
    n_rows: int,
) -> list[str]:
    """Say what the page leaves out."""
    untested = [run for setting in settings for run in setting.runs if run.accuracy is None]
    n_tested = sum(setting.accuracy is not None for setting in settings)
    notes = []
    if untested:
        notes.append(
            f"{counted(len(untested), 'run')} without test images, for instance {untested[0].folder}: no "
            "accuracy of theirs is known [TT505]"
        )
    if repeated:
        notes.append(
            f"{counted(len(repeated), 'run')} left out, for instance {repeated[0].folder}: the same was run "
            "again later, with the same seed [TT505]"
        )
    if n_tested > n_detailed:
        notes.append(
            f"{n_detailed} of {n_tested} settings are looked at closely: the best of each data set first "
            "[TT506]"
        )
    if n_panels:
        notes.append(f"a figure has at most {MAX_PANELS} panels; {n_panels} more are left out [TT506]")
    if n_rows:
        notes.append(
            f"the figure of all settings shows the best of each data set; {n_rows} more are in the table "
            "[TT506]"
        )
    return notes


@dataclass(frozen=True)
class _Record:
    """Commands and versions that repeat a setting, and the warnings of its runs."""

    setting: Setting
    extraction: str | None
    commands: list[str]
    about: str
    warnings: list[str]


def _record(setting: Setting, data: str | os.PathLike[str] | None) -> _Record:
    first = setting.runs[0].record
    versions = first.versions
    libraries = ", ".join(f"{name} {versions[name]}" for name in _LIBRARIES if name in versions)
    rule = first.split.rule
    about = [
        f"first on {first.created.get('when', '?')}",
        libraries,
        f"split of the first: {rule}" if rule else "",
    ]
    warnings = [warning for run in setting.runs for warning in run.record.warnings]
    return _Record(
        setting=setting,
        extraction=extraction_of(setting.runs[0], None if data is None else os.fspath(data)),
        commands=[command_of(run) for run in setting.runs],
        about="; ".join(filter(None, about)),
        warnings=list(dict.fromkeys(warnings)),
    )
