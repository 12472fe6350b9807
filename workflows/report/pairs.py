"""Frozen heads beside fine-tuning on the same data set, backbone, training size and seed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.workflows.report.runs import ReportedRun
from toptune.workflows.report.settings import Setting


@dataclass(frozen=True)
class Comparison:
    """A method compared with a fine-tuning, over n pairs of runs.

    Attributes
    ----------
    method, finetuning : str
    speedups : ndarray of float64, shape (n,)
        Seconds of fine-tuning over seconds of training the head.
    speedups_with_extraction : ndarray of float64
        Speed-ups that count the extraction of the head's features too, where it was measured.
    differences : ndarray of float64
        Accuracy of the head minus accuracy of the fine-tuning, for pairs with test rows.
    """

    method: str
    finetuning: str
    speedups: npt.NDArray[np.float64]
    speedups_with_extraction: npt.NDArray[np.float64]
    differences: npt.NDArray[np.float64]


def compare_with_finetuning(settings: Sequence[Setting]) -> list[Comparison]:
    """Pair every frozen run with every fine-tuning of the same data set, backbone, size and seed."""
    # Runs are paired by seed, because one seed draws the same split and sample for both; the difference
    # then has less noise.
    tuned: dict[tuple[object, ...], list[tuple[str, ReportedRun]]] = defaultdict(list)
    for setting in settings:
        for run in setting.runs if setting.is_finetuned else ():
            tuned[_key(run)].append((setting.method, run))
    pairs: dict[tuple[str, str], list[tuple[ReportedRun, ReportedRun]]] = defaultdict(list)
    for setting in settings:
        for run in () if setting.is_finetuned else setting.runs:
            for finetuning, other in tuned[_key(run)]:
                pairs[setting.method, finetuning].append((run, other))
    return [
        Comparison(
            method=method,
            finetuning=finetuning,
            speedups=np.array([other.seconds / run.seconds for run, other in found]),
            speedups_with_extraction=np.array(
                [
                    other.seconds / (run.seconds + extraction)
                    for run, other in found
                    if (extraction := run.cost("extract_seconds")) is not None
                ]
            ),
            differences=np.array(
                [
                    run.accuracy - other.accuracy
                    for run, other in found
                    if run.accuracy is not None and other.accuracy is not None
                ]
            ),
        )
        for (method, finetuning), found in sorted(pairs.items())
    ]


def _key(run: ReportedRun) -> tuple[object, ...]:
    sizes = (run.options.get(name) for name in ("train_size", "shots"))
    # The size counts, because fine-tuning on few images is another problem than on many.
    return (run.dataset, run.model, run.seed, *sizes)
