"""`ReopenedSource`: another process opens images again by the path of DATA, and is not sent the images."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from toptune.errors import InputError
from toptune.extract.images.part import PartSource
from toptune.extract.images.source import ImageSource
from toptune.extract.sources.opening import open_source
from toptune.store.datasets.manifest import Manifest


class OpenedData(NamedTuple):
    """Arguments of `open_source` with which another process opens the same images.

    Attributes
    ----------
    data : str
        DATA, absolute if it is a path.
    split, path_column, label_column : str, optional
        As given to `open_source`.
    """

    data: str
    split: str | None = None
    path_column: str | None = None
    label_column: str | None = None


class ReopenedSource:
    """The source that `open_source` gives for DATA, opened when it is first used, once in each process.

    Pickled, the source is the name of DATA alone, however many images there are.

    Parameters
    ----------
    opened : OpenedData
        How the images were opened.
    digest : str
        `Manifest.pictures_digest` of the images in the process that opened them first.
    """

    def __init__(self, opened: OpenedData, digest: str) -> None:
        self._arguments = (opened, digest)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[OpenedData, str]]:
        return ReopenedSource, self._arguments

    @property
    def name(self) -> str:
        return _open(*self._arguments).name

    def manifest(self) -> Manifest:
        return _open(*self._arguments).manifest()

    def read(self, row: int) -> bytes:
        return _open(*self._arguments).read(row)


def to_be_reopened(source: ImageSource, opened: OpenedData) -> ImageSource:
    """Return a source, or a `PartSource` of one, in a form that is small when it is pickled."""
    if isinstance(source, PartSource):
        return source.over(to_be_reopened(source.whole, opened))
    return ReopenedSource(opened, source.manifest().pictures_digest)


@lru_cache(maxsize=1)
def _open(opened: OpenedData, digest: str) -> ImageSource:
    # The path may mean another folder on this machine: rows would then be those of other images.
    source = open_source(
        opened.data,
        split=opened.split,
        path_column=opened.path_column,
        label_column=opened.label_column,
    )
    if source.manifest().pictures_digest != digest:
        raise InputError(f"{opened.data} holds other images here ({source.manifest().n_rows} of them)")
    return source
