"""One fit at a given width and penalty: nothing compared, probabilities calibrated by leaving rows out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.kernels.maps import Maps
from toptune.train.numerics.calibration import Temperature
from toptune.train.numerics.cholesky import factor_made, product_of_factor
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.passes.passes import accumulate
from toptune.train.passes.sums import FoldSums
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import check_finite, to_tensor
from toptune.train.solvers.one_pass import NUMBERS, Solution
from toptune.train.solvers.ridge import CenteredSystem
from toptune.train.solvers.selection import Candidate, numerical_notes

# Only one number, the temperature, is fitted to the sample, so few rows are enough.
SAMPLE_ROWS = 500
# The largest matrices of a fit are in memory by then, and a few rows at a time take little beside them.
_ROWS_AT_A_TIME = 250
# A row whose leverage is nearer to 1 than this decides its own score, and has no meaningful left-out score.
_UNDECIDED = 1e-6


@dataclass(frozen=True, kw_only=True)
class LeftOneOut:
    """Left-out figures of some rows, and the temperature that calibrates their scores.

    Attributes
    ----------
    rows : ndarray of int64
        Rows of the sample, spread evenly over all rows.
    squared_error : float
        Weighted mean over the rows of the sample.
    accuracy : float or None
        Likewise; None of numbers.
    calibration : Temperature, Sigmoids or None
        What calibrates the left-out scores; None of numbers.
    n_undecided : int
        Rows that are not in the figures, because the fit follows the label of such a row whatever it is.
    n_only : int
        Rows that are not in the figures, because they are the only ones of their class: the fit without such
        a row does not know the class.
    """

    rows: npt.NDArray[np.int64]
    squared_error: float
    accuracy: float | None
    calibration: Temperature | Sigmoids | None
    n_undecided: int
    n_only: int = 0

    @property
    def log_loss(self) -> float | None:
        """Mean log-loss of the calibrated left-out scores; None of numbers."""
        return None if self.calibration is None else self.calibration.log_loss

    @property
    def temperature(self) -> float | None:
        """Temperature that calibrates the left-out scores of classes; None of labels and numbers."""
        return self.calibration.value if isinstance(self.calibration, Temperature) else None

    @property
    def sigmoids(self) -> Sigmoids | None:
        """Sigmoids that calibrate the left-out scores of labels; None of classes and numbers."""
        return self.calibration if isinstance(self.calibration, Sigmoids) else None

    @property
    def told(self) -> str:
        """What the calibration was fitted to, in words."""
        if self.calibration is None:
            return NUMBERS
        how = (
            "softmax of scores with one temperature" if self.sigmoids is None else "a sigmoid for each label,"
        )
        return (
            f"{how} fitted to leave-one-out scores of "
            f"{len(self.rows) - self.n_undecided - self.n_only} training rows"
        )


def solve_once(
    rows: TrainingRows,
    maps: Maps,
    sigma: float | None,
    *,
    penalty: float,
    block_rows: int,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
    taken: FoldSums | None = None,
) -> Solution:
    """Fit the only map of `maps` to all rows, in one pass.

    Parameters
    ----------
    rows : TrainingRows
    maps : Maps
        Maps of which there is one.
    sigma : float or None
        Width of the map, for the report.
    penalty : float
    block_rows : int
        Rows read at a time.
    device : torch.device
        Device of the sums.
    progress : callable, optional
        Called with the number of rows read so far.
    taken : FoldSums, optional
        Sums that were taken already, over more rows than `rows`, which then are a sample.

    Raises
    ------
    NumericalError
        If no jitter makes the system positive definite.
    """
    start = time.perf_counter()
    phases: dict[str, float] = {}
    (sums,) = [taken] if taken is not None else accumulate(
        rows, maps, [0], block_rows=block_rows, device=device, keep_raw=True, seconds=phases,
        progress=progress,
    )  # fmt: skip
    seconds = {"pass": time.perf_counter() - start}
    start = time.perf_counter()
    # With nothing left out all rows are one fold.
    (gram,), (cross,) = sums.gram, sums.cross
    system = CenteredSystem.of(gram, cross)
    factor, jitter = _factor_in_place(sums, system, penalty)
    # The product has been overwritten by the factor, so nothing may read it again.
    sums = replace(sums, product=None)
    beta, _ = system.solve(penalty, factor)
    left = leave_one_out(
        rows,
        maps,
        0,
        beta=beta,
        mean=system.feature_mean,
        # The system is n times the second moments, and leverages are made from the factor of the moments.
        factor=factor.div_(system.weight**0.5),
        is_basis=sums.factor is not None,
        weight=system.weight,
    )
    beta = sums.of_features(beta)
    seconds["fit"] = time.perf_counter() - start
    seconds["total"] = sum(seconds.values())
    seconds |= phases
    return once_solution(sigma, penalty, beta, left, sums=sums, jitter=jitter, seconds=seconds)


def _factor_in_place(sums: FoldSums, system: CenteredSystem, penalty: float) -> tuple[Tensor, float]:
    """Factor the system in the memory of ``sums.product``, which a fit with one penalty needs only here."""
    if sums.factor is None:
        return system.factor(penalty)
    factor, product, mean = sums.factor, sums.product, system.feature_mean

    def make() -> Tensor:
        nonlocal product
        # A second call comes after jitter was needed: the first system is overwritten and made anew.
        metric, product = product_of_factor(factor) if product is None else product, None
        metric.mul_(system.weight * penalty).addr_(mean, mean, alpha=-system.weight)
        return metric.add_(system.gram)

    return factor_made(make, what=f"the ridge system at penalty {penalty:g}")


def once_solution(
    sigma: float | None,
    penalty: float,
    beta: Tensor,
    left: LeftOneOut,
    *,
    jitter: float = 0.0,
    seconds: dict[str, float],
    n_passes: int = 1,
    sums: FoldSums | None,
) -> Solution:
    """Return a single fit in the form of a selection with one candidate, so that reports read both alike."""
    chosen = Candidate(
        map_index=0,
        sigma=sigma,
        penalty=penalty,
        squared_error=left.squared_error,
        accuracy=left.accuracy,
        log_loss=left.log_loss,
        temperature=left.temperature,
        is_chosen=True,
    )
    notes = numerical_notes(jitter, 0, [chosen])
    if left.n_undecided:
        notes.append(
            f"{left.n_undecided} of {len(left.rows)} rows decide their own scores and are no part of the "
            "left-out figures; raise the penalty [TT404]"
        )
    if left.n_only:
        notes.append(
            f"{left.n_only} of {len(left.rows)} rows are the only ones of their class and are no part of the "
            "left-out figures and of the temperature; give such a class a second image [TT404]"
        )
    return Solution(
        map_index=0,
        beta=beta,
        temperature=left.temperature or 1.0,
        chosen=chosen,
        table=(chosen,),
        jitter=jitter,
        n_clipped=0,
        warnings=tuple(notes),
        n_passes=n_passes,
        seconds=seconds,
        calibration=left.told,
        sums=sums,
        sigmoids=left.sigmoids,
    )


def leave_one_out(
    rows: TrainingRows,
    maps: Maps,
    index: int,
    *,
    beta: Tensor,
    mean: Tensor,
    factor: Tensor,
    is_basis: bool = False,
    weight: float | None = None,
) -> LeftOneOut:
    """Score a sample of rows by fits without each of them, all from one fit to all rows.

    A row has the leverage ``h = (w / n) (1 + z' P^-1 z)``, where z are the row's centered features and P is
    the matrix of second moments plus the penalty. The fit without that row scores it ``(f - h y) / (1 - h)``
    (Rasmussen & Williams 2006, eq. 5.12).

    Parameters
    ----------
    beta : Tensor of float64, shape (r + 1, n_classes)
        Coefficients of the fit, the intercept last.
    mean : Tensor of float64, shape (r,)
        Weighted mean of the features.
    factor : Tensor of float64, shape (r, r)
        Lower factor of P, or of a matrix near it.
    is_basis : bool
        Whether `beta`, `mean` and `factor` belong to the map's basis in place of the features; leverages are
        the same for both.
    weight : float, optional
        Weight of all rows that were fitted to; by default that of `rows`.
    """
    sample = np.unique(np.linspace(0, rows.n - 1, min(rows.n, SAMPLE_ROWS)).astype(np.int64))
    values = rows.blocks.take(sample)
    check_finite(values)
    of = maps.basis if is_basis else maps.features
    lengths, fits = [], []
    inputs = to_tensor(values, dtype=maps.dtype, device=beta.device)
    for some in torch.split(inputs, _ROWS_AT_A_TIME):
        (phi,) = of(some, [index])
        fits.append(torch.addmm(beta[-1], phi, beta[:-1]))
        # |L^-1 z|^2 = z' P^-1 z with P = L L', without the inverse.
        half = torch.linalg.solve_triangular(factor, (phi - mean).T, upper=False)
        lengths.append(half.square_().sum(dim=0))
    fitted = torch.cat(fits)
    weights = torch.from_numpy(rows.weights[sample]).to(beta.device)
    leverage = weights / (weight or float(rows.weights.sum())) * (1 + torch.cat(lengths))
    targets = rows.targets_of(sample).to(beta.device)
    is_decided = 1 - leverage > _UNDECIDED
    is_only = torch.from_numpy(_are_only(rows)[sample]).to(beta.device)
    left = (fitted - leverage[:, None] * targets) / (1 - leverage)[:, None]
    # If the fit follows every row, the fit's own scores are the only ones there are.
    used = is_decided & ~is_only
    used = used if bool(used.any()) else torch.ones_like(is_decided)
    scores = torch.where(is_decided[:, None], left, fitted)[used]
    share = weights[used] / weights[used].sum()
    return LeftOneOut(
        rows=sample,
        accuracy=_accuracy(rows, scores, targets[used], share),
        squared_error=float(share @ (targets[used] - scores).square().sum(dim=1)),
        calibration=rows.calibration(scores.cpu().numpy(), sample[used.cpu().numpy()]),
        n_undecided=int((~is_decided & ~is_only).sum()),
        n_only=int(is_only.sum()),
    )


def _are_only(rows: TrainingRows) -> npt.NDArray[np.bool_]:
    """Tell which rows (n,) are the only ones of their class."""
    if rows.targets is not None:
        return np.zeros(rows.n, dtype=np.bool_)
    members = np.bincount(rows.codes, minlength=rows.n_classes)
    return members[rows.codes] < 2


def _accuracy(rows: TrainingRows, scores: Tensor, targets: Tensor, share: Tensor) -> float | None:
    """Return the share of rows, or of labels, that scores (b, k) decide correctly; None of numbers."""
    if rows.targets is None:
        return float(share @ (scores.argmax(dim=1) == targets.argmax(dim=1)).double())
    if rows.have_labels:
        return float(share @ ((scores > 0.5) == (targets > 0.5)).double().mean(dim=1))
    return None
