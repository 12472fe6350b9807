"""`ForwardPass`: one forward pass of a model that gives the outputs of all taps."""

import inspect
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from toptune.errors import InputError
from toptune.extract.backbone.pooling import TapValue, pool
from toptune.extract.backbone.taps import LAST, Kind, Tap, TapArray
from toptune.machine.device_memory import is_out_of_memory

Mode = Literal["call", "joint", "separate"]
Sink = Callable[[str, TapValue], None]
# Makes a context for some work on so many images, which measures it.
Around = Callable[[int], AbstractContextManager[None]]


@dataclass(frozen=True)
class BlockOutputs:
    """The outputs that timm's index language counts.

    Attributes
    ----------
    names : tuple of str
        Name of each block: the module path in timm's ``feature_info``; where the path is empty or occurs
        twice, the path with the index behind it.
    kwargs : dict
        Arguments that ``forward_intermediates`` takes beside the batch and the indices.
    can_stop_early : bool
        Whether the pass may end at the last block that is asked for.
    are_hooked : bool
        Whether hooks take them, as of networks of other libraries than timm.
    """

    names: tuple[str, ...]
    kwargs: dict[str, Any]
    can_stop_early: bool
    are_hooked: bool = False


def find_blocks(model: Any) -> BlockOutputs:
    """Return which blocks ``model.forward_intermediates`` offers and how the method is called."""
    if hasattr(model, "hooked_blocks"):
        return BlockOutputs(tuple(model.hooked_blocks), {}, False, are_hooked=True)
    if not hasattr(model, "forward_intermediates"):
        return BlockOutputs((), {}, False)
    paths = [str(info["module"]) for info in getattr(model, "feature_info", [])]
    names = tuple(
        path if path and paths.count(path) == 1 else f"{path or 'features'}-{i}"
        for i, path in enumerate(paths)
    )
    # Families of models in timm take different arguments: the signature says which.
    takes = inspect.signature(model.forward_intermediates).parameters
    n_prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
    kwargs = {"return_prefix_tokens": True} if n_prefix and "return_prefix_tokens" in takes else {}
    return BlockOutputs(names, kwargs, {"stop_early", "intermediates_only"} <= takes.keys())


