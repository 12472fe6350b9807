"""What a Head2Toe fit has to say for itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toptune.train.head2toe import gram_path, softmax_path
from toptune.train.head2toe.columns import Columns, agreement
from toptune.train.head2toe.cross_validation import Comparison
from toptune.train.head2toe.plan import Plan
from toptune.train.head2toe.ranking import Ranking, Rule
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.selection import edge_notes, numerical_notes


@dataclass(frozen=True, kw_only=True)
class Head2ToeReport:
    """JSON-able account of one fit.

    Attributes
    ----------
    solver, final : str
    chosen : dict
        Fraction (None: the last layer alone), group penalty as a share and as such, penalty, columns.
    layers : list of dict
        Of each layer: name, columns, how many of them are kept.
    stationarity : dict
        Largest residual of the group lasso fits, as a share of their penalty, and its tolerance.
    fold_agreement : float
        Mean share of columns in both among those in either, of each fold's selection and the final one.
    left_out : dict
        Accuracy and log-loss of rows that neither selection nor head had seen, and how many these are.
    table : list of dict
        Everything compared, with ridge regression as the head.
    """

    solver: str
    final: str
    n_rows: int
    n_features: int
    n_folds: int
    chosen: dict[str, Any]
    layers: list[dict[str, Any]]
    stationarity: dict[str, float]
    fold_agreement: float
    left_out: dict[str, Any]
    table: list[dict[str, Any]]
    warnings: list[str]
    peak_bytes: int
    plan: dict[str, Any]
    seconds: dict[str, float]
    calibration: str = "softmax of scores with one temperature fitted out of fold"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return asdict(self)


def head2toe_report(
    rows: TrainingRows,
    ranking: Ranking,
    comparison: Comparison,
    columns: Columns,
    *,
    solver: str,
    final: str,
    penalty: float,
    sigma: float | None,
    temperature: float,
    figures: tuple[float, float] | None,
    notes: Sequence[str],
    plan: Plan,
    seconds: dict[str, float],
) -> Head2ToeReport:
    """Put it together; `figures` are accuracy and log-loss of a final head that was fitted to rows."""
    n, d = rows.blocks.shape
    rule, chosen = comparison.rule, comparison.chosen
    residual = max(point.residual for path in ranking.paths for point in path)
    tolerance = gram_path.TOLERANCE if solver == "gram" else softmax_path.TOLERANCE
    accuracy, log_loss = figures or (chosen.accuracy, chosen.log_loss)
    warnings = [*edge_notes(chosen, comparison.table, []), *numerical_notes(0.0, 0, [chosen]), *notes]
    if residual > tolerance:
        warnings.append(
            f"the group lasso ended with a residual of {residual:.1e} of its penalty, above {tolerance:g}: "
            "scores near the cut may be in another order; raise group_penalty"
        )
    counts = ranking.layers.counts(columns)
    return Head2ToeReport(
        solver=solver,
        final=final,
        n_rows=n,
        n_features=d,
        n_folds=rows.n_folds,
        chosen={
            **_described(rule, ranking),
            "penalty": penalty,
            "sigma": sigma,
            "temperature": temperature,
            "n_columns": len(columns),
            "n_layers": sum(count > 0 for count in counts),
        },
        layers=[
            {"name": name, "n_columns": dim, "n_kept": count}
            for name, dim, count in zip(ranking.layers.names, ranking.layers.dims, counts, strict=True)
        ],
        stationarity={"residual": residual, "tolerance": tolerance},
        fold_agreement=agreement([ranking.columns(rule, fold) for fold in range(rows.n_folds)], columns),
        left_out={"accuracy": accuracy, "log_loss": log_loss, "n_rows": n},
        table=[
            {
                **_described(comparison.rules[row.map_index], ranking),
                "n_columns": len(ranking.columns(comparison.rules[row.map_index], None)),
                "penalty": row.penalty,
                "squared_error": row.squared_error,
                "n_folds": row.n_folds,
                "accuracy": row.accuracy,
                "log_loss": row.log_loss,
                "temperature": row.temperature,
                "is_chosen": row.is_chosen,
            }
            for row in comparison.table
        ],
        warnings=warnings,
        peak_bytes=plan.peak_bytes,
        plan=plan.to_dict(),
        seconds=seconds,
    )


def _described(rule: Rule, ranking: Ranking) -> dict[str, Any]:
    """Columns of the table that say what a rule is; the last layer alone has no fraction."""
    point = None if rule.share is None else ranking.paths[-1][rule.share]
    return {
        "selection": "last layer" if rule.fraction is None else ranking.selection,
        "fraction": rule.fraction,
        "group_penalty": None if point is None else point.group_penalty,
    }
