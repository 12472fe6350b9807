"""`ExportedNetwork` is a run and its backbone as one torch module, traced for any batch size."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toptune.errors import InputError
from toptune.workflows.deploy.backbone_module import FeatureModule
from toptune.workflows.deploy.head_modules import HeadModule
from toptune.workflows.deploy.preprocessing_modules import PreprocessingModule
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.finetuned_network import FineTunedNetwork

OUTPUTS = ("probabilities", "logits")


class ExportedNetwork(nn.Module):
    """Map images ``(b, 3, h, w)`` to probabilities and logits ``(b, n_classes)``, float32.

    Parameters
    ----------
    classifier : Classifier
        The run and its network, in float32.
    is_normalizing : bool
        Whether images come as RGB values from 0 to 1, and are normalized inside.
    head_dtype : torch.dtype
        Type in which the preprocessing and the head behind a frozen backbone compute.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier, *, is_normalizing: bool, head_dtype: torch.dtype) -> None:
        super().__init__()
        config = classifier.backbone.transform.config
        self._is_normalizing = is_normalizing
        if is_normalizing:
            self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1))
            self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1))
        self.classifier = _logits_of(classifier, head_dtype)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        if self._is_normalizing:
            pictures = (pictures - self.mean) / self.std
        logits = self.classifier(pictures)
        return {"probabilities": logits.softmax(dim=1).float(), "logits": logits.float()}


def _logits_of(classifier: Classifier, head_dtype: torch.dtype) -> nn.Module:
    """Return the module that computes logits of normalized images."""
    if isinstance(classifier.network, FineTunedNetwork):
        # The classifier goes on to be compared with the file, so its own network is left as it is.
        network: nn.Module = copy.deepcopy(classifier.backbone.model)
        return network.to(memory_format=torch.contiguous_format).requires_grad_(False)
    run = classifier.run
    return nn.Sequential(
        FeatureModule(classifier.backbone, [(each.name, each.dtype) for each in run.arrays]),
        PreprocessingModule(run.preprocessing, head_dtype),
        HeadModule(run.head, head_dtype),
    )


def trace(network: nn.Module, size: Sequence[int]) -> torch.export.ExportedProgram:
    """Trace a network with a free batch size, and drop the weights that the outputs do not depend on.

    Parameters
    ----------
    network : nn.Module
        Module that maps images ``(b, 3, h, w)`` to a dict of tensors.
    size : sequence of int
        Height and width of the images.

    Raises
    ------
    InputError
        If torch cannot follow the network's code, or the code works for one batch size only.
    """
    # A batch of 1 would be traced as a constant, whatever is said about the batch size.
    example = torch.zeros(2, 3, *size)
    dynamic = {"pictures": {0: torch.export.Dim("batch", min=1)}}
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
            # Layers behind the last one that is used are traced too, because the backbone runs them. They are
            # removed, and the rest is traced anew: the first program still lists their weights.
            needed: Any = program.module()
            _drop_unused(needed)
            return torch.export.export(needed, (example,), dynamic_shapes=dynamic)
    except Exception as error:  # the tracer raises errors of many kinds, depending on the backbone's code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network cannot be traced with a free batch size: {reason}; take other layers or another "
            "backbone, or use toptune predict"
        ) from error


def _drop_unused(module: torch.fx.GraphModule) -> None:
    """Remove the tensors of a traced module that no operation reads."""
    module.graph.eliminate_dead_code()
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, _ in tensors:
        if name not in used:
            parent, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(parent), attribute)
    module.recompile()
