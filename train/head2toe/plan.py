"""Plan a Head2Toe fit before any work: what it will hold, and in which form the rows are best kept."""

from dataclasses import asdict, dataclass
from typing import Any

from toptune.machine.memory import MemoryLimits, shown_bytes
from toptune.train.head2toe.cross_validation import N_FINALISTS
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.peak_memory import calibration_bytes, scoring_bytes, scoring_rows
from toptune.train.passes.sums import batch_rows, sums_bytes

# Rules that are always finalists beside the best ones: all columns, and the last layer alone.
_N_ALWAYS = 2


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
    n_rules: int
    n_penalties: int
    n_problems: int
    block_rows: int

    @property
    def weights_bytes(self) -> int:
        """Bytes of one W (d, n_classes)."""
        return 8 * self.d * self.n_classes

    @property
    def n_finalists(self) -> int:
        """Rules whose left-out scores are kept, at most."""
        return min(self.n_rules, N_FINALISTS + _N_ALWAYS)

    @property
    def left_out_bytes(self) -> int:
        """Bytes of the left-out scores of all finalists."""
        return 4 * self.n_finalists * self.n_calibration * self.n_classes

    @property
    def n_calibration(self) -> int:
        """Rows that the temperature is fitted to."""
        return min(self.n, CALIBRATION_ROWS)


@dataclass(frozen=True)
class _Projected:
    """Projected peak in bytes of either form of the rows."""

    sums_bytes: int
    rows_bytes: int

    @classmethod
    def of(cls, sizes: _Sizes) -> "_Projected":
        """Add up the peaks of both forms."""
        # Beside the moments, both forms hold the solutions of the paths, for each fold left out and for all
        # rows at every share; and classes, weights and folds of the rows.
        common = (sizes.n_folds + 1) * sizes.n_shares * sizes.weights_bytes + 24 * sizes.n
        return cls(common + _sums_form_bytes(sizes), common + _rows_form_bytes(sizes))

    def of_form(self, form: str) -> int:
        """Return the peak of one form."""
        return self.sums_bytes if form == "sums" else self.rows_bytes


def _block_bytes(sizes: _Sizes) -> int:
    return 8 * min(sizes.n, sizes.block_rows) * 4 * sizes.d


def _solving_bytes(sizes: _Sizes) -> int:
    """Add up what the solution of a path takes."""
    if sizes.n_problems == 1:
        # There are the solution, the gradient, the trial, and what makes these three.
        return 12 * sizes.weights_bytes
    # The same of every problem that shares a pass; and the log-probabilities of a block, of all problems,
    # with what they are made of and what is made of them.
    rows = min(sizes.n, softmax_rows(sizes.block_rows, sizes.n_classes, sizes.n_problems))
    block = 3 * 8 * rows * sizes.n_problems * sizes.n_classes
    return 10 * sizes.n_problems * sizes.weights_bytes + block + _block_bytes(sizes)


def softmax_rows(block_rows: int, n_classes: int, n_problems: int) -> int:
    """Return the rows of a block whose log-probabilities are made for every problem at a time."""
    return min(block_rows, scoring_rows(n_classes=n_classes, n_fits=n_problems))


def _sums_form_bytes(sizes: _Sizes) -> int:
    """Add up what `SummedFolds` hold."""
    n, d, n_classes, n_folds = sizes.n, sizes.d, sizes.n_classes, sizes.n_folds
    every_fold = sums_bytes(n_folds=n_folds, rank=d, n_targets=n_classes)
    waiting = 8 * n_folds * batch_rows(n_folds=n_folds, rank=d, n_rows=n) * (d + 2)
    # The total, the total without one fold, and the blocks that belong to the columns kept.
    squares = 6 * 8 * d * d
    # Coefficients of each finalist and fold: by the columns kept, by all columns, and side by side for the
    # pass.
    fits = (sizes.n_finalists + 1) * n_folds * sizes.weights_bytes
    scoring = (
        2 * fits
        + _block_bytes(sizes)
        + scoring_bytes(n=min(n, sizes.block_rows), n_classes=n_classes, n_fits=sizes.n_finalists)
    )
    calibration = calibration_bytes(n_kept=sizes.n_calibration, n_classes=n_classes)
    second_pass = fits + sizes.left_out_bytes + max(scoring, calibration)
    first_pass = waiting + _block_bytes(sizes)
    return every_fold + max(first_pass, squares + _solving_bytes(sizes), squares + second_pass)


