"""Costs: CPU seconds of this process and its children, energy by counters or by a stated model."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toptune.costs.meter import WATTS_PER_CORE, CostMeter, peak_memory_bytes
from toptune.store import FeatureCache, FeatureStore, Manifest, Recipe
from toptune.store.features.extraction_costs import extraction_costs


def make_cache(folder: Path) -> FeatureCache:
    store = FeatureStore.create(folder / "store")
    ids = [f"{row}.png" for row in range(10)]
    none = [None] * 10
    store.register("pets", Manifest.from_columns(ids=ids, labels=none, splits=none, sizes=[1] * 10))
    recipe = Recipe(
        architecture="tiny", model_kwargs={}, weights="ab" * 32, transform={}, decode="pillow-1",
        precision="fp32",
    )  # fmt: skip
    cache = store.create_cache("tiny", "pets", recipe, unit_rows=4, batch_size=4, backbone={"name": "tiny"})
    for name in ("a.mean", "b.mean", "c.mean"):
        cache.ensure_array(name, dim=4, dtype="float16")
    return cache


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def write_machine(
    folder: Path, *, joules: list[float], busy_seconds: float, limit: float = 262_143.0
) -> None:
    """Counters of two packages and a part of one, and the machine's CPU time in hundredths."""
    names = ["intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"]
    for name, value in zip(names, [*joules, 7777.0], strict=True):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{round(value * 1e6)}\n")
        (folder / name / "max_energy_range_uj").write_text(f"{round(limit * 1e6)}\n")
    (folder / "stat").write_text(f"cpu  {round(busy_seconds * 100)} 0 0 999 999 0 0 0 0 0\n")


def test_phases_count_wall_and_cpu_seconds_apart() -> None:
    meter = CostMeter()
    meter.begin("burn")
    burn(0.1)
    meter.begin("sleep")
    time.sleep(0.1)
    meter.begin("burn")
    burn(0.1)
    costs = meter.to_dict()
    burnt, slept = costs["phases"]["burn"], costs["phases"]["sleep"]
    assert burnt["cpu_seconds"] == pytest.approx(0.2, abs=0.05)
    assert slept["cpu_seconds"] < 0.05 <= slept["wall_seconds"]
    assert costs["cpu_seconds"] >= 0.2
    assert costs["wall_seconds"] >= burnt["wall_seconds"] + slept["wall_seconds"] - 1e-6


def test_children_count_once_they_were_waited_for() -> None:
    meter = CostMeter()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert meter.to_dict()["cpu_seconds"] >= 0.3


def test_without_counters_energy_is_a_marked_estimate(tmp_path: Path) -> None:
    meter = CostMeter(powercap=tmp_path)
    burn(0.1)
    costs = meter.to_dict()
    assert costs["energy"] == {"source": "model", "estimate": True, "watts_per_core": WATTS_PER_CORE}
    assert costs["energy_joules"] == pytest.approx(costs["cpu_seconds"] * WATTS_PER_CORE)


def test_counters_of_packages_are_shared_by_cpu_time(tmp_path: Path) -> None:
    write_machine(tmp_path, joules=[100.0, 262_140.0], busy_seconds=50)
    meter = CostMeter(powercap=tmp_path, proc=tmp_path)
    burn(0.2)
    # The second counter goes round: 3 J to its end and 7 more.
    write_machine(tmp_path, joules=[130.0, 7.0], busy_seconds=52)
    costs = meter.to_dict()
    assert costs["energy"] == {"source": "rapl", "estimate": False, "watts_per_core": None}
    assert costs["energy_joules"] == pytest.approx(40 * costs["cpu_seconds"] / 2, rel=1e-3)


def test_a_counter_that_may_have_gone_round_is_not_believed(tmp_path: Path) -> None:
    write_machine(tmp_path, joules=[1.0, 1.0], busy_seconds=1, limit=10.0)
    meter = CostMeter(powercap=tmp_path, proc=tmp_path)
    time.sleep(0.03)
    assert meter.to_dict()["energy"]["estimate"]


def test_a_job_s_time_counts_once_whatever_it_stored(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    for seconds, names in ((2.0, ["a.mean", "b.mean"]), (3.0, ["c.mean"])):
        for unit in range(cache.n_units):
            rows = cache.unit_slice(unit)
            values = {name: np.ones((rows.stop - rows.start, 4), dtype=np.float16) for name in names}
            cache.commit_unit(unit, values, failed={}, seconds=seconds)
    assert cache.n_units == 3
    together = extraction_costs(cache, ["a.mean", "b.mean"])
    assert together["extract_seconds"] == 6.0
    assert together["extract_pictures"] == 10
    assert together["extract_bytes"] > 2 * 10 * 4 * 2
    everything = extraction_costs(cache, ["a.mean", "b.mean", "c.mean"])
    assert everything["extract_seconds"] == 15.0
    assert everything.keys() == {"extract_seconds", "extract_pictures", "extract_bytes"}


def test_what_units_took_is_added_up_where_all_of_them_know(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)

    def commit(name: str, unit: int, costs: dict[str, Any] | None) -> None:
        rows = cache.unit_slice(unit)
        values = {name: np.ones((rows.stop - rows.start, 4), dtype=np.float16)}
        cache.commit_unit(unit, values, seconds=1.0 + unit, costs=costs)

    for unit, joules in enumerate((10.0, 20.0, 5.0)):
        commit(
            "a.mean",
            unit,
            {
                "cpu_seconds": joules / 10,
                "energy_joules": joules,
                "energy_estimate": unit == 1,
                "peak_memory_bytes": 100 + unit,
            },
        )
        commit("b.mean", unit, None)
    found = extraction_costs(cache, ["a.mean"])
    assert (found["extract_cpu_seconds"], found["extract_joules"]) == (3.5, 35.0)
    assert found["extract_energy_estimate"] is True
    assert found["extract_peak_memory_bytes"] == 102
    # Kept where the ledger is packed, and as other machines read it.
    assert cache.ledger("a.mean").pack()
    again = FeatureStore.open(tmp_path / "store").features("tiny", "pets")
    assert extraction_costs(again, ["a.mean"]) == found
    # Of a toptune that did not record it: what is known of a part is not given for the whole.
    assert "extract_joules" not in extraction_costs(cache, ["a.mean", "b.mean"])


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="this system does not count bytes")
def test_bytes_written_and_read_are_counted(tmp_path: Path) -> None:
    meter = CostMeter()
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    (tmp_path / "file").read_bytes()
    costs = meter.to_dict()
    assert costs["bytes_written"] == pytest.approx(3_500_000, abs=500_000)
    assert costs["bytes_read"] == pytest.approx(3_500_000, abs=500_000)
    assert costs["peak_memory_bytes"] == pytest.approx(peak_memory_bytes(), rel=0.5)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the kernel's account of a process is Linux's"
)
def test_the_peak_is_that_of_the_program_and_not_of_what_started_it() -> None:
    large = np.ones(40_000_000)
    program = "from toptune.costs.meter import peak_memory_bytes; print(peak_memory_bytes())"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 10**7 < int(told.stdout) < large.nbytes
