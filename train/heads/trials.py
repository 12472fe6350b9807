"""``--head auto``: heads tried in the order of their cost until a budget of time is spent, the best kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from toptune.errors import InputError
from toptune.machine.plans import plan_logger
from toptune.store.features.blocks import Blocks
from toptune.train.heads.budget import attempt_within
from toptune.train.heads.expected_seconds import estimated_seconds
from toptune.train.heads.heads import Head
from toptune.train.heads.kinds import tried_heads
from toptune.train.heads.problem_size import ProblemSize
from toptune.train.solvers.selection import choose

DEFAULT_BUDGET_SECONDS = 120.0
# What was tried, said as it happens.


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The head that was kept, and all heads that were considered.

    Attributes
    ----------
    head : Head
        Fitted.
    table : list of dict
        A row for each of `tried_heads`: head, left-out accuracy and log-loss, seconds taken and estimated,
        whether it was chosen, and why it was skipped.
    budget_seconds, seconds : float
        Given and taken.
    """

    head: Head
    table: list[dict[str, Any]]
    budget_seconds: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return {"budget_seconds": self.budget_seconds, "seconds": self.seconds, "table": self.table}


def try_heads(
    blocks: Blocks,
    labels: Sequence[str],
    *,
    make: Callable[[str], Head],
    groups: Sequence[str] | None = None,
    n_folds: int = 5,
    budget_seconds: float | None = None,
) -> Trials:
    """Cross-validate heads on the same folds within a budget, and keep the best.

    The rule is that within each head: of those whose left-out accuracy is within half a standard error of
    the best, the least log-loss. The budget is kept as by `attempt_within`.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
    labels : sequence of str
    make : callable (name) -> Head
        Unfitted, to be cross-validated.
    groups : sequence of str, optional
        Rows of equal groups share a fold.
    n_folds : int
        What `make` cross-validates with, for the estimates.
    budget_seconds : float, optional
        Of all fits together; `DEFAULT_BUDGET_SECONDS` by default.

    Raises
    ------
    InputError, NumericalError
        Of the first head, if none could be fitted.
    """
    budget = DEFAULT_BUDGET_SECONDS if budget_seconds is None else budget_seconds
    if not budget > 0:
        raise InputError(f"budget is {budget:g} seconds; give more than 0")
    size = ProblemSize(
        n=blocks.shape[0], d=blocks.shape[1], n_classes=len(np.unique(np.asarray(labels))), n_folds=n_folds
    )
    # Without ids, folds follow from the seed, which heads use differently.
    keys = [str(row) for row in range(size.n)] if groups is None else list(groups)
    start = time.perf_counter()

    def fitted(name: str) -> Head:
        return make(name).fit(blocks, labels, groups=keys)

    names = tried_heads()
    jobs = [(estimated_seconds(name, size), partial(fitted, name)) for name in names]
    table: list[dict[str, Any]] = []
    heads: dict[int, Head] = {}
    for name, attempt in zip(names, attempt_within(budget, jobs), strict=True):
        row: dict[str, Any] = {
            "head": name, "accuracy": None, "log_loss": None, "seconds": attempt.seconds,
            "estimated_seconds": attempt.estimated_seconds, "is_chosen": False, "skipped": attempt.skipped,
        }  # fmt: skip
        table.append(row)
        if attempt.result is None:
            continue
        left_out = attempt.result.report["left_out"]
        row |= {"accuracy": left_out["accuracy"], "log_loss": left_out["log_loss"]}
        heads[len(table) - 1] = attempt.result
        plan_logger.info(
            "%s: left-out accuracy %.4f in %.1f s", name, row["accuracy"] or np.nan, attempt.seconds
        )
    fitted_rows = list(heads)
    best = fitted_rows[
        choose(
            [table[at]["accuracy"] for at in fitted_rows],
            [table[at]["log_loss"] for at in fitted_rows],
            n=size.n,
        )
    ]
    table[best]["is_chosen"] = True
    return Trials(head=heads[best], table=table, budget_seconds=budget, seconds=time.perf_counter() - start)
