"""From a logistic fit to its `FitReport`."""

from typing import Any

from toptune.train.logistic_fit import LogisticFit
from toptune.train.logistic_plan import LogisticPlan
from toptune.train.passes import TrainingRows
from toptune.train.report import FitReport


def logistic_report(
    fitted: LogisticFit,
    rows: TrainingRows,
    *,
    plan: LogisticPlan,
    n_centers: int,
    is_exact: bool,
    setup_seconds: float,
) -> FitReport:
    """Put together what a fit has to say."""
    chosen, whitening = fitted.chosen, fitted.whitening
    n, d = rows.blocks.shape
    warnings = list(fitted.warnings)
    if whitening.n_dropped:
        warnings.insert(
            0, f"{whitening.n_dropped} of {n_centers} centres are spanned by the others and were dropped"
        )
    return FitReport(
        solver="falkon-logistic",
        n_rows=n,
        n_features=d,
        n_folds=rows.n_folds,
        n_centers=n_centers,
        rank=whitening.rank,
        n_dropped=whitening.n_dropped,
        smallest_pivot=whitening.smallest_pivot,
        precision="float64" if is_exact else "float32",
        jitter=fitted.jitter,
        n_clipped=0,
        sigma=fitted.sigma,
        penalty=chosen.penalty,
        temperature=chosen.temperature,
        squared_error=chosen.squared_error,
        accuracy=chosen.accuracy,
        log_loss=chosen.log_loss,
        table=_table(fitted),
        warnings=warnings,
        n_passes=fitted.n_passes,
        peak_bytes=plan.peak_bytes,
        plan=plan.to_dict(),
        iteration=fitted.iteration,
        seconds={"setup": setup_seconds, **fitted.seconds},
        calibration="softmax of a logistic fit's scores with one temperature, near 1, fitted out of fold",
    )


def _table(fitted: LogisticFit) -> list[dict[str, Any]]:
    """Return the penalties of the logistic path, then what the choice of the width compared."""
    penalties = [{"loss": "logistic", "sigma": fitted.sigma, **row} for row in fitted.chosen.table]
    widths = [
        {
            "loss": "squared",
            "sigma": row.sigma,
            "penalty": row.penalty,
            "squared_error": row.squared_error,
            "accuracy": row.accuracy,
            "log_loss": row.log_loss,
            "temperature": row.temperature,
            "is_chosen": False,
            "reason": None,
            "n_passes": None,
        }
        for row in fitted.widths
    ]
    return penalties + widths
