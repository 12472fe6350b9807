"""Metrics of a run on rows whose labels are known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store import InputError, StoredFeatures
from toptune.train.metrics import compute_metrics
from toptune.train.run import Run


def score(
    run: Run, cache: StoredFeatures, rows: npt.NDArray[np.int64], labels: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """Metrics of a run on labelled rows of a cache; `labels` by row, by default those of the manifest.

    Raises
    ------
    InputError
        If a row's class is none of the run's.
    """
    named = cache.manifest.labels if labels is None else labels
    truth = [str(named[row]) for row in rows.tolist()]
    strange = sorted(set(truth) - set(run.classes))
    if strange:
        raise InputError(
            f"{len(strange)} classes of the rows to test are none that the run knows, for instance "
            f"{strange[0]!r}; train with rows of them or leave them out of the test split"
        )
    if not truth:
        return compute_metrics([], [], np.zeros((0, len(run.classes))), run.classes)
    names = [array.name for array in run.arrays]
    predicted, probabilities = run.predict_blocks(cache.blocks(names, rows))
    return compute_metrics(truth, [str(each) for each in predicted], probabilities, run.classes)
