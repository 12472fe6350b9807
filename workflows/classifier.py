"""`Classifier`: a RUN folder and its backbone, from pictures to labels."""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile

from toptune.extract import Backbone, load_backbone
from toptune.extract.device import resolve_device
from toptune.extract.folder_source import walk_files
from toptune.store import ArrayBlocks, InputError, UnreadableImageError, WeightsError
from toptune.train import Run
from toptune.workflows.finetune_run import is_finetuned

logger = logging.getLogger(__name__)

Picture = str | Path | bytes


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one picture; ``error`` is set where it could not be read."""

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self, *, probabilities: bool = False) -> dict[str, Any]:
        """Give the fields that apply, as JSON values."""
        row: dict[str, Any] = {"path": self.path, "label": self.label, "confidence": self.confidence}
        if probabilities:
            row["probabilities"] = self.probabilities
        if self.error:
            row["error"] = self.error
        return row


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
            from toptune.workflows.finetuned import FineTunedClassifier

            return FineTunedClassifier.open(run, device=device)
        loaded = Run.load(run)
        if loaded.recipe.architecture == "imported":
            raise InputError(
                f"{run} was trained on imported features: there is no backbone to make them from pictures; "
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

    def predict(self, images: Picture | Iterable[Picture], *, batch_size: int = 32) -> list[Prediction]:
        """Classify pictures.

        Parameters
        ----------
        images : path, bytes, or several of them
            Files, folders (every file below them that has a picture's suffix and is not hidden, links
            followed), or encoded pictures.
        batch_size : int
            Pictures a forward pass.

        Returns
        -------
        list of Prediction
            One a picture, in the order given; an unreadable one has an ``error`` and no label.

        Raises
        ------
        InputError
            If a path does not exist or a folder holds no picture.
        """
        remaining = find_pictures([images] if isinstance(images, Picture) else images)
        predictions: list[Prediction] = []
        while batch := list(islice(remaining, batch_size)):
            predictions += self._predict_batch(batch)
        return predictions

    def _predict_batch(self, pictures: Sequence[tuple[str, Path | bytes]]) -> list[Prediction]:
        inputs: dict[int, torch.Tensor] = {}
        errors: dict[int, str] = {}
        for position, (_, picture) in enumerate(pictures):
            try:
                data = picture if isinstance(picture, bytes) else picture.read_bytes()
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
            for position, (path, _) in enumerate(pictures)
        ]

    def probabilities(self, batch: torch.Tensor) -> npt.NDArray[np.float64]:
        """Give the probabilities ``(b, n_classes)`` of pictures that ``backbone.transform`` made."""
        return self.run.predict_blocks(ArrayBlocks(self.features(batch)))[1]

    def features(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        """Features of transformed pictures, rounded as the store rounds them.

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


def find_pictures(images: Iterable[Picture]) -> Iterator[tuple[str, Path | bytes]]:
    """Name every picture: files as they are, folders by their files with a picture's suffix, sorted."""
    for number, image in enumerate(images):
        if isinstance(image, bytes):
            yield f"image {number}", image
            continue
        path = Path(image)
        if path.is_dir():
            yield from ((str(each), each) for each in _pictures_in(path))
        elif path.exists():
            yield str(path), path
        else:
            raise InputError(f"{path} does not exist; give pictures or folders of pictures")


def _pictures_in(folder: Path) -> list[Path]:
    files = sorted(walk_files(folder))
    pictures = [file for file in files if file.suffix.lower() in _picture_suffixes()]
    others = len(files) - len(pictures)
    if not pictures:
        raise InputError(
            f"{folder} holds no picture"
            + (f", only {others} files without a picture's suffix: name those to be tried" if others else "")
            + "; give pictures or a folder of pictures"
        )
    if others:
        logger.info("%d files in %s have no picture's suffix and are left out", others, folder)
    return pictures


@cache
def _picture_suffixes() -> frozenset[str]:
    """Suffixes of the formats that this Pillow opens, without those that it only recognises."""
    Image.init()
    return frozenset(
        suffix
        for suffix, form in Image.registered_extensions().items()
        if form in Image.OPEN and not _is_stub(Image.OPEN[form][0])
    )


def _is_stub(opener: object) -> bool:
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)


def write_predictions(
    predictions: Iterable[Prediction], stream: TextIO, *, form: str = "csv", columns: Sequence[str] = ()
) -> None:
    """Write predictions as CSV or JSON lines.

    Parameters
    ----------
    predictions : iterable of Prediction
    stream : text file
    form : {"csv", "jsonl"}
    columns : sequence of str
        Classes whose probabilities are written too, one column each.
    """
    if form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "label", "confidence", *columns])
        for each in predictions:
            row = [each.path, each.label, each.confidence]
            writer.writerow(row + [each.probabilities.get(name) for name in columns])
    else:
        for each in predictions:
            stream.write(json.dumps(each.to_dict(probabilities=bool(columns)), ensure_ascii=False) + "\n")
