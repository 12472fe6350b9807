"""A profile of a pipeline: seconds by stage, and the stage that holds up the others."""

import threading
import time

import pytest

from toptune.costs import stages
from toptune.costs.stages import PipelineProfile, Stage, timed

STAGES = {
    "read": Stage(workers="readers", advice="read faster"),
    "compute": Stage(workers="passes", is_computing=True, advice="compute less"),
    "pool": Stage(workers="passes", is_computing=True),
}


def test_the_bottleneck_is_the_stage_that_takes_its_workers_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "LEAST_SECONDS", 0.05)
    profile = PipelineProfile(STAGES)
    with profile.running({"readers": 2, "passes": 1}):
        threads = [threading.Thread(target=read, args=(profile,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with profile.stage("compute", 8):
            pass
    read_use, compute_use, _ = profile.uses()
    assert (read_use.images, compute_use.images) == (8, 8)
    assert 0.16 <= read_use.seconds < 2 * profile.seconds
    assert read_use.alone == pytest.approx(2 * 8 / read_use.seconds)
    assert read_use.busy > 0.5 > compute_use.busy
    assert profile.bottleneck() == read_use
    assert "bottleneck: read, of the readers; read faster" in str(profile)


def test_no_stage_is_blamed_for_a_short_time_or_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = PipelineProfile(STAGES)
    assert str(profile) == "profile: nothing ran, so nothing was measured"
    with profile.running({"readers": 1, "passes": 1}), profile.stage("read"):
        time.sleep(0.02)
    assert (profile.bottleneck(), profile.to_dict()["bottleneck"]) == (None, None)
    assert "too short to say which stage holds up the others: 0.0" in str(profile)
    assert "and 1 s is the least" in str(profile)
    assert "read faster" not in str(profile)
    monkeypatch.setattr(stages, "LEAST_SECONDS", 0.01)
    assert "bottleneck: read, of the readers; read faster" in str(profile)


def read(profile: PipelineProfile) -> None:
    for _ in range(4):
        with profile.stage("read"):
            time.sleep(0.02)


def test_time_within_another_stage_counts_once_and_a_failure_is_no_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = PipelineProfile(STAGES)
    with profile.running({"readers": 1, "passes": 1}):
        with profile.stage("compute", 4), profile.stage("pool", 4, within="compute"):
            time.sleep(0.03)
        with pytest.raises(ValueError, match="damaged"), profile.stage("read"):
            raise ValueError("damaged")
        time.sleep(0.05)
    read_use, compute_use, pool_use = profile.uses()
    assert pool_use.seconds >= 0.03 > compute_use.seconds
    assert (read_use.images, read_use.alone) == (0, 0.0)
    monkeypatch.setattr(stages, "LEAST_SECONDS", 0.05)
    assert profile.bottleneck() is None
    assert "no stage holds up the others" in str(profile)


def test_the_queue_before_a_stage_is_ready_as_often_as_it_was_found_so() -> None:
    profile = PipelineProfile(STAGES)
    profile.ask("compute", is_ready=False)  # before the pipeline runs
    with profile.running({"readers": 1, "passes": 1}):
        for is_ready in (True, True, True, False):
            profile.ask("compute", is_ready=is_ready)
    assert [use.ready for use in profile.uses()] == [None, 0.75, None]


def test_without_a_profile_nothing_is_measured() -> None:
    with timed(None, "read"):
        pass
