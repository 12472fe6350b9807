"""Images of any number are classified a window of them at a time."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from toptune.extract.images.narrow import NarrowImages
from toptune.workflows.predict.images import FoundImage, LooseImages
from toptune.workflows.predict.predictions import Answers

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
