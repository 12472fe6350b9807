"""Which names may stand in a path of the store."""

import errno
import os
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from toptune.errors import InputError

TEMPORARY_PREFIX = ".tmp-"
# File systems allow 255 bytes; the rest is for "@digest8" and endings.
MAX_NAME_BYTES = 200
RANDOM = "random:"
# Endings by which people mean a file. Names of folders may have dots, so that other endings are fine.
FILE_SUFFIXES = frozenset((
    ".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".npy", ".npz", ".h5", ".hdf5", ".safetensors",
    ".pt", ".pth", ".pt2", ".onnx", ".html", ".pdf", ".png", ".jpg", ".jpeg", ".zip", ".tar", ".gz", ".yaml",
    ".yml", ".toml", ".xlsx", ".md", ".log", ".pkl",
))  # fmt: skip
# Part 1 has the data set's own name, so numbers begin at 2 in practice; a leading zero would give one part
# two names.
_PART = re.compile(r"(?P<base>.+)~(?P<number>[1-9][0-9]*)")
_SOURCE = re.compile(
    r"(local-dir|hf-hub|hf_hub|torchvision|transformers|open_clip|custom|torchhub):", re.IGNORECASE
)
# Names of weights stand behind a slash in names of these libraries.
_WITH_WEIGHTS = frozenset(("torchvision", "open_clip"))

# A name may come from a folder that somebody else called so; an option then says another one.
_REMEDY = {"data set": "choose another name, with --dataset NAME"}


