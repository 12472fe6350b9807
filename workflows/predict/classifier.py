"""`Classifier` turns images into labels, by the network of a RUN folder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.images.source import ImageBytes
from toptune.machine.devices import AUTO, resolve_device, why_not_mps
from toptune.options import check_count, options_of
from toptune.text import repr_line
from toptune.train.answers.options import AnswerArguments, AnswerOptions
from toptune.train.fusion.fused_run import FusedRun
from toptune.train.runs.record import RunRecord
from toptune.train.runs.run import Run
from toptune.train.verdicts.verdicts import is_answered_by_things
from toptune.workflows.predict.images import ImageLike, as_several, find_images
from toptune.workflows.predict.moved import Place
from toptune.workflows.predict.predictions import Answers, Prediction
from toptune.workflows.predict.windows import Network, plain_predictions, windows

if TYPE_CHECKING:  # networks import torch and timm, which a folder that is no run does not need
    import torch

    from toptune.extract.backbone.backbone import Backbone
    from toptune.workflows.finetuning.run import FineTunedRun
    from toptune.workflows.predict.frozen_network import FrozenNetwork


class Classifier:
    """A RUN folder ready to classify images: heads on frozen backbones, or a fine-tuned network.

    Make one with `Classifier.load`.

    Parameters
    ----------
    network : FrozenNetwork, FusedNetwork or FineTunedNetwork
        The network that computes probabilities of transformed images.

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

    def __repr__(self) -> str:
        models = ", ".join(backbone.name for backbone in self.backbones)
        return repr_line(self, str(self.record.folder), model=models, classes=self.classes)

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str = AUTO,
        model: Place | None = None,
        weights: Place | None = None,
    ) -> "Classifier":
        """Open a RUN folder, of a head, of several models or of a fine-tuned network, with its backbones.

        Parameters
        ----------
        run : path
            Folder that `toptune.train.train` or `toptune.workflows.finetune` wrote.
        device : str
            Where backbone and head compute: ``auto`` (CUDA where there is a CUDA device, else MPS unless the
            run computes in bf16 or fp16, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. Heads
            of scikit-learn compute on the CPU, and with MPS, which has no float64, so do all heads.
        model, weights : optional
            Where the backbone or its checkpoint is now, if it has moved since; of several backbones
            ``NAME=PLACE``, or a list of such texts.

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
        folder = Path(run)
        # The record is read once, and tells which of the two kinds of run the folder holds.
        record = RunRecord.of_folder(folder)
        if record.is_finetuned and (model is not None or weights is not None):
            raise InputError(
                f"{run} holds its whole network; --model and --weights say where a frozen backbone "
                "is, leave them out"
            )
        from toptune.workflows.finetuning.run import FineTunedRun
        from toptune.workflows.predict.finetuned_network import FineTunedNetwork
        from toptune.workflows.predict.frozen_network import FrozenNetwork
        from toptune.workflows.predict.fused_network import FusedNetwork

        # An absent device is no fault of the folder's files, which are read after it was found.
        precisions = [record.precision, *(source.recipe.get("precision") for source in record.all_sources)]
        reasons = [why_not_mps(each) for each in precisions if isinstance(each, str)]
        where = str(resolve_device(device, not_on_mps=next(filter(None, reasons), None)))
        if record.is_fused:
            fused = FusedRun.of_record(folder, record, device="cpu" if where == "mps" else where)
            return cls(FusedNetwork.of_run(fused, device=where, model=model, weights=weights))
        if not record.is_finetuned:
            # The head computes where the backbone does.
            head = Run.of_record(folder, record, device="cpu" if where == "mps" else where)
            return cls(FrozenNetwork.of_run(head, device=where, model=model, weights=weights))
        return cls(FineTunedNetwork.of_run(FineTunedRun.of_record(folder, record), device=where))

    @classmethod
    def from_hub(
        cls,
        repository: str,
        *,
        revision: str | None = None,
        device: str = AUTO,
        model: Place | None = None,
        weights: Place | None = None,
        endpoint: str | None = None,
    ) -> "Classifier":
        """Open a run that `toptune push` wrote into a repository of the Hugging Face hub.

        Only safetensors and JSON are fetched, into the cache of the hub; nothing is executed.

        Parameters
        ----------
        repository : str
            ``user/name``.
        revision : str, optional
            Branch, tag or commit; the main branch by default.
        device, model, weights : optional
            As for `load`.
        endpoint : str, optional
            Address of another hub than the library's own.

        Raises
        ------
        InputError
            If the hub refuses, has no such repository, or the repository holds no run.
        """
        from toptune.workflows.predict.hub_runs import fetch_run

        folder = fetch_run(repository, revision=revision, endpoint=endpoint)
        return cls.load(folder, device=device, model=model, weights=weights)

    @property
    def backbone(self) -> "Backbone":
        """The backbone of the run's recipe, or the fine-tuned network.

        Raises
        ------
        InputError
            If the run has several; `backbones` has all of them.
        """
        return self.network.backbone

    @property
    def backbones(self) -> "tuple[Backbone, ...]":
        """The backbones of the run, or the fine-tuned network."""
        return self.network.backbones

    @property
    def record(self) -> "Run | FusedRun | FineTunedRun":
        """The RUN folder, which says what was trained on what, and holds the metrics."""
        return self.network.record

    @property
    def run(self) -> Run:
        """The RUN folder of a trained head.

        Raises
        ------
        InputError
            If the network was fine-tuned or has several heads; `record` is its RUN folder.
        """
        return self._frozen("run").run

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the columns of probabilities."""
        return self.record.classes

    @property
    def precision(self) -> str:
        """The arithmetic of the network: ``fp32``, ``bf16`` or ``fp16``."""
        return self.network.precision

    def in_float32(self) -> "Classifier":
        """Return the same classifier on a network that computes in float32 and is not compiled."""
        network = self.network.in_float32()
        return self if network is self.network else Classifier(network)

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
        **asked: Unpack[AnswerArguments],
    ) -> list[Prediction]:
        """Classify images, while threads read and decode the next ones.

        Parameters
        ----------
        images : path, bytes, array, PIL image, tensor, or several of them
            Files, folders (every file below them that has an image's suffix and is not hidden, links
            followed), manifests (CSV or Parquet files with a column ``path``) and other files that hold
            images; the bytes of image files; PIL images; arrays (h, w), (h, w, 1) or (h, w, 3) and tensors
            (3, h, w) of uint8, or several along a first axis more. Transformed images are for
            `probabilities`.
        batch_size : int
            Number of images in a forward pass.
        progress : callable, optional
            Called with the number of images done and of all, after every batch. All images are looked up
            first then, which takes memory for images that are given as bytes.
        **asked
            The fields of `toptune.train.answers.options.AnswerOptions`: what is said besides labels.

        Returns
        -------
        list of Prediction
            One prediction for each image, in the order given. The prediction of an unreadable image has an
            ``error`` and no label. Where images of one thing are answered together, one for each thing, in
            the order of their first images, and one for each unreadable image behind them.

        Raises
        ------
        InputError
            If a path does not exist, a folder holds no image, pixels are of another type or shape,
            `batch_size` is below 1, or the run cannot say what was asked.
        """
        check_count(batch_size, option="batch_size")
        options = options_of(AnswerOptions, asked, call="predict")
        if options.is_asked or is_answered_by_things(self.record.record):
            from toptune.workflows.predict.answering import Asked

            return Asked.of(self.network, options).predictions(
                images, batch_size=batch_size, progress=progress
            )
        given = find_images(as_several(images))
        predictions: list[Prediction] = []
        for answers, names, _ in windows(self.network, given, batch_size=batch_size, progress=progress):
            predictions += plain_predictions(self.network, answers, names)
        return predictions

    def answers(self, source: ImageBytes, n_images: int, *, batch_size: int = 32) -> Iterator[Answers]:
        """Classify images ``0 ... n_images - 1`` of a source, a batch after the other.

        Parameters
        ----------
        source : ImageBytes
            Where images come from; an `ImageSource` or anything else with its ``read``.
        n_images : int
            Number of images.
        batch_size : int
            Number of images in a forward pass.

        Yields
        ------
        Answers
            Answers for one batch, in the order of the images.

        Raises
        ------
        InputError
            If `batch_size` is below 1.
        """
        check_count(batch_size, option="batch_size")
        return self.network.answers(source, n_images, batch_size=batch_size)

    def probabilities(self, batch: "torch.Tensor | Sequence[torch.Tensor]") -> npt.NDArray[np.float64]:
        """Return the probabilities ``(b, n_classes)`` of images as `features` takes them."""
        return self.network.probabilities(batch)

    def features(self, batch: "torch.Tensor | Sequence[torch.Tensor]") -> npt.NDArray[np.float32]:
        """Compute the features of transformed images, rounded as the store rounds them.

        Parameters
        ----------
        batch : torch.Tensor, or a sequence of one for each of `backbones`
            Transformed images ``(b, channels, height, width)``, as the ``transform`` of the backbone makes
            them.

        Returns
        -------
        ndarray of float32, shape (b, d)
            The run's arrays side by side.

        Raises
        ------
        InputError
            If the network was fine-tuned or has several heads, or there is not one batch for each backbone.
        """
        return self._frozen("features").features(batch)

    def _frozen(self, what: str) -> "FrozenNetwork":
        """Return the network of one head on a frozen backbone, or refuse `what` of another one."""
        from toptune.workflows.predict.frozen_network import FrozenNetwork

        if isinstance(self.network, FrozenNetwork):
            return self.network
        kind = "a run of several models" if self.record.record.is_fused else "a fine-tuned network"
        raise InputError(
            f"{self.record.folder} holds {kind}, which has no {what} of its own; use record, predict or "
            "probabilities"
        )
