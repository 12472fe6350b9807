"""The choice of a kernel head's solver, by arithmetic over sizes and memory before any work."""

from dataclasses import asdict, dataclass

from toptune.machine.memory import MemoryLimits, check_memory
from toptune.options import check_choice
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.peak_memory import (
    host_peak_bytes,
    iterative_peak_bytes,
    library_peak_bytes,
    one_pass_peak_bytes,
)
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.solvers.device_rates import DEFAULT_SHARE
from toptune.train.solvers.one_pass import EXHAUSTIVE_RANK, held_fits

SOLVERS = ("auto", "direct", "falkon", "falkon-lib")
# FALKON chooses width and penalty by the direct path on at most this many of the centers: left-out folds by
# iteration would cost as many columns as there are folds.
SELECTION_CENTERS = 2000
# The estimate counts this many products of the iteration; Meanti et al. 2020 see 10 to 20.
EXPECTED_ITERATIONS = 20
# Kernel values are kept in main memory if they take no more than this, and the fit stays below the limit.
KERNEL_CACHE_BYTES = 2 * 2**30
# On a CUDA device they are kept if they take no more than this share of what the fit may take there.
CUDA_CACHE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that the choice of a solver depends on.

    Attributes
    ----------
    n, d : int
        Rows and features.
    n_centers, n_classes, n_widths, n_penalties, n_folds : int
        Numbers of centers and classes, of what is compared, and of folds.
    value_bytes : int
        Bytes of a kernel value: 4 or 8.
    limit_bytes : int
        Memory that the fit may take where it computes.
    device : str
        Name of the CUDA device that computes; empty where the fit computes in main memory.
    host_limit_bytes : int
        Main memory that a fit on a device may take; not looked at elsewhere.
    rows_bytes : int
        Bytes of the rows in their stored type if the device may keep them; else 0.
    float32_share : float
        Cost of a multiply-add in float32 as a share of one in float64; see `float32_share`.
    """

    n: int
    d: int
    n_centers: int
    n_classes: int
    n_widths: int
    n_penalties: int
    n_folds: int
    value_bytes: int
    limit_bytes: int
    device: str = ""
    host_limit_bytes: int = 0
    rows_bytes: int = 0
    float32_share: float = DEFAULT_SHARE

    def kept_rows_bytes(self, peak_bytes: int) -> int:
        """Return the bytes of the rows if the device keeps them beside a projected peak, else 0."""
        return self.rows_bytes if peak_bytes + self.rows_bytes <= self.limit_bytes else 0

    @property
    def cache_bytes(self) -> int:
        """Bytes that kernel values may take if they are kept."""
        return int(CUDA_CACHE_SHARE * self.limit_bytes) if self.device else KERNEL_CACHE_BYTES

    @property
    def cuda_bytes(self) -> int | None:
        """The limit of the CUDA device that computes; None where the fit computes in main memory."""
        return self.limits.cuda_bytes

    @property
    def limits(self) -> MemoryLimits:
        """What may be taken where the fit computes, and in main memory."""
        return MemoryLimits(device=self.device, bytes=self.limit_bytes, host_bytes=self.host_limit_bytes)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The solver that was taken, and the figures that decided.

    Attributes
    ----------
    asked, solver : str
        Solver that was asked for, and the one that was taken.
    direct_work, falkon_work : float
        Estimated multiply-adds in float64, selection included; float32 ones count by `float32_share`.
    direct_peak_bytes, falkon_peak_bytes, limit_bytes : int
        Projected peaks, without the rows' own storage.
    selection_centers : int
        Number of centers on which ``falkon`` chooses width and penalty; 0 if ``cv`` is None.
    is_cached : bool
        Whether the iteration keeps the kernel's values.
    library_peak_bytes : int or None
        Projected peak of ``falkon-lib``, a copy of the rows included; None unless it was asked for.
    kept_rows_bytes : int
        Bytes of the rows in their stored type where the device keeps them; else 0.
    float32_share : float
        Cost of a float32 multiply-add that was counted with: measured on a CUDA device, else a half.
    """

    asked: str
    solver: str
    direct_work: float
    falkon_work: float
    direct_peak_bytes: int
    falkon_peak_bytes: int
    limit_bytes: int
    selection_centers: int
    is_cached: bool
    library_peak_bytes: int | None = None
    kept_rows_bytes: int = 0
    float32_share: float = DEFAULT_SHARE

    @property
    def peak_bytes(self) -> int:
        """Projected peak of the solver that was taken, with rows that a device keeps."""
        if self.library_peak_bytes is not None:
            return self.library_peak_bytes
        peak_bytes = self.direct_peak_bytes if self.solver == "direct" else self.falkon_peak_bytes
        return peak_bytes + self.kept_rows_bytes

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-able mapping."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}

    def __str__(self) -> str:
        if self.library_peak_bytes is not None:
            return (
                f"solver {self.solver}: about {self.library_peak_bytes / 2**20:.0f} MiB with a copy of "
                f"all rows (selected on {self.selection_centers} centers, kernel values "
                f"{'kept' if self.is_cached else 'recomputed'}); "
                f"{self.limit_bytes / 2**20:.0f} MiB may be taken"
            )
        return (
            f"solver {self.solver} ({self.asked}): about {self.direct_work:.1e} multiply-adds and "
            f"{self.direct_peak_bytes / 2**20:.0f} MiB for direct, {self.falkon_work:.1e} and "
            f"{self.falkon_peak_bytes / 2**20:.0f} MiB for falkon (selected on {self.selection_centers} "
            f"centers, kernel values {'kept' if self.is_cached else 'recomputed'}); "
            f"{told_rows(self.kept_rows_bytes)}{self.limit_bytes / 2**20:.0f} MiB may be taken"
        )


