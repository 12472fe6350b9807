"""Connect to a dask.distributed cluster: a scheduler, workers on this machine, or jobs of a batch system."""

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from toptune.errors import InputError, InterruptedRunError

# distributed and dask_jobqueue are optional packages: each function that needs one imports the package.
if TYPE_CHECKING:
    from dask_jobqueue import JobQueueCluster
    from distributed import Client

Future = TypeVar("Future")

# Each batch system has a class in dask_jobqueue and a program that submits its jobs.
SYSTEMS = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
}
_LOCAL = re.compile(r"local:([0-9]+)")


def check_address(address: str, options: Mapping[str, object] | None = None) -> None:
    """Refuse an address that cannot be a cluster, without connecting to one.

    Parameters
    ----------
    address : str
        Address of a scheduler (``tcp://host:8786``), ``local:N``, or ``slurm``, ``pbs``, ``lsf``.
    options : mapping, optional
        Arguments of dask_jobqueue's cluster, and ``jobs``, the number of jobs to submit.

    Raises
    ------
    InputError
        If the address is none of these, or options are given where there is no batch system.
    """
    count = local_workers(address)
    if count is None and ":" not in address and address not in SYSTEMS:
        raise InputError(
            f"dask {address!r} is no address; give a scheduler's, such as tcp://host:8786, or local:N, or "
            f"one of {', '.join(SYSTEMS)}"
        )
    if count is not None and count < 1:
        raise InputError(f"dask {address!r} has no worker; give local:1 or more")
    if options and address not in SYSTEMS:
        raise InputError(f"dask options are for {', '.join(SYSTEMS)}; dask {address!r} takes none")
    jobs = (options or {}).get("jobs", 1)
    if not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"dask option jobs is {jobs!r}; it must be a whole number from 1")


def local_workers(address: str) -> int | None:
    """Return the number N of an address ``local:N``; None for other addresses."""
    found = _LOCAL.fullmatch(address)
    return int(found[1]) if found else None


def has_distributed() -> bool:
    """Return whether dask.distributed is installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        return False
    return True


def check_installed(address: str) -> None:
    """Refuse an address for which a package or program is missing here, without connecting.

    Raises
    ------
    InputError
        If dask.distributed is missing; for a batch system also if dask-jobqueue, or the program that submits
        jobs, is.
    """
    if not has_distributed():
        raise InputError("dask.distributed is not installed; pip install 'toptune[dask]'")
    if address not in SYSTEMS:
        return
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"dask {address!r} needs dask-jobqueue, which is not installed; pip install 'toptune[jobqueue]'"
        ) from error
    _, program = SYSTEMS[address]
    if shutil.which(program) is None:
        raise InputError(f"dask {address!r}: there is no {program} on this machine; submit from where it is")


@contextlib.contextmanager
def open_client(
    address: str, *, options: Mapping[str, object] | None = None, memory_limit: str | int = "auto"
) -> Iterator["Client"]:
    """Connect to a scheduler; workers and schedulers that were started for the connection stop at the end.

    Parameters
    ----------
    address, options
        See `check_address`.
    memory_limit : str or int
        Memory of each worker of ``local:N``, as dask takes it; 0 for no limit.

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        If a package or program is missing, an option does not fit, or no scheduler answers.
    """
    check_address(address, options)
    check_installed(address)
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        place: str | LocalCluster | JobQueueCluster = address
        try:
            if (count := local_workers(address)) is not None:
                place = stack.enter_context(
                    LocalCluster(
                        n_workers=count,
                        threads_per_worker=1,
                        # Port 0 is any free port; the usual one may belong to another cluster here.
                        dashboard_address=":0",
                        memory_limit=memory_limit,
                        silence_logs=logging.ERROR,
                        preload=["toptune.machine.dask_preload"],
                    )
                )
            elif address in SYSTEMS:
                given = dict(options or {})
                jobs = given.pop("jobs", 1)
                place = stack.enter_context(_batch_cluster(address, given))
                place.scale(jobs=jobs)  # workers join when the batch system starts the jobs
            # Workers on this machine are talked to directly. Through the scheduler, which is in this process
            # then, everything would be in its memory twice.
            is_direct = True if local_workers(address) is not None else None
            client = stack.enter_context(Client(place, timeout="10s", direct_to_workers=is_direct))
        except (OSError, ValueError, TimeoutError) as error:
            # An `InputError` is a ValueError too, and says already what is wrong.
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"no dask scheduler answers at {address!r} ({error}); check its address"
            ) from error
        yield client


def _batch_cluster(system: str, options: Mapping[str, object]) -> "JobQueueCluster":
    """Start a scheduler in this process, and return the cluster that submits jobs with its workers."""
    import dask_jobqueue

    name, _ = SYSTEMS[system]
    # A job is one process that owns all cores of the job, so that the backbone is in memory once.
    fixed = {"processes": 1, "scheduler_options": {"dashboard_address": ":0"}}
    try:
        return getattr(dask_jobqueue, name)(**{**fixed, **options})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"dask {system!r} cannot be used as asked: {error}; give dask-jobqueue's own arguments, such as "
            '--dask-options \'{"jobs": 4, "cores": 8, "memory": "16GB", "walltime": "04:00:00"}\''
        ) from error


def first_finished(futures: Sequence[Future], *, seconds: float) -> list[Future]:
    """Wait until a future is finished, or the time is over; return the finished futures.

    Raises
    ------
    InterruptedRunError
        If the scheduler forgot the futures, because it was stopped or the connection to it is gone.
    """
    from distributed import CancelledError, wait

    try:
        return list(wait(futures, timeout=seconds, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []
    except CancelledError as error:
        raise InterruptedRunError(
            f"the dask scheduler is gone ({error}); what is committed stays, and the same command resumes"
        ) from error


def each_finished(futures: Sequence[Future], *, kept: Sequence[Future] | None = None) -> Iterator[Future]:
    """Yield the futures in the order in which they finish.

    Results of others than `kept`, if it is given, are let go.
    """
    from distributed import as_completed

    for future in as_completed(futures):
        if kept is not None and not any(future is each for each in kept):
            future.release()
        yield future


def killed_worker() -> type[Exception]:
    """Return the error of a task during which several workers died."""
    from distributed.scheduler import KilledWorker

    kind: type[Exception] = KilledWorker
    return kind


@dataclass(frozen=True)
class ThisWorker:
    """The dask worker that runs the current task.

    Attributes
    ----------
    name, address : str
        Name and address; workers of ``local:N`` are called ``0`` to ``N - 1``.
    threads : int
        Threads that the worker was given.
    """

    name: str
    address: str
    threads: int

    @property
    def number(self) -> int:
        """The number at the end of the name, by which workers share devices out; 0 if there is none."""
        found = re.search(r"[0-9]+\Z", self.name)
        return int(found[0]) if found else 0


def this_worker() -> ThisWorker:
    """Return the worker of a cluster that runs this task."""
    from distributed import get_worker

    worker = get_worker()
    return ThisWorker(str(worker.name), str(worker.address), int(worker.state.nthreads))
