"""Progress in a log: a line a minute, no more."""

import pytest

from toptune.workflows import extraction_progress


def test_a_line_a_minute_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("toptune.workflows.progress.time.perf_counter", lambda: now)
    with extraction_progress() as report:
        for second in range(1, 151):
            now = float(second)
            report(second * 10, 3000, 2)
    lines = capsys.readouterr().err.replace("\n", " ").split("extracting: ")[1:]
    assert len(lines) == 2
    assert "600 of 3000 images" in lines[0]
    assert "10 images/s" in lines[1]
    assert "180 s left" in lines[1]
    assert "2 failed" in lines[1]
