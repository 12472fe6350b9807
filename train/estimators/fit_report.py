"""From a solution to its `FitReport`."""

from dataclasses import asdict, dataclass, field
from typing import Any

from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.one_pass import Solution
from toptune.train.solvers.selection import Candidate


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """JSON-able account of one fit; nothing that went other than asked is left out.

    Attributes
    ----------
    solver : str
        ``"nystrom"``, ``"falkon"``, ``"falkon-lib"``, ``"falkon-logistic"``, ``"primal"`` or ``"dual"``.
    n_rows, n_features, n_folds : int
    n_centers, rank, n_dropped : int
        Centers used, features that they span, centers dropped because others span them.
    smallest_pivot : float
        Smallest pivot kept of the centres' kernel matrix, relative to the largest.
    precision : str
        Arithmetic of kernel blocks; sums and systems are always float64.
    jitter : float
        Largest share of the mean diagonal that had to be added to a system; 0 is none.
    n_clipped : int
        Closed-form errors that canceled to below 0.
    sigma : float or None
        Chosen width.
    penalty, temperature, squared_error, accuracy, log_loss : float
        Chosen penalty and the figures of its left-out predictions.
    calibration : str
        What the probabilities are.
    table : list of dict
        Everything compared.
    warnings : list of str
    n_passes : int
        Times the rows were read.
    peak_bytes : int
        Projected peak memory.
    plan : dict
        What was projected before the work: figures of the choice of solver, peak and limit.
    iteration : dict or None
        Stop reason, products, residual history and tolerance of an iterative solve.
    seconds : dict
    """

    solver: str
    n_rows: int
    n_features: int
    n_folds: int
    n_centers: int
    rank: int
    n_dropped: int
    smallest_pivot: float
    precision: str
    jitter: float
    n_clipped: int
    sigma: float | None
    penalty: float
    temperature: float
    squared_error: float | None
    accuracy: float | None
    log_loss: float | None
    table: list[dict[str, Any]]
    warnings: list[str]
    n_passes: int
    peak_bytes: int
    plan: dict[str, Any]
    iteration: dict[str, Any] | None
    seconds: dict[str, float]
    calibration: str = "softmax of scores with one temperature fitted out of fold"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping, with ``left_out`` figures where folds were left out."""
        left_out = None
        if self.n_folds > 1:
            left_out = left_out_figures(self.accuracy, self.log_loss, self.n_rows)
        return asdict(self) | {"left_out": left_out}


@dataclass(frozen=True, kw_only=True)
class HeadReport:
    """JSON-able account of one fit.

    Attributes
    ----------
    solver : str
        What was done, in words.
    n_rows, n_features, n_folds : int
    chosen : dict
        The head's parameters as chosen.
    left_out : dict or None
        See `left_out_figures`; None where nothing was left out.
    temperature : float or None
    calibration : str
        What the probabilities are.
    table : list of dict
        Everything compared.
    peak_bytes : int
        Projected peak memory.
    iteration : dict or None
        Stop reason, passes and tolerance of an iterative fit.
    """

    solver: str
    n_rows: int
    n_features: int
    n_folds: int
    chosen: dict[str, Any]
    left_out: dict[str, Any] | None
    temperature: float | None
    calibration: str
    table: list[dict[str, Any]]
    warnings: list[str]
    peak_bytes: int
    seconds: dict[str, float]
    iteration: dict[str, Any] | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return asdict(self)


def left_out_figures(accuracy: float | None, log_loss: float | None, n_rows: int) -> dict[str, Any]:
    """Figures of the chosen fit on training rows that it was not fitted to, named alike for every head.

    `accuracy` is over all `n_rows` rows, weighted as the fit weighs them; `log_loss` is at the chosen
    temperature, of at most `CALIBRATION_ROWS` of them.
    """
    return {"accuracy": accuracy, "log_loss": log_loss, "n_rows": n_rows}


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
        warnings.insert(0, f"{n_dropped} of {n_centers} centers are spanned by the others and were dropped")
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
