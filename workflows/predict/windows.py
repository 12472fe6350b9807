"""Images of any number are classified a window of them at a time."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from toptune.extract.images.narrow import NarrowImages
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.multilabel import split_labels
from toptune.train.tasks.names import MULTILABEL, REGRESSION
from toptune.workflows.predict.images import FoundImage, LooseImages
from toptune.workflows.predict.predictions import Answers, Prediction

if TYPE_CHECKING:  # networks import torch and timm, which a folder that is no run does not need
    from toptune.workflows.predict.finetuned_network import FineTunedNetwork
    from toptune.workflows.predict.frozen_network import FrozenNetwork
    from toptune.workflows.predict.fused_network import FusedNetwork

# Images of this many batches are handed to the reader together: enough that its threads seldom wait at the
# end of a window, few enough that encoded images stay a small part of memory.
_WINDOW_BATCHES = 8
Network: TypeAlias = "FrozenNetwork | FusedNetwork | FineTunedNetwork"
# The answers for a batch, the names that the rows of the answers count, and the number of the first name.
Window: TypeAlias = tuple[Answers, list[str], int]


def windows(
    network: Network,
    remaining: Iterator[tuple[str, FoundImage]],
    *,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Window]:
    """Yield the answers of a network for batches of named images; see `Classifier.predict`."""
    total = 0
    if progress is not None:
        found = list(remaining)
        remaining, total = iter(found), len(found)
    n_done = start = 0
    narrow = NarrowImages()
    # Encoded images of a long iterator must not lie in memory all at once.
    while window := list(islice(remaining, _WINDOW_BATCHES * batch_size)):
        source = LooseImages([image for _, image in window])
        names = [name for name, _ in window]
        for answers in network.answers(source, len(window), batch_size=batch_size):
            yield answers, names, start
            n_done += len(answers.rows) + len(answers.failed)
            narrow = narrow.with_rows(answers.narrow, names.__getitem__)
            if progress is not None:
                progress(n_done, total)
        start += len(window)
    narrow.warn()


def plain_predictions(network: Network, answers: Answers, names: Sequence[str]) -> list[Prediction]:
    """Name images and classes in the answers of a batch, failed images among the others."""
    rows = answers.rows.tolist()
    said = named_predictions([names[row] for row in rows], answers.probabilities, network.record.form)
    return with_failed(answers, names, said)


def with_failed(answers: Answers, names: Sequence[str], said: Sequence[Prediction]) -> list[Prediction]:
    """Put the images of a batch that failed among the predictions of the others."""
    found = {row: Prediction(path=names[row], error=reason) for row, reason in answers.failed.items()}
    found |= dict(zip(answers.rows.tolist(), said, strict=True))
    return [found[row] for row in sorted(found)]


def named_predictions(
    names: Sequence[str], values: npt.NDArray[np.float64], form: AnswerForm
) -> list[Prediction]:
    """Name what a run says (n, k) of images, or of things, with these names (n,)."""
    told = form.texts(values), form.confidence(values)
    return [
        Prediction(
            path=name,
            label=label,
            # Numbers have no probability.
            confidence=None if np.isnan(confidence) else float(confidence),
            probabilities=dict(zip(form.names, row.tolist(), strict=True)),
            labels=tuple(split_labels(label)) if form.task == MULTILABEL else None,
            targets=dict(zip(form.names, row.tolist(), strict=True)) if form.task == REGRESSION else None,
        )
        for name, row, label, confidence in zip(names, values, *told, strict=True)
    ]
