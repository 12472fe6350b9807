"""Images in WebDataset tar shards are read at their offsets, without unpacking."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.labels import join_labels
from toptune.extract.images.open_files import KnownFile, OpenFiles, look_at
from toptune.extract.images.remarks import SHOWN, Remark, Remarks
from toptune.extract.images.source import MAX_FILE_BYTES, SPLITS, default_name
from toptune.extract.sources.archives.tar_samples import (
    IMAGE_EXTENSIONS,
    MAX_LABEL_CHARACTERS,
    Sample,
    shard_samples,
)
from toptune.store.datasets.manifest import LABELS_COLUMN, Manifest
from toptune.store.datasets.outside_text import escaped, outside_text

# A name such as "trainable" or "tests" is no split: no further letter may follow.
_SPLIT = re.compile(r"(training|train|validation|valid|val|testing|test)(?![a-z])", re.IGNORECASE)


class TarSource:
    """Images in tar files, found through an index of offsets that takes a few bytes an image.

    Parameters
    ----------
    name : str
        Name of the data set.
    manifest : Manifest
        Ids, labels, splits and sizes of the images.
    files : sequence of KnownFile
        The shards.
    shards, offsets : array (n,) of int
        Number of the shard that holds each image, and the offset of the image's bytes in the shard.
    remarks : sequence of Remark
        What of the shards is no row.
    """

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        files: Sequence[KnownFile],
        shards: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        *,
        remarks: Sequence[Remark] = (),
    ) -> None:
        self.name = name
        self.remarks = tuple(remarks)
        self._manifest = manifest
        self._files = OpenFiles(files)
        self._shards, self._offsets, self._sizes = shards, offsets, manifest.sizes

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        # A header may say any size: the bytes are allocated before they are read.
        n_bytes = int(self._sizes[row])
        if n_bytes > MAX_FILE_BYTES:
            raise UnreadableImageError(f"the file is larger than {MAX_FILE_BYTES} bytes; is it an image?")
        return self._files.read(int(self._shards[row]), int(self._offsets[row]), n_bytes)


def open_shards(paths: Sequence[Path], *, folder: Path | None = None) -> TarSource:
    """Open WebDataset shards; rows are in the order of the shards' names, then in the order within a shard.

    Members with the same path up to the first dot of the file's name are one sample. The image of a sample is
    told by the extension. The label is in ``.cls``, in the field ``label`` or ``labels`` of ``.json``, or in
    ``.txt`` (if no image's text is longer than a label). Ids are the name of the shard and the key of the
    sample. A shard whose name starts with ``train``, ``val`` or ``test`` belongs to that split.

    Parameters
    ----------
    paths : sequence of path
        The shards.
    folder : path, optional
        The folder that was given as DATA. Without a folder the data set is called after the only shard, or
        after the folder that holds all shards.

    Raises
    ------
    InputError
        If a shard cannot be read or is cut off, damaged or compressed, or there are no images.
    """
    paths = sorted(paths)
    root = folder or Path(os.path.commonpath([path.parent for path in paths]))
    names = [escaped(path.relative_to(root).with_suffix("").as_posix()) for path in paths]
    files = [look_at(path) for path in paths]
    samples: list[Sample] = []
    shards: list[int] = []
    remarks = Remarks()
    for number, path in enumerate(paths):
        _refuse_compressed(path)
        found = list(shard_samples(path, remarks))
        if not found:
            remarks.add("shard", "without images", path.name, code="TT016")
        samples += found
        shards += [number] * len(found)
    if not samples:
        raise InputError(
            f"{_named(paths)} hold no images; an image is told by its extension: "
            f"{', '.join(sorted(IMAGE_EXTENSIONS))}"
            + "".join(f"; {remark.sentence}" for remark in remarks if not remark.is_litter)
        )
    labels, extra = _label_columns(samples, _named(paths), remarks)
    splits = [_split_of(shard) for shard in names]
    manifest = Manifest.from_columns(
        ids=[_id(names[shard], sample.key) for shard, sample in zip(shards, samples, strict=True)],
        labels=labels,
        splits=[splits[shard] for shard in shards],
        sizes=[sample.bytes for sample in samples],
        modified_ns=[files[shard].modified_ns for shard in shards],
        extra=extra,
    )
    return TarSource(
        default_name(folder or (paths[0].with_suffix("") if len(paths) == 1 else root)),
        manifest,
        files,
        np.array(shards, dtype=np.int32),
        np.array([sample.offset for sample in samples], dtype=np.int64),
        remarks=tuple(remarks),
    )


def _label_columns(
    samples: Sequence[Sample], where: str, remarks: Remarks
) -> tuple[list[str | None], dict[str, list[str | None]]]:
    captions = [sample.caption for sample in samples if sample.caption]
    are_labels = all(len(text) <= MAX_LABEL_CHARACTERS and "\n" not in text for text in captions)
    # WebDataset has no rule for `.txt`. One caption among the texts shows that none of them is a label.
    if not are_labels:
        remarks.add("text", "in members .txt, too long for labels", None, code="TT017", count=len(captions))
    names = [
        [sample.caption] if are_labels and sample.caption and sample.names is None else sample.names
        for sample in samples
    ]
    if any(sample.has_list for sample in samples):
        labels, joined = join_labels(names, where)
        return labels, {LABELS_COLUMN: joined}
    labels = [each[0] if each else None for each in names]
    if all(label is None for label in labels) and any("/" in sample.key for sample in samples):
        folders = sorted({sample.key.rpartition("/")[0] for sample in samples} - {""})
        remarks.add(
            "folder",
            "in shards without labels, no classes",
            ", ".join(map(escaped, folders[:SHOWN])),
            code="TT017",
            count=len(folders),
            is_left_out=False,
            advice="where they are the classes, unpack the shards, or write a member .cls beside each image",
        )
    return labels, {}


def _split_of(shard: str) -> str | None:
    found = _SPLIT.match(shard)
    return SPLITS[found[1].lower()] if found else None


def _id(shard: str, key: str) -> str:
    return outside_text(f"{shard}/{key}", keeps_blanks=True) or ""


def _named(paths: Sequence[Path]) -> str:
    return f"shard {paths[0]}" if len(paths) == 1 else f"{len(paths)} shards from {paths[0]}"


def _refuse_compressed(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError as error:
        raise InputError(f"shard {path} cannot be read: {error.strerror}") from error
    refuse_compressed(path, head)


# First bytes of compressed files, the name of the method, and the program that unpacks it.
COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


def refuse_compressed(path: Path, head: bytes) -> None:
    """Raise an `InputError` if the first bytes of a file are those of a compressed one."""
    for magic, (kind, program) in COMPRESSIONS.items():
        if head.startswith(magic):
            raise InputError(
                f"{path} is compressed with {kind}, so that no image in it can be read at its offset; "
                f"unpack it with `{program}` and give the .tar "
                "(images are compressed already, it grows little)"
            )