def told_rows(kept_rows_bytes: int) -> str:
    """Say that a device keeps the rows, where it does."""
    return f"{kept_rows_bytes / 2**20:.0f} MiB more for the rows, which stay there; " * bool(kept_rows_bytes)


def choose_solver(asked: str, sizes: Sizes) -> Choice:
    """Take the solver that is asked for, or for ``"auto"`` the cheaper of those that fit into memory.

    Raises
    ------
    InputError
        For an unknown solver, or if no solver that may be taken fits into memory; the message gives the
        projected peak, the limit, and options that change either.

    Examples
    --------
    >>> sizes = Sizes(
    ...     n=100_000, d=512, n_centers=20_000, n_classes=10, n_widths=5, n_penalties=8, n_folds=5,
    ...     value_bytes=4, limit_bytes=64 * 2**30,
    ... )
    >>> choose_solver("auto", sizes).solver
    'falkon'
    """
    check_choice(asked, SOLVERS, option="solver")
    # Without folds there is nothing to select, but FalkonML needs the temperature from a selection.
    is_selected = sizes.n_folds > 1 or asked == "falkon-lib"
    few = min(sizes.n_centers, SELECTION_CENTERS) if is_selected else 0
    selection_peak = _direct_peak(sizes, few) if few else 0
    bare_peak = max(selection_peak, _iterative_peak(sizes, cached_bytes=0))
    cached_bytes = sizes.n * sizes.n_centers * sizes.value_bytes
    cached_peak = max(selection_peak, _iterative_peak(sizes, cached_bytes=cached_bytes))
    is_cached = cached_bytes <= sizes.cache_bytes and cached_peak <= sizes.limit_bytes
    # In main memory, where the fit computes on a device.
    host_peaks = {
        "direct": host_peak(sizes, sizes.n_centers, n_maps=sizes.n_widths, keeps_sums=True),
        "falkon": max(
            host_peak(sizes, few, n_maps=sizes.n_widths, keeps_sums=False),
            host_peak(sizes, sizes.n_centers, n_maps=1, keeps_sums=False),
        ),
    }
    direct_work = _direct_work(sizes, sizes.n_centers)
    falkon_work = _iterative_work(sizes, is_cached=is_cached) + (few and _direct_work(sizes, few))
    peaks = {
        "direct": _direct_peak(sizes, sizes.n_centers),
        "falkon": cached_peak if is_cached else bare_peak,
    }
    solver, library_peak = asked, None
    if asked == "falkon-lib":
        is_cached, library_peak = _library_plan(sizes, selection_peak)
    elif asked == "auto":
        work = {"direct": direct_work, "falkon": falkon_work}
        fitting = [name for name in peaks if sizes.limits.hold(peaks[name], host_bytes=host_peaks[name])]
        # If neither fits, the error below names the smaller of the two peaks.
        solver = min(fitting, key=work.__getitem__) if fitting else min(peaks, key=peaks.__getitem__)
    needed = library_peak or peaks[solver]
    sizes.limits.check(
        needed,
        host_bytes=host_peaks.get(solver, 0),
        what=f"solver {solver!r} with {sizes.n_centers} centers",
        instead="take fewer centers or penalties, or raise --memory-limit (memory_limit_bytes)",
    )
    return Choice(
        asked=asked,
        solver=solver,
        direct_work=direct_work,
        falkon_work=falkon_work,
        direct_peak_bytes=peaks["direct"],
        falkon_peak_bytes=peaks["falkon"],
        limit_bytes=sizes.limit_bytes,
        selection_centers=few,
        is_cached=is_cached,
        library_peak_bytes=library_peak,
        float32_share=sizes.float32_share,
        kept_rows_bytes=0 if library_peak is not None else sizes.kept_rows_bytes(peaks[solver]),
    )


