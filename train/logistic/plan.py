"""Plan a logistic fit before any work: arithmetic over sizes and memory decides what is kept.

Kernel values of all rows are kept where they fit, because every pass needs them again.
"""

from dataclasses import asdict, dataclass
from typing import Any

from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.numerics.quasi_newton import MEMORY
from toptune.train.passes.kernel_rows import CACHED_ROWS
from toptune.train.passes.peak_memory import one_pass_peak_bytes
from toptune.train.rows.block_reading import BLOCK_BYTES, block_rows_for
from toptune.train.solvers.one_pass import held_fits
from toptune.train.solvers.solver_choice import SELECTION_CENTERS, Sizes, host_peak, told_rows

# The preconditioner is made of this many rows, or of as many rows as there are centers where those are more.
SAMPLE_ROWS = 4000
# Arrays of the size of a block's scores by all fits that a pass has at a time.
_SCORES = 4


@dataclass(frozen=True, kw_only=True)
class LogisticPlan:
    """How a logistic fit will go and what decided it.

    Attributes
    ----------
    selection_centers : int
        Centers on which width, penalty and temperature are chosen.
    is_selection_cached, is_cached : bool
        Whether kernel values are kept while choosing, and in the fit on all centers.
    peak_bytes, limit_bytes : int
        Projected peak without the rows' own storage, and the memory limit.
    kept_rows_bytes : int
        Bytes of the rows in their stored type where the device keeps them, which the peak counts; else 0.
    """

    selection_centers: int
    is_selection_cached: bool
    is_cached: bool
    peak_bytes: int
    limit_bytes: int
    kept_rows_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return asdict(self)

    def __str__(self) -> str:
        kept = "kept" if self.is_cached else "recomputed"
        return (
            f"falkon-logistic: about {self.peak_bytes / 2**20:.0f} MiB (selected on "
            f"{self.selection_centers} centers, kernel values {kept}); "
            f"{told_rows(self.kept_rows_bytes)}{self.limit_bytes / 2**20:.0f} MiB may be taken"
        )


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Projected bytes of one part of a fit: the selection, or the fit on all centers.

    Attributes
    ----------
    peak_bytes : int
        Projected peak, with kernel values where they are kept.
    is_cached : bool
        Whether kernel values are kept.
    """

    peak_bytes: int
    is_cached: bool

    @classmethod
    def of(cls, sizes: Sizes, n_centers: int, *, n_fits: int, are_labels: bool) -> "_Stage":
        """Keep the kernel values if they are few enough and the peak stays within the limit."""
        cache_bytes = sizes.n * n_centers * sizes.value_bytes
        with_cache = cache_bytes + _path_peak(
            sizes, n_centers, n_fits=n_fits, are_labels=are_labels, is_cached=True
        )
        if cache_bytes <= sizes.cache_bytes and with_cache <= sizes.limit_bytes:
            return cls(peak_bytes=with_cache, is_cached=True)
        bare_bytes = _path_peak(sizes, n_centers, n_fits=n_fits, are_labels=are_labels, is_cached=False)
        return cls(peak_bytes=bare_bytes, is_cached=False)


def plan_logistic(sizes: Sizes, *, are_labels: bool = False) -> LogisticPlan:
    """Project the peaks of selection and fit, and keep kernel values where they fit.

    Parameters
    ----------
    sizes : Sizes
    are_labels : bool
        Whether rows have several labels each; ``n_classes`` is their number then.

    Raises
    ------
    InputError
        If the projected peak is above the limit even with kernel values computed again in every pass.
    """
    few = min(sizes.n_centers, SELECTION_CENTERS)
    widths = _widths_peak(sizes, few)
    selection = _Stage.of(sizes, few, n_fits=sizes.n_folds, are_labels=are_labels)
    fit = _Stage.of(sizes, sizes.n_centers, n_fits=1, are_labels=are_labels)
    peak_bytes = max(widths, selection.peak_bytes, fit.peak_bytes)
    sizes.limits.check(
        peak_bytes,
        host_bytes=max(
            host_peak(sizes, few, n_maps=sizes.n_widths, keeps_sums=False),
            host_peak(sizes, sizes.n_centers, n_maps=1, keeps_sums=False),
        ),
        what=f"falkon-logistic with {sizes.n_centers} centers and {sizes.n_folds} folds of "
        f"{sizes.n_classes} classes",
        instead="take fewer centers or folds, or raise --memory-limit (memory_limit_bytes)",
    )
    # One width on kernel values that are kept, for all centers at once, reads the rows only once.
    is_read_again = sizes.n_widths > 1 or few < sizes.n_centers or not selection.is_cached
    kept_rows_bytes = sizes.kept_rows_bytes(peak_bytes) if is_read_again else 0
    return LogisticPlan(
        selection_centers=few,
        is_selection_cached=selection.is_cached,
        is_cached=fit.is_cached,
        peak_bytes=peak_bytes + kept_rows_bytes,
        kept_rows_bytes=kept_rows_bytes,
        limit_bytes=sizes.limit_bytes,
    )


def sample_rows_for(*, n: int, rank: int) -> int:
    """Return how many of n rows the preconditioner is made of, for `rank` features."""
    return min(n, max(SAMPLE_ROWS, rank))


def logistic_block_rows(*, d: int, rank: int, n_columns: int, cuda_bytes: int | None = None) -> int:
    """Return the rows of a block that holds scores and residuals beside its kernel values.

    Parameters
    ----------
    d, rank : int
        Columns of the rows, and of the features that the rows are mapped to.
    n_columns : int
        Scores of a row: as many as there are classes, for each of the fits that share a pass.
    cuda_bytes : int, optional
        Memory limit on the CUDA device that computes; by default blocks are those of a CPU.
    """
    # Scores and residuals of many classes are most of such a block, and each pass multiplies all of its rows
    # at once: more rows would take memory and save no time.
    return block_rows_for(
        d=d, rank=rank + 2 * n_columns, limit_bytes=cuda_bytes, on_cuda=cuda_bytes is not None, least_rows=64
    )


def cached_rows_for(*, block_rows: int, n_columns: int) -> int:
    """Return the rows of a block of kept kernel values, by the rows of one that is read.

    Larger products run faster, as long as the scores of the block are not what takes the memory.
    """
    few = BLOCK_BYTES // (8 * _SCORES * n_columns)
    return min(CACHED_ROWS, max(block_rows, few))


def _block_rows(sizes: Sizes, rank: int, *, n_columns: int) -> int:
    return logistic_block_rows(d=sizes.d, rank=rank, n_columns=n_columns, cuda_bytes=sizes.cuda_bytes)


def _path_peak(sizes: Sizes, rank: int, *, n_fits: int, are_labels: bool, is_cached: bool) -> int:
    """Project the peak of `follow` in bytes: factors, sample, every fit's pairs and points, blocks."""
    columns = n_fits * sizes.n_classes
    square = 8 * (rank + 1) ** 2
    sample_rows = sample_rows_for(n=sizes.n, rank=rank)
    sample = 2 * 8 * sample_rows * (rank + sizes.d)
    # Scores and probabilities of all classes.
    curvature = 2 * 8 * sample_rows * sizes.n_classes
    # The pairs of L-BFGS; then value, gradient, trial and direction; the points of the penalty before and of
    # the best one; and what a pass sums up.
    points = 8 * (rank + 1) * columns * (2 * MEMORY + 14)
    block_rows = _block_rows(sizes, rank, n_columns=columns)
    multiplied_rows = cached_rows_for(block_rows=block_rows, n_columns=columns) if is_cached else block_rows
    # A block is read and its values are made; those of one, or of more rows if kept, are multiplied.
    block = 8 * min(sizes.n, block_rows) * (3 * sizes.d + 4 * rank)
    block += 8 * min(sizes.n, multiplied_rows) * (2 * rank + _SCORES * columns)
    # What is known of each label of each row, and whether it applies.
    labels = 2 * sizes.n * sizes.n_classes if are_labels else 0
    calibration = 8 * min(sizes.n, CALIBRATION_ROWS) * (2 * sizes.n_classes + rank)
    return (
        8 * square  # factors of centers and preconditioner
        + 3 * 8 * rank * sizes.d  # centers
        + sample  # rows of the preconditioner, twice
        + points  # L-BFGS pairs and points of every fit
        # The sample's probabilities; or kernel values, scores and residuals of a block, and the rows of the
        # calibration.
        + max(curvature, block + calibration)
        + 40 * sizes.n  # codes, weights and folds
        + labels
    )


def _widths_peak(sizes: Sizes, rank: int) -> int:
    """Project the peak of the ridge solver that chooses among widths; 0 where there is only one."""
    if sizes.n_widths == 1:
        return 0
    return one_pass_peak_bytes(
        n=sizes.n, d=sizes.d, rank=rank, n_maps=sizes.n_widths, n_classes=sizes.n_classes,
        n_folds=sizes.n_folds, block_rows=_block_rows(sizes, rank, n_columns=0),
        n_fits=held_fits(rank=rank, n_penalties=sizes.n_penalties, n_folds=sizes.n_folds),
        n_finalists=min(3, sizes.n_penalties) * sizes.n_widths,
        n_calibration=min(sizes.n, CALIBRATION_ROWS),
    )  # fmt: skip
