"""A fine-tuning shows its progress: a live bar on a terminal, one line a minute in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TextColumn, TimeRemainingColumn

from toptune.machine.progress import LOG_SECONDS, has_live_bar, write_line


@dataclass(frozen=True, kw_only=True)
class ProgressReport:
    """How far a fine-tuning has come.

    Attributes
    ----------
    doing : str
        Work that is being done, in a word or two.
    done, total : int
        Images of the epoch, or of the rows that are read or tested.
    trial, trials : int, optional
        Number of the learning rate, from 1, and number of rates.
    learning_rate : float, optional
        Peak rate that is being tried.
    epoch, epochs : int, optional
        Number of the epoch, from 1, and most epochs.
    best_accuracy : float, optional
        Best accuracy on the validation part so far.
    """

    doing: str
    total: int
    done: int = 0
    trial: int | None = None
    trials: int = 1
    learning_rate: float | None = None
    epoch: int | None = None
    epochs: int = 1
    best_accuracy: float | None = None

    def __str__(self) -> str:
        parts = [self.doing]
        if self.trial is not None:
            # A refit comes after all rates and has no number among them.
            number = f" {self.trial} of {self.trials}" if self.trial <= self.trials else ""
            parts.append(
                f"learning rate{number} ({self.learning_rate:g}), epoch {self.epoch} of {self.epochs}"
            )
        if self.best_accuracy is not None:
            parts.append(f"best validation accuracy {self.best_accuracy:.3f}")
        return ", ".join(parts)


Progress = Callable[[ProgressReport], None]


@contextmanager
def finetune_progress() -> Iterator[Progress]:
    """Show images done, learning rate, epoch and the best validation so far on standard error."""
    console = Console(stderr=True)
    if not has_live_bar(console):
        yield _every_minute()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("")
        shown = ""

        def show(report: ProgressReport) -> None:
            nonlocal shown
            # A new epoch gets a new bar, or the time left would be reckoned from the pace of other work.
            if str(report) != shown:
                shown = str(report)
                bars.reset(task, description=shown, total=report.total)
            bars.update(task, completed=report.done)

        yield show


def _every_minute() -> Progress:
    """Return a function that writes at most one report a minute."""
    last = time.perf_counter()

    def pass_on(report: ProgressReport) -> None:
        nonlocal last
        if time.perf_counter() - last >= LOG_SECONDS:
            last = time.perf_counter()
            write_line(f"{report}, {report.done} of {report.total} images")

    return pass_on
