"""Images in a zip archive are read without unpacking the archive."""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.folder_listing import is_hidden
from toptune.extract.images.labels import check_class_folders
from toptune.extract.images.layout import EXPECTED, Tree, arrange, refuse_own
from toptune.extract.images.open_files import OpenFiles, look_at
from toptune.extract.images.remarks import Remark, Remarks
from toptune.extract.images.source import MAX_FILE_BYTES, default_name
from toptune.store.datasets.manifest import Manifest
from toptune.store.files.system_errors import refusal

# The header before each file (APPNOTE.TXT 6.3.10, 4.3.7) says where the bytes begin: the extra field there
# may have another length than the extra field in the directory.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_IS_ENCRYPTED = 0x1
_IS_UTF8 = 0x800
OTHER_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


class ZipSource:
    """Images in a zip archive, found through the offsets and checksums of the archive's directory.

    Parameters
    ----------
    name : str
        Name of the data set.
    path : path
        The archive.
    entries : sequence of (str, str or None, str or None, ZipInfo)
        Id, label, split and directory entry of each image.
    remarks : sequence of Remark
        What of the archive is no row.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        entries: Sequence[tuple[str, str | None, str | None, zipfile.ZipInfo]],
        *,
        remarks: Sequence[Remark] = (),
    ) -> None:
        self.name = name
        self.remarks = tuple(remarks)
        file = look_at(path)
        self._files = OpenFiles([file])
        infos = [entry[3] for entry in entries]
        self._offsets = np.array([info.header_offset for info in infos], dtype=np.int64)
        self._packed = np.array([info.compress_size for info in infos], dtype=np.int64)
        self._checksums = np.array([info.CRC for info in infos], dtype=np.uint32)
        self._is_deflated = np.array([info.compress_type == zipfile.ZIP_DEFLATED for info in infos])
        self._manifest = Manifest.from_columns(
            ids=[entry[0] for entry in entries],
            labels=[entry[1] for entry in entries],
            splits=[entry[2] for entry in entries],
            sizes=[info.file_size for info in infos],
            modified_ns=[file.modified_ns] * len(infos),
        )
        self._sizes = self._manifest.sizes

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        n_bytes, packed = int(self._sizes[row]), int(self._packed[row])
        if max(n_bytes, packed) > MAX_FILE_BYTES:
            raise UnreadableImageError(f"the file is larger than {MAX_FILE_BYTES} bytes; is it an image?")
        offset = int(self._offsets[row])
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(self._files.read(0, offset, _LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise UnreadableImageError("the archive's directory points to something else; it is damaged")
        data = self._files.read(0, offset + _LOCAL_HEADER.size + name_bytes + extra_bytes, packed)
        if self._is_deflated[row]:
            try:
                # The limit is the size in the directory: a damaged or hostile stream could unpack to
                # gigabytes.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, n_bytes + 1)
            except zlib.error as error:
                raise UnreadableImageError(f"damaged in the archive: {error}") from error
        # Tar shards have no checksum of their content; zip archives do, and damage costs one image only.
        if len(data) != n_bytes or zlib.crc32(data) != self._checksums[row]:
            raise UnreadableImageError(
                "damaged in the archive: length or checksum differ from its directory's"
            )
        return data


def open_zip(path: Path) -> ZipSource:
    """Open a zip archive of images; rows are sorted by id, the path in the archive.

    The layout is that of `arrange`, as in a folder of images.

    Raises
    ------
    InputError
        If the archive is not whole, encrypted, compressed in a way that cannot be read, or without images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        if why := refusal(error):
            raise InputError(f"{path} cannot be read: {why}") from error
        raise InputError(
            f"{path} is no whole zip archive: {error}; its directory lies at the end, so a copy that was cut "
            "off has none: copy it again"
        ) from error
    remarks = Remarks()
    tree = _tree(infos, path, remarks)
    refuse_own(tree, path)
    entries = sorted(arrange(tree, remarks), key=lambda entry: entry[0])
    check_class_folders([label for _, label, _, _ in entries], str(path), remarks)
    if not entries:
        left_out = "".join(f"; {remark.sentence}" for remark in remarks if not remark.is_litter)
        raise InputError(f"{path} holds no images among its {len(infos)} entries; {EXPECTED}{left_out}")
    for identifier, _, _, info in entries:
        if info.flag_bits & _IS_ENCRYPTED:
            raise InputError(f"{path} is encrypted ({identifier}); decrypt it and pack it without a password")
        if info.compress_type not in METHODS:
            kind = OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
            raise InputError(
                f"{path}: {identifier} is compressed with {kind}; pack it again stored or deflated (`zip -0`)"
            )
    return ZipSource(default_name(path.with_suffix("")), path, entries, remarks=tuple(remarks))


def _name(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry; UTF-8 that is not marked as such, as macOS packs it, is read as UTF-8."""
    if info.flag_bits & _IS_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _tree(infos: Sequence[zipfile.ZipInfo], path: Path, remarks: Remarks) -> Tree[zipfile.ZipInfo]:
    """Arrange the entries of an archive as the folders that they would be unpacked to."""
    tree = Tree[zipfile.ZipInfo]()
    hidden = set()
    for name, info in sorted(((_name(info), info) for info in infos), key=lambda pair: pair[0]):
        parts = PurePosixPath(name.replace("\\", "/").lstrip("/")).parts
        first = next((place for place, part in enumerate(parts, 1) if is_hidden(part)), None)
        if first is not None:
            hidden.add(parts[:first])
            continue
        folder = tree
        for part in parts if info.is_dir() else parts[:-1]:
            folder = folder.folders.setdefault(part, Tree())
        if parts and not info.is_dir():
            if parts[-1] in folder.files:
                raise InputError(f"{path} holds {name!r} twice; pack it again")
            folder.files[parts[-1]] = info
    for parts in sorted(hidden):
        remarks.add_hidden("/".join(parts))
    return tree