# Names in lower case that systems give to files and folders of their own in any folder.
_OF_SYSTEMS = {
    *("lost+found", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("system volume information", "$recycle.bin", "recycler", "thumbs.db", "desktop.ini", "__macosx"),
    *("network trash folder", "temporary items", "icon\r"),
}
_MODEL = re.compile(r".+@[0-9a-f]{8}")
# Folders of a store; others beside them are not the store's.
TOP_FOLDERS = ("datasets", "features")


def is_stray(name: str) -> bool:
    """Whether a name belongs to a system or another program, such as ``.snapshot`` or ``lost+found``.

    No file of a store has such a name, and whatever has it is left alone.
    """
    is_hidden = name.startswith(".") and not is_temporary(name)
    return is_hidden or name.lower() in _OF_SYSTEMS


def stray_depth(parts: tuple[str, ...], datasets: Collection[str] | None = None) -> int | None:
    """Return the position of the first part of a path in a store that no store has; None for other paths.

    Parameters
    ----------
    parts : tuple of str
        The path within the store.
    datasets : collection of str, optional
        Names of the data sets and parts; other folders beside them are not the store's.
    """
    for place, name in enumerate(parts):
        if is_temporary(name):
            return None
        if is_stray(name):
            return place
        if place == 1 and parts[0] == "features" and not _MODEL.fullmatch(name):
            return place
        if place == 1 and datasets is not None and parts[0] == "datasets" and name not in datasets:
            return place
    return None


def is_temporary(name: str) -> bool:
    """Whether a file or folder name is one that an interrupted writer leaves behind."""
    return name.startswith(TEMPORARY_PREFIX)


def check_name(name: str, *, what: str) -> str:
    """Return `name` in Unicode form NFC, or refuse it.

    Spaces and letters of any script are fine. A name is one component of a path: it must not lead out of the
    store, be hidden, or look like another name through invisible characters.

    Parameters
    ----------
    name : str
        A data set's, model's or array's name.
    what : str
        Noun for the message, such as ``"data set"``.

    Raises
    ------
    InputError
        If the name cannot be used; the message gives the reason.
    """
    # One file system stores decomposed letters and another composed ones. A single form makes one name one
    # folder.
    normal = unicodedata.normalize("NFC", name)
    reason = _objection(normal)
    if reason:
        raise InputError(
            f"{what} name {name!r} {reason}; {_REMEDY.get(what, 'choose another name')}",
            option=what.replace(" ", ""),
        )
    return normal


def _objection(name: str) -> str:
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "begins or ends with a space"
    if "/" in name or "\\" in name:
        return "contains a path separator"
    if name.startswith("."):
        return "begins with a dot"
    if is_stray(name):
        return "is one that systems use for folders of their own"
    # Control and format characters (category C) are invisible, so that two names could look alike.
    odd = [c for c in name if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp")]
    if odd:
        return f"contains the unprintable character U+{ord(odd[0]):04X}"
    # File systems count bytes of UTF-8, not characters.
    n_bytes = len(name.encode())
    if n_bytes > MAX_NAME_BYTES:
        return f"is {n_bytes} bytes long, {MAX_NAME_BYTES} at most"
    return ""


def check_folder_name(path: str | os.PathLike[str], *, option: str) -> None:
    """Refuse to make a folder whose name is that of a file, such as ``results.csv``.

    Parameters
    ----------
    path : path
        The folder to make; one that is there already is taken as it is.
    option : str
        Keyword of the option that names it.

    Raises
    ------
    InputError
        If the name ends like the name of a file.
    """
    place = Path(path)
    if place.suffix.lower() in FILE_SUFFIXES and not place.is_dir():
        raise InputError(
            f"{option} {os.fspath(path)!r} would become a folder, and {place.suffix} is an ending of files; "
            f"leave it off: {place.with_suffix('').name}",
            option=option,
        )


def part_name(dataset: str, number: int) -> str:
    """Return the name of a part of a data set that grew: part 1 has the data set's own name."""
    return dataset if number == 1 else f"{dataset}~{number}"


def split_part_name(name: str) -> tuple[str, int] | None:
    """Split ``pets~2`` into ``pets`` and 2; None for a name that is not of that form."""
    found = _PART.fullmatch(name)
    return None if found is None else (found["base"], int(found["number"]))


def is_path(model: str) -> bool:
    """Whether a model's name is the path of a folder, which has a separator and no prefix."""
    return ("/" in model or os.sep in model or model in (".", "..")) and not (
        _SOURCE.match(model) or model.startswith(RANDOM)
    )


def is_too_long(path: str) -> bool:
    """Whether the file system takes no path so long: nothing can lie there, and `Path` raises an error."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    except ValueError:  # a NUL character, for which `Path` finds nothing
        return False
    return False


def plain_model_name(model: str) -> str:
    """Reduce a model as the command line takes it to the name that stands in the store.

    ``local-dir:/x/y``, the path ``x/y`` and ``hf-hub:org/y@revision`` become ``y``; timm's ``arch.tag``
    stays, and so does ``random:`` before any of these. A network of another library keeps the library's name:
    ``torchvision:resnet18/W`` becomes ``torchvision-resnet18.W``, ``transformers:org/y`` ``transformers-y``,
    ``torchhub:/x/y/entry`` ``torchhub-y.entry``.

    Raises
    ------
    InputError
        If what remains cannot be a name.
    """
    if model.startswith(RANDOM):
        return RANDOM + plain_model_name(model.removeprefix(RANDOM))
    source = _SOURCE.match(model)
    name = model
    # A path counts as a model only where one lies, so that no other name leads out of the store.
    if is_path(model) and not is_too_long(model) and (Path(model) / "config.json").is_file():
        name = Path(os.path.abspath(model)).name  # noqa: PTH100
    if source:
        rest = model[source.end() :]
        library = source.group(1).lower()
        is_folder = not is_too_long(rest) and Path(rest).is_dir()
        if library in _WITH_WEIGHTS and not is_folder:
            name = f"{library}-{rest.replace('/', '.')}"
        elif library == "local-dir":
            name = Path(os.path.abspath(rest)).name  # noqa: PTH100  (does not follow links, so the given name stays)
        elif library == "torchhub":
            # The folder of the code and its entry; a function to import keeps its whole path.
            name = f"{library}-{'.'.join(rest.rsplit('/', 2)[-2:])}"
        elif library == "custom":
            name = f"{library}-{rest.replace(':', '.')}"
        elif library not in ("hf-hub", "hf_hub") and is_folder:
            name = f"{library}-{Path(os.path.abspath(rest)).name}"  # noqa: PTH100
        else:
            name = rest.rstrip("/").rsplit("/", 1)[-1].split("@", 1)[0]
            if library not in ("hf-hub", "hf_hub"):
                name = f"{library}-{name}"
    return check_name(name, what="model")
