"""Interrupted and resumed equals undisturbed, byte for byte."""

import random
import signal
import time
from pathlib import Path

import pytest
from tiny import feature_bytes
from warm_processes import WarmProcess

from toptune.extract import extract
from toptune.extract.images.source import FileSource
from toptune.extract.sources.opening import open_source
from toptune.store import FeatureCache, FeatureStore, InterruptedRunError, StoreError, verify

N = 150


def options(cache: FeatureCache, root: Path) -> dict[str, object]:
    return {"model": cache.backbone["name"], "store": root, "batch_size": 4, "layers": "all", "workers": 2}


class Failing:
    """A source that raises once, when it comes to a row."""

    def __init__(self, source: FileSource, row: int, error: BaseException) -> None:
        self.source, self.row, self.error = source, row, error
        self.name = source.name

    def manifest(self) -> object:
        return self.source.manifest()

    def read(self, row: int) -> bytes:
        if row == self.row:
            raise self.error
        return self.source.read(row)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("the disk of the images is gone")])
def test_an_exception_in_a_reader_stops_everything(
    undisturbed: FeatureCache, pets: Path, tmp_path: Path, error: BaseException
) -> None:
    source = open_source(pets)
    assert isinstance(source, FileSource)
    # The sample reads rows too: a row that it does not touch.
    failing = Failing(source, 103, error)
    kind = InterruptedRunError if isinstance(error, KeyboardInterrupt) else type(error)
    with pytest.raises(kind):
        extract(failing, **options(undisturbed, tmp_path / "s"))  # type: ignore[arg-type]
    cache = FeatureStore.open(tmp_path / "s").caches()[0]
    assert 0 < len(cache.missing_units("last.none")) < cache.n_units
    extract(pets, **options(undisturbed, tmp_path / "s"))  # type: ignore[arg-type]
    assert feature_bytes(cache) == feature_bytes(undisturbed)


@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_keeps_what_is_committed(
    undisturbed: FeatureCache, pets: Path, tmp_path: Path, seed: int
) -> None:
    stop = random.Random(seed).randrange(4, N)

    def progress(done: int, _rows: int, _failed: int) -> None:
        if done >= stop:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=r"stopped with \d of 3 units stored; the same command"):
        extract(pets, progress=progress, **options(undisturbed, tmp_path / "s"))  # type: ignore[arg-type]
    summary = extract(pets, **options(undisturbed, tmp_path / "s"))  # type: ignore[arg-type]
    assert summary.units_done + summary.units_already == 3
    cache = FeatureStore.open(tmp_path / "s").caches()[0]
    assert feature_bytes(cache) == feature_bytes(undisturbed)


def test_an_error_while_writing_comes_out(
    undisturbed: FeatureCache, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "commit_unit", full)
        with pytest.raises(StoreError, match="no space left"):
            extract(pets, **options(undisturbed, tmp_path / "s"))  # type: ignore[arg-type]
    extract(pets, **options(undisturbed, tmp_path / "s"))  # type: ignore[arg-type]
    assert feature_bytes(FeatureStore.open(tmp_path / "s").caches()[0]) == feature_bytes(undisturbed)


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from toptune.extract import extract
def progress(done, rows, failed):
    print(done, flush=True)
data, model, store = sys.argv[1:]
extract(data, model=model, store=store, batch_size=4, layers="all", workers=2, progress=progress)
"""


def test_kill_at_random_moments(undisturbed: FeatureCache, pets: Path, tmp_path: Path) -> None:
    arguments = [pets, undisturbed.backbone["name"], tmp_path / "s"]
    rng = random.Random(7)
    kills = 0
    for _ in range(3):
        process = WarmProcess(SCRIPT, *arguments, folder=tmp_path)
        process.wait_for_lines(rng.randrange(1, 20))
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    summary = extract(pets, **options(undisturbed, tmp_path / "s"))  # type: ignore[arg-type]
    cache = FeatureStore.open(tmp_path / "s").cache(summary.model, "pets")
    report = verify(cache, deep=True)
    assert not report.damaged
    assert cache.is_complete()
    assert feature_bytes(cache) == feature_bytes(undisturbed)
