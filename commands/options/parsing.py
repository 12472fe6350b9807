"""Options are parsed as people write them: lengths of time, amounts, lists, JSON."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from toptune.errors import InputError
from toptune.store.datasets.outside_text import outside_text, read_lines
from toptune.train.runs.options import OTHER_MODELS

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
# A date so long ago can be computed, and the timers of systems take so many seconds.
_MOST_DAYS = 10_000


class ExistingPath(click.Path):
    """A path that must exist; click itself says so of every path that it cannot see."""

    def __init__(self, *, file_okay: bool = True, dir_okay: bool = True) -> None:
        # A file that may not be read is told by whoever reads the file.
        super().__init__(exists=True, file_okay=file_okay, dir_okay=dir_okay, readable=False)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        try:
            Path(value).stat()
        except (FileNotFoundError, NotADirectoryError):
            pass  # click tells these two rightly.
        except OSError as error:
            from toptune.store.files.system_errors import not_readable

            raise not_readable(Path(value), error) from error
        return super().convert(value, param, ctx)


def parse_object(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> dict[str, Any] | None:
    """Parse a JSON object, or say where the text stops being one."""
    if value is None:
        return None
    from toptune.store.files.json_values import parse_json

    try:
        parsed = parse_json(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter(f"{value!r} is not a JSON object such as '{{\"depth\": 4}}'")
    return parsed


def parse_floats(_context: click.Context, _option: click.Parameter, value: str | None) -> list[float] | None:
    """Parse one number, or several with commas between them: ``1e-6,1e-4``."""
    if value is None:
        return None
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}; give numbers such as 0.5 or 1e-6,1e-4") from error
    return numbers


def parse_bands(_context: click.Context, _option: click.Parameter, value: str | None) -> list[int] | None:
    """Parse numbers of bands with commas between them: ``3,2,1``."""
    if value is None:
        return None
    try:
        return [int(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no list of bands; give numbers from 1, such as 3,2,1"
        ) from error


def parse_age(context: click.Context, option: click.Parameter, value: str | None) -> timedelta | None:
    """Parse a length of time as `parse_seconds` does, but with a unit: what is older than that is removed."""
    seconds = parse_seconds(context, option, value)
    if value and seconds and value[-1:] not in _SECONDS:
        raise click.BadParameter(f"{value!r} has no unit; give one, such as {value}d or {value}s")
    return None if seconds is None else timedelta(seconds=seconds)


def parse_seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Parse a length of time, with its unit or in seconds: ``2h``, ``45s``, ``30d``, ``2w``, ``30``."""
    if value is None:
        return None
    unit = _SECONDS.get(value[-1:])
    # Text that is no number becomes a negative one, which the check below refuses with the same words.
    try:
        seconds = float(value[:-1]) * unit if unit else float(value)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # this is true of NaN, too
        raise click.BadParameter(
            f"{value!r} is no length of time; give one such as 30d, 2h, 90m or 3600 (seconds)"
        )
    if seconds > _MOST_DAYS * 86400:
        raise click.BadParameter(f"{value!r} is too long a time; give {_MOST_DAYS}d or less")
    return seconds


def parse_bytes(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Parse an amount of memory: ``4GiB``, ``512M``."""
    from toptune.errors import InputError
    from toptune.machine.memory import bytes_of

    try:
        return None if value is None else bytes_of(value)
    except InputError as error:
        raise click.BadParameter(str(error)) from error


def parse_names(_context: click.Context, _option: click.Parameter, value: str | None) -> list[str] | None:
    """Parse names with commas between them."""
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise click.BadParameter(f"{value!r} names nothing; give layers such as last,blocks.*")
    return names


def parse_places(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> dict[str, str]:
    """Parse places of data sets, written as ``NAME=PATH``."""
    places = {}
    for each in value:
        name, sign, place = each.partition("=")
        if not (name and sign and place):
            raise click.BadParameter(f"{each!r} is not DATASET=PATH, such as pets=photos/pets")
        places[name] = place
    return places


def parse_moved(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> list[str] | None:
    """Give the places of backbones that have moved; None where none was given."""
    return list(value) or None


def parse_layers(
    _context: click.Context, _option: click.Parameter, value: Sequence[str]
) -> str | dict[str, str] | None:
    """Parse layers for all models, and layers written as ``MODEL=LAYERS`` for one of them."""
    of_models: dict[str, str] = {}
    for each in value:
        # The name of a model may hold "=", such as one in a path; names of layers never do.
        model, sign, layers = each.rpartition("=")
        name = model if sign else OTHER_MODELS
        if name in of_models:
            whose = f"of model {model}" if sign else "of all models"
            raise click.BadParameter(
                f"the layers {whose} are given twice, as {of_models[name]!r} and {layers!r}; give them once, "
                "several layers with commas between them"
            )
        of_models[name] = layers
    return of_models.get(OTHER_MODELS) if of_models.keys() <= {OTHER_MODELS} else of_models


def parse_folds(_context: click.Context, _option: click.Parameter, value: str) -> int | str | None:
    """Parse a number of folds from 2, ``leave-one-group-out`` or ``none``."""
    if value == "none":
        return None
    if value == "leave-one-group-out":
        return value
    if not value.isdecimal() or int(value) < 2:
        raise click.BadParameter(
            f"{value!r} is no number of folds from 2, and not leave-one-group-out or none"
        )
    return int(value)


def parse_batch_size(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> int | str | None:
    """Parse a number from 1, or ``auto``."""
    if value in (None, "auto"):
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is no number of images from 1, and not auto")
    return int(value)


@contextlib.contextmanager
def listed(given: Sequence[str], what: str) -> Iterator[list[str]]:
    """Yield names that were given as they are, or as ``@FILE`` with one name a line.

    An error of a name in a file tells the line and not what stands there: whoever names the file may see the
    message, and need not be allowed to see the file.
    """
    names: list[str] = []
    places: dict[str, str] = {}
    for each in given:
        if not each.startswith("@"):
            names.append(outside_text(each, keeps_blanks=True) or "")
            continue
        file = Path(each[1:])
        try:
            lines = read_lines(file, "the list of " + what)
        except InputError as error:
            raise click.UsageError(str(error)) from error
        if not lines:
            raise click.UsageError(f"{file} names no {what}; write one a line")
        names += lines.values()
        places |= {line: f"{file}, line {number}" for number, line in lines.items()}
    try:
        yield names
    except InputError as error:
        found = next((place for name, place in places.items() if _repeats(str(error), name)), None)
        if found is None:
            raise
        raise InputError(
            f"{found}: what stands there cannot be used as one of the {what}, and messages do not repeat it; "
            "correct the line, or give the name itself to be told more",
            option=error.option,
        ) from None


def _repeats(message: str, name: str) -> bool:
    """Whether a message holds a name or a part of the name, such as a tag."""
    return any(part in message for part in (name, repr(name)[1:-1], *re.split(r"[:./@]", name)) if part)
