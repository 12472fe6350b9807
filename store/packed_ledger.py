"""``packed.jsonl``: all entries of a complete array in one file.

One line an entry, sealed by itself as its own file was, so that damage costs a unit and not the array;
a last line with the digest of all lines above, so that a sound file is read without looking at each seal.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from toptune.errors import CorruptError
from toptune.store.ledger import KIND, LedgerEntry
from toptune.store.recipe import canonical_json
from toptune.store.sealed import VERSION, check_version, seal

PACKED_FILE = "packed.jsonl"


def render_packed(array: str, entries: Sequence[LedgerEntry]) -> bytes:
    """Render the entries of an array, in the order of their units."""
    head = canonical_json({"format": "toptune-packed-ledger", "version": VERSION, "array": array})
    lines = [head, *(canonical_json(json.loads(entry.to_bytes())) for entry in entries)]
    body = "".join(f"{line}\n" for line in lines).encode()
    return body + f"{hashlib.sha256(body).hexdigest()}\n".encode()


def read_packed(data: bytes, path: Path) -> tuple[list[LedgerEntry], list[str]]:
    """Read what `render_packed` rendered.

    Parameters
    ----------
    data : bytes
    path : Path
        Named in messages.

    Returns
    -------
    entries : list of LedgerEntry
        The sound ones.
    damage : list of str
        What is not, in words; empty if the file is as it was written.

    Raises
    ------
    FormatVersionError
        If a newer toptune wrote it.
    """
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    is_whole = data == body + b"\n" + hashlib.sha256(body + b"\n").hexdigest().encode() + b"\n"
    lines = body.split(b"\n")
    if is_whole:
        check_version(json.loads(lines[0])["version"], path)
        content = json.loads(b"[" + b",".join(lines[1:]) + b"]")
        return [LedgerEntry.from_values(values, path) for values in content], []
    entries, damage = [], []
    for number, line in enumerate([*lines[1:], last], start=2):
        try:
            values = json.loads(line)
            del values["self_sha256"]
            sealed = seal(KIND, {k: v for k, v in values.items() if k not in ("format", "version")})
            if canonical_json(json.loads(sealed)).encode() != line:
                raise CorruptError("its content does not match its own digest")
            entries.append(LedgerEntry.from_bytes(sealed, path))
        except (ValueError, TypeError, KeyError, CorruptError) as error:
            if number <= len(lines):
                damage.append(f"{path} is damaged in line {number}: {error}")
    return entries, damage or [f"{path} is damaged: it does not match its own digest"]
