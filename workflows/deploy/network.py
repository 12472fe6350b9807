"""`ExportedNetwork` is a run and its backbones as one torch module, traced for any batch size."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toptune.errors import InputError
from toptune.train.fusion.pool import LEAST_PROBABILITY
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION
from toptune.workflows.deploy.backbone_module import FeatureModule
from toptune.workflows.deploy.head_modules import HeadModule
from toptune.workflows.deploy.network_inputs import NetworkInput
from toptune.workflows.deploy.preprocessing_modules import PreprocessingModule
from toptune.workflows.finetuning.run import FineTunedRun
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.finetuned_network import FineTunedNetwork
from toptune.workflows.predict.frozen_network import FrozenNetwork
from toptune.workflows.predict.fused_network import FusedNetwork

# Outputs of a file; the first is what is compared with the run.
OUTPUTS = ("probabilities", "logits")
NUMBERS_OUTPUT = "predictions"


def form_of(classifier: Classifier) -> AnswerForm:
    """Return how the outputs of a run become answers."""
    record = classifier.record
    if isinstance(record, FineTunedRun):
        return AnswerForm(task=CLASSIFICATION, names=classifier.classes)
    return record.form


def outputs_of(task: str) -> tuple[str, ...]:
    """Return the names of a file's outputs, by the task of the run."""
    return (NUMBERS_OUTPUT,) if task == REGRESSION else OUTPUTS


class ExportedNetwork(nn.Module):
    """Map images ``(b, 3, h, w)`` to probabilities and logits ``(b, n_classes)``, or to numbers, float32.

    Parameters
    ----------
    classifier : Classifier
        The run and its networks, in float32.
    inputs : sequence of NetworkInput
        Which backbones see which of the tensors of images.
    is_normalizing : bool
        Whether images come as RGB values from 0 to 1, and are normalized inside.
    head_dtype : torch.dtype
        Type in which the preprocessing and the head behind a frozen backbone compute.
    """

    def __init__(
        self,
        classifier: Classifier,
        inputs: Sequence[NetworkInput],
        *,
        is_normalizing: bool,
        head_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        input_of = {place: number for number, each in enumerate(inputs) for place in each.places}
        self._inputs = [input_of[place] for place in range(len(classifier.backbones))]
        self.normalize = nn.ModuleList(
            _Normalize(backbone.transform.config) if is_normalizing else nn.Identity()
            for backbone in classifier.backbones
        )
        self.classifier = _logits_of(classifier, head_dtype)
        self._task = form_of(classifier).task

    def forward(self, pictures: Tensor, *others: Tensor) -> dict[str, Tensor]:
        given = (pictures, *others)
        seen = [normalize(given[at]) for normalize, at in zip(self.normalize, self._inputs, strict=True)]
        logits = self.classifier(*seen)
        if self._task == REGRESSION:
            return {NUMBERS_OUTPUT: logits.float()}
        # Several labels may apply, each by itself; of classes one does.
        probabilities = logits.sigmoid() if self._task == MULTILABEL else logits.softmax(dim=1)
        return {"probabilities": probabilities.float(), "logits": logits.float()}


class _Normalize(nn.Module):
    """Subtract the mean of each channel, and divide by its deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(config["mean"]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).view(-1, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures - self.mean) / self.std


class _Features(nn.Module):
    """Put the features of several backbones side by side, each of its own images."""

    def __init__(self, modules: Sequence[FeatureModule]) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(modules)

    def forward(self, *pictures: Tensor) -> Tensor:
        parts = [module(images) for module, images in zip(self.backbones, pictures, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class _Frozen(nn.Module):
    """A head on its backbones."""

    def __init__(self, network: FrozenNetwork, head_dtype: torch.dtype) -> None:
        super().__init__()
        run = network.run
        # The columns of a run stand backbone after backbone, in the order of its sources.
        arrays = [source.of(run.arrays) for source in run.sources]
        assert [each for own in arrays for each in own] == run.arrays
        self.features = _Features(
            [
                FeatureModule(backbone, [(each.own_name, each.dtype) for each in own])
                for backbone, own in zip(network.backbones, arrays, strict=True)
            ]
        )
        self.preprocessing = PreprocessingModule(run.preprocessing, head_dtype)
        self.head = HeadModule(run.head, head_dtype)

    def forward(self, *pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.preprocessing(self.features(*pictures)))
        return logits


class _Fused(nn.Module):
    """Several heads on their backbones, whose log-probabilities are weighed."""

    weights: Tensor

    def __init__(self, network: FusedNetwork, head_dtype: torch.dtype) -> None:
        super().__init__()
        pool = network.run.pool
        self.members = nn.ModuleList(_Frozen(member, head_dtype) for member in network.members)
        self._counts = [len(member.backbones) for member in network.members]
        self.register_buffer("weights", torch.tensor(pool.weights / pool.temperature, dtype=head_dtype))

    def forward(self, *pictures: Tensor) -> Tensor:
        logits, end = [], 0
        for member, count in zip(self.members, self._counts, strict=True):
            start, end = end, end + count
            # No probability counts as less than in a run.
            logs = member(*pictures[start:end]).to(self.weights.dtype).log_softmax(dim=1)
            logits.append(logs.clamp(min=math.log(LEAST_PROBABILITY)))
        return (torch.stack(logits) * self.weights[:, None, None]).sum(dim=0)


def heads_of(classifier: Classifier) -> tuple[FrozenNetwork, ...]:
    """Return the heads of a run with their backbones: one, several, or none of a fine-tuned network."""
    if isinstance(classifier.network, FusedNetwork):
        return classifier.network.members
    return (classifier.network,) if isinstance(classifier.network, FrozenNetwork) else ()


def _logits_of(classifier: Classifier, head_dtype: torch.dtype) -> nn.Module:
    """Return the module that computes logits of normalized images, one tensor for each backbone."""
    if isinstance(classifier.network, FineTunedNetwork):
        # The classifier goes on to be compared with the file, so its own network is left as it is.
        network: nn.Module = copy.deepcopy(classifier.backbone.model)
        return network.to(memory_format=torch.contiguous_format).requires_grad_(False)
    if isinstance(classifier.network, FusedNetwork):
        return _Fused(classifier.network, head_dtype)
    return _Frozen(classifier.network, head_dtype)


def trace(network: nn.Module, shapes: Sequence[tuple[int, int, int]]) -> torch.export.ExportedProgram:
    """Trace a network with a free batch size, and drop the weights that the outputs do not depend on.

    Parameters
    ----------
    network : nn.Module
        Module that maps images ``(b, c, h, w)``, one tensor or several, to a dict of tensors.
    shapes : sequence of (int, int, int)
        Channels, height and width of the images of each tensor.

    Raises
    ------
    InputError
        If torch cannot follow the network's code, or the code works for one batch size only.
    """
    # A batch of 1 would be traced as a constant, whatever is said about the batch size.
    example = tuple(torch.zeros(2, *shape) for shape in shapes)
    batch = {0: torch.export.Dim("batch", min=1)}
    dynamic = {"pictures": batch} | ({"others": (batch,) * (len(shapes) - 1)} if len(shapes) > 1 else {})
    try:
        with torch.no_grad():
            program = torch.export.export(network, example, dynamic_shapes=dynamic)
            # Layers behind the last one that is used are traced too, because the backbone runs them. They are
            # removed, and the rest is traced anew: the first program still lists their weights.
            needed: Any = program.module()
            _drop_unused(needed)
            return torch.export.export(needed, example, dynamic_shapes=[batch] * len(shapes))
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
