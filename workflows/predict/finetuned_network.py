"""`FineTunedClassifier`: a fine-tuned network's RUN folder, from images to labels."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from toptune.errors import CorruptError, InputError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.machine.devices import resolve_device
from toptune.workflows.finetuning.run import FineTunedRun
from toptune.workflows.predict.classifier import Classifier

_WEIGHTS = "model.safetensors"


class FineTunedClassifier(Classifier):
    """A fine-tuned network with its own classes; made by `Classifier.load`.

    Attributes
    ----------
    fine_tuned : FineTunedRun
    backbone : Backbone
        The network's trunk; what it says is the softmax of the network's own classifier.
    precision : str
        ``fp32`` or ``bf16``, by default what it was trained in.
    """

    def __init__(self, run: FineTunedRun, backbone: Backbone, precision: str | None = None) -> None:
        self.fine_tuned = run
        self.backbone = backbone
        self._precision = precision or run.config["precision"]

    @classmethod
    def open(cls, folder: str | Path, *, device: str = "cpu") -> "FineTunedClassifier":
        """Open a RUN folder that `toptune.workflows.finetune` wrote.

        Raises
        ------
        InputError
            If it is none.
        CorruptError
            If its weights are gone or damaged.
        """
        run = FineTunedRun.load(folder)
        path = Path(folder).absolute()
        try:
            tensors = load_file(path / _WEIGHTS)
            backbone = load_backbone(f"local-dir:{path}", device=str(resolve_device(device)))
            backbone.model.reset_classifier(len(run.classes))
            backbone.model.load_state_dict(tensors)
        except (OSError, SafetensorError, RuntimeError, InputError) as error:
            raise CorruptError(f"{path} does not hold the network that was trained: {error}") from error
        backbone.model.to(backbone.device).eval()
        return cls(run, backbone)

    @property
    def classes(self) -> list[str]:
        return self.fine_tuned.classes

    @property
    def record(self) -> FineTunedRun:
        return self.fine_tuned

    @property
    def precision(self) -> str:
        return self._precision

    def in_float32(self) -> "FineTunedClassifier":
        return FineTunedClassifier(self.fine_tuned, self.backbone, "fp32")

    def probabilities(self, batch: torch.Tensor) -> npt.NDArray[np.float64]:
        device = self.backbone.device
        is_bf16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16):
            logits = self.backbone.model(batch.to(device))
        found: npt.NDArray[np.float64] = logits.double().softmax(dim=1).cpu().numpy()
        return found
