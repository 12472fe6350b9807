"""`export` writes the whole classifier of a run as one file that needs no toptune."""

import operator
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toptune.costs.meter import CostMeter, describe_costs
from toptune.costs.values import Costs
from toptune.errors import InputError, NumericalError
from toptune.extract.backbone.transform import EvalTransform
from toptune.options import check_choice
from toptune.store.files.provenance import provenance
from toptune.store.files.writing import check_writable, new_target
from toptune.train.tasks.names import REGRESSION
from toptune.workflows.deploy.check import (
    DEFAULT_CHECK,
    ExportCheck,
    compare,
    probabilities_of,
    sample_inputs,
)
from toptune.workflows.deploy.formats import format_of
from toptune.workflows.deploy.head_modules import check_exportable
from toptune.workflows.deploy.model_card import describe_export, inputs_in, write_card
from toptune.workflows.deploy.network import ExportedNetwork, form_of, heads_of, trace
from toptune.workflows.deploy.network_inputs import network_inputs
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.finetuned_network import FineTunedNetwork
from toptune.workflows.predict.moved import Place

# File and run compute the backbone by different kernels, so that features differ in their last bits before
# they are rounded to the stored type.
TOLERANCE = 1e-4
# From a percent on, the user is told how to make file and run agree.
LARGE_DIFFERENCE = 0.01
HEAD_DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The files that were written, and how the exported one compares with `Classifier.predict`."""

    out: str
    card: str
    n_bytes: int
    inputs: list[dict[str, Any]]
    check: ExportCheck
    warnings: list[str]
    costs: Costs

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            "out": self.out,
            "card": self.card,
            "n_bytes": self.n_bytes,
            **({"input": self.inputs[0]} if len(self.inputs) == 1 else {"inputs": self.inputs}),
            "check": self.check.to_dict(),
            "warnings": self.warnings,
            "costs": self.costs,
        }

    def __str__(self) -> str:
        check = self.check
        lines = [
            f"{self.out}: {self.n_bytes / 1e6:.1f} MB, takes "
            + " and ".join(
                f"{'' if len(self.inputs) == 1 else each['name'] + ', '}{each['dtype']} of shape "
                f"({', '.join(map(str, each['shape']))})"
                for each in self.inputs
            )
            + f", {self.inputs[0]['values']}",
            f"{check.what} within {check.difference:.1e} of the run's own on {check.n_pictures} images of "
            f"{check.data}, in batches of {' and '.join(map(str, check.batch_sizes))}",
            *(f"note: {warning}" for warning in self.warnings),
            describe_costs(self.costs),
            f"model card: {self.card}",
        ]
        return "\n".join(lines)


def export(
    run: str | Path,
    out: str | Path,
    *,
    check: str | Path | None = None,
    normalize: bool = False,
    head_dtype: str = "float64",
    tolerance: float = TOLERANCE,
    model: Place | None = None,
    weights: Place | None = None,
) -> ExportReport:
    """Write a run with its backbone as one file, compare the file with the run, and add a model card.

    The file computes the backbone in float32, only as far as the run's layers need it, rounds features as the
    store does, and goes through preprocessing and head to ``logits`` and their softmax, ``probabilities``. A
    fine-tuned network is all in float32. The batch size is free. The file appears only if its probabilities
    on sample images are those of the run.

    Parameters
    ----------
    run : path
        Folder that `toptune.train.train` or `toptune.workflows.finetune` wrote.
    out : path
        ``.onnx`` (needs ``toptune[export]``) or ``.pt2``; the card has the same name with ``.md`` appended.
    check : optional
        Images to compare on: a folder, a manifest or a built-in; by default built-in digits.
    normalize : bool
        Let the file take RGB values from 0 to 1 and normalize inside; by default it takes normalized images.
    head_dtype : {"float64", "float32"}
        Type of the computation behind a frozen backbone: float64 as in toptune, or float32 for devices
        without float64.
    tolerance : float
        Largest difference of a probability that is accepted; of a number, in standard deviations of its
        target.
    model, weights : optional
        Where the backbone or its checkpoint is now, if it has moved since.

    Raises
    ------
    InputError
        If `out` exists or has another suffix, packages are missing, the head cannot be exported, or no
        image of `check` can be read.
    NumericalError
        If a probability differs by more than `tolerance`; nothing is written.
    """
    meter, target = CostMeter(), Path(out).absolute()
    form = format_of(target)
    card = target.with_name(f"{target.name}.md")
    for path in (target, card):
        if os.path.lexists(path):
            raise InputError(f"{path} exists; nothing is overwritten: give another --out", option="out")
    check_writable(target.parent, option="out")
    check_choice(head_dtype, HEAD_DTYPES, option="head_dtype")
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; it must be above 0")
    loaded = Classifier.load(run, device="cpu", model=model, weights=weights)
    classifier = _reading_here(loaded)
    # A head that cannot be exported is refused before images are read and the network is traced.
    for head in heads_of(classifier):
        check_exportable(head.run.head.name, head.run.form.task)
    # The file computes in float32, so it is held to the run in float32. What the run's own precision adds is
    # told as a warning, not charged to the file.
    plain = _reading_as_the_card(_reading_here(classifier.in_float32()))
    wanted = network_inputs(plain, is_normalizing=normalize)
    files, inputs = sample_inputs(plain, wanted, check, is_normalized=not normalize)
    expected = probabilities_of(plain, files)
    predicted = expected if plain is classifier else probabilities_of(classifier, files)
    network = ExportedNetwork(plain, wanted, is_normalizing=normalize, head_dtype=HEAD_DTYPES[head_dtype])
    program = trace(network.eval(), [(each.transform.n_channels, *each.transform.size) for each in wanted])
    # The card describes how the run's own images were made.
    described = network_inputs(classifier, is_normalizing=normalize)
    metadata = describe_export(classifier, described, is_normalizing=normalize, head_dtype=head_dtype)
    metadata["created"] = provenance()
    with new_target(target, option="--out") as temporary:
        form.write(program, temporary, [each.name for each in wanted], metadata)
        done = compare(
            form.open(temporary), inputs, expected=expected, predicted=predicted,
            data=str(check or DEFAULT_CHECK), form=form_of(classifier), scale=_scale_of(classifier),
        )  # fmt: skip
        # Inside the block an error removes the temporary file, so that no wrong file takes the name. The
        # negation refuses NaN too.
        if not done.difference <= tolerance:
            raise NumericalError(
                f"the exported network's {done.what} differ from the run's by up to {done.difference:.1e} "
                f"on {done.n_pictures} images of {done.data}, more than {tolerance:.0e}; "
                + ("try --head-dtype float64, or " if head_dtype != "float64" else "")
                + "accept it with --tolerance. Nothing was written"
            )
        n_bytes = temporary.stat().st_size
    notes = [*done.warnings, *_on_precision(classifier, done), *_on_decoding(classifier, done)]
    if classifier is not loaded:
        notes.append(
            "the run's images were decoded on a GPU (decode gpu), those of the comparison on the CPU: pixels "
            "of JPEGs may differ a little [TT503]"
        )
    report = ExportReport(
        out=str(target), card=str(card), n_bytes=n_bytes, inputs=inputs_in(metadata), check=done,
        warnings=notes,
        costs=meter.to_dict(),
    )  # fmt: skip
    with new_target(card, option="--out") as temporary:
        write_card(temporary, classifier, metadata, report.to_dict(), tolerance=tolerance)
    return report


def _scale_of(classifier: Classifier) -> npt.NDArray[np.float64] | None:
    """Return by what differences of numbers are divided (n_targets,); None of probabilities."""
    if form_of(classifier).task != REGRESSION:
        return None
    scale: npt.NDArray[np.float64] = classifier.run.head.estimator.target_scale_  # type: ignore[attr-defined]
    return scale


def _reading_here(classifier: Classifier) -> Classifier:
    """Let the CPU decode the images of the comparison where those of the run were decoded on a GPU."""
    return _with_transforms(classifier, lambda each: each.off_device() if each.is_on_device else each)


def _reading_as_the_card(classifier: Classifier) -> Classifier:
    """Decode images whole, as the program in the card does, where the run decodes a fraction of them."""
    return _with_transforms(classifier, lambda each: each.exact() if _is_draft(each) else each)


def _with_transforms(classifier: Classifier, change: Callable[[EvalTransform], EvalTransform]) -> Classifier:
    """Return a classifier whose backbones have other transforms, or the same one if none changes."""
    transforms = [change(backbone.transform) for backbone in classifier.backbones]
    changed = tuple(
        backbone if transform is backbone.transform else replace(backbone, transform=transform)
        for backbone, transform in zip(classifier.backbones, transforms, strict=True)
    )
    is_same = all(map(operator.is_, changed, classifier.backbones))
    return classifier if is_same else Classifier(classifier.network.with_backbones(changed))


def _is_draft(transform: EvalTransform) -> bool:
    return transform.route.startswith("draft")


def _on_decoding(classifier: Classifier, check: ExportCheck) -> list[str]:
    """Say how far the file is from a run whose images are decoded at a fraction of their size."""
    if not any(_is_draft(backbone.transform) for backbone in classifier.backbones):
        return []
    return [
        "the run decodes large JPEGs at a fraction of their size (decode draft), and the program in the card "
        f"decodes them whole: {check.told_difference} on {check.n_pictures} images of {check.data} [TT503]"
    ]


def _on_precision(classifier: Classifier, check: ExportCheck) -> list[str]:
    """Say how far the file in float32 is from a run that computes in another precision."""
    if classifier.precision == "fp32":
        return []
    said = (
        f"the run computes in {classifier.precision}, the file in float32: {check.told_difference}"
        f"{check.told_others}"
    )
    if check.difference_from_predict >= LARGE_DIFFERENCE or check.n_other_labels:
        again = (
            "fine-tune again with --precision fp32"
            if isinstance(classifier.network, FineTunedNetwork)
            else "extract again with --precision fp32, train on these features"
        )
        said += (
            f". Where file and predict must agree: {again} and export that run. The file is the more exact "
            "of the two; measure both by evaluate --data before you choose"
        )
    return [f"{said} [TT503]"]
