"""Plan a Head2Toe fit before any work: what it will hold, and in which form the rows are best kept."""

from dataclasses import asdict, dataclass
from typing import Any

from toptune.machine.memory import check_memory
from toptune.train.head2toe.cross_validation import N_FINALISTS
from toptune.train.passes.sums import batch_rows, sums_bytes

# Candidates whose fits are in memory at a time: the finalists, and those that may still displace one.
_N_KEPT = N_FINALISTS + 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The form in which rows are kept, and the projected memory.

    Attributes
    ----------
    form : {"sums", "rows"}
        Gram matrices of every fold, (n_folds, d, d), or the rows themselves, (n, d).
    peak_bytes, limit_bytes : int
        Projected peak, and the memory limit.
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
            f"{self.limit_bytes // 2**20} MiB may be taken"
        )


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Sizes that decide what a fit holds; `n_problems` group lassos share a pass."""

    n: int
    d: int
    n_classes: int
    n_folds: int
    n_shares: int
    n_problems: int
    block_rows: int

    @property
    def weights_bytes(self) -> int:
        """Bytes of one W (d, n_classes)."""
        return 8 * self.d * self.n_classes


@dataclass(frozen=True)
class _Projected:
    """Projected peak in bytes of either form of the rows."""

    sums_bytes: int
    rows_bytes: int

    @classmethod
    def of(cls, sizes: _Sizes) -> "_Projected":
        """Add up the peaks of both forms."""
        common = _common_bytes(sizes)
        return cls(common + _sums_form_bytes(sizes), common + _rows_form_bytes(sizes))

    def of_form(self, form: str) -> int:
        """Return the peak of one form."""
        return self.sums_bytes if form == "sums" else self.rows_bytes


def _common_bytes(sizes: _Sizes) -> int:
    """Add up what both forms hold beside the moments."""
    # While a path is solved: the solution, gradient, trial and what these are made of, for each problem of a
    # pass.
    solving = (10 * sizes.n_problems if sizes.n_problems > 1 else 12) * sizes.weights_bytes
    # The solutions of the paths: for each fold left out and for all rows, at every share.
    solved = (sizes.n_folds + 1) * sizes.n_shares * sizes.weights_bytes
    block = 8 * min(sizes.n, sizes.block_rows) * (4 * sizes.d + (sizes.n_folds + 3) * sizes.n_classes)
    # Classes, weights and folds of the rows.
    labels = 24 * sizes.n
    return solving + solved + block + labels


def _sums_form_bytes(sizes: _Sizes) -> int:
    """Add up what `SummedFolds` hold."""
    n, d, n_classes, n_folds = sizes.n, sizes.d, sizes.n_classes, sizes.n_folds
    every_fold = sums_bytes(n_folds=n_folds, rank=d, n_targets=n_classes)
    waiting = 8 * n_folds * batch_rows(n_folds=n_folds, rank=d, n_rows=n) * (d + 1 + n_classes)
    # The total, the total without one fold, and the blocks that belong to the columns kept.
    squares = 6 * 8 * d * d
    # Coefficients of each finalist and fold: by the columns kept, by all columns, and side by side for the
    # pass.
    coefficients = _N_KEPT * 3 * n_folds * sizes.weights_bytes
    scores = _N_KEPT * 8 * n * n_classes
    return every_fold + waiting + squares + coefficients + scores


def _rows_form_bytes(sizes: _Sizes) -> int:
    """Add up what `HeldFolds` hold."""
    n, n_classes, small = sizes.n, sizes.n_classes, min(sizes.n, sizes.d)
    # The rows as read, centered, and of the columns kept, or sums of these; targets twice.
    rows = 8 * n * (4 * sizes.d + 2 * n_classes)
    products = 6 * 8 * small * small
    # X^T Y / n without each fold and of all rows.
    cross = (sizes.n_folds + 1) * sizes.weights_bytes
    # Left-out scores of each finalist, in float64 and in float32.
    scores = _N_KEPT * 12 * n * n_classes
    return rows + products + cross + scores


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
    """Keep whichever is smaller: Gram matrices where there are more rows than columns, else the rows.

    If only the other form is within the limit, that one is kept.

    Parameters
    ----------
    n, d : int
        Rows and columns.
    n_classes, n_folds : int
    n_shares : int
        Group penalties.
    solver : {"gram", "softmax"}
        With ``"softmax"`` the group lassos of all folds share a pass.
    block_rows : int
        Rows of a block.
    limit_bytes : int
        Memory limit.

    Raises
    ------
    InputError
        If neither form is within the limit; the message has both figures.

    Examples
    --------
    >>> plan = plan_head2toe(
    ...     n=1000, d=20_000, n_classes=10, n_folds=5, n_shares=3, solver="gram", block_rows=100,
    ...     limit_bytes=4 * 2**30,
    ... )
    >>> print(plan)
    head2toe: the rows in memory, about 773 MiB; 4096 MiB may be taken
    """
    projected = _Projected.of(
        _Sizes(
            n=n,
            d=d,
            n_classes=n_classes,
            n_folds=n_folds,
            n_shares=n_shares,
            n_problems=n_folds + 1 if solver == "softmax" else 1,
            block_rows=block_rows,
        )
    )
    preferred, other = ("sums", "rows") if d <= n else ("rows", "sums")
    preferred_bytes = projected.of_form(preferred)
    fits = preferred_bytes <= limit_bytes or preferred_bytes <= projected.of_form(other)
    form = preferred if fits else other
    form_bytes = projected.of_form(form)
    held = 8 * n * d if solver == "softmax" else 0
    is_held = form_bytes + held <= limit_bytes
    check_memory(
        form_bytes,
        limit_bytes=limit_bytes,
        what=(
            f"head2toe on {n} rows of {d} columns ({projected.sums_bytes / 2**30:.2f} GiB as Gram matrices "
            f"of {n_folds} folds, {projected.rows_bytes / 2**30:.2f} GiB as rows)"
        ),
        instead="take fewer layers, a smaller pooling target or fewer folds, or raise --memory-limit",
    )
    return Plan(
        form=form,
        peak_bytes=form_bytes + (held if is_held else 0),
        limit_bytes=limit_bytes,
        is_held=is_held,
    )
