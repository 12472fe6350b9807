"""JSON files that carry a digest of themselves, so that a changed bit is noticed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from toptune.errors import CorruptError, FormatVersionError, InputError
from toptune.store.files.json_records import record_from_json, shortened
from toptune.store.files.json_values import canonical_json, json_text, parse_json
from toptune.store.files.reading import linked_file_digest

SEAL = "self_sha256"
VERSION = 1


Record = TypeVar("Record")


def seal(kind: str, values: Mapping[str, object]) -> bytes:
    """Render `values` as a file of `kind`, with format, version and the digest of the whole."""
    content = {**values, "format": kind, "version": VERSION}
    return _render(content, hashlib.sha256(canonical_json(content).encode()).hexdigest())


def unseal(kind: str, data: bytes, path: Path) -> dict[str, Any]:
    """Read what `seal` rendered.

    Parameters
    ----------
    kind : str
        The expected format.
    data : bytes
        Content of the file.
    path : Path
        Name of the file, for messages.

    Raises
    ------
    CorruptError
        If a bit differs from what was written.
    FormatVersionError
        If a newer toptune wrote it.
    """
    try:
        content = parse_json(data)
        found_kind, version, digest = content["format"], content["version"], content.pop(SEAL)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"{path} is damaged: {type(error).__name__} {error}", path) from error
    if found_kind != kind:
        raise CorruptError(f"{path} is a {shortened(found_kind)} file where a {kind!r} file should be", path)
    # The version is compared before the digest: a newer toptune may seal its files otherwise, and its file
    # is not damaged.
    check_version(version, path)
    # The bytes are compared too, because other bytes may parse to the same values, and a file must be
    # exactly what was written for its digest elsewhere to hold.
    expected = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    if digest != expected or _render(content, expected) != data:
        raise CorruptError(f"{path} is damaged: its content does not match its own digest", path)
    return dict(content)


def unseal_record(kind: str, record: type[Record], data: bytes, path: Path) -> Record:
    """Read what `seal` rendered into a frozen dataclass.

    Raises CorruptError if the seal is broken or a field has the wrong type.
    """
    return record_of(record, unseal(kind, data, path), path)


def record_of(record: type[Record], content: Mapping[str, object], path: Path) -> Record:
    """Make a frozen dataclass of the content of the file `path`; a wrong field is a CorruptError."""
    try:
        return record_from_json(record, content, where=str(path))
    except (CorruptError, InputError) as error:
        raise CorruptError(str(error), path) from error


def is_newer(data: bytes) -> bool:
    """Whether a file is whole and of a later version, which this toptune must not change.

    A damaged version number does not match the file's own digest.
    """
    try:
        content = parse_json(data)
        version, digest = content["version"], content.pop(SEAL)
        expected = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    except (ValueError, TypeError, KeyError):
        return False
    # `bool` is a kind of `int` in Python, hence the comparison of types.
    return type(version) is int and version > VERSION and digest == expected


def check_version(version: object, path: Path) -> None:
    """Refuse a version that this toptune does not know."""
    # Python takes True and 1.0 for 1, but this toptune writes neither.
    if version != VERSION or isinstance(version, bool | float):
        raise FormatVersionError(
            f"{path} has format version {shortened(version)}; this toptune supports version {VERSION} only; "
            "upgrade toptune, or use another --store",
            path,
        )


def seal_values(values: Mapping[str, object]) -> bytes:
    """Render a record whose keys keep their order, with the digest of the rest as its last key."""
    digest = hashlib.sha256(json_text(values, indent=1).encode()).hexdigest()
    return (json_text({**values, SEAL: digest}, indent=1) + "\n").encode()


def unseal_values(content: Mapping[str, object], data: bytes, path: Path, *, advice: str) -> dict[str, Any]:
    """Give the parsed content of a file that `seal_values` rendered, without the seal.

    Raises
    ------
    CorruptError
        If a bit differs from what was written.
    """
    values = {name: value for name, value in content.items() if name != SEAL}
    if seal_values(values) != data:
        raise CorruptError(f"{path} is damaged: its content does not match its own digest; {advice}", path)
    return values


def folder_digests(folder: Path, *, leave_out: str) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder but one, by the path within the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in files}
    return {name: linked_file_digest(path) for path, name in names.items() if name != leave_out}


def _render(content: Mapping[str, object], digest: str) -> bytes:
    # Keys are sorted and lines indented, so that equal values give equal bytes and people can read the
    # file.
    text = json.dumps(
        {**content, SEAL: digest}, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
    )
    return (text + "\n").encode()
