from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import feature_bytes, save_model

from toptune.costs.meter import CostMeter
from toptune.extract import extract, extract_models, open_source
from toptune.extract.pipeline.accounts import share_costs
from toptune.extract.pipeline.writer import UnitValues
from toptune.store import FeatureStore, InputError
from toptune.store.features.extraction_costs import extraction_costs

Make = Callable[..., Path]


class Counting:
    """Counts how often each image of a source is read."""

    def __init__(self, folder: Path) -> None:
        self._source = open_source(folder)
        self.name, self.reads = self._source.name, Counter[int]()

    def manifest(self) -> Any:
        return self._source.manifest()

    def read(self, row: int) -> bytes:
        self.reads[row] += 1
        return self._source.read(row)


@pytest.fixture
def models(model_folder: Path, tmp_path: Path) -> list[str]:
    return [f"local-dir:{model_folder}", f"local-dir:{save_model(tmp_path / 'other.net', seed=2)}"]


def test_each_image_is_read_once_and_features_are_those_of_single_runs(
    make_folder: Make, models: list[str], tmp_path: Path
) -> None:
    source = Counting(make_folder(70))
    options: dict[str, Any] = {
        "batch_size": 4, "workers": 2, "layers": "all", "dtype": "float32", "precision": "fp32",
        "decode": "exact",  # which needs no sample
    }  # fmt: skip
    together = extract_models(source, models=models, store=tmp_path / "together", **options)
    assert set(source.reads.values()) == {1}
    assert len(source.reads) == 70
    for model, summary in zip(models, together, strict=True):
        alone = extract(tmp_path / "pets", model=model, store=tmp_path / "alone", **options)
        assert (summary.model, summary.units_done) == (alone.model, alone.units_done)
        both = [
            feature_bytes(FeatureStore.open(tmp_path / root).cache(model, "pets"))
            for root in ("together", "alone")
        ]
        assert both[0] == both[1]
        assert both[0]
    again = extract_models(source, models=models, store=tmp_path / "together", **options)
    assert all(summary.nothing_to_do for summary in again)


def test_what_a_pass_cost_is_shared_out_by_forward_seconds() -> None:
    def unit(seconds_compute: float) -> UnitValues:
        return UnitValues(0, {}, {}, seconds=9.0, seconds_compute=seconds_compute)

    spent = CostMeter().to_dict() | {
        "cpu_seconds": 8.0,
        "energy_joules": 100.0,
        "energy": {"source": "model", "estimate": True, "watts_per_core": 10.0},
        "peak_memory_bytes": 77,
    }
    shares = [each.costs for each in share_costs([unit(3.0), unit(1.0)], spent)]
    assert shares == [
        {"cpu_seconds": 6.0, "energy_joules": 75.0, "energy_estimate": True, "peak_memory_bytes": 77},
        {"cpu_seconds": 2.0, "energy_joules": 25.0, "energy_estimate": True, "peak_memory_bytes": 77},
    ]
    # Images that were only read, to know their digests.
    equal = [each.costs for each in share_costs([unit(0.0), unit(0.0)], spent)]
    assert [each["energy_joules"] for each in equal if each] == [50.0, 50.0]


def test_features_know_what_they_cost(make_folder: Make, models: list[str], tmp_path: Path) -> None:
    folder, store = make_folder(70), tmp_path / "s"
    summaries = extract_models(folder, models=models, store=store, batch_size=4, workers=2)
    spent = summaries[0].costs
    assert spent is not None
    assert spent == summaries[1].costs == summaries[0].to_dict()["costs"]
    caches = [FeatureStore.open(store).cache(model, "pets") for model in models]
    names = [[spec.name for spec in cache.arrays()] for cache in caches]
    found = list(map(extraction_costs, caches, names))
    # Loading the models and making the plan belongs to the call and not to the features.
    assert 0 < sum(each["extract_cpu_seconds"] for each in found) < spent["cpu_seconds"]
    for each in found:
        is_estimate = spent["energy"]["estimate"]
        assert each["extract_energy_estimate"] is is_estimate
        assert not is_estimate or each["extract_joules"] == pytest.approx(10 * each["extract_cpu_seconds"])
        assert 10**7 < each["extract_peak_memory_bytes"] <= spent["peak_memory_bytes"]
    # What is there costs nothing again, and keeps what it cost.
    again = extract_models(folder, models=models, store=store, batch_size=4, workers=2)
    assert again[0].costs is not None
    assert again[0].costs["cpu_seconds"] < spent["cpu_seconds"]
    assert list(map(extraction_costs, caches, names)) == found


def test_a_model_that_is_done_takes_no_part(make_folder: Make, models: list[str], tmp_path: Path) -> None:
    folder, store = make_folder(9), tmp_path / "s"
    extract(folder, model=models[1], store=store)
    first, second = extract_models(folder, models=models, store=store)
    assert first.units_done == first.units_total
    assert second.nothing_to_do


def test_grown_data_sets_take_several_models(make_folder: Make, models: list[str], tmp_path: Path) -> None:
    folder, store = make_folder(6), tmp_path / "s"
    extract_models(folder, models=models, store=store)
    make_folder(4, first=100)
    (folder / "cat" / "new.png").write_bytes((folder / "dog" / "001.png").read_bytes())
    grown = extract_models(folder, models=models, store=store, update=True)
    assert [summary.version for summary in grown] == [2, 2]
    for model in models:
        assert FeatureStore.open(store).features(model, "pets").is_complete()


def test_what_several_models_cannot_share_is_refused(make_folder: Make, models: list[str]) -> None:
    folder = make_folder(4)
    with pytest.raises(InputError, match="given twice"):
        extract_models(folder, models=[models[0]] * 2, store=folder.parent / "s")
    with pytest.raises(InputError, match="weights belong to one model"):
        extract_models(folder, models=models, store=folder.parent / "s", weights="w.safetensors")
    with pytest.raises(InputError, match="no model"):
        extract_models(folder, models=[], store=folder.parent / "s")
