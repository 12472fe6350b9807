"""`Classifier`: a RUN folder and its network, from images to labels."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.backbone.backbone import Backbone
from toptune.train.runs.record import is_finetuned
from toptune.train.runs.run import Run
from toptune.workflows.finetuning.run import FineTunedRun
from toptune.workflows.predict.finetuned_network import FineTunedNetwork
from toptune.workflows.predict.frozen_network import FrozenNetwork
from toptune.workflows.predict.images import ImageLike, find_images
from toptune.workflows.predict.predictions import Prediction

Network = FrozenNetwork | FineTunedNetwork


class Classifier:
    """A RUN folder ready to classify images: a head on its frozen backbone, or a fine-tuned network.

    Make one with `Classifier.load`.

    Parameters
    ----------
    network : FrozenNetwork or FineTunedNetwork
        What computes probabilities of transformed images.

    Examples
    --------
    A head is trained on the built-in digits, and two of its images are classified:

    >>> from toptune.extract import extract, open_source
    >>> from toptune.train import train
    >>> model = "resnet10t.toptune_glyphs"
    >>> _ = extract("digits", model=model, store="store")
    >>> _ = train("store", dataset="digits", model=model, head="ridge", out="run")
    >>> classifier = Classifier.load("run")
    >>> digits = open_source("digits")
    >>> [prediction.label for prediction in classifier.predict([digits.read(0), digits.read(1)])]
    ['0', '1']
    """

    def __init__(self, network: Network) -> None:
        self.network = network

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
            Folder that `toptune.train.train` or `toptune.workflows.finetune` wrote.
        device : str
            ``cpu``, ``cuda`` or ``cuda:N``.
        model, weights : optional
            Where the backbone or its checkpoint is now, if it has moved since.

        Raises
        ------
        InputError
            If `run` is not a RUN folder, or its backbone cannot be loaded.
        CorruptError
            If a file of the folder is missing or damaged.
        WeightsError
            If the checkpoint is gone, or the backbone found is not the one of the run; the message says
            what differs.
        """
        if not is_finetuned(run):
            return cls(FrozenNetwork.open(run, device=device, model=model, weights=weights))
        if model is not None or weights is not None:
            raise InputError(
                f"{run} holds its whole network; --model and --weights say where a frozen backbone "
                "is, leave them out"
            )
        return cls(FineTunedNetwork.open(FineTunedRun.load(run), device=device))

    @property
    def backbone(self) -> Backbone:
        """The backbone: the recipe's own, or the fine-tuned network."""
        return self.network.backbone

    @property
    def record(self) -> Run | FineTunedRun:
        """The RUN folder: what was trained on what, and its metrics."""
        return self.network.record

    @property
    def run(self) -> Run:
        """The trained head; a fine-tuned network has none, its RUN folder is `record`."""
        return self._frozen("run").run

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the columns of probabilities."""
        return self.record.classes

    @property
    def precision(self) -> str:
        """What the network computes in: ``fp32``, ``bf16`` or ``fp16``."""
        return self.network.precision

    def in_float32(self) -> "Classifier":
        """Return the same classifier on a network that computes in float32 and is not compiled."""
        network = self.network.in_float32()
        return self if network is self.network else Classifier(network)

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
        """Return the probabilities ``(b, n_classes)`` of images that ``backbone.transform`` made."""
        return self.network.probabilities(batch)

    def features(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        """Compute the features of transformed images, rounded as the store rounds them.

        Parameters
        ----------
        batch : torch.Tensor
            Transformed images ``(b, channels, height, width)``, as ``backbone.transform`` makes them.

        Returns
        -------
        ndarray of float32, shape (b, d)
            The run's arrays side by side.

        Raises
        ------
        InputError
            If the network was fine-tuned: its classifier sees no stored features.
        """
        return self._frozen("features").features(batch)

    def _frozen(self, what: str) -> FrozenNetwork:
        if isinstance(self.network, FrozenNetwork):
            return self.network
        raise InputError(
            f"{self.record.folder} holds a fine-tuned network, which has no {what}; use record, predict or "
            "probabilities"
        )
