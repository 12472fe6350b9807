"""CO2 follows from energy, by the mean carbon intensity of a country's electricity.

The intensities come from the package codecarbon (extra ``co2``), which holds a table of electricity mixes by
country and year. The table is read as a file and no code of the package runs, because codecarbon's trackers
watch the whole machine and may ask the network for the machine's country.
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
    """Mean emissions of a country's electricity over a year.

    Attributes
    ----------
    country : str
        Code of three letters (ISO 3166-1 alpha-3).
    year : int
        Year of the electricity.
    kg_per_kwh : float
        Kilograms of CO2 equivalents that a kilowatt-hour causes.
    source : str
        Where the figure is taken from.
    """

    country: str
    year: int
    kg_per_kwh: float
    source: str


def emissions_of(joules: float, intensity: CarbonIntensity | None) -> Emissions:
    """Give ``co2e_kg`` and in ``co2e`` the intensity used; both are None without an intensity."""
    if intensity is None:
        return {"co2e_kg": None, "co2e": None}
    return {"co2e_kg": joules / _JOULES_A_KWH * intensity.kg_per_kwh, "co2e": asdict(intensity)}


def local_intensity() -> CarbonIntensity | None:
    """Look up the country that the environment variable ``TOPTUNE_COUNTRY`` names; None without one.

    Raises
    ------
    InputError
        If the country is unknown or codecarbon is missing; see `read_intensity`.
    """
    country = os.environ.get(COUNTRY, "")
    return read_intensity(country.upper()) if country else None


@functools.lru_cache(maxsize=8)
def read_intensity(country: str) -> CarbonIntensity:
    """Look up a country by its code of three letters (ISO 3166-1 alpha-3).

    Raises
    ------
    InputError
        If codecarbon is not installed or does not know the country.
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
