"""The report of a Head2Toe fit: what was compared, what was chosen, and how far each part can be trusted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toptune.train.head2toe import gram_path, softmax_path
from toptune.train.head2toe.columns import Columns, agreement
from toptune.train.head2toe.cross_validation import Comparison
from toptune.train.head2toe.plan import Plan
from toptune.train.head2toe.ranking import Ranking, Rule
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.one_pass import SOFTMAX, calibration_of
from toptune.train.solvers.selection import Candidate, edge_notes, numerical_notes


@dataclass(frozen=True, kw_only=True)
class FinalFit:
    """What the report needs to know of the final head.

    Attributes
    ----------
    name : str
        ``"ridge"``, ``"logistic"`` or ``"falkon"``.
    penalty, temperature : float
    sigma : float or None
        Width; None for a head without one.
    left_out : (float, float), optional
        Accuracy and log-loss of the final head on left-out rows. By default those of the ridge regression
        that the selection was compared by.
    warnings : sequence of str
        What the head reported itself.
    """

    name: str
    penalty: float
    sigma: float | None
    temperature: float
    left_out: tuple[float, float] | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class DescribedRule:
    """What a rule is, in words and numbers.

    Attributes
    ----------
    selection : str
        ``"feature"``, ``"layer"`` or ``"last layer"``.
    fraction : float or None
        Share of the columns or layers; None for the last layer alone.
    group_penalty : float or None
        Group penalty on all rows; None where it makes no difference.
    """

    selection: str
    fraction: float | None
    group_penalty: float | None

    @classmethod
    def of(cls, rule: Rule, ranking: Ranking) -> "DescribedRule":
        """Look up the penalty that the rule's share stands for on all rows."""
        point = None if rule.share is None else ranking.paths[-1][rule.share]
        return cls(
            selection="last layer" if rule.fraction is None else ranking.selection,
            fraction=rule.fraction,
            group_penalty=None if point is None else point.group_penalty,
        )


@dataclass(frozen=True, kw_only=True)
class ChosenSelection(DescribedRule):
    """The rule that was chosen, with the final head fitted on its columns.

    Attributes
    ----------
    penalty, temperature : float
        Penalty and temperature of the final head.
    sigma : float or None
        Width of the final head; None for a head without one.
    n_columns, n_layers : int
        Columns kept, and layers that they belong to.
    """

    penalty: float
    sigma: float | None
    temperature: float
    n_columns: int
    n_layers: int


@dataclass(frozen=True, kw_only=True)
class ComparedSelection(DescribedRule):
    """A rule and a ridge penalty that were compared; figures as in `Candidate`."""

    n_columns: int
    penalty: float
    squared_error: float
    n_folds: int
    accuracy: float | None
    log_loss: float | None
    temperature: float | None
    is_chosen: bool


@dataclass(frozen=True, kw_only=True)
class KeptOfLayer:
    """How many of the columns of a layer are kept."""

    name: str
    n_columns: int
    n_kept: int


@dataclass(frozen=True, kw_only=True)
class Head2ToeReport:
    """JSON-able account of one fit.

    Attributes
    ----------
    solver, final : str
        Solver of the ranking, and the final head.
    n_rows, n_features, n_folds : int
    chosen : ChosenSelection
    layers : list of KeptOfLayer
        Every layer, in order.
    stationarity : dict
        ``residual``, the largest of the group lasso fits as a share of their penalty, and its ``tolerance``.
    fold_agreement : float
        `agreement` of the selections without each fold with the final one.
    left_out : dict
        ``accuracy`` and ``log_loss`` on rows that neither selection nor head had seen, and their number
        ``n_rows``.
    table : list of ComparedSelection
        Everything that was compared, with ridge regression as the head.
    warnings : list of str
        What a user should know.
    peak_bytes : int
        Projected peak of the fit.
    plan : Plan
    seconds : dict
        Seconds of each phase.
    calibration : str
        How probabilities are made.
    """

    solver: str
    final: str
    n_rows: int
    n_features: int
    n_folds: int
    chosen: ChosenSelection
    layers: list[KeptOfLayer]
    stationarity: dict[str, float]
    fold_agreement: float
    left_out: dict[str, float | None]
    table: list[ComparedSelection]
    warnings: list[str]
    peak_bytes: int
    plan: Plan
    seconds: dict[str, float]
    calibration: str = SOFTMAX

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
    final: FinalFit,
    plan: Plan,
    seconds: dict[str, float],
) -> Head2ToeReport:
    """Put together the report of a fit.

    Parameters
    ----------
    rows : TrainingRows
    ranking : Ranking
    comparison : Comparison
    columns : ndarray of int64
        Columns that the chosen rule keeps on all rows.
    solver : {"gram", "softmax"}
        Solver of the ranking.
    final : FinalFit
    plan : Plan
    seconds : dict
        Seconds of each phase.
    """
    n, d = rows.blocks.shape
    rule, chosen = comparison.rule, comparison.chosen
    accuracy, log_loss = final.left_out or (chosen.accuracy, chosen.log_loss)
    # The worst of all group lassos: a ranking is no better than the fit that it comes from.
    residual = max(point.residual for path in ranking.paths for point in path)
    tolerance = gram_path.TOLERANCE if solver == "gram" else softmax_path.TOLERANCE
    edges = edge_notes(chosen, comparison.table, [])
    counts = ranking.layers.counts(columns)
    return Head2ToeReport(
        solver=solver,
        final=final.name,
        n_rows=n,
        n_features=d,
        n_folds=rows.n_folds,
        chosen=ChosenSelection(
            **vars(DescribedRule.of(rule, ranking)),
            penalty=final.penalty,
            sigma=final.sigma,
            temperature=final.temperature,
            n_columns=len(columns),
            n_layers=sum(count > 0 for count in counts),
        ),
        layers=[
            KeptOfLayer(name=name, n_columns=dim, n_kept=count)
            for name, dim, count in zip(ranking.layers.names, ranking.layers.dims, counts, strict=True)
        ],
        stationarity={"residual": residual, "tolerance": tolerance},
        fold_agreement=agreement([ranking.columns(rule, fold) for fold in range(rows.n_folds)], columns),
        left_out={"accuracy": accuracy, "log_loss": log_loss, "n_rows": rows.n_validated},
        table=[_compared(row, comparison.rules[row.map_index], ranking) for row in comparison.table],
        warnings=[
            *edges,
            *numerical_notes(0.0, 0, [chosen]),
            *final.warnings,
            *_convergence_notes(residual, tolerance),
        ],
        peak_bytes=plan.peak_bytes,
        plan=plan,
        seconds=seconds,
        calibration=calibration_of(rows),
    )


def _compared(row: Candidate, rule: Rule, ranking: Ranking) -> ComparedSelection:
    """Describe a row of the table of candidates by its rule."""
    return ComparedSelection(
        **vars(DescribedRule.of(rule, ranking)),
        n_columns=len(ranking.columns(rule, None)),
        penalty=row.penalty,
        squared_error=row.squared_error,
        n_folds=row.n_folds,
        accuracy=row.accuracy,
        log_loss=row.log_loss,
        temperature=row.temperature,
        is_chosen=row.is_chosen,
    )


def _convergence_notes(residual: float, tolerance: float) -> list[str]:
    """Say so if a group lasso ended above its tolerance."""
    if residual <= tolerance:
        return []
    return [
        f"the group lasso ended with a residual of {residual:.1e} of its penalty, above {tolerance:g}: "
        "scores near the cut may be in another order; raise group_penalty [TT405]"
    ]
