"""`FitInputs`: rows, classes, folds and limits of a fit, checked and made from the arguments of ``fit``."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import check_random_state

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.memory import MemoryLimits
from toptune.machine.plans import plan_logger
from toptune.train.estimators.arguments import Labels, RowsLike
from toptune.train.kernels.maps import Maps
from toptune.train.partial.running_sums import RunningProblem, RunningSums
from toptune.train.passes.targets import Scaling, Targets
from toptune.train.passes.training_rows import Cluster, TrainingRows
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.rows.device_rows import DeviceRows, kept_rows_bytes
from toptune.train.rows.folds import (
    Folds,
    draw_folds,
    draw_strata_folds,
)
from toptune.train.rows.inputs import Given, fit_inputs, row_weights
from toptune.train.tasks.multilabel import Multilabel
from toptune.train.tasks.regression import Regression
from toptune.train.tasks.stratification import spreading_bytes


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """Everything that a fit is made of but the estimator's own parameters.

    Attributes
    ----------
    rows : TrainingRows
        Features with codes, weights and folds.
    classes : ndarray, shape (n_classes,)
        Labels of the classes, sorted; numbers of the labels, or of the targets.
    groups : sequence of str or None
        Ids or groups of the rows, as given.
    folds : Folds
        How the rows were dealt out.
    seed : int
        Seed drawn from the estimator's ``random_state``.
    device : torch.device
    limits : MemoryLimits
        Memory that the fit may take where it computes, and in main memory.
    start : float
        Time at which ``fit`` began, by `time.perf_counter`.
    scaling : Scaling or None
        How numbers were standardized; None of classes and labels.
    is_flat : bool
        Whether the targets were given as one column without an axis of its own: (n,).
    targets_bytes : int
        What the matrix of labels or numbers takes beside the fit, where the fit computes; the limits are
        less by as much. 0 of classes.
    drawing_bytes : int
        What drawing the folds took beside the matrix, before the fit.
    """

    rows: TrainingRows
    classes: Labels
    groups: Sequence[str] | None
    folds: Folds
    seed: int
    device: torch.device
    limits: MemoryLimits
    start: float
    scaling: Scaling | None = None
    is_flat: bool = True
    targets_bytes: int = 0
    drawing_bytes: int = 0

    @classmethod
    def of(
        cls,
        estimator: Any,
        X: RowsLike,
        y: npt.ArrayLike,
        *,
        groups: Sequence[str] | None,
        cluster: Cluster | None,
        start: float,
    ) -> "FitInputs":
        """Check features and labels, and draw weights, folds and a seed by the estimator's parameters.

        Raises
        ------
        InputError
            For labels of one class, or parameters out of range; if ``cv`` is None and the estimator cannot do
            without folds.
        """
        device = device_of(getattr(estimator, "device", None))
        if estimator.cv is None and estimator.needs_folds:
            raise InputError(
                "cv is None, but this classifier calibrates on left-out rows; give a number of folds"
            )
        checked = fit_inputs(estimator, X, y, are_numbers=estimator.gives_numbers)
        codes, classes, values = checked.codes, checked.classes, checked.values
        if values is not None and not estimator.takes_values:
            raise InputError(
                f"Unknown label type: a matrix of several labels, which {type(estimator).__name__} does not "
                "know; give one label a row"
            )
        class_weight = getattr(estimator, "class_weight", None)
        if values is not None and class_weight is not None:
            raise InputError(
                f"class_weight is {class_weight!r}, but a row of several labels has no one class; leave "
                "it out"
            )
        scaling = Scaling.of(values) if values is not None and estimator.gives_numbers else None
        # One seed for centers and folds, so that a RandomState that is passed on is drawn from only once.
        seed = int(check_random_state(estimator.random_state).randint(2**31 - 1))
        limits = MemoryLimits.on(device, estimator.memory_limit_bytes or None)
        targets_bytes = _targets_bytes(values, scaling, device)
        if values is not None:
            limits = _limits_beside(values, limits, targets_bytes)
        folds, drawing_bytes = _folds_of(
            checked, cv=estimator.cv, seed=seed, groups=groups, are_labels=not estimator.gives_numbers
        )
        rows = TrainingRows(
            blocks=checked.blocks,
            codes=codes,
            weights=row_weights(codes, classes, class_weight),
            folds=folds.places,
            n_classes=len(classes),
            n_folds=folds.count,
            has_aside=not folds.is_validated.all(),
            cluster=cluster,
            targets=_targets_of(values, scaling),
        )
        return cls(
            rows=rows,
            classes=classes,
            groups=groups,
            folds=folds,
            seed=seed,
            device=device,
            limits=limits,
            start=start,
            scaling=scaling,
            is_flat=checked.is_flat,
            targets_bytes=targets_bytes,
            drawing_bytes=drawing_bytes,
        )

    @classmethod
    def of_block(cls, estimator: Any, given: Given) -> "FitInputs":
        """Make what decides a fit of the first block of rows that come one after the other."""
        n, device = len(given.codes), device_of(getattr(estimator, "device", None))
        n_folds = estimator.cv or 1
        if n_folds == 1 and estimator.cv is not None:
            raise InputError("cv is 1; at least 2 folds are needed")
        scaling = Scaling.of(given.values) if given.values is not None and estimator.gives_numbers else None
        rows = TrainingRows(
            blocks=given.blocks,
            codes=given.codes,
            weights=np.ones(n),
            folds=np.arange(n) % n_folds,
            n_classes=len(given.classes),
            n_folds=n_folds,
            targets=_targets_of(given.values, scaling),
        )
        return cls(
            rows=rows,
            classes=given.classes,
            groups=None,
            folds=Folds(numbers=rows.folds, count=n_folds, is_validated=np.ones(n, dtype=np.bool_)),
            seed=int(check_random_state(estimator.random_state).randint(2**31 - 1)),
            device=device,
            limits=MemoryLimits.on(device, estimator.memory_limit_bytes or None),
            start=time.perf_counter(),
            scaling=scaling,
            is_flat=given.is_flat,
        )

    def running(self, maps: Maps, sigmas: Sequence[float | None], settings: Mapping[str, str]) -> RunningSums:
        """Return sums of no rows on these maps, for rows as these are."""
        return RunningSums(
            maps=maps, sigmas=sigmas, classes=self.classes, n_folds=self.rows.n_folds,
            block_rows=self.block_rows(rank=max(maps.ranks)), device=self.device, scaling=self.scaling,
            settings=settings, is_flat=self.is_flat,
        )  # fmt: skip

    @classmethod
    def of_running(cls, estimator: Any, running: RunningSums, problem: RunningProblem) -> "FitInputs":
        """Make what fitted attributes are taken from, of rows that came one after the other."""
        rows = problem.rows
        return cls(
            rows=rows,
            classes=running.classes,
            groups=None,
            folds=Folds(numbers=rows.folds, count=rows.n_folds, is_validated=np.ones(rows.n, dtype=np.bool_)),
            seed=0,
            device=running.device,
            limits=MemoryLimits.on(running.device, estimator.memory_limit_bytes or None),
            start=time.perf_counter(),
            scaling=problem.scaling,
            is_flat=running.is_flat,
        )

    @property
    def has_unknown(self) -> bool:
        """Whether of some label of some row nobody knows whether it applies."""
        return self.rows.targets is not None and self.rows.targets.are_partly_unknown

    def whole_peak_bytes(self, peak_bytes: int) -> int:
        """Return the projected peak of a fit with its matrix of targets, by the peak beside the matrix."""
        return self.targets_bytes + max(peak_bytes, self.drawing_bytes)

    @property
    def seconds(self) -> float:
        """Seconds since ``fit`` began."""
        return time.perf_counter() - self.start

    @property
    def limit_bytes(self) -> int:
        """Memory that the fit may take where it computes."""
        return self.limits.bytes

    @property
    def kept_rows_bytes(self) -> int:
        """Bytes that the rows take where a CUDA device keeps them; 0 where none may."""
        # The workers of a cluster read rows of their own.
        may_be_kept = self.device.type == "cuda" and self.rows.cluster is None
        return kept_rows_bytes(self.rows.blocks) if may_be_kept else 0

    def rows_on_device(self) -> TrainingRows:
        """Return the rows as the device keeps them from their first pass on."""
        return replace(self.rows, kept=DeviceRows(self.rows.blocks, self.device, offset=self.rows.offset))

    def planned_rows(self, peak_bytes: int, *, name: str) -> tuple[TrainingRows, int]:
        """Return the rows, kept on the device if they fit beside the projected peak, and the peak with them.

        The plan is told to whoever listens, with the `name` of the head.
        """
        kept_bytes = self.kept_rows_bytes
        is_kept = kept_bytes > 0 and peak_bytes + kept_bytes <= self.limit_bytes
        peak_bytes += is_kept * kept_bytes
        plan_logger.debug(
            "%s: about %d MiB%s; %d MiB may be taken",
            name,
            peak_bytes // 2**20,
            " with the rows, which the device keeps" if is_kept else "",
            self.limit_bytes // 2**20,
        )
        return self.rows_on_device() if is_kept else self.rows, peak_bytes

    def block_rows(self, *, rank: int) -> int:
        """Return the rows of a block, whose features are `rank` columns; see `block_rows_for`."""
        return block_rows_for(
            d=self.rows.blocks.shape[1],
            rank=rank,
            limit_bytes=self.limit_bytes,
            on_cuda=self.device.type == "cuda",
        )

    def check_memory(self, peak_bytes: int, *, what: str, instead: str, host_bytes: int = 0) -> None:
        """Refuse a fit whose projected peak is above the limit; see `MemoryLimits.check`."""
        self.limits.check(peak_bytes, host_bytes=host_bytes, what=what, instead=instead)


def _targets_bytes(
    values: npt.NDArray[np.floating] | None, scaling: Scaling | None, device: torch.device
) -> int:
    """Return what a matrix of targets takes beside a fit, where the fit computes.

    In main memory that are the targets as they were checked and, of numbers, as they are standardized. A
    device has one matrix.
    """
    if values is None:
        return 0
    return values.nbytes * (1 if scaling is None or device.type == "cuda" else 2)


def _limits_beside(
    values: npt.NDArray[np.floating], limits: MemoryLimits, targets_bytes: int
) -> MemoryLimits:
    """Return what a fit may take beside its matrix of labels or numbers, which one-hot targets do not need.

    Raises
    ------
    InputError
        If the matrix itself is above the limit.
    """
    host_bytes = 2 * values.nbytes if limits.device else targets_bytes
    limits.check(
        targets_bytes,
        host_bytes=host_bytes,
        what=f"a matrix of {len(values)} rows and {values.shape[1]} labels or targets",
        instead="give fewer labels or targets at a time, or raise --memory-limit (memory_limit_bytes)",
    )
    return replace(
        limits,
        bytes=max(1, limits.bytes - targets_bytes),
        host_bytes=max(1, limits.host_bytes - host_bytes),
    )


def _targets_of(values: npt.NDArray[np.floating] | None, scaling: Scaling | None) -> Targets | None:
    if values is None:
        return None
    if scaling is None:
        return Targets(values=values, are_labels=True)
    return Targets(values=scaling.standardized(values), are_labels=False)


def _folds_of(
    given: Given, *, cv: int | str | None, seed: int, groups: Sequence[str] | None, are_labels: bool
) -> tuple[Folds, int]:
    """Draw folds that know the classes, labels or numbers; return the bytes that this took, too."""
    if given.values is None:
        return draw_folds(given.codes, given.classes, cv=cv, seed=seed, groups=groups), 0
    if cv is None:
        return draw_strata_folds(given.codes, given.codes, n=len(given.codes), cv=None), 0
    n = len(given.codes)
    task = Multilabel() if are_labels else Regression()
    rows, codes = task.strata(given.values)
    folds = draw_strata_folds(rows, codes, n=n, cv=cv, seed=seed, groups=groups)
    return folds, spreading_bytes(len(rows))
