"""Members of a WebDataset shard are grouped into samples by their key, and each sample has one image."""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from toptune.errors import InputError
from toptune.extract.images.folder_listing import IMAGE_SUFFIXES
from toptune.extract.images.labels import split_labels
from toptune.extract.images.remarks import Remarks
from toptune.store.datasets.outside_text import not_unicode, outside_text
from toptune.store.files.json_values import parse_json

IMAGE_EXTENSIONS = frozenset(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
# A text is a label if it is short and has one line; longer texts are captions.
MAX_LABEL_CHARACTERS = 100
# Labels are read whole while a shard is indexed, so that a header must not make them as large as it likes.
_MAX_CLASS_BYTES = 4096
_MAX_JSON_BYTES = 2**24
# Long names and pax records, which `tarfile` reads into memory, are shorter than this; more bytes are damage.
_MAX_EXTENSION_BYTES = 2**20
_EXTENSIONS = b"xgXLK"
_FOLDERS_AND_DEVICES = b"3456DV"


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar archive; ``offset`` is -1 for a link, because a link holds no bytes."""

    name: str
    offset: int
    bytes: int


class _BoundedHeader(tarfile.TarInfo):
    """A header that `tarfile` may follow: no long name fills the memory, and no size leads backwards."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > _MAX_EXTENSION_BYTES):
            raise tarfile.HeaderError(f"a header says that {header.size} bytes follow")
        return header


def tar_members(path: Path) -> Iterator[TarMember]:
    """Yield files and links of a tar archive in order, from one pass over the headers.

    Raises
    ------
    InputError
        If the archive is cut off, damaged or compressed, or holds members that cannot be read at an offset.
    """
    try:
        # The file is unbuffered, because a buffer would read payload behind every header.
        with path.open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            for member in _headers(file, end, path):
                if member.issparse() or member.type == b"M":
                    raise InputError(
                        f"shard {path}: {member.name!r} is stored sparse or in volumes; write it plainly"
                    )
                if member.islnk() or member.issym():
                    yield TarMember(member.name, -1, 0)
                elif member.type not in _FOLDERS_AND_DEVICES and not member.name.endswith("/"):
                    last = member.offset_data + member.size
                    if last > end:
                        raise _cut_off(path, end, f"{member.name!r} should reach to byte {last}")
                    yield TarMember(member.name, member.offset_data, member.size)
    except OSError as error:
        raise InputError(f"shard {path} cannot be read: {error.strerror}") from error


def _headers(file: BinaryIO, end: int, path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield members; `tarfile` reads a damaged later header as the end, so the end is checked as well."""
    place = 0
    try:
        with tarfile.TarFile(
            fileobj=file, tarinfo=_BoundedHeader, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            while (member := archive.next()) is not None:
                # `tarfile` would keep all members, about a kilobyte for each.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.size < 0:
                    raise _damaged(path, member.offset, f"{member.name!r} has {member.size} bytes")
                yield member
                place = archive.offset
    except InputError:
        raise
    except (tarfile.TarError, ValueError, LookupError, RecursionError) as error:
        if file.tell() >= end:
            raise _cut_off(path, end, f"within what begins at byte {place}") from error
        raise _damaged(path, place, str(error)) from error
    _check_end(file, place, end, path)


def _check_end(file: BinaryIO, place: int, end: int, path: Path) -> None:
    """Raise an `InputError` unless an archive ends in its mark, with nothing but zeros behind the mark."""
    file.seek(place)
    mark = file.read(tarfile.BLOCKSIZE)
    # An archive without the mark was cut off between two members, and looks whole to `tarfile`.
    if len(mark) < tarfile.BLOCKSIZE:
        raise _cut_off(path, end, "within a header" if mark else "the mark for its end is missing")
    if mark.strip(b"\0"):
        raise _damaged(path, place, "the checksum or a number is wrong")
    while data := file.read(2**20):
        if data.strip(b"\0"):
            raise InputError(
                f"shard {path} goes on after the mark for its end, near byte {file.tell() - len(data)}; if "
                "archives were joined with cat, join them with `tar --concatenate`, or keep them apart"
            )


def _cut_off(path: Path, end: int, what: str) -> InputError:
    return InputError(
        f"shard {path} is cut off after {end} bytes: {what}; copy or write it again, or leave it out"
    )


def _damaged(path: Path, place: int, what: str) -> InputError:
    return InputError(
        f"shard {path} is damaged, or is no tar archive: there is no valid header at byte {place} ({what}); "
        "copy or write it again, or leave it out"
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a shard.

    Attributes
    ----------
    key : str
        Path of its members up to the first dot of the last part.
    offset, bytes : int
        Place and size of the image in the shard.
    names : list of str or None
        Labels of the image; None where there are none.
    has_list : bool
        Whether the labels came as a list of several.
    caption : str or None
        What its ``.txt`` says: a label, if that of every image is short enough to be one.
    """

    key: str
    offset: int
    bytes: int
    names: list[str] | None
    has_list: bool
    caption: str | None


def shard_samples(path: Path, remarks: Remarks) -> Iterator[Sample]:
    """Yield the images of a shard in order; only headers and labels are read.

    Parameters
    ----------
    path : path
        The shard.
    remarks : Remarks
        Takes the samples without an image, and the members that nothing is taken from.

    Raises
    ------
    InputError
        If the shard is damaged, a sample has two images, or a label is neither text nor integer.
    """
    samples: dict[str, dict[str, TarMember]] = {}
    for member in tar_members(path):
        key, extension = _key(member.name)
        if not key:
            _remark_on_nameless(member.name, path, remarks)
            continue
        fields = samples.setdefault(key, {})
        if extension in fields:
            raise InputError(
                f"shard {path} holds {member.name!r} twice, or two spellings of it; write it again with "
                "one of them"
            )
        fields[extension] = member
    descriptor = os.open(path, os.O_RDONLY)
    try:
        without: list[str] = []
        for key, fields in samples.items():
            image = _image(fields, path)
            if image is None:
                without.append(f"{key} with {', '.join(f'.{extension}' for extension in fields)}")
                continue
            if not any(extension in IMAGE_EXTENSIONS for extension in fields):
                remarks.add(
                    "sample",
                    "whose image has a further extension before that of images, taken as the image",
                    f"{path.name}: {image.name}",
                    code="TT018",
                    advice="where such members are masks, write each image beside them",
                    is_left_out=False,
                )
            names, has_list, caption = _labels(fields, descriptor, path, remarks)
            used = next((name for name in ("cls", "json", "txt") if name in fields), None)
            for extension, member in fields.items():
                if member is not image and extension != used:
                    remarks.add_other_file(f"{path.name}: {member.name}", f".{extension}")
            yield Sample(key, image.offset, image.bytes, names, has_list, caption)
        if without:
            remarks.add(
                "sample",
                "without an image that is known by its extension",
                f"{len(without)} of {path.name}, the first is {without[0]}",
                code="TT016",
                count=len(without),
            )
    finally:
        os.close(descriptor)


def _remark_on_nameless(name: str, path: Path, remarks: Remarks) -> None:
    base = name.rpartition("/")[2]
    if base.startswith("."):
        remarks.add_hidden(name)
    elif not base.startswith("__"):
        why = "without an extension, so that its kind is not known"
        remarks.add("member", why, f"{path.name}: {name}", code="TT016")


def _key(name: str) -> tuple[str, str]:
    """Return key and extension by WebDataset's rule; the key of hidden and describing members is empty."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    if not slash and base.startswith("__") and base.endswith("__"):
        return "", ""
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and dot else ("", "")


def _image(fields: Mapping[str, TarMember], path: Path) -> TarMember | None:
    """Choose the image among the members of a sample; ``x.jpg`` goes before ``x.mask.png``."""
    plain = [member for extension, member in fields.items() if extension in IMAGE_EXTENSIONS]
    found = plain or [
        member for extension, member in fields.items() if extension.rpartition(".")[2] in IMAGE_EXTENSIONS
    ]
    if len(found) > 1:
        raise InputError(
            f"shard {path}: {found[0].name!r} and {found[1].name!r} have one key, the name up to its first "
            "dot; toptune takes one image a key: rename one of them"
        )
    if found and found[0].offset < 0:
        raise InputError(
            f"shard {path}: {found[0].name!r} is a link; write the files themselves, "
            "with `tar --dereference --hard-dereference`"
        )
    return found[0] if found else None


def _labels(
    fields: Mapping[str, TarMember], descriptor: int, path: Path, remarks: Remarks
) -> tuple[list[str] | None, bool, str | None]:
    # The order is from the most explicit field to the least: `.cls` can be nothing but a label.
    if "cls" in fields:
        text = outside_text(_read(fields["cls"], descriptor, path, _MAX_CLASS_BYTES))
        return (None if text is None else [text]), False, None
    if "json" in fields:
        member = fields["json"]
        try:
            content = parse_json(
                _read(member, descriptor, path, _MAX_JSON_BYTES),
                pairs_hook=lambda pairs: _fields(pairs, f"shard {path}: {member.name!r}"),
            )
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"shard {path}: {member.name!r} is no JSON: {error}") from error
        found = content if isinstance(content, dict) else {}
        for name in ("labels", "label"):
            if found.get(name) is not None:
                names, has_list = _names(found[name], name, member, path)
                return names, has_list or name == "labels", None
        remarks.add(
            "member",
            "without a field label, of kind .json",
            f"{member.name} has {', '.join(found) or 'no fields'}",
            code="TT017",
            advice="write the label into a member .cls, or under label",
        )
    if "txt" in fields:
        return None, False, outside_text(_read(fields["txt"], descriptor, path, _MAX_JSON_BYTES))
    return None, False, None


def _fields(pairs: list[tuple[str, object]], where: str) -> dict[str, object]:
    """Make an object of JSON, in which one of two labels would be lost."""
    names = [outside_text(name) for name, _ in pairs]
    if twice := [name for name in ("label", "labels") if names.count(name) > 1]:
        raise InputError(
            f"{where} has the field {twice[0]!r} twice; write several labels as a list under 'labels'"
        )
    return dict(zip(map(str, names), (value for _, value in pairs), strict=True))


def _names(value: object, field: str, member: TarMember, path: Path) -> tuple[list[str] | None, bool]:
    if isinstance(value, list):
        return [_name(each, member, path) or "" for each in value], True
    if field == "labels" and isinstance(value, str):
        return split_labels(value), True
    name = _name(value, member, path)
    return (None if name is None else [name]), False


def _name(value: object, member: TarMember, path: Path) -> str | None:
    if isinstance(value, str | int | float):
        return outside_text(value)
    raise InputError(
        f"shard {path}: {member.name!r} has the label {value!r}; a label is a text or a number, "
        "several are a list of them under 'labels'"
    )


def _read(member: TarMember, descriptor: int, path: Path, limit: int) -> str:
    if member.offset < 0 or member.bytes > limit:
        raise InputError(
            f"shard {path}: {member.name!r} should hold a label and is "
            + ("a link" if member.offset < 0 else f"{member.bytes} bytes long; the limit is {limit}")
        )
    try:
        return os.pread(descriptor, member.bytes, member.offset).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"shard {path}: {member.name!r} {not_unicode(error)}") from error
