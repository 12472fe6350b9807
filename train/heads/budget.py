"""Budgets of time: the seconds that a fit may take, and pieces of work done in turn within a budget."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from toptune.errors import DeviceMemoryError, InputError, NumericalError
from toptune.train.heads.kinds import KINDS
from toptune.train.heads.problem_size import ProblemSize

# Multiply-adds a second of one matrix product in float64, the unit of all formulas of work.
RATE = 2.5e10
# Even the smallest fit takes this long, whatever a formula of work says.
OVERHEAD_SECONDS = 0.05
# Reading a value from the store and preprocessing it, twice, costs as much as this many multiply-adds.
_READING = 500

T = TypeVar("T")


def estimated_seconds(head: str, size: ProblemSize) -> float:
    """Return the seconds of a head with its default grids, cross-validation included.

    The estimate is for an ordinary machine and good to a factor of two or three. The first heads that are
    tried show how far off the estimate is on this machine (`attempt_within`).
    """
    work = KINDS[head].work
    if work is None:
        raise ValueError(f"head {head!r} has no formula of its work")
    return OVERHEAD_SECONDS + (_READING * size.n * size.d + work(size)) / RATE


@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[T]):
    """The outcome of one piece of work.

    Attributes
    ----------
    result : T or None
        Result of the work; None if the work was not begun, or failed.
    seconds : float or None
        Seconds that the work took.
    estimated_seconds : float
        Seconds that the work was expected to take when its turn came.
    skipped : str or None
        Why there is no result.
    """

    estimated_seconds: float
    result: T | None = None
    seconds: float | None = None
    skipped: str | None = None


def attempt_within(
    budget_seconds: float, jobs: Iterable[tuple[float, Callable[[], T]]]
) -> Iterator[Attempt[T]]:
    """Do pieces of work in turn; a piece that is estimated to take longer than what is left is not begun.

    Estimates are scaled by the slowest work done so far, in seconds taken per second estimated. No work is
    broken off, and the first piece is always done.

    Parameters
    ----------
    budget_seconds : float
    jobs : iterable of (float, callable)
        Estimated seconds and the work. `InputError`, `NumericalError` and `DeviceMemoryError` are kept, other
        errors raised.

    Raises
    ------
    InputError, NumericalError, DeviceMemoryError
        The first error of a job, after the last attempt, if no job gave a result.
    """
    start = time.perf_counter()
    slowness: list[float] = []
    errors: list[InputError | NumericalError | DeviceMemoryError] = []
    for estimated, work in jobs:
        # Estimates go by the slowest work so far, so that a budget is left unspent rather than exceeded.
        expected = estimated * max(slowness, default=1.0)
        left = budget_seconds - (time.perf_counter() - start)
        if slowness and expected > left:
            why = f"about {expected:.3g} s, {max(left, 0):.3g} s of the budget left"
            yield Attempt(estimated_seconds=expected, skipped=why)
            continue
        begun = time.perf_counter()
        try:
            result = work()
        except (InputError, NumericalError, DeviceMemoryError) as error:
            errors.append(error)
            yield Attempt(estimated_seconds=expected, skipped=str(error))
            continue
        seconds = time.perf_counter() - begun
        slowness.append(seconds / estimated)
        yield Attempt(estimated_seconds=expected, result=result, seconds=seconds)
    if errors and not slowness:
        raise errors[0]
