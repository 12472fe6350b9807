"""``--head auto``: heads tried in the order of their cost until a budget of time is spent, the best kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from toptune.errors import InputError
from toptune.machine.plans import plan_logger
from toptune.store.features.blocks import Blocks
from toptune.train.heads.budget import attempt_within, estimated_seconds
from toptune.train.heads.heads import Head
from toptune.train.heads.kinds import KINDS, tried_heads
from toptune.train.heads.problem_size import ProblemSize
from toptune.train.solvers.selection import choose
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.tasks.task import TargetMatrix

DEFAULT_BUDGET_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class HeadTrial:
    """One head that was tried, or skipped.

    Attributes
    ----------
    head : str
        Name of the head.
    accuracy, log_loss : float or None
        Left-out figures; None for a head that was skipped.
    seconds : float or None
        Seconds that the fit took.
    estimated_seconds : float
        Seconds that the fit was expected to take.
    is_chosen : bool
    skipped : str or None
        Why the head was skipped.
    squared_error : float or None
        Left-out squared error of standardized numbers, by which heads of a regression are compared.
    """

    head: str
    accuracy: float | None
    log_loss: float | None
    seconds: float | None
    estimated_seconds: float
    is_chosen: bool = False
    skipped: str | None = None
    squared_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The head that was kept, and every head that was considered.

    Attributes
    ----------
    head : Head
        The best head, fitted.
    table : list of HeadTrial
        A row for each of `tried_heads` that knows the task, in their order.
    budget_seconds, seconds : float
        Budget that was given, and seconds that were taken.
    """

    head: Head
    table: list[HeadTrial]
    budget_seconds: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        table = [asdict(trial) for trial in self.table]
        return {"budget_seconds": self.budget_seconds, "seconds": self.seconds, "table": table}


def why_chosen(table: Sequence[Mapping[str, Any]], *, n: int) -> str | None:
    """Say why the chosen head was kept although another has a higher accuracy; None where none has.

    Parameters
    ----------
    table : sequence of mapping
        Rows of `Trials.to_dict`.
    n : int
        Rows that the figures are taken over.
    """
    fitted = [row for row in table if row["accuracy"] is not None]
    chosen = next((row for row in fitted if row["is_chosen"]), None)
    if chosen is None:
        return None
    best = max(fitted, key=lambda row: float(row["accuracy"]))
    if not best["accuracy"] > chosen["accuracy"]:
        return None
    return (
        f"{chosen['head']} was kept although {best['head']} has a higher left-out accuracy "
        f"({best['accuracy']:.4f} against {chosen['accuracy']:.4f}): over {n} rows that is within half a "
        f"standard error, so that the lower log loss decides ({_loss(chosen)} against {_loss(best)}) [TT417]"
    )


def _loss(row: Mapping[str, Any]) -> str:
    return "none" if row["log_loss"] is None else f"{row['log_loss']:.4f}"


def try_heads(
    blocks: Blocks,
    y: Sequence[str] | TargetMatrix,
    *,
    make: Callable[[str], Head],
    groups: Sequence[str] | None = None,
    n_folds: int = 5,
    task: str = CLASSIFICATION,
    budget_seconds: float | None = None,
) -> Trials:
    """Cross-validate heads on the same folds within a budget, and keep the best.

    `choose`, by which each head chooses its parameters, also chooses the best head, or of numbers the least
    squared error; `attempt_within` keeps the budget.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
    y : sequence of str or TargetMatrix, length n
    make : callable (name) -> Head
        Makes an unfitted head that will be cross-validated.
    groups : sequence of str, optional
        Rows of equal groups share a fold.
    n_folds : int
        Folds that `make` cross-validates with, for the estimates of time.
    task : str
        What the heads learn; heads that do not know it are not tried.
    budget_seconds : float, optional
        Seconds of all fits together; `DEFAULT_BUDGET_SECONDS` by default.

    Raises
    ------
    InputError, NumericalError
        The error of the first head, if no head could be fitted; `InputError` for a budget that is not
        above 0.
    """
    budget = DEFAULT_BUDGET_SECONDS if budget_seconds is None else budget_seconds
    if not budget > 0:
        raise InputError(f"budget is {budget:g} seconds; give more than 0")
    n_classes = len(y.names) if isinstance(y, TargetMatrix) else len(set(y))
    size = ProblemSize(n=blocks.shape[0], d=blocks.shape[1], n_classes=n_classes, n_folds=n_folds)
    # Folds that follow from ids and labels are the same for every head. Without ids folds follow from the
    # seed, which heads use differently, so that row numbers take the place of ids.
    keys = [str(row) for row in range(size.n)] if groups is None else list(groups)
    start = time.perf_counter()

    def fitted(name: str) -> Head:
        return make(name).fit(blocks, y, groups=keys)

    names = [name for name in tried_heads() if KINDS[name].knows(task)]
    jobs = [(estimated_seconds(name, size), partial(fitted, name)) for name in names]
    table: list[HeadTrial] = []
    heads: dict[int, Head] = {}
    for at, (name, attempt) in enumerate(zip(names, attempt_within(budget, jobs), strict=True)):
        left_out = None if attempt.result is None else attempt.result.left_out
        trial = HeadTrial(
            head=name,
            accuracy=None if left_out is None else left_out.accuracy,
            log_loss=None if left_out is None else left_out.log_loss,
            seconds=attempt.seconds,
            estimated_seconds=attempt.estimated_seconds,
            skipped=attempt.skipped,
            squared_error=None if left_out is None else left_out.squared_error,
        )
        table.append(trial)
        if attempt.result is not None:
            heads[at] = attempt.result
            plan_logger.info("%s: left-out %s in %.1f s", name, _figure(trial), trial.seconds)
    left = heads[min(heads)].left_out
    # All heads left out the same rows.
    best = _best(table, list(heads), n=size.n if left is None else left.n_rows)
    table[best] = replace(table[best], is_chosen=True)
    return Trials(head=heads[best], table=table, budget_seconds=budget, seconds=time.perf_counter() - start)


def _figure(trial: HeadTrial) -> str:
    if trial.accuracy is None and trial.squared_error is not None:
        return f"squared error {trial.squared_error:.4f}"
    return f"accuracy {np.nan if trial.accuracy is None else trial.accuracy:.4f}"


def _best(table: Sequence[HeadTrial], tried: Sequence[int], *, n: int) -> int:
    """Return the position of the best of the heads that were fitted; n rows are behind each figure."""
    errors = {at: table[at].squared_error for at in tried}
    known = {at: error for at, error in errors.items() if error is not None}
    if known:
        return min(known, key=known.__getitem__)
    accuracies, losses = ([getattr(table[at], name) for at in tried] for name in ("accuracy", "log_loss"))
    return tried[choose(accuracies, losses, n=n)]
