"""Matrices of features in files are imported into a store, and stored layers are exported."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.images.remarks import Remarks, say_remarks
from toptune.extract.images.source import split_names
from toptune.extract.sources.tables.manifest_columns import LABEL_NAMES, first_named
from toptune.options import choices, options_of
from toptune.store.arrays.stored_layers import choose_arrays
from toptune.store.datasets.outside_text import outside_column, sole_ids
from toptune.store.exchange.exporting import export_features
from toptune.store.exchange.importing import import_features
from toptune.store.exchange.matrix_files import Matrix, open_arrays
from toptune.store.exchange.parquet_arrays import all_columns
from toptune.store.exchange.text_columns import as_values, read_column, read_table
from toptune.store.exchange.unpacked import check_unpacked
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.names import check_name, plain_model_name

TENSOR_SUFFIXES = (".pt", ".pth")


COLUMNS = ("id", "label", "split")


class ImportArguments(TypedDict, total=False):
    """The keywords of `ImportOptions`."""

    table: str | None
    ids: str | None
    labels: str | None
    splits: str | None
    arrays: Sequence[str] | None
    layers: Sequence[str] | None
    format: str
    allow_failed: bool


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How files are imported: which arrays are features, what rows are called, and how features are stored.

    Attributes
    ----------
    table : path, optional
        CSV or Parquet file with columns ``id``, ``label`` and ``split`` (each optional). Rows are matched by
        id where the files or `ids` have ids, too; otherwise the lines are the rows, in their order.
    ids, labels, splits : str, optional
        Name of an array in the files, or a file: text with one value a line, ``.npy``, or a table of one
        column. For what neither these options nor `table` tell, text called ``id``, ``label`` and ``split``
        in the files is used.
    arrays : sequence of str, optional
        Names of the matrices to import; by default all.
    layers : sequence of str, optional
        Names of the layers of the matrices, in their order; by default the names of the arrays, with ``/``
        written as ``.``.
    format : {"zarr", "hdf5"}
        Format of the cache.
    allow_failed : bool
        Store rows with NaN as failed rows, in place of refusing them.
    """

    table: str | None = None
    ids: str | None = None
    labels: str | None = None
    splits: str | None = None
    arrays: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    format: str = "zarr"
    allow_failed: bool = False


def import_files(
    files: Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    *,
    dataset: str,
    model: str,
    progress: Callable[[int, int], None] | None = None,
    **arguments: Unpack[ImportArguments],
) -> FeatureCache:
    """Import matrices in files; see `toptune.store.import_features`.

    Parameters
    ----------
    files : sequence of path
        ``.npy``, ``.npz`` (loaded whole, up to the memory limit), ``.h5``, ``.safetensors``, ``.parquet``,
        or tensors in ``.pt`` (read without running code). Arrays of two dimensions are features.
    store : path
        Folder of the store, which is made if it does not exist.
    dataset, model : str
        Names under which the features are found in the store.
    progress : callable (done, total), optional
        Called after each unit.
    **arguments
        The fields of `ImportOptions`.

    Returns
    -------
    FeatureCache
        The features in the store.

    Raises
    ------
    InputError
        If a file cannot be read or names are missing.
    ConflictError
        If the store holds something else under these names.
    """
    options = options_of(ImportOptions, arguments, call="import_files")
    # A name that cannot be used is refused before a store is made for the name.
    check_name(dataset, what="data set")
    plain_model_name(model)
    found: dict[str, Matrix] = {}
    held_bytes, remarks = 0, Remarks()
    for file in files:
        opened = _open(Path(file), held_bytes, remarks)
        # Only .npz is loaded whole; several of them share one limit.
        if Path(file).suffix.lower() == ".npz":
            held_bytes += sum(each.nbytes for each in opened.values() if isinstance(each, np.ndarray))
        for name, values in opened.items():
            if name in found:
                raise InputError(f"two arrays are called {name!r}; rename one of the files or keys")
            found[name] = values
    chosen = _matrices(found, options.arrays, files)
    matrices = _named(chosen, options.layers)
    given = {"id": options.ids, "label": options.labels, "split": options.splits}
    columns, used = _columns(found, options.table, given, remarks)
    for name in found.keys() - chosen.keys() - used:
        remarks.add(
            "array", "neither features nor named by an option", f"{name} {tuple(found[name].shape)}",
            code="TT021",
            advice="--ids, --labels and --splits take arrays by name, --arrays takes matrices",
        )  # fmt: skip
    say_remarks(remarks, dataset)
    return import_features(
        FeatureStore.create(store),
        matrices,
        dataset=dataset,
        model=model,
        ids=columns["id"],
        labels=columns["label"],
        splits=columns["split"],
        format=options.format,
        allow_failed=options.allow_failed,
        progress=progress,
    )


