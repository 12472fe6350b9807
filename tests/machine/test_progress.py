"""Progress in a log: a line a minute, no more, in words or as JSON."""

import io
import json

import pytest
from rich.console import Console

from toptune.machine.progress import ExtractionProgress, live_bar
from toptune.workflows import extraction_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("toptune.machine.progress.time.perf_counter", lambda: now[0])
    return now


def report(progress: ExtractionProgress, clock: list[float], seconds: int) -> None:
    """Ten images a second, two failed; the clocks read 0.5, 0.9 and 0.1 of the time."""
    progress.clocks.follow(lambda: (0.5 * clock[0], 0.9 * clock[0], 0.1 * clock[0]))
    for second in range(1, seconds + 1):
        clock[0] = float(second)
        progress(second * 10, 3000, 2)


def test_a_line_a_minute_where_there_is_no_terminal(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with extraction_progress() as progress:
        report(progress, clock, 150)
    assert capsys.readouterr().err.splitlines() == [
        "extracting: 600 of 3000 images, 10 images/s, 240 s left, 2 failed, read 30 s, compute 54 s, "
        "write 6 s",
        "extracting: 1200 of 3000 images, 10 images/s, 180 s left, 2 failed, read 60 s, compute 108 s, "
        "write 12 s",
    ]


def test_json_lines_once_a_minute_and_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        with extraction_progress(json_logs=True) as progress:
            report(progress, clock, 150)
            clock[0] = 160.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["done"] for line in lines] == [600, 1200, 1500]
    assert all(line["time"].endswith("+00:00") for line in lines)
    del lines[-1]["time"]
    assert lines[-1] == {
        "done": 1500,
        "total": 3000,
        "images_per_second": 10.0,
        "seconds_left": 150.0,
        "failed": 2,
        "seconds_read": 80.0,
        "seconds_compute": 144.0,
        "seconds_device": 0.0,
        "seconds_write": 16.0,
    }


def test_nothing_is_written_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with extraction_progress(json_logs=True):
        pass
    assert capsys.readouterr().err == ""


def test_clocks_of_several_jobs_add_up() -> None:
    with extraction_progress(json_logs=True) as progress:
        progress.clocks.follow(lambda: (1.0, 2.0, 3.0))
        progress.clocks.follow(lambda: (0.5, 0.25, 0.0))
        assert progress.clocks.seconds() == (1.5, 2.25, 3.0)
        progress.clocks.follow(lambda: (0.0, 1.0, 0.0), lambda: 0.75)
        progress.clocks.follow(lambda: (0.0, 1.0, 0.0), lambda: 0.5)
        assert (progress.clocks.device_seconds(), progress.clocks.seconds()) == (1.25, (1.5, 4.25, 3.0))


def test_the_bar_shows_the_clocks(clock: list[float]) -> None:
    screen = io.StringIO()
    with live_bar(Console(file=screen, force_terminal=True, width=160)) as show:
        report(ExtractionProgress(show), clock, 150)
    assert "read 75 s, compute 135 s, write 15 s" in screen.getvalue()
    assert "2 failed" in screen.getvalue()
