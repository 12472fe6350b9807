"""`TrainedNetwork` is a timm model with a new classifier, of which a part is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from toptune.errors import CorruptError, InputError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.forward import find_blocks


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network of which some modules are trained.

    Frozen modules stay in eval mode: frozen batch norms use and keep the statistics that they had.

    Attributes
    ----------
    model : nn.Module
        timm's model, with a classifier of the data set's classes.
    names : tuple of str
        Names of the trained modules. A name stands for the parameters of the module itself, without those of
        its children.
    """

    model: Any
    names: tuple[str, ...]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [each for each in self.model.parameters() if each.requires_grad]

    @property
    def n_parameters(self) -> int:
        """Number of parameters of all modules."""
        return sum(each.numel() for each in self.model.parameters())

    @property
    def n_trained(self) -> int:
        """Number of parameters that are trained."""
        return sum(each.numel() for each in self.parameters)

    def train(self) -> None:
        """Put the trained modules, and no others, into training mode."""
        # `nn.Module.train` would set the children too, and frozen batch norms would change their statistics.
        self.model.eval()
        modules = dict(self.model.named_modules())
        for name in self.names:
            modules[name].training = True

    def state(self) -> dict[str, torch.Tensor]:
        """Copy parameters and buffers of the trained modules to the CPU."""
        return {name: value.to("cpu", copy=True).contiguous() for name, value in self._own().items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over tensors that `state` returned.

        Raises
        ------
        CorruptError
            If the tensors belong to another network.
        """
        if state.keys() != self._own().keys():
            raise CorruptError("the checkpoint holds other tensors than this network trains")
        self.model.load_state_dict(state, strict=False)

    def _own(self) -> dict[str, torch.Tensor]:
        """Return parameters and buffers of the trained modules: statistics of batch norms are buffers."""
        owners, everything = set(self.names), self.model.state_dict()
        return {name: everything[name] for name in everything if name.rpartition(".")[0] in owners}


def make_network(backbone: Backbone, *, n_classes: int, depth: str, seed: int) -> TrainedNetwork:
    """Give a backbone's model a new classifier and choose what is trained.

    The backbone must not be used for features afterwards, because its model is changed.

    Parameters
    ----------
    backbone : Backbone
        The pretrained network.
    n_classes : int
        Number of classes.
    depth : str
        ``full``, ``head``, or ``last:N``: all modules behind the output of the last block but N, in the order
        in which the model registers them. Blocks are those of timm's index language, as for ``--layers``.
    seed : int
        Seed of the classifier's first weights.

    Raises
    ------
    InputError
        If the model takes no classifier, or has too few blocks or none that can be told apart.
    """
    model = backbone.model
    # The seed is for the classifier alone; the caller's generators go on as if nothing had been drawn.
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            model.reset_classifier(n_classes)
        except (AttributeError, NotImplementedError, TypeError) as error:
            raise InputError(
                f"{backbone.name} takes no classifier of {n_classes} classes: {error}"
            ) from error
    model.to(backbone.device)
    names = _trained_names(model, depth, backbone.name)
    modules = dict(model.named_modules())
    model.requires_grad_(False)
    for name in names:
        for parameter in modules[name].parameters(recurse=False):
            parameter.requires_grad_(True)
    network = TrainedNetwork(model, names)
    if not network.parameters:
        raise InputError(f"{backbone.name} has nothing to train at depth {depth}; give another --depth")
    return network


def _trained_names(model: Any, depth: str, name: str) -> tuple[str, ...]:
    """Name the modules that a depth trains; ``last:N`` refuses models without N + 1 blocks."""
    names = [each for each, _ in model.named_modules()]
    if depth == "full":
        return tuple(names)
    heads = model.get_classifier()
    # Distilled models have two classifiers. Their modules are found by identity, since timm names them
    # freely.
    inside = {
        id(each) for head in (heads if isinstance(heads, tuple) else (heads,)) for each in head.modules()
    }
    head_names = [each for each, module in model.named_modules() if id(module) in inside]
    if depth == "head":
        return tuple(head_names)
    blocks = find_blocks(model).names
    n_last = int(depth.partition(":")[2])
    if not 1 <= n_last < len(blocks):
        raise InputError(
            f"depth last:{n_last} asks for the last {n_last} of {len(blocks)} blocks of {name}; N may be "
            f"up to {max(len(blocks) - 1, 0)}; give full for all of it"
        )
    before = blocks[-n_last - 1]
    if before not in names:
        raise InputError(f"the blocks of {name} have no modules of their own; give --depth full or head")
    last = max(i for i, each in enumerate(names) if each == before or each.startswith(f"{before}."))
    return tuple(dict.fromkeys([*names[last + 1 :], *head_names]))