def _matrices(
    found: Mapping[str, Matrix], arrays: Sequence[str] | None, files: Sequence[str | os.PathLike[str]]
) -> dict[str, Matrix]:
    """Choose the matrices to import: all arrays of two dimensions, or the named ones."""
    matrices = {name: values for name, values in found.items() if len(values.shape) == 2}
    for name in arrays or ():
        if name not in matrices:
            raise InputError(f"no matrix is called {name!r}; {choices(name, matrices)}", option="arrays")
    if not matrices:
        shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in found.items()) or "no arrays"
        raise InputError(f"no array of rows x features in {', '.join(map(str, files))}, which hold {shapes}")
    return matrices if arrays is None else {name: matrices[name] for name in arrays}


def _named(matrices: Mapping[str, Matrix], layers: Sequence[str] | None) -> dict[str, Matrix]:
    """Give each matrix the name of its layer."""
    # HDF5 writes ``/`` between a group and its arrays, where the names of layers have a dot.
    names = [name.replace("/", ".") for name in matrices] if layers is None else list(layers)
    if len(names) != len(matrices):
        raise InputError(
            f"{len(names)} names of layers for the matrices {', '.join(matrices)}; give one each"
        )
    if len(set(names)) < len(names):
        raise InputError(f"the matrices {', '.join(matrices)} need different names; give them with --layers")
    return dict(zip(names, matrices.values(), strict=True))


def _columns(
    found: Mapping[str, Matrix], table: str | None, sources: Mapping[str, str | None], remarks: Remarks
) -> tuple[dict[str, Any], set[str]]:
    """Read ids, labels and splits; return them, and the names of the arrays that were used for them.

    What an option names goes before the table, and the table before arrays of these names in the files.
    """
    own = {name: found[name] for name in COLUMNS if name in found and len(found[name].shape) == 1}
    used = {source for source in sources.values() if source is not None and source in found}
    columns: dict[str, Any] = dict.fromkeys(COLUMNS)
    for name, source in sources.items():
        if source is not None:
            values = as_values(found[source], source) if source in found else read_column(Path(source))
            columns[name] = _texts(name, values)
    if table is not None:
        given = _table_columns(table, remarks)
        if columns["id"] is None and "id" in own:
            columns["id"] = _texts("id", as_values(own["id"], "id"))
            used.add("id")
        if columns["id"] is not None and "id" in given:
            given = _matched(given, columns["id"], table, remarks)
        columns |= {name: given[name] for name in COLUMNS if columns[name] is None and name in given}
    for name, array in own.items():
        if columns[name] is None:
            columns[name] = _texts(name, as_values(array, name))
            used.add(name)
    known = {name: values if values and any(values) else None for name, values in columns.items()}
    # A row of an unknown split would be left out silently.
    splits = known["split"]
    return known | {"split": None if splits is None else split_names(splits, "the import")}, used


def _texts(name: str, values: Sequence[object]) -> list[str | None]:
    texts = outside_column(values, keeps_blanks=name == "id")
    if name == "id":
        sole_ids(texts, values)
    return texts


