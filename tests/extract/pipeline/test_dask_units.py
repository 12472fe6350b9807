"""Extraction by dask workers: the same bytes, whoever dies; clear words where one cannot take part."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deadly_source import DeadlySource, HomeSource, LockedSource
from tiny import draw, encode, feature_bytes, save_model

from toptune.extract import extract, extract_models, extraction
from toptune.extract.pipeline import dask_units
from toptune.extract.pipeline.dask_units import planning_device
from toptune.extract.pipeline.hand_out import units_at_once
from toptune.extract.request import request
from toptune.extract.sources.reopened import OpenedData
from toptune.machine.devices import list_devices
from toptune.store import (
    ConflictError,
    FeatureCache,
    FeatureStore,
    InputError,
    InterruptedRunError,
    ToptuneError,
    verify,
)
from toptune.store.features.extraction_costs import extraction_costs

dask = pytest.importorskip("dask", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
Make = Callable[..., Path]
N = 300  # five units of 64 rows


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of ``local:2`` have one thread then, as this process has, whatever the machine."""
    monkeypatch.setattr(dask_units, "usable_cores", lambda: 2)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """Images, one of them damaged, and a store that one process made of them; no test changes them."""
    folder = tmp_path_factory.mktemp("template")
    for i in range(N):
        file = folder / "pets" / ("cat", "dog")[i % 2] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(draw(i)))
    (folder / "pets" / "cat" / "100.png").write_bytes(b"no image")
    torch.set_num_threads(1)
    extract(
        folder / "pets",
        model=f"local-dir:{model_folder}",
        store=folder / "serial",
        batch_size=4,
        layers="all",
    )
    return folder


@pytest.fixture
def pets(template: Path) -> Path:
    return template / "pets"


@pytest.fixture
def serial(template: Path) -> FeatureCache:
    return the_cache(template / "serial")


def the_cache(root: Path) -> FeatureCache:
    (cache,) = FeatureStore.open(root).caches()
    return cache


def options(cache: FeatureCache, root: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": cache.backbone["name"],
        "store": root,
        "dataset": "pets",
        "batch_size": 4,
        "layers": "all",
        "workers": 2,
    } | more


def test_equals_a_serial_run_byte_for_byte(
    serial: FeatureCache, pets: Path, tmp_path: Path, address: str
) -> None:
    told: list[tuple[int, int, int]] = []
    summary = extract(
        pets, progress=lambda *now: told.append(now), **options(serial, tmp_path / "s", dask=address)
    )
    assert feature_bytes(the_cache(tmp_path / "s")) == feature_bytes(serial)
    assert (summary.units_done, summary.rows, list(summary.failed)) == (5, N, ["cat/100.png"])
    assert told[-1] == (N, N, 1)
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})
    assert summary.images_per_second > 0
    assert min(summary.seconds_read, summary.seconds_compute, summary.seconds_write) > 0
    assert verify(FeatureStore.open(tmp_path / "s"), deep=True).exit_code == 0
    again = extract(pets, **options(serial, tmp_path / "s", dask="tcp://nobody:1"))
    assert again.nothing_to_do  # and nobody was asked


def test_layers_are_added_and_other_models_join(
    serial: FeatureCache, pets: Path, tmp_path: Path, address: str
) -> None:
    other = save_model(tmp_path / "other" / "other.net", seed=2)
    models = [serial.backbone["name"], f"local-dir:{other}"]
    more = options(serial, tmp_path / "s") | {"layers": "last"}
    del more["model"]
    extract_models(pets, models=models[:1], **more)
    more["layers"] = "all"
    extract_models(pets, models=models, dask=address, **more)
    extract_models(pets, models=models, **(more | {"store": tmp_path / "t"}))
    spread, alone = (FeatureStore.open(tmp_path / name).caches() for name in "st")
    assert [feature_bytes(cache) for cache in spread] == [feature_bytes(cache) for cache in alone]


