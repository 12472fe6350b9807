"""`FrozenNetwork` classifies images by a trained head on the backbones that its features came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError, WeightsError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.extract.backbone.libraries.named_code import refuse_unnamed_code
from toptune.extract.backbone.spec import BackboneRecord
from toptune.extract.backbone.taps import TapArray
from toptune.extract.images.source import ImageBytes
from toptune.extract.pipeline.features_of import features_of
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.devices import resolve_device
from toptune.store.features.blocks import ArrayBlocks
from toptune.store.features.recipe import ROUTE_NAMES
from toptune.text import named
from toptune.train.answers.novelty import Novelty
from toptune.train.runs.record import CONFIG
from toptune.train.runs.run import Run
from toptune.train.runs.sources import RunSource
from toptune.train.verdicts.nearness import novelty_of, novelty_of_rows
from toptune.workflows.predict.moved import Place, moved_places
from toptune.workflows.predict.predictions import Answers


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A head that `toptune.train.train` wrote, on its backbones: one, or several side by side.

    Attributes
    ----------
    run : Run
        The head with its preprocessing, its config and its metrics.
    backbones : tuple of Backbone
        The backbones that the features came from, in the order of the run's sources; the recipe of each
        equals the recipe of its features.
    nearness : Novelty, optional
        What tells the novelty of each image, where that was asked for.
    keeps_features : bool
        Whether answers have the features that they were made from.
    """

    run: Run
    backbones: tuple[Backbone, ...]
    nearness: Novelty | None = None
    keeps_features: bool = False

    @classmethod
    def of_run(
        cls, run: Run, *, device: str, model: Place | None = None, weights: Place | None = None
    ) -> "FrozenNetwork":
        """Load the backbones of a run.

        Parameters
        ----------
        run : Run
            The head, as `toptune.train.Run.load` gives it.
        device : str
            Device of the backbones: ``cpu``, ``cuda`` or ``cuda:N``. That of the head was given with the run.
        model, weights : optional
            Where the backbone or its checkpoint is now, if it has moved since the training; of several
            backbones ``NAME=PLACE``, or a list of such texts.

        Raises
        ------
        InputError
            If the run was trained on imported features, or a backbone cannot be loaded.
        WeightsError
            If the checkpoint is gone, or the backbone found is not the one of the run; the message says
            what differs.
        """
        refuse_imported(run)
        return cls.with_places(
            run,
            device=device,
            models=moved_places(model, run.sources, option="model"),
            weights=moved_places(weights, run.sources, option="weights"),
            names=[source.name for source in run.sources],
        )

    @classmethod
    def with_places(
        cls,
        run: Run,
        *,
        device: str,
        models: Sequence[str | None],
        weights: Sequence[str | None],
        names: Sequence[str],
    ) -> "FrozenNetwork":
        """Load the backbones of a run, each from a place of its own; errors are those of `of_run`.

        Parameters
        ----------
        run : Run
        device : str
        models, weights : sequence of str or None
            For each source of the run where the backbone or its checkpoint is now, if it has moved.
        names : sequence of str
            What each backbone is called where such places are given; empty if it is the only one.
        """
        # An absent device is refused here: moving a backbone would not mend that.
        where = str(resolve_device(device))
        given = zip(run.sources, models, weights, names, strict=True)
        return cls(
            run,
            tuple(
                # What the backbone is called stands in messages alone.
                loaded_backbone(
                    replace(source, name=name), run.folder, device=where, model=there, weights=checkpoint
                )
                for source, there, checkpoint, name in given
            ),
        )

    @property
    def record(self) -> Run:
        """The RUN folder of the head."""
        return self.run

    @property
    def backbone(self) -> Backbone:
        """The backbone of a run of one.

        Raises
        ------
        InputError
            If the run has several; `backbones` has all of them.
        """
        if len(self.backbones) > 1:
            raise InputError(f"{self.run.folder} has {len(self.backbones)} backbones; use backbones")
        return self.backbones[0]

    @property
    def precision(self) -> str:
        """The arithmetic of the backbones: ``fp32``, ``bf16`` or ``fp16``; of several, those that occur."""
        return " and ".join(dict.fromkeys(backbone.recipe.precision for backbone in self.backbones))

    @property
    def wanted(self) -> list[tuple[Backbone, list[TapArray]]]:
        """The arrays of the run that each backbone computes."""
        arrays = self.run.arrays
        names = [[array.own_name for array in source.of(arrays)] for source in self.run.sources]
        return [(backbone, backbone.arrays(own)) for backbone, own in zip(self.backbones, names, strict=True)]

    def with_backbones(self, backbones: tuple[Backbone, ...]) -> "FrozenNetwork":
        """Return the same network on backbones that have other transforms of their images."""
        return replace(self, backbones=backbones)

    def with_novelty(self) -> "FrozenNetwork":
        """Return the same network, whose answers tell the novelty of each image.

        Raises
        ------
        InputError
            If the run keeps nothing that tells it.
        """
        return replace(self, nearness=novelty_of(self.run))

    def with_features(self) -> "FrozenNetwork":
        """Return the same network, whose answers have the features that they were made from."""
        return replace(self, keeps_features=True)

    def of_means(self, features: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
        """Classify rows of features as stored, one array (n, d) for each head: (n, n_classes)."""
        (only,) = features
        return self.run.predict_blocks(ArrayBlocks(only))[1]

    def in_float32(self) -> "FrozenNetwork":
        """Return the same network on backbones that compute in float32 and are not compiled."""
        plain = tuple(map(_in_float32, self.backbones))
        return self if plain == self.backbones else replace(self, backbones=plain)

    def features(self, batch: torch.Tensor | Sequence[torch.Tensor]) -> npt.NDArray[np.float32]:
        """Compute the run's arrays, side by side, and round them as the store does.

        Parameters
        ----------
        batch : torch.Tensor, or a sequence of one for each backbone
            Transformed images ``(b, channels, height, width)``, as the ``transform`` of the backbone makes
            them.

        Returns
        -------
        ndarray of float32, shape (b, d)
        """
        batches = batches_of(batch, len(self.backbones))
        outputs = [
            backbone.forward(each, arrays)
            for each, (backbone, arrays) in zip(batches, self.wanted, strict=True)
        ]
        return self.rounded(
            [{name: values.cpu().numpy() for name, values in each.items()} for each in outputs]
        )

    def probabilities(self, batch: torch.Tensor | Sequence[torch.Tensor]) -> npt.NDArray[np.float64]:
        """Classify transformed images, as `features` takes them: probabilities ``(b, n_classes)``."""
        return self.run.predict_blocks(ArrayBlocks(self.features(batch)))[1]

    def answers(self, source: ImageBytes, n_images: int, *, batch_size: int) -> Iterator[Answers]:
        """Classify images ``0 ... n_images - 1`` of a source, a batch after the other."""
        for batch in features_of(source, n_images, self.wanted, batch_size=batch_size):
            found, novelty = np.zeros((0, len(self.run.classes))), None
            if len(batch.rows):
                found = self.of_features(batch.values)
                novelty = joined_novelty([self], [batch.values])
            yield Answers(
                rows=batch.rows,
                probabilities=found,
                failed=batch.failed,
                narrow=batch.narrow,
                novelty=novelty,
                features=joined_features([self], [batch.values]) if len(batch.rows) else None,
            )

    def of_features(
        self, outputs: Sequence[Mapping[str, npt.NDArray[np.float32]]]
    ) -> npt.NDArray[np.float64]:
        """Classify images by what each backbone computed of them: probabilities ``(b, n_classes)``."""
        features = self.rounded(outputs)
        room = explained_out_of_memory(
            f"the head on {len(features)} images",
            device=self.backbones[0].device,
            knobs="stop other programs there, give a smaller --batch-size",
        )
        with room:
            return self.run.predict_blocks(ArrayBlocks(features))[1]

    def rounded(self, outputs: Sequence[Mapping[str, npt.NDArray[np.float32]]]) -> npt.NDArray[np.float32]:
        """Put the arrays that each backbone computed side by side, rounded as the store rounds them."""
        # The head was trained on stored values: going through their type makes both paths agree.
        of = {source.name: values for source, values in zip(self.run.sources, outputs, strict=True)}
        columns = [of[array.member][array.own_name].astype(array.dtype) for array in self.run.arrays]
        return np.concatenate(columns, axis=1, dtype=np.float32)


def joined_novelty(
    networks: Sequence[FrozenNetwork], outputs: Sequence[Sequence[Mapping[str, npt.NDArray[np.float32]]]]
) -> npt.NDArray[np.float64] | None:
    """Return the novelty (b,) of images by what each backbone of each network computed of them.

    None if the networks were not asked for novelty (`FrozenNetwork.with_novelty`).
    """
    members = [network.nearness for network in networks if network.nearness is not None]
    if len(members) < len(networks):
        return None
    blocks = [ArrayBlocks(network.rounded(each)) for network, each in zip(networks, outputs, strict=True)]
    return novelty_of_rows([network.run for network in networks], members, blocks)


def joined_features(
    networks: Sequence[FrozenNetwork], outputs: Sequence[Sequence[Mapping[str, npt.NDArray[np.float32]]]]
) -> tuple[npt.NDArray[np.float32], ...] | None:
    """Return the features (b, d) of images for each network; None if they were not asked for."""
    if not all(network.keeps_features for network in networks):
        return None
    return tuple(network.rounded(each) for network, each in zip(networks, outputs, strict=True))


def refuse_imported(run: Run) -> None:
    """Refuse a run whose features no backbone can make.

    Raises
    ------
    InputError
        If the run was trained on imported features.
    """
    if imported := [source.model for source in run.sources if source.is_imported]:
        what = "" if len(run.sources) == 1 else f" of {named(imported)}"
        raise InputError(
            f"{run.folder} was trained on imported features{what}: there is no backbone to make them "
            "from images; evaluate it on stored features (--store), or use Run.predict_blocks"
        )


def batches_of(batch: torch.Tensor | Sequence[torch.Tensor], n: int) -> list[torch.Tensor]:
    """Return the batch of each backbone.

    Raises
    ------
    InputError
        If there is not one batch for each.
    """
    batches = [batch] if isinstance(batch, torch.Tensor) else list(batch)
    if len(batches) != n:
        raise InputError(
            f"{len(batches)} batches for {n} backbones; give for each the images as its own transform makes "
            "them"
        )
    return batches


def _in_float32(backbone: Backbone) -> Backbone:
    spec = backbone.spec
    if spec["precision"] == "fp32" and not spec["compiled"]:
        return backbone
    return load_backbone(**spec | {"precision": "fp32", "compiled": False})


def loaded_backbone(
    source: RunSource, folder: Path, *, device: str, model: str | None = None, weights: str | None = None
) -> Backbone:
    """Load a backbone as its features were made, or refuse another one.

    Parameters
    ----------
    source : RunSource
        The features.
    folder : path
        The RUN folder, or the folder of the features, for messages.
    device : str
    model, weights : str, optional
        Where the backbone or its checkpoint is now.

    Raises
    ------
    InputError
        If the backbone cannot be loaded.
    WeightsError
        If it is not the one of the features; the message says what differs.
    """
    recipe = source.full_recipe()
    spec = BackboneRecord.read(source.backbone, where=f"{folder / CONFIG}: backbone")
    # The run's images were decoded as its recipe says, perhaps by an older route than today's.
    spec["decode"] = ROUTE_NAMES.get(recipe.decode, spec.get("decode", "exact"))
    if model is not None:
        spec["name"] = model
    else:
        refuse_unnamed_code(spec["name"], where=str(folder))
    if weights is not None:
        spec["weights"] = weights
    # Where there are several backbones, a place is given with the name of its backbone.
    of = f"{source.name}=" if source.name else ""
    try:
        backbone = load_backbone(**spec, device=device, expected=recipe)
    except InputError as error:
        if model is not None or weights is not None:
            raise
        message = str(error).rstrip(".")
        place = f" ({of}PLACE)" if of else ""
        raise type(error)(
            f"{message}; if the backbone has moved, give its place now with --model or --weights{place}"
        ) from error
    # A backbone of the same name may have other weights, and features of these would give wrong labels
    # without an error.
    if backbone.recipe.digest != recipe.digest:
        differences = "; ".join(recipe.differences(backbone.recipe))
        raise WeightsError(
            f"{spec['name']} is not the backbone that {folder} was made with: {differences}. "
            "Give the original with --model or --weights."
        )
    return backbone
