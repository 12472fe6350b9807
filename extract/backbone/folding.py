"""Batch norms are folded into the convolutions before them: the same function in fewer passes over memory."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

FOLDED = "folded-1"
SEED = 0
# Relative difference of the model's outputs on noise, in float32, up to which folding is only rounding.
TOLERANCE = 1e-4


def fold_batch_norms(model: nn.Module, size: Sequence[int]) -> tuple[nn.Module, list[str]]:
    """Return a model without the batch norms that follow a convolution, and the names of those convolutions.

    Which convolution feeds which norm is observed in one pass over noise. Whether a third module reads the
    output of the convolution cannot be observed: the outputs of the folded model are compared with those of
    the model, and where the outputs differ by more than rounding the model is returned as it was. The model
    that is given is never changed.

    Parameters
    ----------
    model : nn.Module
        The model, in eval mode and float32.
    size : tuple of int
        Channels of the model's input, and its height and width in pixels.

    Returns
    -------
    model : nn.Module
        The folded copy, or the model itself where folding changes the function or nothing can be folded.
    names : list of str
        Convolutions that took over a batch norm.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model, []
    sample = torch.randn(2, *size, generator=torch.Generator().manual_seed(SEED))
    pairs = _pairs(model, sample)
    if not pairs:
        return model, []
    folded = copy.deepcopy(model)
    modules = dict(folded.named_modules())
    for conv_name, norm_name in pairs:
        _fold(modules[conv_name], modules[norm_name])
        _replace(folded, norm_name, _after(modules[norm_name]))
    before, after = _outputs(model, sample), _outputs(folded, sample)
    is_same = all(
        float((a - b).norm()) <= TOLERANCE * float(b.norm()) for a, b in zip(after, before, strict=True)
    )
    return (folded, [conv for conv, _ in pairs]) if is_same else (model, [])


def _outputs(model: Any, sample: torch.Tensor) -> list[torch.Tensor]:
    """Compute the output of the model and the outputs of the blocks."""
    with torch.inference_mode():
        outputs = [model(sample)]
        # The blocks are compared as well: they are stored, and the head could hide a difference between them.
        if hasattr(model, "forward_intermediates") and not hasattr(model, "hooked_blocks"):
            outputs += model.forward_intermediates(sample, intermediates_only=True)
    return outputs


def _pairs(model: nn.Module, sample: torch.Tensor) -> list[tuple[str, str]]:
    """Return the names of each convolution and the batch norm that takes its output, both run once."""
    # Python gives the id of a tensor that was freed to another one, so that the tensors are kept with their
    # ids.
    made: dict[int, tuple[str, torch.Tensor]] = {}
    runs: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def after_convolution(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            made[id(output)] = name, output

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        with torch.inference_mode():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    # A module that runs several times, or feeds several norms, has one weight for several functions.
    convolutions = [conv for conv, _ in pairs]
    return [
        (conv, norm)
        for conv, norm in pairs
        if runs[conv] == runs[norm] == 1 and convolutions.count(conv) == 1
    ]


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    """Give the convolution the weights (Jacob et al. 2018, §3.2) with which it does the norm's work too."""
    # The products are taken in float64 and rounded once, which keeps the folded model close to the model.
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight
    convolution.weight = nn.Parameter((weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype), False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), False)


def _after(norm: nn.Module) -> nn.Module:
    """Return the activation that a norm of timm applies after normalizing, or the identity."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