def _library_plan(sizes: Sizes, selection_peak: int) -> tuple[bool, int]:
    """Return whether FalkonML is to store the kernel's values, and the projected peak in bytes."""

    def peak(*, is_stored: bool) -> int:
        fit = library_peak_bytes(
            n=sizes.n,
            d=sizes.d,
            n_centers=sizes.n_centers,
            n_classes=sizes.n_classes,
            value_bytes=sizes.value_bytes,
            is_stored=is_stored,
        )
        return max(selection_peak, fit)

    # FalkonML guesses from the shape which way round a stored matrix is meant, and misreads a square one.
    is_stored = (
        sizes.n_centers != sizes.n
        and sizes.n * sizes.n_centers * sizes.value_bytes <= KERNEL_CACHE_BYTES
        and peak(is_stored=True) <= sizes.limit_bytes
    )
    check_memory(
        peak(is_stored=is_stored),
        limit_bytes=sizes.limit_bytes,
        what=f"solver 'falkon-lib', in which FalkonML holds a copy of all {sizes.n} rows,",
        instead="use solver 'falkon', which streams them, or raise --memory-limit (memory_limit_bytes)",
    )
    return is_stored, peak(is_stored=is_stored)


def _kernel_work(sizes: Sizes, n_centers: int) -> float:
    return sizes.n * n_centers * sizes.d * _share(sizes)


def _share(sizes: Sizes) -> float:
    """Return the cost of a multiply-add in the kernel's type as a share of one in float64."""
    return sizes.float32_share if sizes.value_bytes == 4 else 1.0


def _direct_work(sizes: Sizes, m: int) -> float:
    """Return the multiply-adds of the direct solver on m centers.

    Rows are whitened and half of each symmetric product is taken; every width has its path of penalties, and
    a second pass predicts the left-out rows.
    """
    rows = sizes.n_widths * sizes.n * m * m
    systems = sizes.n_widths * m**3 / 6
    passes = 1
    if sizes.n_folds > 1:
        tried = sizes.n_penalties * sizes.n_folds
        if m > EXHAUSTIVE_RANK:
            # One fold tries every penalty, the others the best one and its two neighbors.
            tried = min(tried, sizes.n_penalties + 3 * (sizes.n_folds - 1))
        systems += sizes.n_widths * tried * (m**3 / 6 + 1.5 * m * m * sizes.n_classes)
        rows += sizes.n_widths * min(3, sizes.n_penalties) * sizes.n * m * sizes.n_classes
        passes = 2
    return passes * _kernel_work(sizes, m) + rows + systems


def _iterative_work(sizes: Sizes, *, is_cached: bool) -> float:
    """Return the multiply-adds of the iteration: its factors, and kernel values once or in every product."""
    m, columns = sizes.n_centers, sizes.n_classes
    products = EXPECTED_ITERATIONS * (2 * sizes.n * m * columns * _share(sizes) + 2 * m * m * columns)
    kernels = _kernel_work(sizes, m) * (1 if is_cached else EXPECTED_ITERATIONS + 1)
    return 0.7 * m**3 + kernels + products


def _block_rows(sizes: Sizes, rank: int) -> int:
    return block_rows_for(d=sizes.d, rank=rank, limit_bytes=sizes.limit_bytes, on_cuda=bool(sizes.device))


def _direct_peak(sizes: Sizes, rank: int) -> int:
    return one_pass_peak_bytes(
        n=sizes.n,
        d=sizes.d,
        rank=rank,
        n_maps=sizes.n_widths,
        n_classes=sizes.n_classes,
        n_folds=sizes.n_folds,
        block_rows=_block_rows(sizes, rank),
        n_fits=held_fits(rank=rank, n_penalties=sizes.n_penalties, n_folds=sizes.n_folds),
        n_finalists=min(3, sizes.n_penalties) * sizes.n_widths,
        n_calibration=min(sizes.n, CALIBRATION_ROWS),
    )


def host_peak(sizes: Sizes, rank: int, *, n_maps: int, keeps_sums: bool) -> int:
    """Project what a fit on a CUDA device takes in main memory, in bytes."""
    return host_peak_bytes(
        n=sizes.n,
        d=sizes.d,
        rank=rank,
        n_maps=n_maps,
        n_classes=sizes.n_classes,
        n_folds=sizes.n_folds,
        n_finalists=min(3, sizes.n_penalties) * sizes.n_widths,
        block_rows=_block_rows(sizes, rank),
        keeps_sums=keeps_sums,
    )


def _iterative_peak(sizes: Sizes, *, cached_bytes: int) -> int:
    return iterative_peak_bytes(
        n=sizes.n,
        d=sizes.d,
        rank=sizes.n_centers,
        n_columns=sizes.n_classes,
        n_classes=sizes.n_classes,
        block_rows=_block_rows(sizes, sizes.n_centers),
        cached_bytes=cached_bytes,
    )
