"""`FineTuneTask` holds rows, classes and network of a fine-tuning, checked before an image is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.backbone.backbone import Backbone, load_backbone
from toptune.machine.devices import AUTO, resolve_device, resolve_precision, why_not_mps
from toptune.text import named
from toptune.train.rows.chosen_rows import rows_digest
from toptune.workflows.finetuning.augmentation import Augmentation
from toptune.workflows.finetuning.images import ImageLoader
from toptune.workflows.finetuning.learner import Learner
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.finetuning.rows import TuningRows
from toptune.workflows.finetuning.trained_network import make_network

# A message names this many of the images that failed.
SHOWN = 5
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuneTask:
    """A checked fine-tuning that can begin.

    Attributes
    ----------
    rows : TuningRows
        The images, and which of them train, validate and test.
    model, backbone : str, Backbone
        The name that was given, and the loaded network.
    precision : {"fp32", "bf16"}
        Arithmetic of the forward passes.
    options : FineTuneOptions
        How the network is trained.
    """

    rows: TuningRows
    model: str
    backbone: Backbone
    precision: str
    options: FineTuneOptions

    @property
    def fitted(self) -> Rows:
        """Training rows without the validation rows."""
        return np.setdiff1d(self.rows.split.train, self.rows.validation)

    @property
    def targets(self) -> Rows:
        """Class of each row of the manifest; -1 for a row without a class that is trained."""
        position = {name: index for index, name in enumerate(self.rows.classes)}
        return np.array([position.get(str(label), -1) for label in self.rows.manifest.labels], dtype=np.int64)

    @property
    def request(self) -> dict[str, object]:
        """The options and data that decide the result, as JSON values."""
        # Rows and images are compared by digests, because equal options over other images are another run.
        # The weights are named beside the recipe so that a message can say that they differ.
        ids = self.rows.manifest.ids
        roles = hashlib.sha256("\n".join(ids[row] for row in self.rows.validation.tolist()).encode())
        recipe = json.loads(self.backbone.recipe.to_json())
        return self.options.identity() | {
            "weights": recipe["weights"],
            "backbone": self.backbone.recipe.digest,
            "precision": self.precision,
            "pictures": self.rows.manifest.pictures_digest,
            "rows": rows_digest(self.rows.split, self.rows.manifest),
            "validation": roles.hexdigest(),
        }

    def open_loader(self) -> ImageLoader:
        """Open the threads that read the images."""
        options = self.options
        augmentation = (
            None
            if options.augment == "none"
            else Augmentation(
                self.backbone.transform.config,
                flips=options.augment == "crop-flip",
                least_scale=options.crop_scale,
            )
        )
        return ImageLoader(
            self.rows.source,
            self.backbone,
            augmentation,
            seed=options.rows.seed,
            workers=options.n_workers,
            cache_bytes=options.cache_memory_bytes,
        )

    def make_learner(self, loader: ImageLoader) -> Learner:
        """Give the backbone a new classifier, and return what trains both."""
        network = make_network(
            self.backbone,
            n_classes=len(self.rows.classes),
            depth=self.options.depth,
            seed=self.options.rows.seed,
        )
        return Learner(
            network=network,
            backbone=self.backbone,
            loader=loader,
            targets=self.targets,
            options=self.options,
            precision=self.precision,
        )

    def without(self, rows: Rows, failed: Mapping[int, str], *, seen_failed: int) -> tuple[Rows, int]:
        """Leave failed images out of some rows, or refuse to go on and name the images.

        Parameters
        ----------
        rows : ndarray of int64
            Rows that were looked at.
        failed : mapping of int to str
            Reason of each row whose image failed.
        seen_failed : int
            Number of images that failed before.

        Returns
        -------
        ndarray of int64
            Rows that can be used.
        int
            Number of images that failed so far.

        Raises
        ------
        InputError
            If more images failed than is allowed.
        """
        n_failed = seen_failed + len(failed)
        if n_failed > self.options.max_failures and not self.options.rows.allow_failed:
            ids = self.rows.manifest.ids
            shown = named([(ids[row], why) for row, why in sorted(failed.items())], most=SHOWN)
            raise InputError(
                f"{len(failed)} of {len(rows)} images cannot be used: {shown}; repair or "
                f"remove them, or leave them out with --skip-failed or --max-failures {n_failed}; what was "
                "trained so far stays"
            )
        return np.setdiff1d(rows, np.array(sorted(failed), dtype=np.int64)), n_failed

    def check_kept(self, fitted: Rows, validation: Rows) -> None:
        """Refuse to go on where failed images left a class, or the validation part, empty.

        Raises
        ------
        InputError
            If a class has no training image left, or no validation image is left.
        """
        labels = self.rows.manifest.labels
        empty = sorted(set(self.rows.classes) - {str(labels[row]) for row in fitted.tolist()})
        if empty:
            raise InputError(
                f"{len(empty)} of {len(self.rows.classes)} classes have no image left to train on: "
                f"{named(empty)}; repair those that failed"
            )
        if len(self.rows.validation) and not len(validation):
            raise InputError(
                f"all {len(self.rows.validation)} validation images failed; repair them, or give another "
                "--seed"
            )


def make_task(rows: TuningRows, *, model: str, options: FineTuneOptions) -> FineTuneTask:
    """Find the device and load the backbone; no image is read.

    Raises
    ------
    InputError
        If the device or the model cannot be used.
    WeightsError
        If there are no pretrained weights of that name; see `toptune.extract.load_backbone`.
    """
    device = resolve_device(options.device, not_on_mps=why_not_mps(options.precision))
    if options.device == AUTO:
        options = replace(options, device=str(device))
    # Gradients need more range than fp16 has.
    precision = resolve_precision(options.precision, device, has_fp16=False)
    # The backbone comes last: loading it takes the longest, and may need the network.
    backbone = load_backbone(
        model,
        weights=options.weights,
        device=str(device),
        img_size=options.img_size,
        model_kwargs=options.model_kwargs,
    )
    return FineTuneTask(rows=rows, model=model, backbone=backbone, precision=precision, options=options)
