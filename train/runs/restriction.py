"""`restricted_run`: a run that needs only the stored arrays that its head uses."""

from dataclasses import replace

import numpy as np

from toptune.store.files.json_values import json_ready
from toptune.text import counted, named
from toptune.train.runs.record import RunRecord, Savings
from toptune.train.runs.run import Run
from toptune.train.runs.sources import RunArray


def restricted_run(run: Run) -> Run:
    """Drop the arrays that a fitted head does not use, and say in ``run.json`` what that saves.

    A head that uses all columns keeps all arrays. So does a head behind preprocessing that mixes the layers
    (``pca``, ``whiten``), where only the output columns that the head does not use are dropped.

    Parameters
    ----------
    run : Run
        A run that was trained on all of its arrays.

    Returns
    -------
    Run
        A run of equal predictions, whose record describes the preprocessing that is left and the savings.
    """
    trained_on, preprocessing, head = run.arrays, run.preprocessing, run.head
    n_columns = preprocessing.n_outputs if head.columns is None else len(head.columns)
    n_columns_trained_on = preprocessing.n_outputs
    used = np.ones(len(trained_on), dtype=bool)
    if head.columns is not None:
        used = preprocessing.used_layers(head.columns)
        # Both sides drop the same columns, so that predictions stay equal.
        preprocessing, head = preprocessing.restricted(head.columns), head.on_columns()
    positions = np.flatnonzero(used).tolist()
    arrays = [trained_on[position] for position in positions]
    record = replace(
        _without_unused(run.record, arrays),
        arrays=tuple(arrays),
        preprocessing=json_ready(preprocessing.to_dict()),
        saves=Savings(
            n_arrays=len(arrays),
            n_arrays_trained_on=len(trained_on),
            n_columns=n_columns,
            n_columns_trained_on=n_columns_trained_on,
            bytes_per_picture=_bytes(arrays),
            bytes_per_picture_trained_on=_bytes(trained_on),
        ),
    )
    return replace(run, record=record, preprocessing=preprocessing, head=head)


def _without_unused(record: RunRecord, arrays: list[RunArray]) -> RunRecord:
    """Drop backbones of several that compute none of the arrays, and say so: predictions do without them."""
    if record.sources is None:
        return record
    needed = tuple(source for source in record.sources if source.of(arrays))
    unused = [source.model for source in record.sources if source not in needed]
    if not unused:
        return record
    note = (
        f"the head uses no layer of {named(unused)}: predictions need {counted(len(needed), 'network')} of "
        f"the {len(record.sources)} that it was trained on [TT413]"
    )
    return replace(record, sources=needed, warnings=(*record.warnings, note))


def _bytes(arrays: list[RunArray]) -> int:
    """Count the bytes that the arrays of one image take in the store."""
    return sum(array.dim * np.dtype(array.dtype).itemsize for array in arrays)
