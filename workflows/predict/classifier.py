"""`Classifier`: a RUN folder and its backbone, from images to labels."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError, UnreadableImageError, WeightsError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.machine.devices import resolve_device
from toptune.store.features.blocks import ArrayBlocks
from toptune.train.runs.run import Run
from toptune.workflows.finetuning.run import FineTunedRun, is_finetuned
from toptune.workflows.predict.images import ImageLike, find_images
from toptune.workflows.predict.predictions import Prediction


class Classifier:
    """A trained head on its frozen backbone.

    Attributes
    ----------
    run : Run
        What `toptune.train.train` wrote.
    backbone : Backbone
        The very backbone that the features came from: the recipes are equal.
    """

    def __init__(self, run: Run, backbone: Backbone) -> None:
        self.run = run
        self.backbone = backbone

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str = "cpu",
        model: str | None = None,
        weights: str | Path | None = None,
    ) -> "Classifier":
        """Open a RUN folder, of a head or of a fine-tuned network, and load its backbone.

        Parameters
        ----------
        run : path
            Folder that `toptune.train.train` wrote.
        device : str
            ``cpu``, ``cuda`` or ``cuda:N``.
        model, weights : optional
            Where the backbone or its checkpoint is now, if it has moved since.

        Raises
        ------
        InputError
            If `run` is not a RUN folder, or its backbone cannot be loaded.
        WeightsError
            If the checkpoint is gone, or the backbone found is not the one of the run; the message says
            what differs.
        """
        if is_finetuned(run):
            if model is not None or weights is not None:
                raise InputError(
                    f"{run} holds its whole network; --model and --weights say where a frozen backbone "
                    "is, leave them out"
                )
            # Imported here because it builds on this module.
            from toptune.workflows.predict.finetuned_network import FineTunedClassifier

            return FineTunedClassifier.open(run, device=device)
        loaded = Run.load(run)
        if loaded.recipe.architecture == "imported":
            raise InputError(
                f"{run} was trained on imported features: there is no backbone to make them from images; "
                "evaluate it on stored features (--store), or use Run.predict_blocks"
            )
        spec = dict(loaded.backbone)
        if model is not None:
            spec["name"] = model
        if weights is not None:
            spec["weights"] = str(weights)
        where = str(resolve_device(device))
        try:
            backbone = load_backbone(**spec, device=where)
        except InputError as error:
            if model is not None or weights is not None:
                raise
            message = str(error).rstrip(".")
            raise type(error)(
                f"{message}; if the backbone has moved, give its place now with --model or --weights"
            ) from error
        if backbone.recipe.digest != loaded.recipe.digest:
            differences = "; ".join(loaded.recipe.differences(backbone.recipe))
            raise WeightsError(
                f"{spec['name']} is not the backbone that {run} was trained on: {differences}. "
                "Give the original with --model or --weights."
            )
        return cls(loaded, backbone)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the columns of probabilities."""
        return self.run.classes

    @property
    def record(self) -> Run | FineTunedRun:
        """The RUN folder: what was trained on what, and its metrics."""
        return self.run

    @property
    def precision(self) -> str:
        """What the network computes in: ``fp32``, ``bf16`` or ``fp16``."""
        return self.backbone.recipe.precision

    def in_float32(self) -> "Classifier":
        """Give the same classifier on a backbone that computes in float32, not compiled."""
        spec = self.backbone.spec
        if spec["precision"] == "fp32" and not spec["compiled"]:
            return self
        return Classifier(self.run, load_backbone(**spec | {"precision": "fp32", "compiled": False}))

    def predict(self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = 32) -> list[Prediction]:
        """Classify images.

        Parameters
        ----------
        images : path, bytes, or several of them
            Files, folders (every file below them that has an image's suffix and is not hidden, links
            followed), or encoded images.
        batch_size : int
            Images a forward pass.

        Returns
        -------
        list of Prediction
            One an image, in the order given; an unreadable one has an ``error`` and no label.

        Raises
        ------
        InputError
            If a path does not exist or a folder holds no image.
        """
        remaining = find_images([images] if isinstance(images, ImageLike) else images)
        predictions: list[Prediction] = []
        while batch := list(islice(remaining, batch_size)):
            predictions += self._predict_batch(batch)
        return predictions

    def _predict_batch(self, images: Sequence[tuple[str, Path | bytes]]) -> list[Prediction]:
        inputs: dict[int, torch.Tensor] = {}
        errors: dict[int, str] = {}
        for position, (_, image) in enumerate(images):
            try:
                data = image if isinstance(image, bytes) else image.read_bytes()
                inputs[position] = self.backbone.transform(self.backbone.decode(data))
            except UnreadableImageError as error:
                errors[position] = str(error)
            except OSError as error:
                errors[position] = f"cannot be read: {error.strerror or type(error).__name__}"
        labels: dict[int, tuple[str, npt.NDArray[np.float64]]] = {}
        if inputs:
            probabilities = self.probabilities(torch.stack([*inputs.values()]))
            labels = {
                position: (self.classes[int(row.argmax())], row)
                for position, row in zip(inputs, probabilities, strict=True)
            }
        return [
            Prediction(path=path, error=errors[position])
            if position in errors
            else Prediction(
                path=path,
                label=labels[position][0],
                confidence=float(labels[position][1].max()),
                probabilities=dict(zip(self.classes, labels[position][1].tolist(), strict=True)),
            )
            for position, (path, _) in enumerate(images)
        ]

    def probabilities(self, batch: torch.Tensor) -> npt.NDArray[np.float64]:
        """Give the probabilities ``(b, n_classes)`` of images that ``backbone.transform`` made."""
        return self.run.predict_blocks(ArrayBlocks(self.features(batch)))[1]

    def features(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        """Features of transformed images, rounded as the store rounds them.

        Parameters
        ----------
        batch : torch.Tensor
            ``(b, channels, height, width)``, as ``backbone.transform`` gives them.

        Returns
        -------
        ndarray
            ``(b, d)`` float32: the run's arrays side by side.
        """
        arrays = self.run.arrays
        outputs = self.backbone.forward(batch, [array.name for array in arrays])
        # The head was trained on stored values: going through their type makes both paths agree.
        columns = [outputs[array.name].cpu().numpy().astype(array.dtype) for array in arrays]
        return np.concatenate(columns, axis=1, dtype=np.float32)
