"""`FineTunedNetwork` classifies images by a whole network that was fine-tuned."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from toptune.errors import CorruptError, InputError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.extract.images.source import ImageBytes
from toptune.extract.pipeline.features_of import UsableBatch, usable_batches
from toptune.extract.pipeline.forwarding import one_pass
from toptune.extract.pipeline.streams import count_ahead
from toptune.extract.pipeline.transfers import BatchTransfer, Pixels, Transfer, start_transfer, to_device
from toptune.machine.ahead import ahead
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.devices import resolve_device
from toptune.machine.precision import full_precision
from toptune.store.features.recipe import ROUTE_NAMES, Recipe
from toptune.store.files.reading import read_linked
from toptune.train.runs.record import CONFIG
from toptune.train.runs.run import check_probabilities
from toptune.workflows.finetuning.run import MODEL, WEIGHTS, FineTunedRun
from toptune.workflows.predict.frozen_network import batches_of
from toptune.workflows.predict.predictions import Answers

_FOUND = "logits"
_ADVICE = "copy the run again from where it was made, or fine-tune again"


@dataclass(frozen=True, eq=False)
class FineTunedNetwork:
    """A network that `toptune.workflows.finetune` wrote, ready to classify.

    Attributes
    ----------
    record : FineTunedRun
        The RUN folder.
    backbone : Backbone
        The trained network; its probabilities are the softmax of the network's own classifier.
    precision : {"fp32", "bf16"}
        The arithmetic of a forward pass: the one of the training, unless `in_float32` changed it.
    """

    record: FineTunedRun
    backbone: Backbone
    precision: str

    @classmethod
    def of_run(cls, run: FineTunedRun, *, device: str) -> "FineTunedNetwork":
        """Load the network of a RUN folder.

        Raises
        ------
        InputError
            If the device is not there.
        CorruptError
            If the weights are gone or damaged.
        DeviceMemoryError
            If the network does not fit the device's memory.
        """
        where = str(resolve_device(device))
        path = Path(run.folder).absolute()
        run.record.check_files(path, [WEIGHTS, MODEL])
        # What the device lacks is no damage of the folder.
        room = explained_out_of_memory(
            f"loading the network of {path}", device=where, knobs="stop other programs there"
        )
        try:
            with room:
                tensors, backbone = _load(run, path, where)
        except FileNotFoundError as error:
            raise CorruptError(f"{path} lacks a file of the network: {error}; {_ADVICE}") from error
        except (SafetensorError, RuntimeError, InputError) as error:
            raise CorruptError(
                f"{path} does not hold the network that was trained: {error}; {_ADVICE}"
            ) from error
        for name, values in tensors.items():
            if not values.isfinite().all():
                raise CorruptError(
                    f"{path / WEIGHTS}: {name} holds a number that is not finite; {_ADVICE}", path / WEIGHTS
                )
        if run.record.precision not in ("fp32", "bf16"):
            raise CorruptError(f"{path / CONFIG} lacks precision; train the run again, or restore the file")
        backbone.model.to(backbone.device).eval()
        return cls(run, backbone, run.record.precision)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The network, which is one."""
        return (self.backbone,)

    def with_backbones(self, backbones: tuple[Backbone, ...]) -> "FineTunedNetwork":
        """Return the same network with another transform of its images."""
        (backbone,) = backbones
        return replace(self, backbone=backbone)

    def with_novelty(self) -> "FineTunedNetwork":
        """Refuse to tell the novelty of images: a fine-tuned run keeps no features of its training images."""
        raise InputError(
            f"{self.record.folder} is a fine-tuned network, which keeps no features of its training images "
            "to compare others with; train a head on a frozen backbone (toptune extract, toptune train), or "
            "leave --novelty and --abstain-above out",
            option="novelty",
        )

    def with_features(self) -> "FineTunedNetwork":
        """Refuse to make answers from features: a fine-tuned network has none of its own."""
        raise InputError(
            f"{self.record.folder} is a fine-tuned network, whose answers are made from no stored features; "
            "take another --answer-from than features",
            option="answer_from",
        )

    def of_means(self, features: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
        """Refuse as `with_features`."""
        return self.with_features().of_means(features)

    def in_float32(self) -> "FineTunedNetwork":
        """Return the same network, computing in float32."""
        return self if self.precision == "fp32" else replace(self, precision="fp32")

    def probabilities(self, batch: torch.Tensor | Sequence[torch.Tensor]) -> npt.NDArray[np.float64]:
        """Classify transformed images: probabilities ``(b, n_classes)``."""
        (only,) = batches_of(batch, 1)
        return self._probabilities(self._forward(only).cpu().numpy())

    def answers(self, source: ImageBytes, n_images: int, *, batch_size: int) -> Iterator[Answers]:
        """Classify images ``0 ... n_images - 1`` of a source, a batch after the other."""
        backbone = self.backbone

        def work(pixels: Pixels) -> Transfer:
            there = backbone.transform.normalize(to_device(pixels, backbone.device, backbone.copies))
            return start_transfer({_FOUND: self._forward(there)}, {}, backbone.copies)

        def launch(batch: UsableBatch) -> BatchTransfer | None:
            if not len(batch.rows):
                return None
            (pixels,) = batch.pixels
            parts = backbone.batch_limit.compute(work, pixels, backbone.device, one=one_pass(pixels))
            return BatchTransfer(tuple(parts), pixels)

        # A CUDA device has the next batches in its queue while the probabilities of this one are used.
        batches = usable_batches(source, n_images, [backbone], batch_size=batch_size)
        for batch, transfer in ahead(batches, launch, count_ahead(backbone)):
            found = np.zeros((0, len(self.record.classes)))
            if transfer is not None:
                found = self._probabilities(transfer.result()[_FOUND])
            yield Answers(rows=batch.rows, probabilities=found, failed=batch.failed, narrow=batch.narrow)

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the network; return logits ``(b, n_classes)`` of float32 on its device."""
        device = self.backbone.device
        is_bf16 = self.precision == "bf16"
        arithmetic: AbstractContextManager[object] = (
            torch.autocast(device.type, dtype=torch.bfloat16) if is_bf16 else full_precision()
        )
        with torch.inference_mode(), arithmetic:
            logits: torch.Tensor = self.backbone.model(batch.to(device))
        return logits.float()

    def _probabilities(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        # float64, because rows of float32 probabilities sum to 1 only to seven digits; MPS has no float64.
        found: npt.NDArray[np.float64] = torch.from_numpy(logits).double().softmax(dim=1).numpy()
        check_probabilities(found, self.record.folder)
        return found


def _load(run: FineTunedRun, path: Path, device: str) -> tuple[dict[str, torch.Tensor], Backbone]:
    """Read the tensors of a RUN folder, and load the network that they belong to."""
    # The folder is in timm's local-dir form. Its classifier is made anew, because the loader leaves
    # classifiers out: a frozen backbone has none.
    tensors = load(read_linked(path / WEIGHTS))
    # Images are decoded as they were for the training, perhaps by an older route than today's.
    route = ROUTE_NAMES.get(str(run.record.recipe.get("decode")), "exact")
    recipe = Recipe.from_json(json.dumps(run.record.recipe), path / CONFIG)
    backbone = load_backbone(f"local-dir:{path}", device=device, decode=route, expected=recipe)
    if differing := recipe.differences(replace(recipe, transform=backbone.recipe.transform)):
        raise InputError("; ".join(differing))
    backbone.model.reset_classifier(len(run.classes))
    backbone.model.load_state_dict(tensors)
    return tensors, backbone