def _rows_form_bytes(sizes: _Sizes) -> int:
    """Add up what `HeldFolds` hold."""
    n, d, n_classes, n_folds = sizes.n, sizes.d, sizes.n_classes, sizes.n_folds
    rows, targets = 8 * n * d, 8 * n * n_classes
    # The rows, their kernel, the targets, and for each fold and all rows centered targets and X^T Y / n.
    held = rows + 8 * n * n + targets + (n_folds + 1) * (targets + sizes.weights_bytes)
    # The rows as read and centered; or targets by their shares, squares of the rows.
    reading = max(2 * rows + _block_bytes(sizes), targets + rows)
    # Products of rows without a fold, and the columns kept or sums of these.
    products = 5 * 8 * min(n, d) ** 2 + 2 * rows
    # Coefficients of the rows without a fold at every penalty, twice, and the fold's scores; or the
    # coefficients, the scores and their differences from the targets.
    left = -(-n // n_folds)
    trials = 8 * sizes.n_penalties * n_classes * max(2 * n - left, n + 2 * left) + 2 * targets
    # Scores of one finalist in float64, their differences from the targets, and in float32.
    scoring = 20 * n * n_classes
    calibration = calibration_bytes(n_kept=sizes.n_calibration, n_classes=n_classes)
    fits = (sizes.n_finalists + 1) * targets
    comparing = fits + max(products + trials, sizes.left_out_bytes + max(scoring, calibration))
    return held + max(reading, products + _solving_bytes(sizes), comparing)


def _host_bytes(sizes: _Sizes, form: str) -> int:
    """Add up what a fit on a CUDA device takes in main memory.

    It is the sum of: the block that is read; classes, weights, folds and the order of the rows; the left-out
    scores that are kept; and whichever is more, a fit of the calibration, the one-hot targets of held rows in
    integers and in float64 before they are copied, or the scores of a finalist on their way.
    """
    n, n_classes = sizes.n, sizes.n_classes
    read = 3 * 8 * min(n, sizes.block_rows) * sizes.d
    calibration = calibration_bytes(n_kept=sizes.n_calibration, n_classes=n_classes)
    whole = 16 * n * n_classes if form == "rows" else 0
    # The softmax solver makes the weights of the rows in each of its problems.
    problems = 3 * 8 * n * sizes.n_problems if sizes.n_problems > 1 else 0
    return read + sizes.left_out_bytes + max(calibration, whole) + problems + 40 * n


def plan_head2toe(
    *,
    n: int,
    d: int,
    n_classes: int,
    n_folds: int,
    n_shares: int,
    n_rules: int,
    n_penalties: int,
    solver: str,
    block_rows: int,
    limits: MemoryLimits,
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
    n_rules : int
        Rules that are compared, at most.
    n_penalties : int
        Ridge penalties that each rule is tried with.
    solver : {"gram", "softmax"}
        With ``"softmax"`` the group lassos of all folds share a pass.
    block_rows : int
        Rows of a block.
    limits : MemoryLimits
        Memory that the fit may take where it computes, and in main memory.

    Raises
    ------
    InputError
        If neither form is within the limit, with both figures; or if a fit on a device takes more of main
        memory than may be taken there.

    Examples
    --------
    >>> plan = plan_head2toe(
    ...     n=1000, d=20_000, n_classes=10, n_folds=5, n_shares=3, n_rules=30, n_penalties=8, solver="gram",
    ...     block_rows=100, limits=MemoryLimits(device="", bytes=4 * 2**30, host_bytes=4 * 2**30),
    ... )
    >>> print(plan)
    head2toe: the rows in memory, about 563 MiB; 4096 MiB may be taken
    """
    sizes = _Sizes(
        n=n,
        d=d,
        n_classes=n_classes,
        n_folds=n_folds,
        n_shares=n_shares,
        n_rules=n_rules,
        n_penalties=n_penalties,
        n_problems=n_folds + 1 if solver == "softmax" else 1,
        block_rows=block_rows,
    )
    projected = _Projected.of(sizes)
    limit_bytes = limits.bytes
    preferred, other = ("sums", "rows") if d <= n else ("rows", "sums")
    preferred_bytes = projected.of_form(preferred)
    fits = preferred_bytes <= limit_bytes or preferred_bytes <= projected.of_form(other)
    form = preferred if fits else other
    form_bytes = projected.of_form(form)
    held = 8 * n * d if solver == "softmax" else 0
    is_held = form_bytes + held <= limit_bytes
    limits.check(
        form_bytes,
        host_bytes=_host_bytes(sizes, form),
        what=(
            f"head2toe on {n} rows of {d} columns ({shown_bytes(projected.sums_bytes)} as Gram matrices "
            f"of {n_folds} folds, {shown_bytes(projected.rows_bytes)} as rows)"
        ),
        instead="take fewer layers, a smaller pooling target or fewer folds, or raise --memory-limit",
    )
    return Plan(
        form=form,
        peak_bytes=form_bytes + (held if is_held else 0),
        limit_bytes=limit_bytes,
        is_held=is_held,
    )
