"""Stopped by a signal, a wish or a time limit: the unit at hand, the exit code, the same bytes in the end."""

import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import feature_bytes
from warm_processes import WarmProcess

from toptune.extract import Clocks, extract
from toptune.machine.watch import Watch
from toptune.store import FeatureCache, FeatureStore, InputError, InterruptedRunError, verify

UNITS = 3

SLOW = """
import sys, time
from toptune.extract.images.source import FileSource
read = FileSource.read
def slowly(self, row):
    time.sleep(float(sys.argv[1]))
    return read(self, row)
FileSource.read = slowly
from toptune.cli import main
main(sys.argv[2:])
"""


def options(cache: FeatureCache, root: Path) -> dict[str, object]:
    return {"model": cache.backbone["name"], "store": root, "batch_size": 4, "layers": "all", "workers": 2}


def finish(cache: FeatureCache, images: Path, root: Path) -> None:
    """Resume, and compare with the undisturbed run."""
    summary = extract(images, **options(cache, root))  # type: ignore[arg-type]
    assert summary.units_done + summary.units_already == UNITS
    resumed = FeatureStore.open(root).caches()[0]
    assert feature_bytes(resumed) == feature_bytes(cache)
    assert not verify(resumed, deep=True).damaged


@pytest.mark.parametrize(("grace", "stored_units"), [(60.0, 2), (0.0, 1), (1e-9, 1)])
def test_a_wish_to_stop_finishes_the_unit_or_gives_it_up(
    undisturbed: FeatureCache, pets: Path, tmp_path: Path, grace: float, stored_units: int
) -> None:
    done_rows = 0

    def progress(done: int, _rows: int, _failed: int) -> None:
        nonlocal done_rows
        done_rows = done

    with pytest.raises(
        InterruptedRunError, match=f"^stopped with {stored_units} of 3 units stored; the same"
    ):
        extract(
            pets,
            progress=progress,
            stop=lambda: grace if done_rows >= 80 else None,
            **options(undisturbed, tmp_path / "s"),  # type: ignore[arg-type]
        )
    assert done_rows == (128 if grace == 60 else 80)
    finish(undisturbed, pets, tmp_path / "s")


def test_a_wish_that_comes_in_the_last_unit_stops_nothing(
    undisturbed: FeatureCache, pets: Path, tmp_path: Path
) -> None:
    done_rows = 0

    def progress(done: int, _rows: int, _failed: int) -> None:
        nonlocal done_rows
        done_rows = done

    clocks = Clocks()
    summary = extract(
        pets,
        progress=progress,
        stop=lambda: 60.0 if done_rows >= 130 else None,
        clocks=clocks,
        **options(undisturbed, tmp_path / "s"),  # type: ignore[arg-type]
    )
    assert summary.units_done == UNITS
    seconds = (summary.seconds_read, summary.seconds_compute, summary.seconds_write)
    assert clocks.seconds() == pytest.approx(seconds)
    assert min(clocks.seconds()) > 0


# A batch is a second here: units take 16, 16 and 6 of them.
@pytest.mark.parametrize(("limit", "stored_units"), [(0.5, 0), (10, 0), (25, 1), (32.5, 2), (36, 2), (45, 3)])
def test_no_unit_is_begun_that_would_not_be_done_in_time(
    undisturbed: FeatureCache,
    pets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    stored_units: int,
) -> None:
    now, batches = 0.0, 0

    def progress(_done: int, _rows: int, _failed: int) -> None:
        nonlocal now, batches
        now, batches = now + 1, batches + 1

    request = {**options(undisturbed, tmp_path / "s"), "progress": progress, "time_limit": limit}
    with monkeypatch.context() as patch:
        # Only there: what the threads measure of their own work would otherwise be these seconds too.
        for module in ("machine.watch", "extract.request.request"):
            patch.setattr(f"toptune.{module}.time", SimpleNamespace(perf_counter=lambda: now))
        if stored_units == UNITS:
            assert extract(pets, **request).units_done == UNITS  # type: ignore[arg-type]
        else:
            said = (
                rf"stopped by the time limit of {limit:g} s with {stored_units} of 3 units stored; the same"
            )
            with pytest.raises(InterruptedRunError, match=said):
                extract(pets, **request)  # type: ignore[arg-type]
            # What is begun is within the limit, but for the first unit, of which nothing was known.
            assert batches == (16 * stored_units or min(int(limit + 0.5), 16))
    finish(undisturbed, pets, tmp_path / "s")


