"""`FrozenNetwork` classifies images by a trained head on the backbone that its features came from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError, WeightsError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.extract.backbone.spec import BackboneRecord
from toptune.extract.images.source import ImageBytes
from toptune.extract.pipeline.features_of import features_of
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.devices import resolve_device
from toptune.store.features.blocks import ArrayBlocks
from toptune.store.features.recipe import ROUTE_NAMES
from toptune.train.runs.record import CONFIG
from toptune.train.runs.run import Run
from toptune.workflows.predict.predictions import Answers


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A head that `toptune.train.train` wrote, on its backbone.

    Attributes
    ----------
    run : Run
        The head with its preprocessing, its config and its metrics.
    backbone : Backbone
        The backbone that the features came from; its recipe equals the recipe of the features.
    """

    run: Run
    backbone: Backbone

    @classmethod
    def of_run(
        cls, run: Run, *, device: str, model: str | None = None, weights: str | Path | None = None
    ) -> "FrozenNetwork":
        """Load the backbone of a run.

        Parameters
        ----------
        run : Run
            The head, as `toptune.train.Run.load` gives it.
        device : str
            Device of the backbone: ``cpu``, ``cuda`` or ``cuda:N``. That of the head was given with the run.
        model, weights : optional
            Where the backbone or its checkpoint is now, if it has moved since the training.

        Raises
        ------
        InputError
            If the run was trained on imported features, or the backbone cannot be loaded.
        WeightsError
            If the checkpoint is gone, or the backbone found is not the one of the run; the message says
            what differs.
        """
        if run.recipe.is_imported:
            raise InputError(
                f"{run.folder} was trained on imported features: there is no backbone to make them from "
                "images; evaluate it on stored features (--store), or use Run.predict_blocks"
            )
        spec = BackboneRecord.read(run.backbone, where=f"{run.folder / CONFIG}: backbone")
        # The run's images were decoded as its recipe says, perhaps by an older route than today's.
        spec["decode"] = ROUTE_NAMES.get(run.recipe.decode, spec.get("decode", "exact"))
        if model is not None:
            spec["name"] = model
        if weights is not None:
            spec["weights"] = str(weights)
        # An absent device is refused here, outside the `try`: moving the backbone would not mend that.
        where = str(resolve_device(device))
        try:
            backbone = load_backbone(**spec, device=where, expected=run.recipe)
        except InputError as error:
            if model is not None or weights is not None:
                raise
            message = str(error).rstrip(".")
            raise type(error)(
                f"{message}; if the backbone has moved, give its place now with --model or --weights"
            ) from error
        # A backbone of the same name may have other weights, and features of these would give wrong labels
        # without an error.
        if backbone.recipe.digest != run.recipe.digest:
            differences = "; ".join(run.recipe.differences(backbone.recipe))
            raise WeightsError(
                f"{spec['name']} is not the backbone that {run.folder} was trained on: {differences}. "
                "Give the original with --model or --weights."
            )
        return cls(run, backbone)

    @property
    def record(self) -> Run:
        """The RUN folder of the head."""
        return self.run

    @property
    def precision(self) -> str:
        """The arithmetic of the backbone: ``fp32``, ``bf16`` or ``fp16``."""
        return self.backbone.recipe.precision

    def in_float32(self) -> "FrozenNetwork":
        """Return the same network on a backbone that computes in float32 and is not compiled."""
        spec = self.backbone.spec
        if spec["precision"] == "fp32" and not spec["compiled"]:
            return self
        return FrozenNetwork(self.run, load_backbone(**spec | {"precision": "fp32", "compiled": False}))

    def features(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        """Compute the run's arrays, side by side, and round them as the store does.

        Parameters
        ----------
        batch : torch.Tensor
            Transformed images ``(b, channels, height, width)``, as ``backbone.transform`` makes them.

        Returns
        -------
        ndarray of float32, shape (b, d)
        """
        outputs = self.backbone.forward(batch, [array.name for array in self.run.arrays])
        return self._rounded({name: values.cpu().numpy() for name, values in outputs.items()})

    def probabilities(self, batch: torch.Tensor) -> npt.NDArray[np.float64]:
        """Classify transformed images: probabilities ``(b, n_classes)``."""
        return self.run.predict_blocks(ArrayBlocks(self.features(batch)))[1]

    def answers(self, source: ImageBytes, n_images: int, *, batch_size: int) -> Iterator[Answers]:
        """Classify images ``0 ... n_images - 1`` of a source, a batch after the other."""
        arrays = self.backbone.arrays([array.name for array in self.run.arrays])
        for batch in features_of(source, n_images, self.backbone, arrays, batch_size=batch_size):
            found = np.zeros((0, len(self.run.classes)))
            if len(batch.rows):
                room = explained_out_of_memory(
                    f"the head on {len(batch.rows)} images",
                    device=self.backbone.device,
                    knobs="stop other programs there, give a smaller --batch-size",
                )
                with room:
                    found = self.run.predict_blocks(ArrayBlocks(self._rounded(batch.values)))[1]
            yield Answers(rows=batch.rows, probabilities=found, failed=batch.failed, narrow=batch.narrow)

    def _rounded(self, outputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Put arrays side by side, rounded as the store rounds them."""
        # The head was trained on stored values: going through their type makes both paths agree.
        columns = [outputs[array.name].astype(array.dtype) for array in self.run.arrays]
        return np.concatenate(columns, axis=1, dtype=np.float32)
