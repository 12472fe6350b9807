"""`PipelineProfile` tells which stage of a pipeline holds up the others."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass

from toptune.text import printed_table

# A stage that is busy for less than this share of the time holds nothing up.
_BUSY = 0.5
# In fewer seconds, opening files and the first pass outweigh what would go on in a longer run.
LEAST_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a pipeline.

    Attributes
    ----------
    workers : str
        Which workers do it, of which `PipelineProfile.running` is told the number.
    is_computing : bool
        Whether the stage only computes. Its rate alone then counts the seconds of its thread on a core, which
        leave out the time in which other threads had the core.
    advice : str
        What helps where the stage holds up the others.
    """

    workers: str
    is_computing: bool = False
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class StageUse:
    """What one stage did.

    Attributes
    ----------
    stage, workers : str
        Its name, and who did it.
    n_workers : int
    images : int
        Images that went through it.
    seconds : float
        Time in it, added up over the workers.
    alone : float
        Images a second if its workers did nothing else; 0 without an image.
    busy : float
        Share of the workers' time that was spent in it.
    ready : float, optional
        Occupancy of the queue before it: how often an image was there when a worker asked for one.
    """

    stage: str
    workers: str
    n_workers: int
    images: int
    seconds: float
    alone: float
    busy: float
    ready: float | None


class PipelineProfile:
    """Measures the stages of a pipeline while it runs, from all of its threads.

    Parameters
    ----------
    stages : mapping of str to Stage
        The stages by name, in the order in which an image goes through them.

    Examples
    --------
    >>> profile = PipelineProfile({"double": Stage(workers="caller", advice="double less")})
    >>> with profile.running({"caller": 1}):
    ...     for number in range(1000):
    ...         with profile.stage("double"):
    ...             doubled = 2 * number
    >>> [(use.stage, use.images) for use in profile.uses()]
    [('double', 1000)]
    """

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        self.stages = dict(stages)
        self.seconds = 0.0
        self._n_workers: dict[str, int] = {}
        self._is_running = False
        self._lock = threading.Lock()
        self._wall: defaultdict[str, float] = defaultdict(float)
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._images: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._ready: Counter[str] = Counter()

    @contextmanager
    def running(self, n_workers: Mapping[str, int]) -> Iterator[None]:
        """Measure from here to the end of the block, with so many workers of each kind."""
        self._n_workers, start = dict(n_workers), time.perf_counter()
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False
            self.seconds += time.perf_counter() - start

    @contextmanager
    def stage(self, name: str, images: int = 1, *, within: str | None = None) -> Iterator[None]:
        """Count the time of the calling thread as spent in a stage, and not in the stage that it lies within.

        A stage that fails counts its time and no image.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        except BaseException:
            images = 0
            raise
        finally:
            if self._is_running:
                wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
                with self._lock:
                    self._images[name] += images
                    for counter, seconds in ((self._wall, wall), (self._cpu, cpu)):
                        counter[name] += seconds
                        if within is not None:
                            counter[within] -= seconds

    def add(self, name: str, seconds: float, images: int, *, within: str | None = None) -> None:
        """Count time that a device spent in a stage, as its own clock tells, in place of that of a thread."""
        if self._is_running:
            with self._lock:
                self._images[name] += images
                for counter in (self._wall, self._cpu):
                    counter[name] += seconds
                    if within is not None:
                        counter[within] -= seconds

    def ask(self, name: str, *, is_ready: bool) -> None:
        """Note whether an image waited in the queue before a stage when a worker asked for one."""
        if self._is_running:
            with self._lock:
                self._asked[name] += 1
                self._ready[name] += is_ready

    def uses(self) -> list[StageUse]:
        """Return what each stage did so far."""
        found = []
        for name, stage in self.stages.items():
            n = self._n_workers.get(stage.workers, 1)
            alone = self._cpu[name] if stage.is_computing else self._wall[name]
            found.append(
                StageUse(
                    stage=name,
                    workers=stage.workers,
                    n_workers=n,
                    images=self._images[name],
                    seconds=self._wall[name],
                    alone=n * self._images[name] / alone if alone > 0 else 0.0,
                    busy=self._wall[name] / (n * self.seconds) if self.seconds else 0.0,
                    ready=self._ready[name] / self._asked[name] if self._asked[name] else None,
                )
            )
        return found

    def bottleneck(self) -> StageUse | None:
        """Return the largest stage of the busiest workers.

        None where nobody is busy half of the time, or where less than `LEAST_SECONDS` were measured.
        """
        if self.seconds < LEAST_SECONDS:
            return None
        uses = self.uses()
        busy: defaultdict[str, float] = defaultdict(float)
        for use in uses:
            busy[use.workers] += use.busy
        workers, share = max(busy.items(), key=lambda pair: pair[1])
        if share < _BUSY:
            return None
        return max((use for use in uses if use.workers == workers), key=lambda use: use.busy)

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON values."""
        worst = self.bottleneck()
        return {
            "seconds": self.seconds,
            "stages": [asdict(use) for use in self.uses()],
            "bottleneck": None if worst is None else worst.stage,
        }

    def __str__(self) -> str:
        if not self.seconds:
            return "profile: nothing ran, so nothing was measured"
        rows = [
            [
                use.stage,
                f"{use.n_workers} {use.workers}",
                f"{use.alone:,.0f}",
                f"{100 * use.busy:.0f} %",
                "" if use.ready is None else f"{100 * use.ready:.0f} %",
            ]
            for use in self.uses()
            if use.images
        ]
        columns = ["stage", "workers", "images/s alone", "busy", "queue before it"]
        worst = self.bottleneck()
        if worst is not None:
            said = f"bottleneck: {worst.stage}, of the {worst.workers}; {self.stages[worst.stage].advice}"
        elif self.seconds < LEAST_SECONDS:
            said = (
                f"too short to say which stage holds up the others: {self.seconds:.2g} s were measured, and "
                f"{LEAST_SECONDS:g} s is the least; profile more images"
            )
        else:
            said = "no stage holds up the others: nobody is busy half of the time"
        return f"{printed_table(f'profile of {self.seconds:.1f} s', columns, rows)}\n{said}"


def timed(
    profile: PipelineProfile | None, name: str, images: int = 1, *, within: str | None = None
) -> AbstractContextManager[None]:
    """Count time as `PipelineProfile.stage` does, where there is a profile."""
    return nullcontext() if profile is None else profile.stage(name, images, within=within)
