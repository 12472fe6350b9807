"""Long work shows its progress: a live bar on a terminal, one line a minute in a log, or JSON lines."""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from toptune.machine.watch import Clocks

LOG_SECONDS = 60.0
Shown = TypeVar("Shown")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far an extraction has come.

    Attributes
    ----------
    done, total, failed : int
        Images that are computed, all images, and images that could not be used.
    images_per_second : float
        Rate since the first batch was done; 0 while only that batch is done.
    read, compute, write : float
        Seconds of reading, of forward passes, and of committing.
    device : float
        Seconds that a CUDA device took for the passes; 0 without one.
    """

    done: int
    total: int
    failed: int
    images_per_second: float
    read: float
    compute: float
    write: float
    device: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds that are left at the rate so far; None where there is no rate yet."""
        return (self.total - self.done) / self.images_per_second if self.images_per_second else None

    @property
    def clocks(self) -> str:
        """The seconds of reading, computing and writing, in words."""
        device = f" (device {self.device:.0f} s)" if self.device else ""
        return f"read {self.read:.0f} s, compute {self.compute:.0f} s{device}, write {self.write:.0f} s"

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f"{self.seconds_left:.0f} s left, "
        return (
            f"extracting: {self.done} of {self.total} images, {self.images_per_second:.0f} images/s, "
            f"{left}{self.failed} failed, {self.clocks}"
        )

    def to_json(self) -> str:
        """Return one line of JSON, with the time of day."""
        left = self.seconds_left
        return json.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "done": self.done,
                "total": self.total,
                "images_per_second": round(self.images_per_second, 2),
                "seconds_left": None if left is None else round(left, 1),
                "failed": self.failed,
                "seconds_read": round(self.read, 2),
                "seconds_compute": round(self.compute, 2),
                "seconds_device": round(self.device, 2),
                "seconds_write": round(self.write, 2),
            },
            allow_nan=False,
        )


class ExtractionProgress:
    """Callable for the argument ``progress`` of `toptune.extract.extract`, which takes `clocks` too.

    Parameters
    ----------
    show : callable
        Called with every `Standing`.
    """

    def __init__(self, show: Callable[[Standing], None]) -> None:
        self.clocks = Clocks()
        self.last: Standing | None = None
        self._show = show
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, failed: int) -> None:
        """Take note of a batch that was computed, and show the standing."""
        now = time.perf_counter()
        # The first batch waits for work that is done once, such as compiling; the rate is that of the others.
        began, before = self._first = self._first or (now, done)
        rate = (done - before) / (now - began) if now > began else 0.0
        read, compute, write = self.clocks.seconds()
        self.last = Standing(
            done=done,
            total=total,
            failed=failed,
            images_per_second=rate,
            read=read,
            compute=compute,
            write=write,
            device=self.clocks.device_seconds(),
        )
        self._show(self.last)

    def refresh(self) -> Standing | None:
        """Return the last standing with the clocks of this moment; None before the first batch."""
        if self.last is None:
            return None
        read, compute, write = self.clocks.seconds()
        now = {"read": read, "compute": compute, "write": write, "device": self.clocks.device_seconds()}
        return Standing(**(vars(self.last) | now))


@contextmanager
def extraction_progress(*, json_logs: bool = False) -> Iterator[ExtractionProgress]:
    """Show images done, images/s, time left, failures and the three clocks on standard error.

    Parameters
    ----------
    json_logs : bool
        Write JSON objects, one a line, at most one a minute and one at the end, whether there is a terminal
        or not.

    Yields
    ------
    ExtractionProgress
        The argument ``progress`` of `toptune.extract.extract`, with the argument ``clocks``.
    """
    console = Console(stderr=True)
    if json_logs:
        progress = ExtractionProgress(every_minute(lambda standing: write_line(standing.to_json())))
        try:
            yield progress
        finally:
            # The last figures are written even if less than a minute has passed since the line before.
            last = progress.refresh()
            if last is not None:
                write_line(last.to_json())
    elif has_live_bar(console):
        with live_bar(console) as show:
            yield ExtractionProgress(show)
    else:
        yield ExtractionProgress(every_minute(lambda standing: write_line(str(standing))))


@contextmanager
def work_progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal for work that counts ``(done, total)``, a line a minute in a log."""
    console = Console(stderr=True)
    if not has_live_bar(console):
        tell = every_minute(write_line)
        yield lambda done, total: tell(f"{doing}: {done} of {total}")
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def has_live_bar(console: Console) -> bool:
    """Return whether a console shows a bar that moves: a terminal, or a notebook that has ipywidgets."""
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


@contextmanager
def live_bar(console: Console) -> Iterator[Callable[[Standing], None]]:
    """Show a live bar on a terminal."""
    columns = (
        TextColumn("extracting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[clocks]}"),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=None, rate=0.0, clocks="", failed="")

        def show(standing: Standing) -> None:
            bars.update(
                task,
                completed=standing.done,
                total=standing.total,
                rate=standing.images_per_second,
                clocks=standing.clocks,
                failed=f"{standing.failed} failed" if standing.failed else "",
            )

        yield show


def every_minute(show: Callable[[Shown], None]) -> Callable[[Shown], None]:
    """Return a function that passes on at most one standing a minute, so that a log file stays short."""
    last = time.perf_counter()

    def pass_on(standing: Shown) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= LOG_SECONDS:
            last = now
            show(standing)

    return pass_on


def write_line(text: str) -> None:
    """Write one line to standard error at once, without wrapping."""
    # rich would break the line at the width of a terminal, and a broken line is no JSON.
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
