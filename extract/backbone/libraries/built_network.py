"""`BuiltNetwork`: what a door gives, and how timm's words are put on a network that is not timm's."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from toptune.errors import InputError

_SEED = 0
# The ends of the names under which libraries keep their blocks in order.
_BLOCK_LISTS = re.compile(r"(?:.*\.)?(?:layers?|blocks?|stages|resblocks)")
# Names of parameters that are tokens before the patches, in the order in which networks put them there.
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_OTHER_TOKENS = ("distillation_token", "dist_token", "register_tokens", "reg_token")


@dataclass(frozen=True, kw_only=True)
class BuiltNetwork:
    """A network as a library made it, with its weights and what the library says of images.

    Attributes
    ----------
    module : nn.Module
        Takes images ``(b, 3, h, w)`` and gives features ``(b, d)``.
    architecture : str
        The library and its name of the architecture, for the recipe: nothing of where weights came from.
    arguments : mapping
        What else the architecture was built of; JSON values.
    transform : mapping
        timm's data configuration, which says the library's transform.
    blocks : sequence of str, optional
        Names of the modules that are the network's blocks, in order; None to look for a list of them.
    first_of_tuples : bool
        Whether a layer that gives a tuple means its first tensor.
    """

    module: nn.Module
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any]
    blocks: Sequence[str] | None = None
    first_of_tuples: bool = False

    def adapted(self, size: tuple[int, int], *, name: str) -> nn.Module:
        """Return the network with timm's words on it, after a pass over noise.

        Parameters
        ----------
        size : tuple of int
            Height and width of the network's input in pixels.
        name : str
            The network's name, for messages.

        Raises
        ------
        InputError
            If the network does not run, draws random numbers, or gives anything but a vector an image.
        """
        module: Any = self.module.eval()
        module.first_of_tuples = self.first_of_tuples
        _name_tokens(module)
        noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(_SEED))
        wanted = find_block_names(module) if self.blocks is None else list(self.blocks)
        outputs: dict[str, list[object]] = {}
        with ExitStack() as stack, torch.inference_mode(), torch.random.fork_rng(devices=[]):
            for each in wanted:
                handle = module.get_submodule(each).register_forward_hook(_kept(outputs, each))
                stack.callback(handle.remove)
            check_features(module, noise, name=name)
        # A library's blocks may run several times, or give what no layer gives: they are then no blocks here.
        module.hooked_blocks = [each for each in wanted if self._is_block(outputs.get(each, []))]
        module.pretrained_cfg = {"architecture": self.architecture, **self.transform}
        return self.module

    def _is_block(self, outputs: Sequence[object]) -> bool:
        # Two passes were made.
        if len(outputs) != 2:
            return False
        one = outputs[0]
        if self.first_of_tuples and isinstance(one, tuple) and one:
            one = one[0]
        return isinstance(one, torch.Tensor) and 2 <= one.ndim <= 4 and len(one) == 2


def check_features(module: nn.Module, noise: torch.Tensor, *, name: str) -> None:
    """Refuse a network that is no function from images to vectors.

    Raises
    ------
    InputError
        If the network does not run, draws random numbers, or gives anything but a vector an image.
    """
    height, width = noise.shape[2:]
    try:
        found = module(noise)
        again = module(noise)
    except InputError:
        raise
    except Exception as error:  # a module of anybody's may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} cannot run on {height} x {width} pixels in float32: {reason}; try another --img-size"
        ) from error
    if not isinstance(found, torch.Tensor):
        raise InputError(
            f"{name} gives a {type(found).__name__}, not a tensor; give a module whose forward pass returns "
            "features of shape (images, values)"
        )
    if found.ndim != 2 or len(found) != len(noise):
        raise InputError(
            f"{name} gives shape {tuple(found.shape)} for {len(noise)} images; features are "
            f"({len(noise)}, d), a vector an image: give a module that pools its output"
        )
    if not torch.equal(found, again):
        raise InputError(
            f"{name} gives two passes over the same images different features: it draws random numbers or "
            "changes while it computes, so that its features could not be found again"
        )


def find_block_names(module: nn.Module) -> list[str]:
    """Return the names of a network's blocks: the children of the outermost list of modules of one class.

    Examples
    --------
    >>> from torch import nn
    >>> network = nn.Module()
    >>> network.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    >>> find_block_names(network)
    ['layers.0', 'layers.1']
    """
    found: list[str] = []
    for name, each in module.named_modules():
        if not isinstance(each, nn.ModuleList | nn.Sequential) or not _BLOCK_LISTS.fullmatch(name):
            continue
        kinds = {type(child) for child in each}
        if len(each) > 1 and len(kinds) == 1 and not kinds & {nn.ModuleList, nn.Sequential}:
            names = [f"{name}.{child}" for child, _ in each.named_children()]
            if not found or name.count(".") < found[0].count(".") - 1:
                found = names
    return found


def drop_last_layer(module: nn.Module) -> None:
    """Put the identity in place of the classification head: a network's last linear layer or convolution.

    Raises
    ------
    InputError
        If the network has none.
    """
    names = [name for name, each in module.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    if not names:
        raise InputError(
            f"{type(module).__name__} has neither linear layers nor convolutions; its head is unknown"
        )
    parent, _, child = names[-1].rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())


def _kept(outputs: dict[str, list[object]], name: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        outputs.setdefault(name, []).append(output)

    return keep


def _name_tokens(module: Any) -> None:
    """Say in timm's words which tokens stand before the patches, and whether the head reads the first."""
    tokens = {name.rpartition(".")[2]: each for name, each in module.named_parameters()}
    has_class = any(name in tokens for name in _CLASS_TOKENS)
    if has_class and not hasattr(module, "cls_token"):
        module.cls_token = True
    if not hasattr(module, "num_prefix_tokens"):
        others = [tokens[name] for name in _OTHER_TOKENS if name in tokens]
        n_others = sum(each.shape[-2] if each.ndim > 1 else 1 for each in others)
        module.num_prefix_tokens = int(has_class) + n_others
    if has_class and not hasattr(module, "global_pool"):
        module.global_pool = "token"
