"""`FusedNetwork` classifies images by several trained heads, each on its own backbone, and their weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.images.source import ImageBytes
from toptune.train.fusion.fused_run import FusedRun
from toptune.workflows.predict.frozen_network import FrozenNetwork
from toptune.workflows.predict.predictions import Answers


@dataclass(frozen=True, eq=False)
class FusedNetwork:
    """Heads that `toptune.train.train` wrote for several models, on their backbones.

    Attributes
    ----------
    run : FusedRun
    members : tuple of FrozenNetwork
        The head of each model on its backbone, in the order of the run.
    """

    run: FusedRun
    members: tuple[FrozenNetwork, ...]

    @classmethod
    def of_run(cls, run: FusedRun, *, device: str) -> "FusedNetwork":
        """Load the backbones of a run onto a device; errors are those of `FrozenNetwork.of_run`."""
        return cls(run, tuple(FrozenNetwork.of_run(member, device=device) for member in run.members))

    @property
    def record(self) -> FusedRun:
        """The RUN folder of all heads."""
        return self.run

    @property
    def backbone(self) -> Backbone:
        """The backbone of the first member; all are on the same device."""
        return self.members[0].backbone

    @property
    def precision(self) -> str:
        """The arithmetic of the backbones, each kind once."""
        return " + ".join(dict.fromkeys(member.precision for member in self.members))

    def in_float32(self) -> "FusedNetwork":
        """Return the same networks on backbones that compute in float32 and are not compiled."""
        members = tuple(member.in_float32() for member in self.members)
        is_same = all(now is before for now, before in zip(members, self.members, strict=True))
        return self if is_same else FusedNetwork(self.run, members)

    def probabilities(self, batch: torch.Tensor | Sequence[torch.Tensor]) -> npt.NDArray[np.float64]:
        """Classify images, given as each member's transform makes them: probabilities ``(b, n_classes)``.

        Raises
        ------
        InputError
            If there is not one batch for each member.
        """
        batches = [batch] if isinstance(batch, torch.Tensor) else list(batch)
        if len(batches) != len(self.members):
            raise InputError(
                f"{len(batches)} batches for {len(self.members)} backbones; give for each the images as its "
                "own transform makes them"
            )
        pairs = zip(self.members, batches, strict=True)
        return self.run.fuse([member.probabilities(each) for member, each in pairs])

    def answers(self, source: ImageBytes, n_images: int, *, batch_size: int) -> Iterator[Answers]:
        """Classify images ``0 ... n_images - 1`` of a source, a batch after the other.

        An image that cannot be used by one backbone is not answered.
        """
        of_members = [member.answers(source, n_images, batch_size=batch_size) for member in self.members]
        for batches in zip(*of_members, strict=True):
            failed = dict(chain.from_iterable(batch.failed.items() for batch in reversed(batches)))
            rows = np.array([row for row in batches[0].rows.tolist() if row not in failed], dtype=np.intp)
            found = np.zeros((0, len(self.run.classes)))
            if len(rows):
                found = self.run.fuse([batch.probabilities[np.isin(batch.rows, rows)] for batch in batches])
            narrow: Mapping[int, int] = dict(chain.from_iterable(batch.narrow.items() for batch in batches))
            yield Answers(rows=rows, probabilities=found, failed=failed, narrow=narrow)