def test_a_grown_data_set(
    serial: FeatureCache, template: Path, make_folder: Make, tmp_path: Path, address: str
) -> None:
    pets = shutil.copytree(template / "pets", tmp_path / "pets")
    roots = {None: tmp_path / "alone", address: tmp_path / "spread"}
    for dask, root in roots.items():
        extract(pets, **options(serial, root, dask=dask))
    make_folder(150, first=N)
    (pets / "dog" / "001.png").unlink()
    for dask, root in roots.items():
        extract(pets, update=True, **options(serial, root, dask=dask))
    alone, spread = (FeatureStore.open(root).caches() for root in roots.values())
    assert len(alone) == 2
    assert [feature_bytes(cache) for cache in spread] == [feature_bytes(cache) for cache in alone]


def test_a_changed_image_is_noticed_by_the_worker_that_reads_it(
    serial: FeatureCache, template: Path, tmp_path: Path, address: str
) -> None:
    pets = shutil.copytree(template / "pets", tmp_path / "pets")
    more = options(serial, tmp_path / "s")
    extract(pets, **(more | {"layers": "last"}))
    file = pets / "dog" / "201.png"
    before, data = file.stat(), bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConflictError, match=r"1 image .* changed .*: dog/201.png"):
        extract(pets, dask=address, **more)


