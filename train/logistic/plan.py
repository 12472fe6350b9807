"""What a logistic fit is going to hold and to keep: arithmetic over sizes and memory, before any work."""

from dataclasses import asdict, dataclass
from typing import Any

from toptune.machine.memory import check_memory
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.numerics.quasi_newton import MEMORY
from toptune.train.passes.peak_memory import one_pass_peak_bytes
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.solvers.solver_choice import KERNEL_CACHE_BYTES, SELECTION_CENTERS, Sizes

# Rows that the preconditioner is made of, or as many as centers where those are more.
SAMPLE_ROWS = 4000


@dataclass(frozen=True, kw_only=True)
class LogisticPlan:
    """How a fit will go and what decided it.

    Attributes
    ----------
    selection_centers : int
        Centers on which width, penalty and temperature are chosen.
    is_selection_cached, is_cached : bool
        Whether the kernel's values are kept while choosing, and in the fit on all centers.
    peak_bytes, limit_bytes : int
        Projected peak, without the rows' own storage.
    """

    selection_centers: int
    is_selection_cached: bool
    is_cached: bool
    peak_bytes: int
    limit_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return asdict(self)

    def __str__(self) -> str:
        kept = "kept" if self.is_cached else "recomputed"
        return (
            f"falkon-logistic: about {self.peak_bytes / 2**20:.0f} MiB (selected on "
            f"{self.selection_centers} centers, kernel values {kept}); "
            f"memory limit {self.limit_bytes / 2**20:.0f} MiB"
        )


def plan_logistic(sizes: Sizes) -> LogisticPlan:
    """Project the peaks of selection and fit; keep kernel values where they fit.

    Raises
    ------
    InputError
        If the projected peak is above the limit even with kernel values recomputed.
    """
    few = min(sizes.n_centers, SELECTION_CENTERS)
    widths = _widths_peak(sizes, few)
    bare = {
        "selection": _path_peak(sizes, few, n_fits=sizes.n_folds),
        "fit": _path_peak(sizes, sizes.n_centers, n_fits=1),
    }
    cache = {
        "selection": sizes.n * few * sizes.value_bytes,
        "fit": sizes.n * sizes.n_centers * sizes.value_bytes,
    }
    is_cached = {
        stage: cache[stage] <= KERNEL_CACHE_BYTES and bare[stage] + cache[stage] <= sizes.limit_bytes
        for stage in bare
    }
    peak_bytes = max(widths, *(bare[stage] + is_cached[stage] * cache[stage] for stage in bare))
    check_memory(
        peak_bytes,
        limit_bytes=sizes.limit_bytes,
        what=f"falkon-logistic with {sizes.n_centers} centers and {sizes.n_folds} folds of "
        f"{sizes.n_classes} classes",
        instead="take fewer centers or folds, or raise --memory-limit (memory_limit_bytes)",
    )
    return LogisticPlan(
        selection_centers=few,
        is_selection_cached=is_cached["selection"],
        is_cached=is_cached["fit"],
        peak_bytes=peak_bytes,
        limit_bytes=sizes.limit_bytes,
    )


def sample_rows_for(*, n: int, rank: int) -> int:
    """Rows of the preconditioner's sample."""
    return min(n, max(SAMPLE_ROWS, rank))


def logistic_block_rows(*, d: int, rank: int, n_columns: int) -> int:
    """Rows of a block with scores and residuals of every column beside its kernel values."""
    return block_rows_for(d=d, rank=rank + 2 * n_columns)


def _path_peak(sizes: Sizes, rank: int, *, n_fits: int) -> int:
    """Peak of `follow`: factors, the sample twice, every fit's pairs and points, blocks."""
    columns = n_fits * sizes.n_classes
    square = 8 * (rank + 1) ** 2
    sample = 2 * 8 * sample_rows_for(n=sizes.n, rank=rank) * (rank + sizes.d + 2 * sizes.n_classes)
    # Pairs, then value, gradient, trial and direction, those of the penalty before and the best, and a
    # pass's own products.
    points = 8 * (rank + 1) * columns * (2 * MEMORY + 14)
    block_rows = min(sizes.n, logistic_block_rows(d=sizes.d, rank=rank, n_columns=columns))
    # One block, and what the allocator keeps of the one before: measured beside cached kernel values.
    block = 2 * 8 * block_rows * (3 * sizes.d + 4 * rank + 8 * columns)
    calibration = 8 * min(sizes.n, CALIBRATION_ROWS) * (2 * sizes.n_classes + rank)
    return 8 * square + 3 * 8 * rank * sizes.d + sample + points + block + calibration + 40 * sizes.n


def _widths_peak(sizes: Sizes, rank: int) -> int:
    """Peak of the one-pass ridge solver that chooses among widths; nothing where there is one."""
    if sizes.n_widths == 1:
        return 0
    return one_pass_peak_bytes(
        n=sizes.n, d=sizes.d, rank=rank, n_maps=sizes.n_widths, n_classes=sizes.n_classes,
        n_folds=sizes.n_folds, block_rows=block_rows_for(d=sizes.d, rank=rank),
        n_penalties=sizes.n_penalties, n_finalists=min(3, sizes.n_penalties) * sizes.n_widths,
        n_calibration=min(sizes.n, CALIBRATION_ROWS),
    )  # fmt: skip
