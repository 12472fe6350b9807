"""Seconds that a head's fit may take, roughly, from the sizes of the problem."""

from toptune.train.heads.kinds import KINDS
from toptune.train.heads.problem_size import ProblemSize

# Multiply-adds a second of one matrix product in float64, the unit of all formulas of work.
RATE = 2.5e10
# Even the smallest fit takes this long, whatever a formula of work says.
OVERHEAD_SECONDS = 0.05
# Reading a value from the store and preprocessing it, twice, costs as much as this many multiply-adds.
_READING = 500


def estimated_seconds(head: str, size: ProblemSize) -> float:
    """Return the seconds of a head with its default grids, cross-validation included.

    The estimate is for an ordinary machine and good to a factor of two or three. The first heads that are
    tried show how far off the estimate is on this machine (`attempt_within`).
    """
    work = KINDS[head].work
    if work is None:
        raise ValueError(f"head {head!r} has no formula of its work")
    return OVERHEAD_SECONDS + (_READING * size.n * size.d + work(size)) / RATE
