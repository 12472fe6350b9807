"""Files of features made elsewhere, into the store and out of it."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toptune.store import FeatureCache, FeatureStore, InputError, export_features, import_features
from toptune.store.matrix_files import as_text, open_arrays, read_column, read_table
from toptune.train import choose_arrays

TENSOR_SUFFIXES = (".pt", ".pth")


def import_files(
    files: Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    *,
    dataset: str,
    model: str,
    table: str | None = None,
    ids: str | None = None,
    labels: str | None = None,
    splits: str | None = None,
    arrays: Sequence[str] | None = None,
    format: str = "zarr",  # noqa: A002
    allow_failed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureCache:
    """Import matrices in files; see `toptune.store.import_features`.

    Parameters
    ----------
    files : sequence of path
        ``.npy``, ``.npz``, ``.h5``, ``.safetensors``, ``.parquet``, or tensors in ``.pt`` (read without
        running code). Arrays of two dimensions are features.
    store : path
        Made if it is not there.
    dataset, model : str
        Names under which they are found.
    table : path, optional
        CSV or Parquet with columns ``id``, ``label``, ``split`` (each optional), a line a row.
    ids, labels, splits : str, optional
        Name of an array in the files, or a file: text, one a line, ``.npy``, or a table of one column.
    arrays : sequence of str, optional
        Only these matrices; by default all.
    format, allow_failed, progress
        See `toptune.store.import_features`.

    Raises
    ------
    InputError
        If a file cannot be read or names are missing.
    """
    found: dict[str, Any] = {}
    for file in files:
        for name, values in _open(Path(file)).items():
            if name in found:
                raise InputError(f"two arrays are called {name!r}; rename one of the files or keys")
            found[name] = values
    columns: dict[str, Any] = {"id": None, "label": None, "split": None}
    if table is not None:
        given = read_table(Path(table))
        columns |= {name: given[name] for name in columns if name in given}
        if not any(columns.values()):
            raise InputError(f"{table} has columns {', '.join(given)}; id, label or split are needed")
    for column, source in (("id", ids), ("label", labels), ("split", splits)):
        if source is not None:
            columns[column] = as_text(found[source], source) if source in found else read_column(Path(source))
    matrices = {name: values for name, values in found.items() if len(values.shape) == 2}
    if arrays is not None:
        missing = [name for name in arrays if name not in matrices]
        if missing:
            raise InputError(
                f"no matrix is called {missing[0]!r}; there are: {', '.join(matrices) or 'none'}"
            )
        matrices = {name: matrices[name] for name in arrays}
    if not matrices:
        raise InputError(f"no array of rows x features in {', '.join(map(str, files))}")
    return import_features(
        FeatureStore.create(store),
        {name.replace("/", "."): matrix for name, matrix in matrices.items()},
        dataset=dataset,
        model=model,
        ids=columns["id"],
        labels=columns["label"],
        splits=columns["split"],
        format=format,
        allow_failed=allow_failed,
        progress=progress,
    )


def export_stored(
    store: str | os.PathLike[str],
    *,
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    layers: str | None = None,
    pooling: str | None = None,
    split: str | None = None,
    format: str = "npy",  # noqa: A002
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[str, Any]:
    """Export stored layers, chosen as for training; see `toptune.store.export_features`."""
    cache = FeatureStore.open(store).features(model, dataset)
    names = [spec.name for spec in choose_arrays(cache.arrays(), layers, pooling)]
    return export_features(cache, Path(out), format=format, names=names, split=split, progress=progress)


def _open(path: Path) -> dict[str, Any]:
    if path.suffix.lower() not in TENSOR_SUFFIXES:
        return open_arrays(path)
    import torch

    if not path.is_file():
        raise InputError(f"{path} is no file on this machine; check the path")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise InputError(
            f"{path} cannot be read without running code that it may contain: {error}"
        ) from error
    tensors = {path.stem: loaded} if isinstance(loaded, torch.Tensor) else loaded
    if not isinstance(tensors, Mapping):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}; a tensor or a dictionary of them is needed"
        )
    return {
        str(name): value.to(torch.float32).numpy() if value.dtype == torch.bfloat16 else value.numpy()
        for name, value in tensors.items()
        if isinstance(value, torch.Tensor)
    }