def test_a_device_each_from_the_command_line(
    serial: FeatureCache, pets: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ["extract", pets, "--model", serial.backbone["name"], "--store", tmp_path / "s"]
    arguments += ["--layers", "all", "-b", 4, "--max-failures", 1]
    code, out, err = run_cli(*arguments, "--device", "cpu,cpu")
    assert (code, "300 images, 5 of 5 units computed" in out) == (0, True), err
    assert feature_bytes(the_cache(tmp_path / "s")) == feature_bytes(serial)
    code, _, err = run_cli(*arguments, "--dask", "local:2", "--dask-options", '{"jobs": 2}')
    assert (code, "options are for slurm, pbs, lsf" in err) == (2, True)
    code, _, err = run_cli(*arguments, "--dask-options", '{"jobs": 2}')
    assert (code, "dask options without dask" in err) == (2, True)


def test_a_worker_killed_in_the_middle_changes_nothing(
    serial: FeatureCache, pets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A row that is neither sampled nor probed.
    source = DeadlySource(pets, 205, tmp_path / "marks", times=1)
    summary = extract(source, **options(serial, tmp_path / "s", dask="local:2"))
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert "is gone; others do its units" in caplog.text
    assert summary.units_done == 5
    assert feature_bytes(the_cache(tmp_path / "s")) == feature_bytes(serial)
    # Each worker measures its own units.
    costs = extraction_costs(the_cache(tmp_path / "s"), ["last.none"])
    assert min(costs["extract_cpu_seconds"], costs["extract_joules"]) > 0


def test_a_unit_that_kills_workers_is_named(serial: FeatureCache, pets: Path, tmp_path: Path) -> None:
    source = DeadlySource(pets, 205, tmp_path / "marks", times=10)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        pytest.raises(
            ToptuneError, match=r"unit 3 took several dask workers down .* rows 192 to 255, images"
        ),
    ):
        extract(source, **options(serial, tmp_path / "s", dask=cluster.scheduler_address))
    assert len(list((tmp_path / "marks").iterdir())) == 2
    cache = the_cache(tmp_path / "s")
    assert set(cache.entries("last.none")) >= {0, 1, 2}
    assert 3 not in cache.entries("last.none")
    extract(pets, **options(serial, tmp_path / "s"))
    assert feature_bytes(cache) == feature_bytes(serial)


def test_ctrl_c_leaves_a_store_that_resumes(
    serial: FeatureCache, pets: Path, tmp_path: Path, address: str
) -> None:
    def progress(done: int, _rows: int, _failed: int) -> None:
        if done >= 128:
            raise KeyboardInterrupt

    more = options(serial, tmp_path / "s", dask=address)
    with pytest.raises(
        InterruptedRunError, match=r"stopped with \d of 5 missing units stored; the same comm"
    ):
        extract(pets, progress=progress, **more)
    cache = the_cache(tmp_path / "s")
    time.sleep(1)  # what was begun on a cluster that goes on is finished
    assert 2 <= len(cache.entries("last.none")) < 5
    summary = extract(pets, **more)
    assert summary.units_done + summary.units_already == 5
    assert feature_bytes(cache) == feature_bytes(serial)


def test_a_worker_that_does_not_see_the_images(
    serial: FeatureCache, pets: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = options(serial, tmp_path / "s", dask=address)
    home = HomeSource(pets, 0, tmp_path / "marks", 0)
    with pytest.raises(
        InputError,
        match=r"dask worker tcp://.* cannot do its part: image cat/000.png cannot be read: No such",
    ):
        extract(home, **more)
    for data, message in (
        (tmp_path / "nowhere", "nowhere' is no folder and no file on this machine"),
        (tmp_path / "elsewhere", r"elsewhere holds other images here \(1 of them\)"),
    ):
        (tmp_path / "elsewhere" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere" / "cat" / "1.png").write_bytes(encode(draw(1)))
        monkeypatch.setattr(request, "_opened", lambda *_, data=data: OpenedData(str(data)))
        with pytest.raises(InputError, match=f"{message}.*must lie under the same paths for all workers"):
            extract(pets, **more)
    assert the_cache(tmp_path / "s").entries("last.none") == {}


def test_a_source_that_cannot_be_sent(serial: FeatureCache, pets: Path, tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=r"source of images cannot be sent to dask workers .* as DATA"):
        extract(LockedSource(pets, tmp_path / "marks"), **options(serial, tmp_path / "s", dask=address))


def test_workers_that_see_another_store(serial: FeatureCache) -> None:
    from toptune.extract.pipeline.dask_worker import _cache

    with pytest.raises(ToptuneError, match="is another one here: it lacks what the client began"):
        _cache(str(serial.root), serial.dataset, serial.digest, "{}")


def test_large_units_go_one_by_one_and_small_ones_together() -> None:
    assert units_at_once(1000, 2, unit_rows=8192) == 1
    assert units_at_once(1000, 2, unit_rows=64) == 125
    assert [units_at_once(n, 2, unit_rows=64) for n in (64, 20, 8, 1)] == [8, 2, 1, 1]
    assert units_at_once(5, 0, unit_rows=64) == 1


def test_cuda_is_every_device_that_is_visible(monkeypatch: pytest.MonkeyPatch, pets: Path) -> None:
    assert list_devices("cpu") == ["cpu"]
    assert list_devices("cpu, cpu") == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, expected in ((1, ["cuda"]), (3, ["cuda:0", "cuda:1", "cuda:2"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert list_devices("cuda") == expected
        assert list_devices("cuda:0") == ["cuda:0"]
    with pytest.raises(InputError, match="'cuda:7' is not there: torch sees 3"):
        list_devices("cuda:0,cuda:7")


def test_the_client_plans_without_the_workers_device(
    pets: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given: dict[str, Any] = {
        "data": pets,
        "model": f"local-dir:{model_folder}",
        "store": tmp_path / "s",
        "device": "cuda",
        "precision": "fp32",
        "dask": "tcp://there:1",
    }
    seen: list[Any] = []
    monkeypatch.setattr(extraction, "_run", seen.extend)
    for more in ({}, {"precision": "auto"}, {"device": "cpu,cpu"}, {"device": "cpu"}):
        with pytest.raises(TypeError):
            extract(**(given | more))
    assert [planning_device(seen[i]) for i in (0, 3)] == ["cpu", "cpu"]
    with pytest.raises(InputError, match="what auto means cannot be found out here; give --precision"):
        planning_device(seen[1])
    with pytest.raises(InputError, match="a list is for workers on this machine"):
        planning_device(seen[2])
