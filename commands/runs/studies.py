"""`toptune study` trains the cross product of the settings in a file."""

import click

from toptune.commands.options.common import JSON, SPREADSHEET_SAFE
from toptune.commands.options.help import Command
from toptune.commands.options.parsing import ExistingPath
from toptune.commands.options.printing import echo, show


@click.command(cls=Command)
@click.argument("study_file", metavar="STUDY.yaml", type=ExistingPath(dir_okay=False))
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Train on the workers of a dask scheduler at this address, or of local:N.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be trained, and how long that takes where it is known."
)
@SPREADSHEET_SAFE
@JSON
def study(study_file: str, dask: str | None, dry_run: bool, spreadsheet_safe: bool, as_json: bool) -> None:
    """Train the cross product of settings that a file lists.

    Settings are data sets, backbones, layers, heads, sizes and seeds. Finished trainings are not repeated.
    results.csv and results.parquet in the folder of the study have one row for each training.
    """
    from toptune.costs.meter import describe_costs
    from toptune.text import printed_records
    from toptune.workflows import plan_study, run_study, work_progress
    from toptune.workflows.study.results import summary_tables

    if dry_run:
        plan = plan_study(study_file)
        show(as_json, plan.to_dict(), str(plan))
        return
    with work_progress("trainings") as progress:
        report = run_study(
            study_file,
            dask=dask,
            progress=progress,
            notify=lambda line: echo(line, err=True),
            spreadsheet_safe=spreadsheet_safe,
        )
    lines = [printed_records(rows) for rows in summary_tables(report.summary)]
    lines.append(f"{report.trained} trained, {report.done_before} were there; {report.out}")
    lines += report.notes.lines()
    lines.append(describe_costs(report.costs))
    lines += [f"failed: {cell}: {reason}" for cell, reason in report.failed.items()]
    show(as_json, report.to_dict(), "\n".join(lines))
    # One failed training does not stop the others, and shows in the exit code after all of them.
    if report.failed:
        raise SystemExit(1)
