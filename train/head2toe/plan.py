"""What a Head2Toe fit will hold at its peak, and in which form the rows are best kept."""

from dataclasses import asdict, dataclass
from typing import Any

from toptune.machine.memory import check_memory
from toptune.train.head2toe.cross_validation import N_FINALISTS
from toptune.train.passes.sums import batch_rows, sums_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Form of the rows, and bytes.

    Attributes
    ----------
    form : {"sums", "rows"}
        Gram matrices of every fold, (n_folds, d, d), or the rows themselves, (n, d).
    peak_bytes, limit_bytes : int
    is_held : bool
        Whether passes of the softmax solver read rows from memory instead of the store.
    """

    form: str
    peak_bytes: int
    limit_bytes: int
    is_held: bool

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return asdict(self)

    def __str__(self) -> str:
        kept = "Gram matrices of every fold" if self.form == "sums" else "the rows in memory"
        return (
            f"head2toe: {kept}, about {self.peak_bytes // 2**20} MiB; "
            f"memory limit {self.limit_bytes // 2**20} MiB"
        )


def plan_head2toe(
    *,
    n: int,
    d: int,
    n_classes: int,
    n_folds: int,
    n_shares: int,
    solver: str,
    block_rows: int,
    limit_bytes: int,
) -> Plan:
    """Keep whichever is smaller of rows and columns: Gram matrices where rows are more, else the rows.

    If only the other form is within the limit, that one.

    Raises
    ------
    InputError
        If neither is; with both figures.
    """
    weights = 8 * d * n_classes
    # Paths: a solution, its gradient, trial and what they are made of; as many as fits share a pass.
    path = (10 * (n_folds + 1) if solver == "softmax" else 12) * weights
    path += (n_folds + 1) * n_shares * weights
    block = 8 * min(n, block_rows) * (4 * d + (n_folds + 3) * n_classes)
    common = path + block + 24 * n
    n_kept = N_FINALISTS + 3
    small = min(n, d)
    waiting = 8 * n_folds * batch_rows(n_folds=n_folds, rank=d, n_rows=n) * (d + 1 + n_classes)
    forms = {
        # All folds', their total, that without one fold and its blocks of the columns kept; coefficients of
        # what may be chosen, by the columns kept, by all, and these side by side.
        "sums": common
        + sums_bytes(n_folds=n_folds, rank=d, n_targets=n_classes)
        + waiting
        + 6 * 8 * d * d
        + n_kept * (3 * n_folds * weights + 8 * n * n_classes),
        # The rows as they are, centered, and of the columns kept, or sums of these; products; left-out scores
        "rows": common
        + 8 * n * (4 * d + 2 * n_classes)
        + 6 * 8 * small * small
        + (n_folds + 1) * weights
        + n_kept * 12 * n * n_classes,
    }
    preferred, other = ("sums", "rows") if d <= n else ("rows", "sums")
    form = preferred if forms[preferred] <= limit_bytes or forms[preferred] <= forms[other] else other
    held = 8 * n * d if solver == "softmax" else 0
    is_held = forms[form] + held <= limit_bytes
    check_memory(
        forms[form],
        limit_bytes=limit_bytes,
        what=(
            f"head2toe on {n} rows of {d} columns ({forms['sums'] / 2**30:.2f} GiB as Gram matrices of "
            f"{n_folds} folds, {forms['rows'] / 2**30:.2f} GiB as rows)"
        ),
        instead="take fewer layers, a smaller pooling target or fewer folds, or raise --memory-limit",
    )
    return Plan(
        form=form,
        peak_bytes=forms[form] + (held if is_held else 0),
        limit_bytes=limit_bytes,
        is_held=is_held,
    )
