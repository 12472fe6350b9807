"""Where the files in a tar archive lie: one pass over the headers, no payload is read.

Formats: POSIX ustar and pax (IEEE Std 1003.1, "pax Interchange Format"), GNU (long names, numbers in base
256) and the old one without a magic number. Written out instead of by the module `tarfile`, which takes
several times as long to step through a shard.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toptune.store import InputError

BLOCK_BYTES = 512
# Long names and pax records; more than this is damage.
MAX_EXTENSION_BYTES = 2**20
_ZEROS = bytes(BLOCK_BYTES)
_FOLDERS_AND_DEVICES = b"3456DV"
_LINKS = b"12"


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar archive; ``offset`` is -1 for a link, which has no bytes of its own."""

    name: str
    offset: int
    bytes: int


def tar_members(path: Path) -> Iterator[TarMember]:
    """Give files and links of a tar archive in its order.

    Raises
    ------
    InputError
        If the archive is cut off, damaged, compressed, or holds what cannot be read at an offset.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"shard {path} cannot be read: {error.strerror}") from error
    try:
        yield from _members(descriptor, path)
    except OSError as error:
        raise InputError(f"shard {path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _members(descriptor: int, path: Path) -> Iterator[TarMember]:
    end = os.fstat(descriptor).st_size
    place = 0
    everywhere: dict[str, str] = {}  # pax records that hold for all that follows
    here: dict[str, str] = {}  # ... and for the next member only
    while header := os.pread(descriptor, BLOCK_BYTES, place):
        if header == _ZEROS:
            _check_rest(descriptor, place, end, path)
            return
        name, n_bytes, kind = _parse(header, path, place)
        data = place + BLOCK_BYTES
        if kind in (b"x", b"g", b"L", b"K"):
            if n_bytes > MAX_EXTENSION_BYTES:
                raise _damaged(path, place)
            extension = os.pread(descriptor, n_bytes, data)
            if len(extension) < n_bytes:
                raise _cut_off(path, end, f"within a long name at byte {place}")
            if kind == b"L":
                here["path"] = _text(extension.rstrip(b"\0"))
            elif kind != b"K":
                (here if kind == b"x" else everywhere).update(_pax_records(extension, path, place))
        else:
            records = everywhere | here if everywhere or here else {}
            here = {}
            if kind in (b"S", b"M") or any(key.startswith("GNU.sparse.") for key in records):
                raise InputError(f"shard {path}: {name!r} is stored sparse or in volumes; write it plainly")
            name = records.get("path", name)
            if "size" in records:
                n_bytes = _number(records["size"].encode(), 10, path, place)
            # The old format marks a folder by its name alone.
            if kind in _LINKS:
                n_bytes = 0
                yield TarMember(name, -1, 0)
            elif kind not in _FOLDERS_AND_DEVICES and not name.endswith("/"):
                if data + n_bytes > end:
                    raise _cut_off(path, end, f"{name!r} should reach to byte {data + n_bytes}")
                yield TarMember(name, data, n_bytes)
        place = data + -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES
    raise _cut_off(path, end, "the mark for its end is missing")


def _parse(header: bytes, path: Path, place: int) -> tuple[str, int, bytes]:
    """Name, size and type in a header block."""
    if len(header) < BLOCK_BYTES:
        raise _cut_off(path, place + len(header), "within a header")
    unsigned = sum(header) - sum(header[148:156]) + 8 * 32
    if _number(header[148:156], 8, path, place) != unsigned:
        raise _damaged(path, place)
    field = header[124:136]
    # GNU: a set highest bit says base 256.
    n_bytes = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _number(field, 8, path, place)
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return _text(name), n_bytes, header[156:157]


def _number(field: bytes, base: int, path: Path, place: int) -> int:
    text = field.split(b"\0", 1)[0].strip()
    if text and not text.isdigit():
        raise _damaged(path, place)
    try:
        return int(text or b"0", base)
    except ValueError:
        raise _damaged(path, place) from None


def _pax_records(data: bytes, path: Path, place: int) -> dict[str, str]:
    """Take records apart: length, blank, key, ``=``, value, line feed; the length counts itself."""
    records = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        n_bytes = _number(length, 10, path, place)
        key, equals, value = data[len(length) + 1 : n_bytes - 1].partition(b"=")
        if not equals or data[n_bytes - 1 : n_bytes] != b"\n":
            raise _damaged(path, place)
        records[_text(key)] = _text(value)
        data = data[n_bytes:]
    return records


def _check_rest(descriptor: int, place: int, end: int, path: Path) -> None:
    """Nothing but zeros may follow the mark for the end: whatever else there is would be lost."""
    while place < end:
        data = os.pread(descriptor, 2**20, place)
        if not data:
            return
        if data.strip(b"\0"):
            raise InputError(
                f"shard {path} goes on after the mark for its end, near byte {place}; if archives were "
                "joined "
                "with cat, join them with `tar --concatenate`, or keep them apart"
            )
        place += len(data)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _cut_off(path: Path, end: int, what: str) -> InputError:
    return InputError(
        f"shard {path} is cut off after {end} bytes: {what}; copy or write it again, or leave it out"
    )


def _damaged(path: Path, place: int) -> InputError:
    return InputError(
        f"shard {path} is damaged, or is no tar archive: there is no valid header at byte {place}; copy or "
        "write it again, or leave it out"
    )
