"""`FitReport` and `HeadReport`: the account of a fit, typed until the account is written as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.partial.running_sums import RunningSums
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.one_pass import Solution
from toptune.train.solvers.selection import Candidate

# A row of a table, or an account: JSON values by name.
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LeftOutFigures:
    """Figures of the chosen fit on training rows that it was not fitted to, named alike for every head.

    Attributes
    ----------
    accuracy : float or None
        Share of these rows that were predicted right, weighted as the fit weighs them.
    log_loss : float or None
        Mean log-loss at the chosen temperature, over at most `CALIBRATION_ROWS` of the rows.
    n_rows : int
        Number of rows that were left out once: the training rows, but for rows of classes that take no part
        in cross-validation.
    squared_error : float or None
        Of numbers, the mean squared error of standardized targets, summed over them; None otherwise.
    """

    accuracy: float | None
    log_loss: float | None
    n_rows: int
    squared_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Centers of a kernel fit, and what they span.

    Attributes
    ----------
    n_centers : int
        Centers that were drawn or given.
    rank : int
        Features that they span.
    n_dropped : int
        Centers that were dropped because the others span them.
    smallest_pivot : float
        Smallest pivot kept of the centers' kernel matrix, relative to the largest.
    """

    n_centers: int
    rank: int
    n_dropped: int = 0
    smallest_pivot: float

    def warned(self, warnings: Sequence[str]) -> list[str]:
        """Return warnings, the first of them about centers that were dropped."""
        if not self.n_dropped:
            return list(warnings)
        dropped = (
            f"{self.n_dropped} of {self.n_centers} centers are spanned by the others and were dropped [TT408]"
        )
        return [dropped, *warnings]


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """Account of one fit of ridge or a kernel head, with every deviation from what was asked.

    Attributes
    ----------
    solver : str
        ``"nystrom"``, ``"falkon"``, ``"falkon-lib"``, ``"falkon-logistic"``, ``"primal"`` or ``"dual"``.
    n_rows, n_features, n_folds : int
        Sizes of the training rows.
    n_validated : int
        Training rows that took part in cross-validation.
    n_centers, rank, n_dropped, smallest_pivot
        Figures of the centers, as in `Basis`.
    precision : str
        Arithmetic of kernel blocks; sums and systems are always float64.
    jitter : float
        Largest share of the mean diagonal that had to be added to a system; 0 is none.
    n_clipped : int
        Closed-form errors that canceled to below 0.
    sigma : float or None
        Chosen width.
    penalty : float
        Chosen penalty.
    temperature : float or None
        The temperature that calibrates the scores of classes; None of labels and numbers.
    squared_error, accuracy, log_loss : float or None
        Figures of the left-out predictions of the chosen fit.
    calibration : str
        How the probabilities are calibrated.
    table : list of dict
        A row for each combination that was compared.
    warnings : list of str
        What a user should know.
    n_passes : int
        Times the rows were read.
    peak_bytes : int
        Projected peak memory.
    plan : dict
        Projections made before the work: figures of the choice of solver, peak and limit.
    iteration : dict or None
        Stop reason, products, residual history and tolerance of an iterative solve.
    seconds : dict
        Seconds of each phase, and their total.
    """

    solver: str
    n_rows: int
    n_features: int
    n_folds: int
    n_validated: int
    n_centers: int
    rank: int
    n_dropped: int
    smallest_pivot: float
    precision: str
    jitter: float
    n_clipped: int
    sigma: float | None
    penalty: float
    temperature: float | None
    squared_error: float | None
    accuracy: float | None
    log_loss: float | None
    table: list[Record]
    warnings: list[str]
    n_passes: int
    peak_bytes: int
    plan: Record
    iteration: Record | None
    seconds: dict[str, float]
    calibration: str = "softmax of scores with one temperature fitted out of fold"

    @property
    def left_out(self) -> LeftOutFigures | None:
        """Left-out figures, where folds were left out."""
        # One fold holds all rows: such a fit has leave-one-out figures of a sample, not of all rows.
        if self.n_folds == 1:
            return None
        return LeftOutFigures(
            accuracy=self.accuracy,
            log_loss=self.log_loss,
            n_rows=self.n_validated,
            # Accuracy is what counts where there are classes or labels.
            squared_error=self.squared_error if self.accuracy is None else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping, with the `left_out` figures among its keys."""
        return asdict(self) | {"left_out": None if self.left_out is None else asdict(self.left_out)}


@dataclass(frozen=True, kw_only=True)
class HeadReport:
    """Account of one fit of a head other than ridge and the kernel heads.

    Attributes
    ----------
    solver : str
        How the fit was made, in words.
    n_rows, n_features, n_folds : int
        Sizes of the training rows.
    chosen : dict
        The head's parameters as chosen.
    left_out : LeftOutFigures or None
        Figures on left-out rows; None where nothing was left out.
    temperature : float or None
        Temperature that calibrates the scores; None where nothing is calibrated.
    calibration : str
        How the probabilities are calibrated.
    table : list of dict
        A row for each combination that was compared.
    warnings : list of str
        What a user should know.
    peak_bytes : int
        Projected peak memory.
    seconds : dict
        Seconds of each phase, and their total.
    iteration : dict or None
        Stop reason, passes and tolerance of an iterative fit.
    """

    solver: str
    n_rows: int
    n_features: int
    n_folds: int
    chosen: Record
    left_out: LeftOutFigures | None
    temperature: float | None
    calibration: str
    table: list[Record]
    warnings: list[str]
    peak_bytes: int
    seconds: dict[str, float]
    iteration: Record | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return asdict(self)


def report_of(
    solution: Solution,
    rows: TrainingRows,
    basis: Basis,
    *,
    solver: str,
    precision: str,
    peak_bytes: int,
    plan: Record,
    setup_seconds: float,
    iteration: Record | None = None,
) -> FitReport:
    """Return the report of a fit that `solve` or `solve_once` made.

    Parameters
    ----------
    solution : Solution
        The fit, and how width, penalty and temperature were chosen.
    rows : TrainingRows
    basis : Basis
    solver, precision, peak_bytes, plan, iteration
        As in `FitReport`.
    setup_seconds : float
        Seconds before the first pass.
    """
    chosen = solution.chosen
    n, d = rows.blocks.shape
    return FitReport(
        solver=solver,
        n_rows=n,
        n_features=d,
        n_folds=rows.n_folds,
        n_validated=rows.n_validated,
        n_centers=basis.n_centers,
        rank=basis.rank,
        n_dropped=basis.n_dropped,
        smallest_pivot=basis.smallest_pivot,
        precision=precision,
        jitter=solution.jitter,
        n_clipped=solution.n_clipped,
        sigma=chosen.sigma,
        penalty=chosen.penalty,
        temperature=solution.temperature if rows.targets is None else None,
        squared_error=chosen.squared_error,
        accuracy=chosen.accuracy,
        log_loss=chosen.log_loss,
        table=[_table_row(row) for row in solution.table],
        warnings=basis.warned(solution.warnings),
        n_passes=solution.n_passes,
        peak_bytes=peak_bytes,
        plan=plan,
        iteration=iteration,
        seconds={"setup": setup_seconds, **solution.seconds},
        calibration=solution.calibration,
    )


def partial_report(
    solution: Solution, given: FitInputs, basis: Basis, running: RunningSums, *, solver: str
) -> FitReport:
    """Return the report of a fit from sums of blocks of rows that came one after the other."""
    report = report_of(
        solution, given.rows, basis, solver=solver, precision="float64", peak_bytes=0, plan={},
        setup_seconds=given.seconds,
    )  # fmt: skip
    return replace(report, n_rows=running.n, n_validated=running.n)


def _table_row(candidate: Candidate) -> dict[str, object]:
    # The number of the feature map is of use within a fit only; the width names the map in a table.
    return {key: value for key, value in asdict(candidate).items() if key != "map_index"}
