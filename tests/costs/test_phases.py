"""Phases are told, timed and metered, also where the work in them fails."""

import pytest

from toptune.costs.phases import Phases


def test_each_phase_is_told_timed_and_metered() -> None:
    told: list[str] = []
    phases = Phases(told.append)
    with phases("fit"):
        phases.notify("half way")
    with phases("test", line="scoring the test images"):
        pass
    with phases("fit"):
        pass
    assert told == ["fit", "half way", "scoring the test images", "fit"]
    assert list(phases.seconds) == ["fit", "test"]
    costs = phases.costs()
    assert list(costs["phases"]) == ["fit", "test"]
    assert costs["phases"]["fit"]["wall_seconds"] == pytest.approx(phases.seconds["fit"], abs=0.05)
    assert sum(phases.seconds.values()) <= phases.elapsed


def test_a_phase_that_fails_is_timed_and_ends() -> None:
    phases = Phases()
    with pytest.raises(ZeroDivisionError), phases("fit"):
        raise ZeroDivisionError
    assert list(phases.seconds) == ["fit"]
