"""What a folder is when it is not what was asked for, for messages that say the next step."""

from pathlib import Path

from toptune.options import nearest

RUN_FILE = "run.json"
# The file that tells what a folder is, and what the folder then is.
_MARKS = {
    "toptune.json": "a feature store",
    RUN_FILE: "a RUN folder of train or finetune",
    "config.json": "the folder of a model",
}
_MOST = 5


def what_is(path: Path) -> str:
    """Say what lies at a path, as the end of a sentence that begins with the path.

    Examples
    --------
    >>> what_is(Path("nowhere"))
    'does not exist'
    """
    try:
        if not path.exists():
            return "does not exist"
        if not path.is_dir():
            return "is a file"
        found = next((kind for mark, kind in _MARKS.items() if (path / mark).is_file()), None)
        return f"is {found or ('a folder with other files' if any(path.iterdir()) else 'an empty folder')}"
    except OSError as error:
        return f"cannot be looked into ({error.strerror})"


def no_run(folder: Path) -> str:
    """Say that a folder is no RUN folder, what it is, and which RUN folders there are."""
    found = nearby(folder, RUN_FILE)
    there = f"give a run that is there: {', '.join(found)}" if found else "give what train --out wrote"
    return f"{folder} is no RUN folder (it has no {RUN_FILE}): it {what_is(folder)}; {there}"


def nearby(path: Path, mark: str) -> list[str]:
    """List folders of one kind in a folder and beside it, those whose names are nearest first.

    Parameters
    ----------
    path : Path
        The folder that was given, whether it is there or not.
    mark : str
        Name of the file that tells the kind: ``toptune.json`` or ``run.json``.
    """
    found: dict[str, None] = {}
    for folder in (path, path.parent):
        try:
            names = sorted(each.name for each in folder.iterdir() if (each / mark).is_file())
        except OSError:
            continue
        near = nearest(path.name, names)
        found |= dict.fromkeys(str(folder / name) for name in [*near, *names])
    return list(found)[:_MOST]
