"""CO2 of energy, by the mean carbon intensity of a country's electricity.

The table is that of the package codecarbon (extra ``co2``): electricity mixes by country and year. It is read
as a file and no code of the package runs, because its trackers look at the whole machine and may ask the
network where it stands.
"""

import functools
import json
import os
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from toptune.costs.values import Emissions
from toptune.errors import InputError

COUNTRY = "TOPTUNE_COUNTRY"
_TABLE = "codecarbon/data/private_infra/global_energy_mix.json"
_JOULES_A_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class CarbonIntensity:
    """What a kilowatt-hour of electricity emits in a country, on average over a year, in kg of CO2e."""

    country: str
    year: int
    kg_per_kwh: float
    source: str


def emissions_of(joules: float, intensity: CarbonIntensity | None) -> Emissions:
    """Give ``co2e_kg`` and ``co2e``, what it is taken from; both None without an intensity."""
    if intensity is None:
        return {"co2e_kg": None, "co2e": None}
    return {"co2e_kg": joules / _JOULES_A_KWH * intensity.kg_per_kwh, "co2e": asdict(intensity)}


def local_intensity() -> CarbonIntensity | None:
    """Look up the country that the environment's ``TOPTUNE_COUNTRY`` names; None if it names none.

    Raises
    ------
    InputError
        See `read_intensity`.
    """
    country = os.environ.get(COUNTRY, "")
    return read_intensity(country.upper()) if country else None


@functools.lru_cache(maxsize=8)
def read_intensity(country: str) -> CarbonIntensity:
    """Look up a country by its code of three letters (ISO 3166-1 alpha-3).

    Raises
    ------
    InputError
        If codecarbon is not installed or knows nothing of the country.
    """
    try:
        package = metadata.distribution("codecarbon")
        table = json.loads(Path(str(package.locate_file(_TABLE))).read_text(encoding="utf-8"))
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"{COUNTRY} is {country!r}, but the emissions of its electricity come with codecarbon, which is "
            f"not installed; pip install 'toptune[co2]', or unset {COUNTRY}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"codecarbon {package.version} has no readable {_TABLE} ({error}); install the version of "
            f"constraints.txt, or unset {COUNTRY}"
        ) from error
    found = table.get(country, {})
    if not found.get("carbon_intensity"):
        raise InputError(
            f"{COUNTRY} {country!r} is no country whose electricity is known; give one of the {len(table)} "
            f"codes of three letters such as DEU, FRA or USA, or unset {COUNTRY}"
        )
    return CarbonIntensity(
        country=country,
        year=int(found["year"]),
        kg_per_kwh=found["carbon_intensity"] / 1000,
        source=f"codecarbon {package.version}, mean of the country and year",
    )
