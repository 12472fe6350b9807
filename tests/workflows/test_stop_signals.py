"""Signals as a wish to stop: the first asks, the second and the end of the grace time insist."""

import signal
import time

import pytest

from toptune.workflows import stop_on_signals
from toptune.workflows.stop_signals import SIGNALS


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_handlers_are_put_back(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(each) for each in (*SIGNALS, signal.SIGALRM)]
    with stop_on_signals(20) as stop:
        assert stop() is None
        signal.raise_signal(number)
        left = stop()
        assert left is not None
        assert 10 < left <= 20
    assert [signal.getsignal(each) for each in (*SIGNALS, signal.SIGALRM)] == before
    err = capfd.readouterr().err
    assert err.startswith(number.name)
    assert err.count("\n") == 1


def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals(20) as stop:
        signal.raise_signal(signal.SIGTERM)
        # A script that hands on what its children got too.
        signal.raise_signal(signal.SIGUSR1)
        assert stop() is not None
        monkeypatch.setattr("toptune.workflows.stop_signals.SAME_SECONDS", 0.0)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("still there")
    with pytest.raises(KeyboardInterrupt), stop_on_signals(20):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still there")


def test_work_that_does_not_ask_is_interrupted_after_the_grace_time() -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), stop_on_signals(0.1):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(20)
    assert time.monotonic() - start < 10
    with pytest.raises(KeyboardInterrupt), stop_on_signals(0):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("still there")
