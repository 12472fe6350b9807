"""How long work shows itself: a live bar on a terminal, a line a minute in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 60.0

ReportRows = Callable[[int, int, int], None]


@contextmanager
def extraction_progress() -> Iterator[ReportRows]:
    """Show images done, images/s, time left and failures on standard error.

    Yields
    ------
    callable
        ``report(done_rows, total_rows, failed)``, for `toptune.extract.extract`'s ``progress``.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with live_bar(console) as report:
            yield report
    else:
        yield log_lines(console)


@contextmanager
def work_progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal for work that counts ``(done, total)``; nothing in a log."""
    console = Console(stderr=True)
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def live_bar(console: Console) -> Iterator[ReportRows]:
    """Draw a bar that moves."""
    columns = (
        TextColumn("extracting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=None, rate=0.0, failed="")

        def report(done_rows: int, total_rows: int, failed: int) -> None:
            rate = done_rows / max(time.perf_counter() - start, 1e-9)
            bars.update(
                task,
                completed=done_rows,
                total=total_rows,
                rate=rate,
                failed=f"{failed} failed" if failed else "",
            )

        yield report


def log_lines(console: Console) -> ReportRows:
    """Write a line a minute: what a log file can hold."""
    start = last = time.perf_counter()

    def report(done_rows: int, total_rows: int, failed: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= LOG_SECONDS:
            last = now
            rate = done_rows / (now - start)
            left = (total_rows - done_rows) / max(rate, 1e-9)
            console.print(
                f"extracting: {done_rows} of {total_rows} images, {rate:.0f} images/s, "
                f"{left:.0f} s left, {failed} failed"
            )

    return report
