"""`FusedNetwork` classifies images by several trained heads, each on its own backbone, and their weights."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.images.source import ImageBytes
from toptune.extract.pipeline.features_of import features_of
from toptune.store.features.blocks import ArrayBlocks
from toptune.train.fusion.fused_run import FusedRun
from toptune.workflows.predict.frozen_network import (
    FrozenNetwork,
    batches_of,
    joined_features,
    joined_novelty,
    refuse_imported,
)
from toptune.workflows.predict.moved import Place, moved_places
from toptune.workflows.predict.predictions import Answers

Each = TypeVar("Each")


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
    def of_run(
        cls, run: FusedRun, *, device: str, model: Place | None = None, weights: Place | None = None
    ) -> "FusedNetwork":
        """Load the backbones of a run onto a device.

        Parameters and errors are those of `FrozenNetwork.of_run`. A backbone is called by its model, or by
        the cache of its features where two models share a name. A backbone of several heads is given once.
        """
        for member in run.members:
            refuse_imported(member)
        sources = {source.cache.digest: source for member in run.members for source in member.sources}
        # A cache is named MODEL@DIGEST.
        plain = {digest: source.cache.name.rpartition("@")[0] for digest, source in sources.items()}
        counts = Counter(plain.values())
        called = {
            digest: replace(source, name=plain[digest] if counts[plain[digest]] == 1 else source.cache.name)
            for digest, source in sources.items()
        }
        models, checkpoints = (
            dict(zip(called, moved_places(given, [*called.values()], option=option), strict=True))
            for given, option in ((model, "model"), (weights, "weights"))
        )
        several = len(called) > 1
        members = []
        for member in run.members:
            digests = [source.cache.digest for source in member.sources]
            members.append(
                FrozenNetwork.with_places(
                    member,
                    device=device,
                    models=[models[digest] for digest in digests],
                    weights=[checkpoints[digest] for digest in digests],
                    names=[called[digest].name if several else "" for digest in digests],
                )
            )
        return cls(run, tuple(members))

    @property
    def record(self) -> FusedRun:
        """The RUN folder of all heads."""
        return self.run

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The backbones of all members; all are on the same device."""
        return tuple(backbone for member in self.members for backbone in member.backbones)

    @property
    def backbone(self) -> Backbone:
        """Refuse to name one of several backbones; `backbones` has all of them."""
        raise InputError(f"{self.run.folder} has {len(self.backbones)} backbones; use backbones")

    def with_backbones(self, backbones: tuple[Backbone, ...]) -> "FusedNetwork":
        """Return the same networks on backbones that have other transforms of their images."""
        return FusedNetwork(
            self.run, tuple(member.with_backbones(own) for member, own in self._by_member(backbones))
        )

    def with_novelty(self) -> "FusedNetwork":
        """Return the same networks, whose answers tell the novelty of each image; errors are those of one."""
        return replace(self, members=tuple(member.with_novelty() for member in self.members))

    def with_features(self) -> "FusedNetwork":
        """Return the same networks, whose answers have the features that they were made from."""
        return replace(self, members=tuple(member.with_features() for member in self.members))

    def of_means(self, features: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
        """Classify rows of features as stored, one array (n, d) for each head: (n, n_classes)."""
        return self.run.predict_blocks([ArrayBlocks(each) for each in features])[1]

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
        parts = self._by_member(tuple(batches_of(batch, len(self.backbones))))
        return self.run.fuse([member.probabilities(own) for member, own in parts])

    def answers(self, source: ImageBytes, n_images: int, *, batch_size: int) -> Iterator[Answers]:
        """Classify images ``0 ... n_images - 1`` of a source, a batch after the other.

        Images are decoded once for all backbones. One that a backbone cannot use is not answered.
        """
        wanted = [each for member in self.members for each in member.wanted]
        for batch in features_of(source, n_images, wanted, batch_size=batch_size):
            found, novelty, features = np.zeros((0, len(self.run.classes))), None, None
            if len(batch.rows):
                parts = list(self._by_member(batch.values))
                found = self.run.fuse([member.of_features(values) for member, values in parts])
                outputs = [values for _, values in parts]
                novelty = joined_novelty(self.members, outputs)
                features = joined_features(self.members, outputs)
            yield Answers(
                rows=batch.rows,
                probabilities=found,
                failed=batch.failed,
                narrow=batch.narrow,
                novelty=novelty,
                features=features,
            )

    def _by_member(self, each: tuple[Each, ...]) -> Iterator[tuple[FrozenNetwork, tuple[Each, ...]]]:
        """Deal out what each backbone has to the members, of which each takes as many as it has backbones."""
        end = 0
        for member in self.members:
            start, end = end, end + len(member.backbones)
            yield member, each[start:end]
