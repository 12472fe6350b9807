"""`SlurmPlan` has number, time and memory of the tasks, by arithmetic over the plan of an extraction."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from toptune.errors import InputError
from toptune.extract.request.plan import ExtractPlan
from toptune.text import counted

# Slurm's own default of MaxArraySize is 1001.
MAX_TASKS = 1000
DEFAULT_SECONDS = 3600
# Before the first image, Python, torch, the weights and the manifest are read from a shared disk.
START_SECONDS = 120
# At the end of a task, the unit at hand is finished or given up within this time.
END_SECONDS = 90
# Nodes differ, and so do the other jobs on them: time and memory get a quarter more than expected.
TIME_SLACK = 1.25
MEMORY_SLACK = 1.25
# Memory of torch with its libraries, and of the activations of one batch.
BASE_BYTES = 3 * 2**29
MEMORY_STEP = 2**28


@dataclass(frozen=True, kw_only=True)
class SlurmPlan:
    """Work of a job array, and resources that each task asks for.

    Attributes
    ----------
    tasks : int
        Number of tasks of the array, at most the number of units.
    units, rows : int
        Number of units and of images that are to be computed, in all.
    units_per_task, rows_per_task : int
        Largest number of units and of images that one task has.
    images_per_second : float
        Images that one task extracts in a second.
    seconds_per_task : float
        Expected seconds of a task, the start included.
    time_seconds : int
        Seconds that each task asks for.
    starts_per_task : int
        Number of times that a task is expected to start, because its time ends before its units are done.
    buffers_bytes, model_bytes, base_bytes, memory_bytes : int
        Memory of one task: buffers of the plan, weights (twice, because they are in memory when they are read
        and when they are placed), torch, and the sum that is asked for.
    files, bytes_read, bytes_written : int
        Number of files written, and bytes read and written, by all tasks together.
    notes : tuple of str
        Differences from what was asked, in sentences.
    """

    tasks: int
    units: int
    rows: int
    units_per_task: int
    rows_per_task: int
    images_per_second: float
    seconds_per_task: float
    time_seconds: int
    starts_per_task: int
    buffers_bytes: int
    model_bytes: int
    base_bytes: int
    memory_bytes: int
    files: int
    bytes_read: int
    bytes_written: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return every field as JSON values."""
        return asdict(self) | {"notes": list(self.notes)}

    def lines(self) -> Iterator[str]:
        """Yield the plan in words, line by line."""
        yield (
            f"{counted(self.rows, 'image')} in {counted(self.units, 'unit')} for "
            f"{counted(self.tasks, 'task')}: at most {counted(self.units_per_task, 'unit')}, "
            f"{counted(self.rows_per_task, 'image')} each"
        )
        yield (
            f"time: {self.seconds_per_task:.0f} s a task at {self.images_per_second:.1f} images/s with "
            f"{START_SECONDS} s to start; asked for {clock(self.time_seconds)}"
        )
        yield (
            f"memory: {_mib(self.buffers_bytes)} of buffers, {_mib(self.model_bytes)} for the weights, "
            f"{_mib(self.base_bytes)} for torch; asked for {_mib(self.memory_bytes)}"
        )
        yield (
            f"disk: {_mib(self.bytes_read)} read, {_mib(self.bytes_written)} written in about "
            f"{self.files} files"
        )
        yield from self.notes


