"""`FolderListing`: a folder is listed once for all kinds of sources that may recognize its content."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toptune.errors import InputError

# Files and folders that systems add to folders and archives, and that look like images or classes. Names that
# begin with a dot are hidden as well.
HIDDEN = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information"),
    *("lost+found", "@eadir", "__pycache__"),
)
# Hidden names that tools write. Others may be somebody's images.
_LITTER = (
    *(".ds_store", ".git", ".gitattributes", ".gitignore", ".gitkeep", ".svn", ".hg", ".dvc", ".dvcignore"),
    *(
        ".ipynb_checkpoints",
        ".cache",
        ".idea",
        ".vscode",
        ".localized",
        ".directory",
        ".nomedia",
        ".thumbnails",
    ),
    *(".spotlight-v100", ".fseventsd", ".trashes", ".appledouble", ".huggingface", ".keep", ".locks"),
)
# Suffixes of images where no class folder says that a file is one; inside class folders every file counts.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dcm", ".dib", ".dicom", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe"),
    *(".jpeg", ".jpg", ".jpx"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
# The suffix of arrays of NumPy: images in a folder without any other image, and features beside some.
ARRAY_SUFFIX = ".npy"
# Suffixes of tables that may hold the labels of images beside them.
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".json", ".jsonl", ".ndjson", ".xlsx", ".xls", ".ods")
# Suffixes that say that a file is no image. In class folders such files are left out, and files with any
# other suffix are rows, because an image in a format that cannot be read must not be passed over.
OTHER_SUFFIXES = frozenset(
    (
        *TABLE_SUFFIXES,
        # Notes, annotations and what cameras and editors put beside an image.
        *(".txt", ".md", ".rst", ".rtf", ".log", ".pdf", ".doc", ".docx", ".ppt", ".pptx", ".odt", ".tex"),
        *(".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".html", ".htm", ".css", ".url", ".lnk"),
        *(".xmp", ".aae", ".geojson", ".kml", ".gpx", ".srt", ".vtt", ".tfw", ".jgw", ".pgw", ".prj", ".aux"),
        *(".shp", ".shx", ".dbf", ".md5", ".sha1", ".sha256", ".sum", ".names", ".label", ".labels"),
        # Arrays, features and models.
        *(".npy", ".npz", ".mat", ".h5", ".hdf5", ".arrow", ".feather", ".pkl", ".pickle", ".joblib"),
        *(".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".tfrecord", ".mdb", ".db", ".sqlite", ".zarr"),
        # Archives, films, sound and programs.
        *(
            ".zip",
            ".tar",
            ".gz",
            ".tgz",
            ".bz2",
            ".xz",
            ".zst",
            ".7z",
            ".rar",
            ".part",
            ".crdownload",
            ".bak",
        ),
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".mp3", ".m4a", ".wav"),
        *(".flac", ".ogg", ".py", ".pyc", ".ipynb", ".r", ".m", ".sh", ".bat", ".js", ".exe", ".lock"),
    )
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or is one that systems add."""
    return name.startswith(".") or name.lower() in HIDDEN


def is_litter(name: str) -> bool:
    """Return whether a hidden name is one that systems and tools write."""
    lower = name.lower()
    return lower.startswith(("._", ".trash")) or lower in (*HIDDEN, *_LITTER)


FILE, FOLDER, OTHER = "file", "folder", "other"


@dataclass(frozen=True)
class FolderListing:
    """Names of the files and folders in a folder, sorted, links followed, hidden ones left out.

    Attributes
    ----------
    folder : path
        The folder that was listed.
    files, folders : tuple of str
        Names of the files and of the folders in it.
    others : tuple of str
        Names of pipes, sockets and devices in it.
    """

    folder: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    others: tuple[str, ...] = ()

    @cached_property
    def file_names(self) -> frozenset[str]:
        """The names of the files, as a set for look-ups."""
        return frozenset(self.files)

    def with_suffix(self, suffix: str) -> list[Path]:
        """Return the files whose names end in `suffix`, in capitals or not."""
        return [self.folder / name for name in self.files if name.lower().endswith(suffix)]

    def inner(self, name: str) -> "FolderListing":
        """List a folder inside this folder; the listing is empty if there is no such folder."""
        place = self.folder / name
        return list_folder(place) if name in self.folders else FolderListing(place, (), ())


def list_folder(folder: Path) -> FolderListing:
    """List a folder without looking at each file.

    Raises
    ------
    InputError
        If the folder cannot be listed.
    """
    # `scandir` tells folders from files without a request for each entry. Requests are slow on network file
    # systems, and a folder may hold millions of images.
    found: dict[str, list[str]] = {kind: [] for kind in (FILE, FOLDER, OTHER)}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    found[kind_of(entry)].append(entry.name)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be listed: {error.strerror}") from error
    return FolderListing(folder, *(tuple(sorted(found[kind])) for kind in (FILE, FOLDER, OTHER)))


def kind_of(entry: "os.DirEntry[str]") -> str:
    """Say whether an entry of a folder, links followed, is a file, a folder or something else.

    A link that leads nowhere, in a circle or where nobody may look is a file: it is a row that cannot be
    read, because without the row nobody would notice the loss.
    """
    try:
        if entry.is_dir():
            return FOLDER
        if entry.is_file():
            return FILE
        entry.stat()
    except OSError:
        return FILE
    return OTHER
