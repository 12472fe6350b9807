"""From a solution to its `FitReport`."""

from dataclasses import asdict
from typing import Any

from toptune.train.one_pass import Solution
from toptune.train.passes import TrainingRows
from toptune.train.report import FitReport
from toptune.train.selection import Candidate


def report_of(
    solution: Solution,
    rows: TrainingRows,
    *,
    solver: str,
    n_centers: int,
    rank: int,
    n_dropped: int,
    smallest_pivot: float,
    precision: str,
    peak_bytes: int,
    setup_seconds: float,
    plan: dict[str, Any] | None = None,
    iteration: dict[str, Any] | None = None,
) -> FitReport:
    """Put together what a fit has to say, chosen by `solve`."""
    chosen = solution.chosen
    n, d = rows.blocks.shape
    warnings = list(solution.warnings)
    if n_dropped:
        warnings.insert(0, f"{n_dropped} of {n_centers} centres are spanned by the others and were dropped")
    return FitReport(
        solver=solver,
        n_rows=n,
        n_features=d,
        n_folds=rows.n_folds,
        n_centers=n_centers,
        rank=rank,
        n_dropped=n_dropped,
        smallest_pivot=smallest_pivot,
        precision=precision,
        jitter=solution.jitter,
        n_clipped=solution.n_clipped,
        sigma=chosen.sigma,
        penalty=chosen.penalty,
        temperature=solution.temperature,
        squared_error=chosen.squared_error,
        accuracy=chosen.accuracy,
        log_loss=chosen.log_loss,
        table=[_table_row(row) for row in solution.table],
        warnings=warnings,
        n_passes=solution.n_passes,
        peak_bytes=peak_bytes,
        plan=plan or {"peak_bytes": peak_bytes},
        iteration=iteration,
        seconds={"setup": setup_seconds, **solution.seconds},
        calibration=solution.calibration,
    )  # fmt: skip


def _table_row(candidate: Candidate) -> dict[str, Any]:
    return {key: value for key, value in asdict(candidate).items() if key != "map_index"}
