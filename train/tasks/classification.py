"""`Classification`: every row is of one class."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.tasks.task import AnyMatrix, Codes, TargetMatrix, Task, Wanted


class Classification(Task):
    """Every row is of one class; the targets are one-hot."""

    name = CLASSIFICATION
    figures = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
    loss = "left-out accuracy, and log-loss among ties"

    def labeled(self, manifest: Manifest, wanted: Wanted) -> Manifest:
        return manifest if wanted.label_column is None else manifest.relabeled(wanted.label_column)

    def names(self, texts: Sequence[str]) -> list[str]:
        return sorted(set(texts))

    def targets(self, texts: Sequence[str], names: Sequence[str]) -> TargetMatrix:
        position = {name: code for code, name in enumerate(names)}
        values = np.zeros((len(texts), len(names)))
        known = [(row, position[text]) for row, text in enumerate(texts) if text in position]
        for row, code in known:
            values[row, code] = 1.0
        return TargetMatrix(values=values, names=tuple(names))

    def members(self, texts: Sequence[str]) -> Mapping[str, int]:
        return dict(sorted(Counter(texts).items()))

    def strata(self, values: AnyMatrix) -> tuple[Codes, Codes]:
        return np.arange(len(values)), values.argmax(axis=1).astype(np.int64)

    def check(self, texts: Sequence[str]) -> None:
        classes = sorted(set(texts))
        if len(classes) == 1:
            raise InputError(
                f"the training rows have one class only, {classes[0]!r}; a classifier needs at least 2"
            )
