"""`restricted_run`: a run that needs only the stored arrays that its head uses."""

from dataclasses import replace

import numpy as np

from toptune.store.files.json_values import json_ready
from toptune.train.runs.record import RunArray, Savings
from toptune.train.runs.run import Run


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
        run.record,
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


def _bytes(arrays: list[RunArray]) -> int:
    """Count the bytes that the arrays of one image take in the store."""
    return sum(array.dim * np.dtype(array.dtype).itemsize for array in arrays)
