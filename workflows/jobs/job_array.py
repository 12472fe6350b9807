"""`choose_shard` reads from the environment which shard a task of a job array extracts."""

from collections.abc import Mapping
from dataclasses import dataclass

from toptune.errors import InputError

Shard = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Names of the environment variables of one batch system.

    Attributes
    ----------
    name : str
        Name of the system.
    index : str
        Variable with the number of this task.
    first, last, step, count : str
        Variables with the range of the array; an empty name where the system sets no such variable.
    starts_at : int, optional
        Number of the first task, where the system has a rule and no variable.
    outside : str
        Value of the variable `index` in jobs that are no array.
    """

    name: str
    index: str
    first: str = ""
    last: str = ""
    step: str = ""
    count: str = ""
    starts_at: int | None = None
    outside: str = ""


# The order matters, because some systems also set the variables of another system: their own come first.
SCHEDULERS = (
    Scheduler(
        name="Slurm",
        index="SLURM_ARRAY_TASK_ID",
        first="SLURM_ARRAY_TASK_MIN",
        last="SLURM_ARRAY_TASK_MAX",
        step="SLURM_ARRAY_TASK_STEP",
        count="SLURM_ARRAY_TASK_COUNT",
    ),
    Scheduler(name="PBS", index="PBS_ARRAY_INDEX"),
    Scheduler(name="Torque", index="PBS_ARRAYID"),
    Scheduler(
        name="LSF",
        index="LSB_JOBINDEX",
        last="LSB_JOBINDEX_END",
        step="LSB_JOBINDEX_STEP",
        starts_at=1,
        outside="0",
    ),
    Scheduler(
        name="SGE",
        index="SGE_TASK_ID",
        first="SGE_TASK_FIRST",
        last="SGE_TASK_LAST",
        step="SGE_TASK_STEPSIZE",
        outside="undefined",
    ),
)


def choose_shard(given: str | None, environment: Mapping[str, str]) -> tuple[Shard | None, str]:
    """Decide which shard to extract, and say why where the shard was not given as ``i/n``.

    Parameters
    ----------
    given : str, optional
        ``i/n``; ``auto`` for the job array in the environment, ``auto/n`` for an array of n tasks with
        numbers from 0 or from 1; None is ``auto`` within an array, and everything outside.
    environment : mapping
        Environment variables, such as ``os.environ``.

    Returns
    -------
    tuple
        The shard ``(i, n)`` or None, and a sentence that may be empty.

    Raises
    ------
    InputError
        If `given` is none of these, or the environment does not tell the shard.
    """
    word, slash, rest = (given or "auto").partition("/")
    if word != "auto":
        return _parse_shard(given or ""), ""
    if slash and not (rest.isdecimal() and int(rest)):
        raise InputError(f"--shard {given!r} is not auto/n with n from 1, for instance auto/20")
    # A task that silently extracted everything would do the work of all others once more: within an array,
    # the shard is taken even if nobody asked for it, and the answer says so.
    scheduler = next(
        (each for each in SCHEDULERS if environment.get(each.index, "") not in ("", each.outside)), None
    )
    if scheduler is None:
        if given is None:
            return None, ""
        raise InputError(
            f"--shard {given}: this is no task of a job array, none of "
            f"{', '.join(each.index for each in SCHEDULERS)} is set; give --shard i/n, i from 0"
        )
    index = _number(scheduler.index, environment)
    n, what = int(rest or 0), f"{scheduler.index} is {index}"
    if n:
        # Modulo n, numbers from 0 and numbers from 1 both reach every shard once.
        if not 0 <= index <= n:
            raise InputError(f"--shard {given}: {what}; tasks are numbered 0 to {n - 1} or 1 to {n}")
        shard = index % n, n
    else:
        shard = _of_range(scheduler, index, environment)
        first = index - shard[0] * _step(scheduler, environment)
        what += f" of {first} to {environment[scheduler.last]}"
    hint = "" if given else "; --shard 0/1 takes the whole data set"
    return shard, f"shard {shard[0]}/{shard[1]}: {what}{hint}"


def _parse_shard(text: str) -> Shard:
    """Parse ``i/n``, with i from 0."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--shard {text!r} is not i/n with 0 <= i < n, for instance 0/4, and not auto")
    return int(index), int(count)


def _of_range(scheduler: Scheduler, index: int, environment: Mapping[str, str]) -> Shard:
    """Work out the shard of a task from the range of the array."""
    if not scheduler.last or scheduler.last not in environment:
        raise InputError(
            f"{scheduler.index} is {index}, but {scheduler.name} does not say how many tasks there are: give "
            "--shard auto/N for an array of N tasks, or --shard 0/1 for the whole data set"
        )
    first = _number(scheduler.first, environment) if scheduler.first else scheduler.starts_at or 0
    last, step = _number(scheduler.last, environment), _step(scheduler, environment)
    n = (last - first) // max(step, 1) + 1
    counted = _number(scheduler.count, environment) if environment.get(scheduler.count) else n
    # An array such as 1,3,7 has a first and a last number like a whole one. Only the number of its tasks
    # shows the gaps, where the system tells that number.
    if step < 1 or not first <= index <= last or (index - first) % step or counted != n:
        raise InputError(
            f"{scheduler.index} is {index} in an array of {counted} tasks from {first} to {last} by {step}: "
            "which part of the whole that is cannot be told; give --shard auto/N for one of N tasks with "
            "numbers from 0 or 1, --shard i/n, or --shard 0/1 for the whole data set"
        )
    return (index - first) // step, n


def _step(scheduler: Scheduler, environment: Mapping[str, str]) -> int:
    """Return the step between the numbers of two tasks, 1 where the system tells none."""
    return _number(scheduler.step, environment) if environment.get(scheduler.step) else 1


def _number(variable: str, environment: Mapping[str, str]) -> int:
    """Read a variable as a whole number from 0."""
    text = environment.get(variable, "")
    if not text.isdecimal():
        raise InputError(
            f"{variable} is {text!r}, which is no number; give --shard i/n, or 0/1 for the whole data set"
        )
    return int(text)