def _matched(
    table: Mapping[str, list[str | None]], ids: Sequence[str | None], where: str, remarks: Remarks
) -> dict[str, list[str | None]]:
    """Put the rows of a table in the order of the ids that the features have.

    Raises
    ------
    InputError
        If an id stands twice in the table, or no id of the table is one of the features.
    """
    rows = {name: row for row, name in enumerate(table["id"]) if name is not None}
    if len(rows) < sum(name is not None for name in table["id"]):
        raise InputError(f"{where} has an id twice; the features are matched by id: write each once")
    if not rows.keys() & {*ids}:
        raise InputError(
            f"none of the {len(rows)} ids of {where} is an id of the features, for instance "
            f"{next(iter(rows), None)!r} against {ids[0]!r}; correct them, or leave the column id out of the "
            "table, whose lines are then those of the features"
        )
    of_features = {*ids}
    for name in rows:
        if name not in of_features:
            remarks.add("row", f"of {where} with ids that no features have", name, code="TT021")
    for name in map(str, ids):
        if name not in rows:
            remarks.add(
                "id", f"of the features without a row in {where}", name, code="TT021", is_left_out=False
            )
    order = [rows.get(str(name)) for name in ids]
    return {
        column: [None if row is None else values[row] for row in order]
        for column, values in table.items()
        if column != "id"
    }


def _table_columns(table: str, remarks: Remarks) -> dict[str, list[str | None]]:
    """Read ids, labels and splits from a table, with a remark where another column is taken or left out."""
    given = read_table(Path(table))
    wanted = {"id": ("id",), "label": LABEL_NAMES, "split": ("split",)}
    taken = {own: name for own, choices in wanted.items() if (name := first_named(list(given), choices))}
    if not taken:
        raise InputError(f"{table} has columns {', '.join(given)}; id, label or split are needed")
    for own, name in taken.items():
        if own != name:
            remarks.add("column", f"of {table}, taken for the {own}", name, code="TT010", is_left_out=False)
    for name in [name for name in given if name not in taken.values()]:
        remarks.add("column", f"of {table}, none of {', '.join(COLUMNS)}", name, code="TT011")
    return {own: _texts(own, given[name]) for own, name in taken.items()}


def export_stored(
    store: str | os.PathLike[str],
    *,
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    layers: str | None = None,
    pooling: str | None = None,
    split: str | None = None,
    format: str | None = None,  # noqa: A002
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[str, Any]:
    """Export stored layers, chosen as for training; see `toptune.store.export_features`."""
    cache = FeatureStore.open(store).features(model, dataset)
    names = [spec.name for spec in choose_arrays(cache.arrays(), layers, pooling)]
    return export_features(cache, out, format=format, names=names, split=split, progress=progress)


def _open(path: Path, held_bytes: int, remarks: Remarks) -> dict[str, Matrix]:
    """Open the arrays of a file, by name."""
    if path.suffix.lower() not in TENSOR_SUFFIXES:
        opened = open_arrays(path, held_bytes=held_bytes)
        if path.suffix.lower() == ".parquet":
            for name in [name for name in all_columns(path) if name not in opened]:
                remarks.add(
                    "column", f"of {path.name}, neither lists of numbers nor text", name, code="TT011"
                )
        return opened
    if not path.is_file():
        raise InputError(f"{path} is no file on this machine; check the path")
    import torch

    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                check_unpacked(path, "the archive", sum(each.file_size for each in archive.infolist()))
        # Files of torch before 1.6 are no zip archives, and cannot be mapped into memory.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except InputError:
        raise
    except Exception as error:  # torch raises errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read without running code that it may contain: {reason}; save a "
            "dictionary of tensors"
        ) from error
    values = {path.stem: loaded} if isinstance(loaded, torch.Tensor) else loaded
    if not isinstance(values, Mapping):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}; a tensor or a dictionary of them is needed"
        )
    found = {str(name): _as_array(value, f"{path}: {name}") for name, value in values.items()}
    for name, value in values.items():
        if found[str(name)] is None:
            remarks.add(
                "value",
                f"of {path.name}, no tensor and no list of names",
                f"{name}: {type(value).__name__}",
                code="TT021",
            )
    for name, array in found.items():
        # An expanded tensor is larger in memory than in the file.
        if array is not None:
            check_unpacked(path, name, array.size * array.itemsize)
    return {name: array for name, array in found.items() if array is not None}


def _as_array(value: object, what: str) -> npt.NDArray[Any] | None:
    """Return a tensor, or a list of names, as an array; None for anything else."""
    import torch

    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return np.array(value, dtype=object)
    if not isinstance(value, torch.Tensor):
        return None
    try:
        tensor = value.detach()
        return (tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{what} is no dense tensor: {error}; save it as one") from error
