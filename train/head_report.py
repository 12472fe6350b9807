"""What a head without sums has to say for itself, and what every head says of rows left out."""

from dataclasses import asdict, dataclass, field
from typing import Any


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
