"""Signals as a wish to stop: the first asks, the second and the end of the grace time insist."""

import signal
import time

import pytest

from toptune.machine.stop_signals import SIGNALS
from toptune.workflows import stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_handlers_are_put_back(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(each) for each in (*SIGNALS, signal.SIGALRM)]
    with stop_on_signals(20, at_hand="the epoch") as stop:
        assert stop() is None
        signal.raise_signal(number)
        left = stop()
        assert left is not None
        assert 10 < left <= 20
    assert [signal.getsignal(each) for each in (*SIGNALS, signal.SIGALRM)] == before
    err = capfd.readouterr().err
    assert err.startswith(f"{number.name}: the epoch at hand is finished if")
    assert err.count("\n") == 1


def signalled(grace_seconds: float, *numbers: signal.Signals) -> None:
    """Work for a long time, and get these signals in it."""
    with stop_on_signals(grace_seconds):
        for number in numbers:
            signal.raise_signal(number)
        time.sleep(20)


def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        signalled(20, signal.SIGINT, signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("toptune.machine.stop_signals.SAME_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signalled(20, signal.SIGTERM, signal.SIGUSR1)
    assert time.monotonic() - start < 10


def test_a_signal_that_a_script_hands_on_is_no_second_one() -> None:
    with stop_on_signals(20) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert stop() is not None


@pytest.mark.parametrize("grace_seconds", [0.1, 0])
def test_work_that_does_not_ask_is_interrupted_after_the_grace_time(grace_seconds: float) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        signalled(grace_seconds, signal.SIGTERM)
    assert time.monotonic() - start < 10
