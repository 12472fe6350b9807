"""What a fit has to say for itself."""

from dataclasses import asdict, dataclass
from typing import Any

from toptune.train.head_report import left_out_figures


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """JSON-able account of one fit; nothing that went other than asked is left out.

    Attributes
    ----------
    solver : str
        ``"nystrom"``, ``"falkon"``, ``"falkon-lib"``, ``"falkon-logistic"``, ``"primal"`` or ``"dual"``.
    n_rows, n_features, n_folds : int
    n_centers, rank, n_dropped : int
        Centres used, features that they span, centres dropped because others span them.
    smallest_pivot : float
        Smallest pivot kept of the centres' kernel matrix, relative to the largest.
    precision : str
        Arithmetic of kernel blocks; sums and systems are always float64.
    jitter : float
        Largest share of the mean diagonal that had to be added to a system; 0 is none.
    n_clipped : int
        Closed-form errors that cancelled to below 0.
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
