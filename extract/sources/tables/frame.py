"""A table in memory lists images by their paths: a frame of pandas or polars, or a table of Arrow."""

import re
from pathlib import Path

import pyarrow as pa

from toptune.errors import InputError
from toptune.extract.images.source import ArrowTable, FileSource
from toptune.extract.sources.tables.manifest_file import source_of_table
from toptune.store.datasets.outside_tables import OutsideTable
from toptune.store.datasets.outside_text import column_names

# A frame of pandas whose rows are not numbered from 0 brings its index along as a column.
_INDEX = re.compile(r"__index_level_\d+__")


def open_frame(
    frame: ArrowTable, *, path_column: str | None = None, label_column: str | None = None
) -> FileSource:
    """Open the images that a table in memory lists; columns are those of a manifest, see `open_manifest`.

    Paths are absolute, or relative to the folder in which the program runs. The data set is called after the
    folder in which all images lie.

    Parameters
    ----------
    frame : pandas.DataFrame, pyarrow.Table or any other table that Arrow reads
        Columns ``path``, and where present ``label``, ``split`` and ``id``; others are kept.
    path_column, label_column : str, optional
        Columns of the paths and of the labels; by default told by their names.

    Raises
    ------
    InputError
        If a column has values of several types, two columns have one name, or files are missing.

    Examples
    --------
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> Path("photos").mkdir()
    >>> Image.new("RGB", (8, 8)).save("photos/a.png")
    >>> source = open_frame(pa.table({"path": ["photos/a.png"], "label": ["cat"]}))
    >>> source.name, source.manifest().labels
    ('photos', ['cat'])
    """
    what = f"the {type(frame).__name__}"
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"{what} cannot be read: {str(error).splitlines()[0]}; give each column values of one type"
        ) from error
    names = column_names(table.column_names, what)
    columns = {
        name: table.column(place)
        for place, name in enumerate(names)
        if name is not None and not _INDEX.fullmatch(name)
    }
    return source_of_table(
        OutsideTable(columns, table.num_rows, n_unnamed=names.count(None)),
        what,
        Path.cwd() / "frame",
        name=None,
        path_column=path_column,
        label_column=label_column,
    )
