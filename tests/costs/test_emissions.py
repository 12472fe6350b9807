"""Emissions: a country's intensity from a file that codecarbon brings, none of whose code runs."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from toptune.costs.emissions import COUNTRY, emissions_of, local_intensity, read_intensity
from toptune.costs.meter import CostMeter, describe_costs
from toptune.store import InputError


def has_codecarbon() -> bool:
    try:
        metadata.distribution("codecarbon")
    except metadata.PackageNotFoundError:
        return False
    return True


def install(folder: Path, table: Any) -> None:
    """Put into a folder what pip would leave of a codecarbon whose code must not run."""
    (folder / "codecarbon-99.1.dist-info").mkdir(parents=True)
    (folder / "codecarbon-99.1.dist-info" / "METADATA").write_text("Name: codecarbon\nVersion: 99.1\n")
    data = folder / "codecarbon" / "data" / "private_infra"
    data.mkdir(parents=True)
    (folder / "codecarbon" / "__init__.py").write_text("raise AssertionError('code of codecarbon ran')\n")
    if table is not None:
        (data / "global_energy_mix.json").write_text(json.dumps(table))


@pytest.fixture(autouse=True)
def _forget() -> None:
    read_intensity.cache_clear()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of two countries; of one nothing is known."""
    countries = {
        "DEU": {"carbon_intensity": 360.0, "year": 2023},
        "CAF": {"carbon_intensity": None, "year": 2022},
    }
    install(tmp_path / "site", countries)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("table")
def test_energy_times_intensity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNTRY, "deu")
    meter = CostMeter(powercap=tmp_path)
    costs = meter.to_dict()
    # 360 g a kilowatt-hour are 0.1 g a kilojoule.
    assert costs["co2e_kg"] == pytest.approx(1e-7 * costs["energy_joules"])
    source = "codecarbon 99.1, mean of the country and year"
    assert costs["co2e"] == {"country": "DEU", "year": 2023, "kg_per_kwh": 0.36, "source": source}
    assert json.loads(json.dumps(costs)) == costs
    assert "g CO2e (DEU)" in describe_costs(costs)
    assert emissions_of(3.6e6, local_intensity())["co2e_kg"] == pytest.approx(0.36)


def test_no_country_no_emissions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNTRY, "")
    costs = CostMeter().to_dict()
    assert costs["co2e_kg"] is None
    assert costs["co2e"] is None
    assert "CO2" not in describe_costs(costs)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("country", ["GERMANY", "DE", "CAF"])
def test_an_unknown_country_is_refused_before_any_work(country: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNTRY, country)
    with pytest.raises(InputError, match=f"TOPTUNE_COUNTRY '{country}' is no country .* one of the 2 codes"):
        CostMeter()


def test_a_missing_package_and_a_missing_table_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patched:
        patched.setattr(metadata, "distribution", missing)
        with pytest.raises(InputError, match=r"pip install 'toptune\[co2\]'"):
            read_intensity("DEU")
    install(tmp_path / "site", None)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(InputError, match=r"codecarbon 99\.1 has no readable codecarbon/data"):
        read_intensity("DEU")


@pytest.mark.skipif(not has_codecarbon(), reason="codecarbon is not installed")
def test_the_real_table_is_what_codecarbon_reckons_with() -> None:
    low, high = read_intensity("FRA"), read_intensity("POL")
    # Mostly nuclear, and mostly coal.
    assert 0.01 < low.kg_per_kwh < 0.15 < 0.4 < high.kg_per_kwh < 1.2
    assert low.year >= 2020
    assert low.source.startswith(f"codecarbon {metadata.version('codecarbon')}")


@pytest.mark.skipif(not has_codecarbon(), reason="codecarbon is not installed")
def test_no_code_of_codecarbon_runs() -> None:
    code = (
        "import sys\nfrom toptune.costs.meter import CostMeter\nassert CostMeter().to_dict()['co2e_kg'] > 0\n"
        "assert not {'codecarbon', 'requests', 'pandas'} & sys.modules.keys()"
    )
    environment = {**os.environ, COUNTRY: "DEU"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