def size_jobs(
    plan: ExtractPlan,
    *,
    images_per_second: float,
    weights_bytes: int,
    jobs: int | None = None,
    time_seconds: float | None = None,
    memory_bytes: int | None = None,
) -> SlurmPlan:
    """Divide the plan of an extraction into tasks.

    Parameters
    ----------
    plan : ExtractPlan
        Plan of the whole data set.
    images_per_second : float
        Images that one task extracts in a second.
    weights_bytes : int
        Bytes of the model's weights.
    jobs, time_seconds, memory_bytes : optional
        Sizes that the user asked for. Without `jobs`, there are as many tasks as it takes for every task to
        finish within its time, by default an hour.

    Raises
    ------
    InputError
        If the rate is not above 0, or a task would not finish even one unit in its time.
    """
    if not (images_per_second > 0 and math.isfinite(images_per_second)):
        raise InputError(f"images_per_second is {images_per_second}; it must be above 0")
    notes = []
    unit_seconds = TIME_SLACK * plan.unit_rows / images_per_second
    if time_seconds is not None and time_seconds < unit_seconds + START_SECONDS + END_SECONDS:
        raise InputError(
            f"--time is {time_seconds:.0f} s, but one unit of {plan.unit_rows} images takes "
            f"{unit_seconds:.0f} s, with {START_SECONDS + END_SECONDS} s to start and to end; give --time "
            f"{math.ceil((unit_seconds + START_SECONDS + END_SECONDS) / 60)}m or more"
        )
    # A unit is the least that a task can do, so that a task gets the time of one even above the wanted time.
    work = TIME_SLACK * plan.rows_missing / images_per_second
    usable = (DEFAULT_SECONDS if time_seconds is None else time_seconds) - START_SECONDS - END_SECONDS
    wanted = jobs if jobs is not None else math.ceil(work / max(usable, unit_seconds))
    tasks = max(1, min(wanted, plan.units, MAX_TASKS))
    if jobs is not None and tasks < jobs:
        limit = "that is how many units there are" if tasks == plan.units else "arrays have no more"
        notes.append(f"{jobs} tasks asked for, {tasks} made: {limit} [TT512]")
    # Units are dealt out by number, stored ones among them, so that a task may get more missing units than
    # the mean; the time is asked for the most unlucky task.
    units_per_task = min(-(-plan.units // tasks), plan.units_missing)
    rows_per_task = min(units_per_task * plan.unit_rows, plan.rows_missing)
    compute = rows_per_task / images_per_second
    # Schedulers start short jobs earlier: with a given number of tasks, the time is what the work needs, in
    # steps of five minutes.
    if time_seconds is None and jobs is None:
        time_seconds = max(DEFAULT_SECONDS, math.ceil(unit_seconds) + START_SECONDS + END_SECONDS)
    elif time_seconds is None:
        time_seconds = 300 * math.ceil((TIME_SLACK * compute + START_SECONDS + END_SECONDS) / 300)
    starts = math.ceil(TIME_SLACK * compute / (time_seconds - START_SECONDS - END_SECONDS))
    if starts > 1:
        notes.append(f"each task goes on over about {starts} starts: it is put back into the queue [TT512]")
    # Weights are in memory twice for a moment: as they are read, and as they are placed in the model.
    model_bytes = 2 * weights_bytes
    needed = MEMORY_SLACK * (plan.memory_bytes + model_bytes + BASE_BYTES)
    if memory_bytes is not None and memory_bytes < needed / MEMORY_SLACK:
        notes.append(
            f"--mem {_mib(memory_bytes)} is less than the {_mib(int(needed))} that it would be here [TT512]"
        )
    return SlurmPlan(
        tasks=tasks,
        units=plan.units_missing,
        rows=plan.rows_missing,
        units_per_task=units_per_task,
        rows_per_task=rows_per_task,
        images_per_second=images_per_second,
        seconds_per_task=START_SECONDS + compute,
        time_seconds=60 * math.ceil(time_seconds / 60),
        starts_per_task=max(starts, 1),
        buffers_bytes=plan.memory_bytes,
        model_bytes=model_bytes,
        base_bytes=BASE_BYTES,
        memory_bytes=memory_bytes or MEMORY_STEP * math.ceil(needed / MEMORY_STEP),
        # Each file of features and of the images' digests has a ledger entry beside it.
        files=2 * plan.files_written,
        bytes_read=plan.bytes_read,
        bytes_written=plan.bytes_written,
        notes=tuple(notes),
    )


def plan_of_all(plans: Sequence[ExtractPlan]) -> ExtractPlan:
    """Return one plan of the extraction of several models by the same tasks; each image counts once.

    Units are the largest of any model, of which there are the fewest, so that each task has units of every
    model. Bytes, buffers and arrays are those of all models; models with batches and units of the same size
    share what is read.

    Parameters
    ----------
    plans : sequence of ExtractPlan
        Plans of the models that have something to extract, one at least.
    """
    coarsest = max(plans, key=lambda plan: plan.unit_rows)
    rows_missing = max(plan.rows_missing for plan in plans)
    read: dict[tuple[int, int], int] = {}
    for plan in plans:
        size = plan.unit_rows, plan.batch_size
        read[size] = max(read.get(size, 0), plan.bytes_read)
    return replace(
        coarsest,
        rows_missing=rows_missing,
        # The rows that another model lacks may lie in more units than the coarsest model lacks itself.
        units_missing=min(
            max(coarsest.units_missing, -(-rows_missing // coarsest.unit_rows)), coarsest.units
        ),
        arrays=tuple(array for plan in plans for array in plan.arrays),
        bytes_read=sum(read.values()),
        bytes_written=sum(plan.bytes_written for plan in plans),
        memory_bytes=sum(plan.memory_bytes for plan in plans),
        files_written=sum(plan.files_written for plan in plans),
    )


def clock(seconds: int) -> str:
    """Write seconds as Slurm does: ``1-02:30:00``."""
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text


def _mib(n_bytes: int) -> str:
    """Write bytes as MiB, or as GiB from 10 GiB on."""
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes < 10 * 2**30 else f"{n_bytes / 2**30:.1f} GiB"