def test_a_time_limit_has_to_be_above_0(tmp_path: Path) -> None:
    for limit in (0, -1, float("nan")):
        with pytest.raises(InputError, match="time_limit"):
            extract(tmp_path, model="resnet18", store=tmp_path / "s", time_limit=limit)


def test_committing_counts_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("toptune.machine.watch.time.perf_counter", lambda: now)
    # Eight rows took 70 s, and committing them 10: one more row would be committed after 98.75 s.
    for rows, is_in_time in ((1, True), (2, False)):
        watch, now = Watch(time_limit=100, started=0.0), 0.0
        watch.begin_job(lambda: (0.0, 0.0, 10.0))
        assert watch.may_begin(8)
        now = 70.0
        assert watch.may_begin(rows) == is_in_time
    wish: list[float] = []
    watch = Watch(stop=lambda: wish[0] if wish else None)
    watch.begin_job(lambda: (0.0, 0.0, 10.0))
    now = 0.0
    assert watch.may_begin(8)
    now = 62.0
    assert watch.may_begin(8)
    wish.append(30.0)
    now = 75.0
    # 13 s for seven rows and 1.9 for the last, or as much again for the other four; then 20 for committing.
    assert watch.may_go_on(1)
    assert not watch.may_go_on(4)
    assert watch.reason == "stopped"
    assert not watch.may_begin(1)


def start(folder: Path, pets: Path, cache: FeatureCache, seconds_a_image: float, *more: str) -> WarmProcess:
    arguments = [
        seconds_a_image, "extract", pets, "--model", cache.backbone["name"],
        "--store", folder / "s", "-b", 4, "--layers", "all", "--workers", 1, *more,
    ]  # fmt: skip
    process = WarmProcess(SLOW, *arguments, folder=folder)
    ledger = folder / "s" / "features"
    deadline = time.monotonic() + 120
    while not list(ledger.glob("*/*/ledger/*/0*.json")):
        assert process.is_alive(), process.err.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_command_with_3_and_one_line(
    undisturbed: FeatureCache, pets: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, pets, undisturbed, 0.01)
    process.send_signal(number)
    code, err = process.wait(), process.err.read_text()
    assert code == 3, err
    device, asked, said = err.splitlines()
    assert device.startswith("device auto takes ")
    assert asked.startswith(f"{number.name}: ")
    assert said == "error: stopped with 2 of 3 units stored; the same command resumes [TT913]"
    finish(undisturbed, pets, tmp_path / "s")


def test_a_unit_that_takes_longer_than_the_grace_time_is_given_up(
    undisturbed: FeatureCache, pets: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, pets, undisturbed, 0.05, "--grace", "1s")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, err = process.wait(), process.err.read_text()
    assert code == 3, err
    # That one unit is stored says that the second was given up; a busy machine takes its time to leave.
    assert time.monotonic() - began < 30
    assert err.splitlines()[-1] == "error: stopped with 1 of 3 units stored; the same command resumes [TT913]"
    finish(undisturbed, pets, tmp_path / "s")


def test_a_second_signal_does_not_wait(undisturbed: FeatureCache, pets: Path, tmp_path: Path) -> None:
    process = start(tmp_path, pets, undisturbed, 0.05, "--grace", "60")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, err = process.wait(), process.err.read_text()
    assert code == 3, err
    assert time.monotonic() - began < 30
    assert err.splitlines()[-1].startswith("error: stopped with 1 of 3 units")
    finish(undisturbed, pets, tmp_path / "s")
