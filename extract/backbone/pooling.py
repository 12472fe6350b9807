"""The output of a tap is pooled to one vector an image, on the device that holds the output."""

from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d, avg_pool1d, avg_pool2d

from toptune.extract.backbone.taps import grid_size
from toptune.extract.backbone.target_pooling import target_size, target_window

# Float32 copies on the CPU are made in steps of this many bytes. Copies above 32 MiB are not served from
# memory that glibc keeps (`keep_freed_memory`): they would be fetched page by page for every batch.
STEP_BYTES = 2**24


@dataclass(frozen=True)
class TapValue:
    """The output of a tap, divided into its parts.

    Attributes
    ----------
    body : Tensor (b, c), (b, c, n) or (b, c, h, w)
        Vectors, patches in a row, or patches and pixels on their grid.
    prefix : Tensor (b, p, c), optional
        Tokens that stand for no patch.
    is_tokens : bool
        Whether flattening goes token by token, prefix first, in the order of the model.
    """

    body: torch.Tensor
    prefix: torch.Tensor | None = None
    is_tokens: bool = False


def pool(value: TapValue, pooling: str) -> torch.Tensor:
    """Reduce a tap's output to a fresh float32 tensor ``(b, dim)``.

    ``cls`` is the first token, ``mean`` and ``max`` go over patches or pixels without the prefix,
    ``gridG`` averages over a G x G grid (channels vary slowest), ``targetT`` over windows that leave about T
    values as Head2Toe does (`target_window`; prefix tokens are tokens like the others), ``flatten`` keeps
    everything. Averages are taken in float32 whatever the model's precision.
    """
    body = value.body
    grid, target = grid_size(pooling), target_size(pooling)
    if pooling == "cls" and value.prefix is not None:
        return _fresh(value.prefix[:, 0])
    if pooling == "none":
        return _fresh(body)
    if pooling == "mean":
        return _mean(body)
    if pooling == "max":
        return body.flatten(2).amax(2).float()
    if grid is not None:
        return torch.cat(
            [adaptive_avg_pool2d(part.float().contiguous(), grid).flatten(1) for part in _steps(body)]
        )
    if target is not None:
        return _to_target(_tokens(value).transpose(1, 2) if value.is_tokens else body, target)
    if pooling == "flatten" and value.is_tokens:
        return _fresh(_tokens(value).flatten(1))
    if pooling == "flatten":
        return _fresh(body.flatten(1))
    raise ValueError(f"pooling {pooling!r} of a body of shape {tuple(body.shape)}")


def _mean(body: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.float().flatten(2).mean(2) for part in _steps(body)])


def _tokens(value: TapValue) -> torch.Tensor:
    """Return all tokens ``(b, n, c)`` in the order of the model, prefix first."""
    tokens = value.body.flatten(2).transpose(1, 2)
    return tokens if value.prefix is None else torch.cat([value.prefix, tokens], 1)


def _to_target(body: torch.Tensor, target: int) -> torch.Tensor:
    """Average tokens (b, c, n) or maps (b, c, h, w) over windows; channels vary slowest."""
    window = target_window(body.shape[2:], body.shape[1], target)
    if window is None:
        return _mean(body)
    average = avg_pool2d if body.ndim == 4 else avg_pool1d
    return torch.cat([average(part.float().contiguous(), window).flatten(1) for part in _steps(body)])


def _steps(body: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # A graph for all batch sizes cannot depend on the size of this one.
    if body.device.type != "cpu" or torch.compiler.is_exporting():
        return (body,)
    return torch.split(body, max(1, STEP_BYTES // (4 * body[0].numel())))


def _fresh(values: torch.Tensor) -> torch.Tensor:
    # A view would change when the model goes on with in-place operations after the hook.
    return values.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
