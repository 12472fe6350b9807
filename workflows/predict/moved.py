"""Where the backbones of a run are now, if they have moved since the training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from toptune.errors import InputError
from toptune.train.runs.sources import RunSource

Place: TypeAlias = str | Path | Sequence[str | Path]


def moved_places(given: Place | None, sources: Sequence[RunSource], *, option: str) -> list[str | None]:
    """Return the place of each backbone that was given one.

    Parameters
    ----------
    given : path or sequence of path, optional
        The place of the only backbone; of several, ``NAME=PLACE``.
    sources : sequence of RunSource
        The backbones of the run.
    option : str
        Keyword of the option, for messages.

    Raises
    ------
    InputError
        If a place is given without a name where there are several backbones, for none of them, or twice.
    """
    texts = [str(each) for each in ([given] if isinstance(given, str | Path) else given or ())]
    if len(sources) == 1:
        # The one backbone that a head of several still needs may be given by its name as well.
        name = sources[0].name
        texts = [text.removeprefix(f"{name}=") if name else text for text in texts]
        if len(texts) > 1:
            raise InputError(
                f"{option} is given {len(texts)} times, and the run has one backbone; give it once",
                option=option,
            )
        return [texts[0] if texts else None]
    places: dict[str, str] = {}
    names = [source.name for source in sources]
    for text in texts:
        # A place may have an equal sign, so that the names are compared and the text is not cut.
        known = next((each for each in names if text.startswith(f"{each}=")), None)
        if known is None or known in places:
            what = "names no backbone of the run" if known is None else f"gives {known} a second place"
            raise InputError(
                f"{option} {text!r} {what}; give NAME=PLACE, with each of {', '.join(names)} at most once",
                option=option,
            )
        places[known] = text.removeprefix(f"{known}=")
    return [places.get(name) for name in names]
