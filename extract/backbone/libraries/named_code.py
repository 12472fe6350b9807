"""Names of networks that are code to be run: whose word is enough to run it."""

import os
import re
from pathlib import Path

from toptune.errors import InputError

# Names that records and study files may bring along, with commas between them.
HUBCONF = "hubconf.py"
TRUSTED = "TOPTUNE_TRUSTED_CODE"
_NAMED = re.compile(r"(?:random:)?(?:torchhub:.|custom:[^:]+:.)", re.IGNORECASE)


def names_code(name: str) -> bool:
    """Return whether a model's name is that of code: a folder with ``hubconf.py``, or a function to import.

    Examples
    --------
    >>> names_code("custom:package.module:make"), names_code("custom:mine"), names_code("resnet18")
    (True, False, False)
    """
    return _NAMED.match(name) is not None


def refuse_unnamed_code(name: str, *, where: str, has_option: bool = True) -> None:
    """Refuse code that a record or a study file names, unless the user of this process trusts it by its name.

    Parameters
    ----------
    name : str
        The model's name, as a record has it.
    where : str
        What names it, for the message.
    has_option : bool
        Whether ``--model`` names the network instead; a study has no such option.

    Raises
    ------
    InputError
        If the name is that of code, and the variable ``TOPTUNE_TRUSTED_CODE`` does not have it.
    """
    trusted = [each.strip() for each in os.environ.get(TRUSTED, "").split(",")]
    if names_code(name) and name not in trusted:
        yourself = f"with --model {name}, or " if has_option else ""
        raise InputError(
            f"{where} names code as its backbone, {name!r}, and code that a file names is not run; where you "
            f"trust it, name it yourself {yourself}in the variable {TRUSTED}",
            option="model",
        )


def check_hub_folder(rest: str) -> str:
    """Return ``FOLDER/ENTRY`` with the folder as an absolute path; nothing is run.

    Raises
    ------
    InputError
        If no folder with ``hubconf.py`` is there, or no entry is named.
    """
    folder, _, entry = rest.rpartition("/")
    file = Path(folder).absolute() / HUBCONF
    form = "write torchhub:FOLDER/ENTRY"
    if not folder or not entry.isidentifier():
        raise InputError(f"model torchhub:{rest} names no entry of a folder; {form}", option="model")
    if not file.is_file():
        raise InputError(
            f"model torchhub:{rest}: {file} is not there; {form} with a folder of this machine: repositories "
            "are not downloaded, so clone them first",
            option="model",
        )
    return f"{file.parent}/{entry}"
