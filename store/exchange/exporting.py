"""Export a cache's features as files that other programs read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.options import check_choice, choices
from toptune.store.exchange.export_formats import WRITERS, Export, Report, peak_bytes
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.names import FILE_SUFFIXES
from toptune.store.files.writing import check_writable, new_target

EXPORT_FORMATS = tuple(WRITERS)


def export_features(
    cache: StoredFeatures,
    out: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    names: Sequence[str] | None = None,
    split: str | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Write features with ids, labels and splits, block after block, so that memory stays small.

    Arrays keep their type on disk. What is written appears as `out` when it is whole; an interrupted export
    leaves nothing but, when it is killed, a temporary file beside `out` whose name begins with ``.tmp-``.

    Parameters
    ----------
    cache : FeatureCache or FeatureView
    out : path
        Made new: a folder with one ``<tap>.<pooling>.npy`` an array and ``rows.parquet`` (format
        ``npy``), or one file (``parquet``: columns id, label, split, and a fixed-size list an array;
        ``safetensors``: the arrays, with ids, labels and splits as JSON in the metadata, whose
        header readers accept up to 100 MB, a million rows or so).
    format : {"npy", "parquet", "safetensors"}, optional
        By default told by the ending of `out`, and ``npy`` for a name without one.
    names : sequence of str, optional
        Arrays; by default all of features.
    split : str, optional
        Only rows of this split.
    progress : callable, optional
        Called with ``(rows_done, rows)`` of all arrays together.

    Returns
    -------
    dict
        ``out``, ``format``, ``rows``, ``arrays``, ``failed`` (id to reason; their rows are NaN) and
        ``memory_bytes`` (the most that buffers held), as JSON values.

    Raises
    ------
    InputError
        If `out` exists, the format is unknown, or nothing matches.
    StoreError
        If units are missing (names them) or damaged, or `out` cannot be written.
    """
    target = Path(out).absolute()
    form = _format_of(out, format)
    if os.path.lexists(target):
        raise InputError(f"{target} exists; nothing is overwritten: give another --out", option="out")
    check_writable(target.parent, option="out")
    specs = [cache.array(name) for name in names] if names is not None else cache.arrays()
    if not specs:
        raise InputError(f"{cache.name} over {cache.dataset} has no features to export")
    rows = None if split is None else _rows_of(cache, split)
    for spec in specs:
        cache.blocks([spec.name], rows)  # This refuses missing units before anything is written.
    export = Export(
        cache=cache,
        specs=specs,
        rows=rows,
        failed_rows=_failed(cache, [spec.name for spec in specs], rows),
        progress=progress or (lambda _done, _rows: None),
    )
    with new_target(target, option="--out") as temporary:
        WRITERS[form](export, temporary)
    return {
        "out": str(target),
        "format": form,
        "rows": export.n_rows,
        "arrays": [spec.name for spec in specs],
        "failed": export.failed,
        "memory_bytes": peak_bytes(export, form),
    }


def _format_of(out: str | os.PathLike[str], given: str | None) -> str:
    """Return the format of an export; a file is never made where a folder is named, nor the reverse."""
    name, suffix = os.fspath(out), Path(out).suffix.lower()
    if given is not None:
        check_choice(given, EXPORT_FORMATS, option="format")
    form = given or {".parquet": "parquet", ".safetensors": "safetensors"}.get(suffix, "npy")
    fitting = f"give a folder (npy), or a file that ends in .parquet or .safetensors, in place of {name!r}"
    if form == "npy" and suffix in FILE_SUFFIXES and (given, suffix) != ("npy", ".npy"):
        raise InputError(f"format npy is a folder of arrays, no file {suffix}; {fitting}", option="out")
    if form != "npy" and (name.endswith(("/", os.sep)) or (suffix in FILE_SUFFIXES and suffix != f".{form}")):
        raise InputError(f"format {form} is a file whose name ends in .{form}; {fitting}", option="out")
    return form


def _rows_of(cache: StoredFeatures, split: str) -> npt.NDArray[np.intp]:
    rows = np.flatnonzero(np.array([name == split for name in cache.manifest.splits]))
    if not len(rows):
        there = sorted({name for name in cache.manifest.splits if name is not None})
        raise InputError(f"no row belongs to split {split!r}; {choices(split, there)}", option="split")
    return rows


def _failed(cache: StoredFeatures, names: Sequence[str], rows: npt.NDArray[np.intp] | None) -> dict[int, str]:
    failed = cache.failed_rows(names)
    if rows is None:
        return failed
    return {row: failed[row] for row in sorted(failed.keys() & set(rows.tolist()))}
