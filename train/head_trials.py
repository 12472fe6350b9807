"""``--head auto``: heads tried in the order of their cost until a budget of time is spent, the best kept."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toptune.store import Blocks, InputError, NumericalError
from toptune.train.head_costs import ProblemSize, estimated_seconds
from toptune.train.heads import Head
from toptune.train.selection import Candidate, choose

AUTO_HEAD = "auto"
DEFAULT_BUDGET_SECONDS = 120.0
# The cheap ones first; of equals the earlier is kept.
ORDER = ("ncm", "ridge", "lda", "knn", "logistic", "falkon", "svm", "forest", "falkon-logistic")
# What was tried, said as it happens.
plan_logger = logging.getLogger("toptune.train.plan")


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The head that was kept, and all that were thought of.

    Attributes
    ----------
    head : Head
        Fitted.
    table : list of dict
        A row for each of `ORDER`: head, left-out accuracy and log-loss, seconds taken and estimated, whether
        it was chosen, and why it was skipped.
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
    the best, the least log-loss. A head is not begun if it is estimated to take longer than what is left of
    the budget; the estimate is scaled by the slowest of those tried so far. No fit is broken off, and the
    first is always tried.

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
    slowness: list[float] = []
    table: list[dict[str, Any]] = []
    heads: dict[int, Head] = {}
    errors: list[Exception] = []
    for name in ORDER:
        expected = estimated_seconds(name, size) * max(slowness, default=1.0)
        row: dict[str, Any] = {
            "head": name, "accuracy": None, "log_loss": None, "seconds": None, "estimated_seconds": expected,
            "is_chosen": False, "skipped": None,
        }  # fmt: skip
        table.append(row)
        left = budget - (time.perf_counter() - start)
        if heads and expected > left:
            row["skipped"] = f"about {expected:.3g} s, {max(left, 0):.3g} s of the budget left"
            continue
        begun = time.perf_counter()
        try:
            head = make(name).fit(blocks, labels, groups=keys)
        except (InputError, NumericalError) as error:
            errors.append(error)
            row["skipped"] = str(error)
            continue
        row["seconds"] = time.perf_counter() - begun
        slowness.append(row["seconds"] / estimated_seconds(name, size))
        left_out = head.report["left_out"]
        row |= {"accuracy": left_out["accuracy"], "log_loss": left_out["log_loss"]}
        heads[len(table) - 1] = head
        plan_logger.info(
            "%s: left-out accuracy %.4f in %.1f s", name, row["accuracy"] or np.nan, row["seconds"]
        )
    if not heads:
        raise errors[0]
    best = _best(table, heads, n=size.n)
    table[best]["is_chosen"] = True
    return Trials(head=heads[best], table=table, budget_seconds=budget, seconds=time.perf_counter() - start)


def _best(table: Sequence[dict[str, Any]], heads: dict[int, Head], *, n: int) -> int:
    candidates = [
        Candidate(
            map_index=at, sigma=None, penalty=0.0, squared_error=0.0, accuracy=table[at]["accuracy"],
            log_loss=np.inf if table[at]["log_loss"] is None else table[at]["log_loss"],
        )
        for at in heads
    ]  # fmt: skip
    return choose(candidates, n=n).map_index
