"""`arrange`: folders of images become rows, with classes and splits; for folders on disk and in archives."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Generic, TypeVar

from toptune.errors import InputError
from toptune.extract.images.folder_listing import (
    ARRAY_SUFFIX,
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    TABLE_SUFFIXES,
)
from toptune.extract.images.remarks import SHOWN, Remarks
from toptune.extract.images.source import SPLITS
from toptune.store.datasets.outside_text import outside_text
from toptune.store.files.descriptor import STORE_FILE
from toptune.text import counted

EXPECTED = "expected class/x.jpg, or train|val|test/class/x.jpg, or images"
ADVICE_ON_TABLE = (
    "where a table lists the images with their labels, give the table in place of the folder (.csv, .tsv, "
    ".jsonl or .parquet)"
)
# Files that only folders which toptune wrote have. RUN folders and reports of layers hold drawings, which
# would become classes.
MADE_BY_TOPTUNE = {STORE_FILE: "store", "run.json": "RUN folder", "layers.json": "layers report"}
_SPLITS_BELOW = "splits are folders above the classes (train/class): move them there"
_CLASSES_BELOW = (
    "where the inner folders are the classes, give one of the outer folders, or make them splits by the "
    "names train, val and test"
)
# Words for splits in names such as training_set, seg_train and train2017.
_WORD = re.compile(r"[a-z]+")

File = TypeVar("File")
Row = tuple[str, str | None, str | None, File]


@dataclass
class Tree(Generic[File]):
    """A folder with its files and folders, by name.

    Attributes
    ----------
    files : dict of str to File
        What a reader of the file needs.
    folders : dict of str to Tree
        Folders inside; links are followed.
    takes_arrays : bool
        Whether arrays of NumPy are images, because there are no others.
    """

    files: dict[str, File] = field(default_factory=dict)
    folders: dict[str, "Tree[File]"] = field(default_factory=dict)
    takes_arrays: bool = False

    def may_be_image(self, name: str) -> bool:
        """Return whether the name of a file in a class folder does not say that it is something else."""
        return may_be_image(name) or (self.takes_arrays and _is_array(name))

    def is_image_name(self, name: str) -> bool:
        """Return whether the name of a file says that it is an image."""
        return is_image_name(name) or (self.takes_arrays and _is_array(name))

    def with_arrays(self) -> "Tree[File]":
        """Return the tree in which arrays of NumPy are images, if its names are of them and of no image."""
        names = [parts[-1] for parts, _ in self.walk()]
        return self._taking_arrays() if not any(map(may_be_image, names)) else self

    def _taking_arrays(self) -> "Tree[File]":
        folders = {name: folder._taking_arrays() for name, folder in self.folders.items()}
        return Tree(self.files, folders, takes_arrays=True)

    def walk(self, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], File]]:
        """Yield every file below with the names of its path."""
        for name, file in self.files.items():
            yield (*above, name), file
        for name, folder in self.folders.items():
            yield from folder.walk((*above, name))


def made_by_toptune(names: Sequence[str] | frozenset[str] | dict[str, File]) -> str | None:
    """Say what toptune wrote a folder as, told by the names of its files; None for other folders."""
    return next((kind for name, kind in MADE_BY_TOPTUNE.items() if name in names), None)


def may_be_image(name: str) -> bool:
    """Return whether the name of a file in a class folder does not say that the file is something else."""
    return PurePath(name).suffix.lower() not in OTHER_SUFFIXES


def is_image_name(name: str) -> bool:
    """Return whether the name of a file says that it is an image."""
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def _is_array(name: str) -> bool:
    return PurePath(name).suffix.lower() == ARRAY_SUFFIX


def plain_text(name: str) -> str:
    """Return a file name as it stands in ids and messages: Unicode text in composed form, with its blanks."""
    return outside_text(name, keeps_blanks=True) or ""


def arrange(tree: Tree[File], remarks: Remarks) -> Iterator[Row[File]]:
    """Yield id, label, split and file of each image, and collect remarks on everything else.

    Folders called ``train``, ``val``, ``valid``, ``validation`` or ``test`` are splits if one of them holds
    folders, or if no other folder has images. The folders in them, or without splits the folders at the top,
    are the classes; a class may hold further folders. Without classes, files with an image's suffix are
    images without labels. One folder around all others is passed over, and is not in the ids.

    Parameters
    ----------
    tree : Tree
        All files that are not hidden.
    remarks : Remarks
        Takes what is left out, and folders that look like something else than they are taken for.
    """
    tree = without_own(tree, remarks).with_arrays()
    while (inner := _wrapped(tree)) is not None:
        remarks.add(
            "folder", "around all others, passed over", plain_text(inner), code="TT005", is_left_out=False,
            advice="its folders are read as if it had been given",
        )  # fmt: skip
        _leave_files(tree, (), remarks, beside="folders")
        _leave_empty(tree, (), remarks)
        tree = tree.folders[inner]
    splits = [name for name in tree.folders if name.lower() in SPLITS]
    # Annotations beside flat splits do not make the splits classes.
    others = [name for name, folder in tree.folders.items() if name not in splits and _has_images(folder)]
    if not splits or (others and not any(tree.folders[name].folders for name in splits)):
        yield from _classes(tree, (), None, remarks)
        return
    for name, folder in tree.folders.items():
        if name not in splits:
            n_images = sum(folder.may_be_image(parts[-1]) for parts, _ in folder.walk())
            remarks.add(
                "folder", "beside the splits", f"{plain_text(name)}: {counted(n_images, 'image')}",
                code="TT004", advice="only folders called train, val or test are splits",
            )  # fmt: skip
    _leave_files(tree, (), remarks, beside="splits")
    inner = _common_wrapping([tree.folders[name] for name in splits])
    for name in splits:
        folder = tree.folders[name]
        parts: tuple[str, ...] = (name,)
        if inner is not None:
            remarks.add("folder", "around the classes of a split, passed over", f"{name}/{plain_text(inner)}",
                        code="TT005", is_left_out=False)  # fmt: skip
            _leave_files(folder, parts, remarks, beside="folders")
            _leave_empty(folder, parts, remarks)
            folder, parts = folder.folders[inner], (name, inner)
        yield from _classes(folder, parts, SPLITS[name.lower()], remarks)
    _remark_on_untrained(tree, splits, remarks)


def refuse_own(tree: Tree[File], where: Path) -> None:
    """Raise an `InputError` if what was given as images is a store or a RUN folder."""
    if (kind := made_by_toptune(tree.files)) is not None:
        raise InputError(
            f"{where} is a {kind} of toptune and no folder of images; give the folder of the images, and "
            "keep stores and runs out of it"
        )


def _remark_on_untrained(tree: Tree[File], splits: Sequence[str], remarks: Remarks) -> None:
    """Remark on classes of other splits that no folder of training images has."""
    of_split = {
        name: [each for each, folder in tree.folders[name].folders.items() if _has_images(folder)]
        for name in splits
    }
    trained = {
        outside_text(each) for name in splits if SPLITS[name.lower()] == "train" for each in of_split[name]
    }
    for name in splits:
        for each in of_split[name]:
            if trained and outside_text(each) not in trained:
                remarks.add(
                    "folder",
                    "taken for classes that no training image has",
                    plain_text(f"{name}/{each}"),
                    code="TT006",
                    advice="where such a folder is no class, move its images up, which makes them images "
                    "without labels",
                    is_left_out=False,
                )


def without_own(tree: Tree[File], remarks: Remarks, above: str = "") -> Tree[File]:
    """Return a tree without the stores and RUN folders in it, with a remark on each."""
    folders = {}
    for name, folder in tree.folders.items():
        kind = made_by_toptune(folder.files)
        if kind is None:
            folders[name] = without_own(folder, remarks, f"{above}{name}/")
        else:
            remarks.add("folder", "that toptune made", f"{above}{plain_text(name)}: a {kind}",
                        code="TT007", advice="keep stores and runs beside DATA, not in it")  # fmt: skip
    return Tree(tree.files, folders)


def _wrapped(tree: Tree[File]) -> str | None:
    """Return the name of a folder that holds all other folders, as an archive of a folder has."""
    folders = [name for name in tree.folders if _has_images(tree.folders[name])]
    if len(folders) != 1 or folders[0].lower() in SPLITS or any(map(tree.is_image_name, tree.files)):
        return None
    inner = tree.folders[folders[0]]
    # Folders without images do not make a class folder a wrapping.
    has_folders = any(_has_images(each) for each in inner.folders.values())
    return folders[0] if has_folders and not any(map(inner.is_image_name, inner.files)) else None


def _common_wrapping(splits: Sequence[Tree[File]]) -> str | None:
    """Return the name of the one folder that stands around the classes of every split."""
    names = {_wrapped(split) for split in splits}
    return names.pop() if len(names) == 1 and len(splits) > 1 else None


def _has_images(tree: Tree[File]) -> bool:
    return any(tree.may_be_image(parts[-1]) for parts, _ in tree.walk())


def _classes(
    tree: Tree[File], above: tuple[str, ...], split: str | None, remarks: Remarks
) -> Iterator[Row[File]]:
    classes = {name: folder for name, folder in tree.folders.items() if _has_images(folder)}
    _leave_empty(tree, above, remarks)
    _remark_on_levels(classes, above, remarks)
    for name, folder in classes.items():
        label = plain_text(name)
        for parts, file in folder.walk((*above, name)):
            if folder.may_be_image(parts[-1]):
                yield _id(parts), label, split, file
            else:
                remarks.add_other_file(_id(parts))
    if classes:
        _leave_files(tree, above, remarks, beside="class folders")
        return
    for name, file in tree.files.items():
        if tree.is_image_name(name):
            yield _id((*above, name)), None, split, file
    _leave_files(tree, above, remarks, beside="images", takes_images=True)


def _leave_empty(tree: Tree[File], above: tuple[str, ...], remarks: Remarks) -> None:
    """Remark on folders in which no file may be an image."""
    for name, folder in tree.folders.items():
        if not _has_images(folder):
            files = ["/".join(parts) for parts, _ in folder.walk()]
            held = f": {counted(len(files), 'file')} such as {plain_text(files[0])}" if files else ""
            remarks.add("folder", "without images", f"{_id((*above, name))}{held}", code="TT004")


def _leave_files(
    tree: Tree[File], above: tuple[str, ...], remarks: Remarks, *, beside: str, takes_images: bool = False
) -> None:
    """Remark on files at a level where only folders count, or only images."""
    for name in tree.files:
        parts = (*above, name)
        if tree.is_image_name(name):
            if not takes_images:
                remarks.add("image", f"beside the {beside}", _id(parts),
                            code="TT003", advice="move them into a folder to take them")  # fmt: skip
        elif PurePath(name).suffix.lower() in TABLE_SUFFIXES:
            remarks.add(
                "table", "beside the images, not read", _id(parts), code="TT008", advice=ADVICE_ON_TABLE
            )
        else:
            remarks.add_other_file(_id(parts))


def _remark_on_levels(classes: dict[str, Tree[File]], above: tuple[str, ...], remarks: Remarks) -> None:
    """Remark on classes that look like splits, or like one level more than there should be."""
    place = "".join(f"{part}/" for part in above)
    if len(classes) == 1 and not above:
        ((name, only),) = classes.items()
        deeper = [f"{name}/{each}" for each, folder in only.folders.items() if _has_images(folder)]
        remarks.add(
            "folder",
            f"taken for the only class, with the folders {_first(deeper)} in it"
            if deeper
            else "taken for the only class",
            plain_text(name),
            code="TT006",
            advice="where the folders in it are the classes, give it in place of the folder around it"
            if deeper
            else "where it is none, give it in place of the folder around it: its images have no labels then",
            is_left_out=False,
        )
        return
    meant = {name: split for name in classes if (split := _split_in(name)) is not None}
    if "train" in meant.values() and len({*meant.values()}) > 1:
        renamed = ", ".join(f"{plain_text(name)} to {split}" for name, split in meant.items())
        remarks.add(
            "folder",
            "taken for classes, by their names splits",
            _first([place + name for name in meant]),
            code="TT006",
            count=len(meant),
            advice=f"where they are splits, rename {renamed}",
            is_left_out=False,
        )
        return
    inner = [
        {name for name, each in folder.folders.items() if _has_images(each)} for folder in classes.values()
    ]
    common, every = set.intersection(*inner) if inner else set(), set[str]().union(*inner)
    if len(classes) > 1 and len(common) > 1 and 2 * len(common) >= len(every):
        remarks.add(
            "folder",
            f"taken for classes, which all hold folders of the same names: {_first(common)}",
            _first([place + name for name in classes]),
            code="TT006",
            count=len(classes),
            advice=_SPLITS_BELOW if all(name.lower() in SPLITS for name in common) else _CLASSES_BELOW,
            is_left_out=False,
        )


def _first(names: Collection[str]) -> str:
    """Join the first few names."""
    return ", ".join(sorted(map(plain_text, names))[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _split_in(name: str) -> str | None:
    """Return the split that a word in the name of a folder says."""
    found = {SPLITS[word] for word in _WORD.findall(name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def _id(parts: Sequence[str]) -> str:
    return plain_text("/".join(parts))
