"""`LedgerEntry`: the mark that a unit of an array is done, which is written last."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toptune.errors import CorruptError
from toptune.store.files.json_values import canonical_json, parse_json
from toptune.store.files.sealed import VERSION, check_version, seal, unseal

PACKED_FILE = "packed.jsonl"

KIND = "toptune-ledger-entry"
_MOST = 2**63


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """What is known of one committed unit of one array.

    Attributes
    ----------
    array : str
        Name of the array, ``<tap>.<pooling>``.
    unit : int
        Number of the unit.
    start, stop : int
        First row of the unit, and the row behind its last one.
    n_bytes : int
        Size of the shard's file.
    sha256 : str
        Digest of the shard's file.
    non_finite : int
        NaN or infinite values in rows that did not fail.
    failed : Mapping[int, str]
        Row to reason, for images that could not be used and whose values are NaN.
    seconds : float
        Time that the unit took, over all arrays written together.
    host, when : str
        Machine and UTC time of the commit.
    checksum : str, optional
        What tells the file from those of other units at the first read, without reading more of it than is
        wanted: see `checksum` of the formats. Entries from before this field have none.
    cache : str, optional
        `binding` of the cache that the unit belongs to. Entries from before this field have none.
    costs : Mapping, optional
        ``cpu_seconds``, ``energy_joules``, ``energy_estimate`` (whether the joules are one),
        ``peak_memory_bytes`` and, from a CUDA device, ``device_seconds``, over all arrays written together.
    """

    array: str
    unit: int
    start: int
    stop: int
    n_bytes: int
    sha256: str
    non_finite: int
    failed: Mapping[int, str]
    seconds: float
    host: str
    when: str
    checksum: str | None = None
    cache: str | None = None
    costs: Mapping[str, float] | None = None

    def to_bytes(self) -> bytes:
        """Render the entry's file."""
        optional = {"checksum": self.checksum, "cache": self.cache, "costs": self.costs and dict(self.costs)}
        return seal(
            KIND,
            {
                "array": self.array,
                "unit": self.unit,
                "rows": [self.start, self.stop],
                "bytes": self.n_bytes,
                "sha256": self.sha256,
                "non_finite": self.non_finite,
                "failed": {str(row): reason for row, reason in sorted(self.failed.items())},
                "seconds": self.seconds,
                "host": self.host,
                "when": self.when,
            }
            | {name: value for name, value in optional.items() if value is not None},
        )

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> "LedgerEntry":
        """Read what `to_bytes` rendered; `path` is named in messages.

        Raises
        ------
        CorruptError
            If it is damaged.
        FormatVersionError
            If a newer toptune wrote it.
        """
        return cls.from_values(unseal(KIND, data, path), path)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], path: Path) -> "LedgerEntry":
        """Make an entry from the content of a file whose digest was checked already.

        Raises
        ------
        CorruptError
            If a field is missing or of another kind.
        """
        try:
            _check_kinds(values)
            return cls(
                array=values["array"],
                unit=values["unit"],
                start=values["rows"][0],
                stop=values["rows"][1],
                n_bytes=values["bytes"],
                sha256=values["sha256"],
                non_finite=values["non_finite"],
                failed={int(row): reason for row, reason in values["failed"].items()},
                seconds=values["seconds"],
                host=values["host"],
                when=values["when"],
                checksum=values.get("checksum"),
                cache=values.get("cache"),
                costs=values.get("costs"),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"{path} is no ledger entry: {type(error).__name__} {error}", path) from error


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Refuse fields of another kind than `LedgerEntry.to_bytes` writes; there may be a million entries."""
    start, stop = values["rows"]
    numbers = (values["unit"], start, stop, values["bytes"], values["non_finite"])
    texts = (values["array"], values["sha256"], values["host"], values["when"])
    optional = (values.get("checksum"), values.get("cache"))
    costs, failed = values.get("costs"), values["failed"]
    # `bool` is a kind of `int` in Python, hence the comparison of types.
    if not (
        all(type(each) is int and 0 <= each < _MOST for each in numbers)
        and all(type(each) is str for each in texts)
        and all(each is None or type(each) is str for each in optional)
        and type(values["seconds"]) in (int, float)
        and (costs is None or all(type(each) in (int, float, bool) for each in costs.values()))
        and all(type(each) is str for each in failed.values())
    ):
        raise TypeError("a field is of another kind")


def entry_name(unit: int) -> str:
    """Return the name of an entry's file: ``000042.json``."""
    return f"{unit:06d}.json"


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
        Content of the file.
    path : Path
        Name of the file, for messages.

    Returns
    -------
    entries : list of LedgerEntry
        The sound entries.
    damage : list of str
        The damaged lines, in words; empty if the file is as it was written.

    Raises
    ------
    FormatVersionError
        If a newer toptune wrote it.
    """
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    is_whole = data == body + b"\n" + hashlib.sha256(body + b"\n").hexdigest().encode() + b"\n"
    lines = body.split(b"\n")
    if is_whole:
        try:
            version = parse_json(lines[0])["version"]
            content = parse_json(b"[" + b",".join(lines[1:]) + b"]")
        except (ValueError, TypeError, KeyError) as error:
            return [], [f"{path} is no packed ledger: {type(error).__name__} {error}"]
        check_version(version, path)
        return [LedgerEntry.from_values(values, path) for values in content], []
    entries, damage = [], []
    for number, line in enumerate([*lines[1:], last], start=2):
        try:
            values = parse_json(line)
            del values["self_sha256"]
            sealed = seal(KIND, {k: v for k, v in values.items() if k not in ("format", "version")})
            if canonical_json(parse_json(sealed)).encode() != line:
                raise CorruptError("its content does not match its own digest")
            entries.append(LedgerEntry.from_bytes(sealed, path))
        except (ValueError, TypeError, KeyError, CorruptError) as error:
            if number <= len(lines):
                damage.append(f"{path} is damaged in line {number}: {error}")
    return entries, damage or [f"{path} is damaged: it does not match its own digest"]
