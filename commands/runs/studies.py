"""`toptune study`: the cross product of a file."""

import click

from toptune.commands.options.common import JSON
from toptune.commands.options.printing import show


@click.command()
@click.argument("study_file", metavar="STUDY.yaml", type=click.Path(exists=True, dir_okay=False))
@click.option("--dask", metavar="ADDRESS", help="Scheduler whose workers train the cells, or local:N.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and the time it takes where known.")
@JSON
def study(study_file: str, dask: str | None, dry_run: bool, as_json: bool) -> None:
    """Train the cross product of data sets, backbones, layers, heads, sizes and seeds of a file.

    Finished trainings are not repeated; results.csv and results.parquet in the study's folder have one row
    each.
    """
    from toptune.costs.meter import describe_costs
    from toptune.text import printed_records
    from toptune.workflows import plan_study, run_study, work_progress

    if dry_run:
        plan = plan_study(study_file)
        show(as_json, plan.to_dict(), str(plan))
        return
    with work_progress("trainings") as progress:
        report = run_study(
            study_file, dask=dask, progress=progress, notify=lambda line: click.echo(line, err=True)
        )
    lines = [printed_records(report.summary)] if report.summary else []
    lines.append(f"{report.trained} trained, {report.done_before} were there; {report.out}")
    lines += report.notes.lines()
    lines.append(describe_costs(report.costs))
    lines += [f"failed: {cell}: {reason}" for cell, reason in report.failed.items()]
    show(as_json, report.to_dict(), "\n".join(lines))
    if report.failed:
        raise SystemExit(1)