class ForwardPass:
    """A forward pass that computes some taps of a model.

    Blocks come from timm's own ``forward_intermediates``, other modules from hooks, ``last`` from
    ``forward_head`` on top of the same pass, or from a plain call where no block is asked for. timm does not
    promise that the head on top gives what a plain call gives, so that both are tried on noise once. Where
    the results differ, blocks and the other taps are computed in two passes.

    Parameters
    ----------
    model : nn.Module
        The model, in eval mode.
    names : sequence of str
        Taps: blocks, module paths or ``last``.
    sample : Tensor (b, 3, h, w)
        Noise on which modes are compared.
    is_compiled : bool
        Compile the model's methods; a compiled pass has no hooked modules.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], sample: torch.Tensor, *, is_compiled: bool = False
    ) -> None:
        self.model = model
        self.blocks = find_blocks(model)
        by_timm = () if self.blocks.are_hooked else self.blocks.names
        self.indices = [i for i, name in enumerate(by_timm) if name in names]
        self.has_last = LAST in names
        modules = dict(model.named_modules())
        self.hooked = {name: modules[name] for name in names if name != LAST and name not in by_timm}
        self._call: Any = model
        self._head: Any = getattr(model, "forward_head", None)
        self._intermediates: Any = getattr(model, "forward_intermediates", None)
        self.mode: Mode = "call"
        if self.indices:
            self.mode = self._joint_or_separate(sample)
        if is_compiled:
            self._compile()

    def _compile(self) -> None:
        if self.hooked:
            raise InputError(
                f"layer {next(iter(self.hooked))} is neither timm's block nor last; a compiled pass gives no "
                "others; leave --compile out"
            )
        self._call, self._head, self._intermediates = (
            None if each is None else torch.compile(each)
            for each in (self._call, self._head, self._intermediates)
        )

    def run(self, batch: torch.Tensor, sink: Sink) -> None:
        """Run the model and hand name and output of every tap to `sink` as soon as the output is there.

        Raises
        ------
        InputError
            If a hooked module gives anything but one tensor with a row an image.
        """
        # Passes of several threads run the same modules, and torch calls the hooks of a module in every
        # thread. Each hook knows the thread of its pass, and leaves the outputs of other passes alone.
        handles = [
            module.register_forward_hook(partial(self._take, threading.get_ident(), name, sink))
            for name, module in self.hooked.items()
        ]
        try:
            if self.mode == "call" or (self.mode == "separate" and (self.hooked or self.has_last)):
                self._emit_last(self._call(batch), sink)
            # The second pass runs the hooked modules again, whose outputs are taken already.
            if self.mode == "separate":
                for handle in handles:
                    handle.remove()
            if self.mode != "call":
                final = self._run_blocks(batch, sink)
                if self.mode == "joint" and (self.hooked or self.has_last):
                    self._emit_last(self._head(final), sink)
        finally:
            for handle in handles:
                handle.remove()

    def _emit_last(self, value: torch.Tensor, sink: Sink) -> None:
        if self.has_last:
            if not isinstance(value, torch.Tensor) or value.ndim != 2:
                raise InputError(
                    "the model's own output is not one vector an image; name blocks or modules, not last"
                )
            sink(LAST, TapValue(value))

    def _run_blocks(self, batch: torch.Tensor, sink: Sink) -> Any:
        kwargs = dict(self.blocks.kwargs)
        if self.blocks.can_stop_early and not (self.hooked or self.has_last):
            final, kwargs = None, kwargs | {"stop_early": True, "intermediates_only": True}
            outputs = self._intermediates(batch, indices=self.indices, **kwargs)
        else:
            final, outputs = self._intermediates(batch, indices=self.indices, **kwargs)
        for index, output in zip(self.indices, outputs, strict=True):
            body, prefix = output if isinstance(output, tuple) else (output, None)
            sink(self.blocks.names[index], TapValue(body, prefix, is_tokens=prefix is not None))
        return final

    def _take(
        self, thread: int, name: str, sink: Sink, module: nn.Module, _inputs: object, output: object
    ) -> None:
        if thread != threading.get_ident():
            return
        # Layers of some libraries give their output with attention maps and the like behind it.
        if getattr(self.model, "first_of_tuples", False) and isinstance(output, tuple) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise InputError(
                f"layer {name} gives a {type(output).__name__}, not a tensor; take a layer inside or after it"
            )
        sink(name, self._told_apart(name, module, output))

    def _told_apart(self, name: str, module: nn.Module, output: torch.Tensor) -> TapValue:
        if output.ndim == 2:
            return TapValue(output)
        if output.ndim == 3:
            return _tokens(output, int(getattr(self.model, "num_prefix_tokens", 0) or 0))
        if output.ndim == 4:
            last = _is_channels_last(module, output, getattr(self.model, "output_fmt", None))
            return TapValue(output.permute(0, 3, 1, 2) if last else output)
        raise InputError(
            f"layer {name} gives shape {tuple(output.shape)}; taps have 2 to 4 dimensions with the batch"
        )

    def _joint_or_separate(self, sample: torch.Tensor) -> Mode:
        if not (self.hooked or self.has_last):
            return "joint"
        self.mode = "separate"
        reference = self._collect(sample)
        self.mode = "joint"
        try:
            joint = self._collect(sample)
        except (AttributeError, TypeError, RuntimeError) as error:
            # What runs out of memory says nothing about the model.
            if is_out_of_memory(error):
                raise
            return "separate"
        same = joint.keys() == reference.keys() and all(_agree(joint[k], reference[k]) for k in reference)
        return "joint" if same else "separate"

    def _collect(self, sample: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        found: dict[str, list[torch.Tensor]] = {}

        def keep(name: str, value: TapValue) -> None:
            found.setdefault(name, []).append(value.body.float().clone())

        self.run(sample, keep)
        return found


def _tokens(output: torch.Tensor, n_prefix: int) -> TapValue:
    """Divide tokens ``(b, n, c)`` into prefix and patches; patches are tokens that make a square."""
    n = output.shape[1]
    if not 0 < n_prefix < n or not _is_square(n - n_prefix):
        n_prefix = 0
    body = output[:, n_prefix:].transpose(1, 2)
    if _is_square(n - n_prefix):
        side = math.isqrt(n - n_prefix)
        body = body.reshape(*body.shape[:2], side, side)
    return TapValue(body, output[:, :n_prefix] if n_prefix else None, is_tokens=True)


def _is_square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n


def _is_channels_last(module: nn.Module, output: torch.Tensor, model_format: str | None) -> bool:
    """Decide between ``(b, c, h, w)`` and ``(b, h, w, c)``, which a tensor does not tell.

    The kind of layer decides; then the order in which the map is square; then timm's ``output_fmt`` of the
    model; then channels come first.
    """
    kind = type(module).__name__
    if isinstance(module, nn.Conv2d | nn.modules.batchnorm._NormBase | nn.GroupNorm) or kind.endswith("2d"):
        return False
    if isinstance(module, nn.Linear | nn.LayerNorm):
        return True
    _, first, second, third = output.shape
    if (first == second) != (second == third):
        return first == second
    return model_format == "NHWC"


def _agree(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    if len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        # The operations and their order are the same, so that results differ by rounding at most.
        if a.shape != b.shape or not torch.allclose(
            a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-12, equal_nan=True
        ):
            return False
    return True


def inspect_taps(model: nn.Module, names: Sequence[str], sample: torch.Tensor) -> list[Tap]:
    """Run the model on two noise images and describe the outputs of the taps.

    Raises
    ------
    InputError
        If a module does not run, runs several times, or does not give a row an image.
    """
    found: dict[str, list[TapValue]] = {}
    forward = ForwardPass(model, names, sample)
    forward.run(sample, lambda name, value: found.setdefault(name, []).append(value))
    n_images = sample.shape[0]
    taps = []
    for name in names:
        values = found.get(name, [])
        if len(values) != 1:
            raise InputError(
                f"layer {name} runs {len(values)} times in one forward pass; a tap must run once, "
                "so take a layer inside or around it"
            )
        # Swin and similar models fold windows into the batch: such rows belong to parts of images.
        if values[0].body.shape[0] != n_images:
            raise InputError(
                f"layer {name} gives {values[0].body.shape[0]} rows for {n_images} images (windows, "
                "probably); take the layer around it"
            )
        taps.append(_tap(model, name, values[0]))
    return taps


def _tap(model: nn.Module, name: str, value: TapValue) -> Tap:
    body = value.body
    channels = int(body.shape[1])
    if body.ndim == 2:
        return Tap(name, "vector", (channels,), "none")
    grid = (int(body.shape[2]), int(body.shape[3])) if body.ndim == 4 else None
    n_prefix = 0 if value.prefix is None else int(value.prefix.shape[1])
    has_class_token = n_prefix > 0 and getattr(model, "cls_token", None) is not None
    reads_class_token = has_class_token and getattr(model, "global_pool", None) == "token"
    kind: Kind = "tokens" if value.is_tokens else "map"
    shape = (n_prefix + math.prod(body.shape[2:]), channels) if value.is_tokens else tuple(body.shape[1:])
    return Tap(
        name,
        kind,
        tuple(int(size) for size in shape),
        "cls" if reads_class_token else "mean",
        n_prefix=n_prefix,
        has_class_token=has_class_token,
        grid=grid,
    )


def pooled(
    forward: ForwardPass,
    batch: torch.Tensor,
    arrays: Sequence[TapArray],
    around: Around | None = None,
) -> dict[str, torch.Tensor]:
    """Run one pass and pool each tap on the device; return arrays ``(b, dim)`` of float32 by name.

    `around` makes a context for the poolings of each tap.
    """
    by_tap: dict[str, list[TapArray]] = {}
    for array in arrays:
        by_tap.setdefault(array.tap.name, []).append(array)
    outputs: dict[str, torch.Tensor] = {}

    # Outputs are pooled as soon as the pass gives them, so that those of hooked modules need not be held to
    # the end.
    def keep(name: str, value: TapValue) -> None:
        # An image counts once, however many taps are pooled. An export traces this code with a free batch
        # size, which asking for the length would fix.
        with nullcontext() if around is None else around(0 if outputs else len(batch)):
            for array in by_tap[name]:
                outputs[array.name] = pool(value, array.pooling)

    forward.run(batch, keep)
    return outputs
