"""`push` writes a run into a repository of the Hugging Face hub, by the library of the hub."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toptune.errors import InputError
from toptune.store.files.json_values import json_text, read_json
from toptune.store.files.sealed import SEAL
from toptune.store.files.writing import replace_file, write_text
from toptune.text import named
from toptune.train.runs.record import CONFIG, FILES, SUMS, RunRecord, seal_run
from toptune.workflows.predict.hub_runs import HUB_FILES, check_repository, explained_hub
from toptune.workflows.sharing.card import CARD, JOINT, card_of

_SKOPS = ".skops"
# Who made a run on which machine is nobody's business on a hub.
_PRIVATE = ("who", "where")
# A path with blanks before it, as notes have them; ratios such as images/s and addresses are none.
_AMONG_WORDS = re.compile(r"""(?<![\w/.:])(?:/[^/\s'",;:]+)+/([^/\s'",;:]+)""")


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was written to the hub.

    Attributes
    ----------
    repository : str
        ``user/name``.
    url : str
        Address of the commit; an empty text where nothing was sent.
    files : tuple of str
        Files of the repository that were written.
    left_out : tuple of str
        Files of the RUN folder that stay at home: tables of images, sums of features, drawings.
    """

    repository: str
    url: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        return asdict(self) | {"files": list(self.files), "left_out": list(self.left_out)}

    def __str__(self) -> str:
        sent = "sent" if self.url else "would be sent"
        lines = [f"{sent} to {self.repository}: {', '.join(self.files)}"]
        if self.left_out:
            lines.append(f"not sent, because predictions do not need them: {', '.join(self.left_out)}")
        return "\n".join([*lines, *([self.url] if self.url else [])])


def push(
    run: str | Path,
    repository: str,
    *,
    private: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    endpoint: str | None = None,
) -> Pushed:
    """Write the head of a run, its record and a model card into a repository of the hub.

    Only safetensors, JSON and the card go: no table of images, no sums of features. Paths of this machine,
    the user's name and the machine's are taken out of the record, which is sealed anew. The weights of the
    backbone are named and not sent; a fine-tuned run holds its own network, which goes.

    Parameters
    ----------
    run : path
        Folder that `toptune.train.train` or `finetune` wrote.
    repository : str
        ``user/name``; made if it is not there.
    private : bool
        Whether a new repository is private.
    message : str, optional
        Message of the commit.
    dry_run : bool
        Say what would be sent, and send nothing.
    endpoint : str, optional
        Address of another hub than the library's own. The library of the hub finds the token, as
        ``hf auth login`` or ``HF_TOKEN`` gave it.

    Returns
    -------
    Pushed
        The files, and the address of the commit.

    Raises
    ------
    InputError
        If the run holds what is neither safetensors nor JSON, or the hub refuses.
    """
    folder = Path(run)
    record = RunRecord.of_folder(folder)
    check_repository(repository)
    _refuse_skops(folder)
    if record.files is None:
        raise InputError(
            f"{folder} was made before runs had checksums, by which whoever fetches it knows it is whole; "
            "train it again"
        )
    with tempfile.TemporaryDirectory(prefix="toptune-push-") as place:
        made = Path(place)
        files = _copied(folder, made)
        # The card is written of the records that go, which name neither paths nor people.
        write_text(made / CARD, card_of(made, record, repository))
        left_out = tuple(name for name in _names(folder) if name not in files)
        sent = (CARD, *files)
        if dry_run:
            return Pushed(repository=repository, url="", files=sent, left_out=left_out)
        from huggingface_hub import HfApi

        hub = HfApi(endpoint=endpoint, library_name="toptune")
        with explained_hub(repository, does="take the run"):
            hub.create_repo(repository, private=private or None, exist_ok=True)
            done = hub.upload_folder(
                repo_id=repository,
                folder_path=made,
                commit_message=message or f"A run of toptune: {folder.name}",
            )
        return Pushed(repository=repository, url=str(done.commit_url), files=sent, left_out=left_out)


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _refuse_skops(folder: Path) -> None:
    if skops := [name for name in _names(folder) if name.endswith(_SKOPS)]:
        raise InputError(
            f"{folder} holds {named(skops)}, a head of scikit-learn, and only safetensors and JSON are "
            "shared; train a head of toptune, such as --head falkon, ridge or logistic, or export the run as "
            "one file"
        )


def _copied(folder: Path, made: Path) -> tuple[str, ...]:
    """Copy what is sent, with records that name neither paths nor people, and return the names."""
    names = [
        name
        for name in _names(folder)
        if PurePosixPath(name).suffix in HUB_FILES and PurePosixPath(name).name != SUMS
    ]
    for name in names:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, made / name)
    # Records deeper in the folder, of the heads of a late fusion, are sealed before the one that covers them.
    for name in sorted((name for name in names if PurePosixPath(name).name == CONFIG), key=len, reverse=True):
        values = read_json(made / name, advice="train again")
        is_sealed = FILES in values
        plain = {key: anonymous(value) for key, value in values.items() if key not in (SEAL, FILES)}
        plain["created"] = {
            key: "" if key in _PRIVATE else value for key, value in dict(plain.get("created") or {}).items()
        }
        replace_file(made / name, json_text(plain, indent=1).encode())
        if is_sealed:
            seal_run((made / name).parent)
    return tuple(names)


def anonymous(value: Any) -> Any:
    """Return JSON values with the last part in place of every absolute path."""
    if isinstance(value, Mapping):
        return {key: anonymous(each) for key, each in value.items()}
    if isinstance(value, list):
        return [anonymous(each) for each in value]
    if not isinstance(value, str):
        return value
    return _AMONG_WORDS.sub(r"\1", JOINT.join(map(_last_part, value.split(JOINT))))


def _last_part(text: str) -> str:
    """Return the last part of a text that is a path, perhaps with a prefix such as ``local-dir:``."""
    source, colon, rest = text.rpartition(":")
    is_path = rest.startswith("/") and len(rest) > 1 and " " not in source
    return source + colon + PurePosixPath(rest).name if is_path else text
