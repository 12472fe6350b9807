"""`toptune models` and `layers` list the backbones, and the layers that one of them has."""

from typing import Any

import click

from toptune.commands.options.common import IMG_SIZE, JSON, MODEL_KWARGS, WEIGHTS
from toptune.commands.options.help import Command
from toptune.commands.options.printing import show


@click.command(cls=Command)
@click.argument("pattern", default="*")
@JSON
def models(pattern: str, as_json: bool) -> None:
    """List backbones that have pretrained weights.

    The embedded backbone comes first. PATTERN is a glob, such as '*convnext*'.
    """
    from toptune.extract import list_models

    names = list_models(pattern)
    if not names:
        raise click.UsageError(
            f"no model with pretrained weights matches {pattern!r}; try '*{pattern.strip('*')}*'"
        )
    show(as_json, {"pattern": pattern, "models": names}, "\n".join(names))


@click.command(cls=Command)
@click.argument("model")
@WEIGHTS
@IMG_SIZE
@MODEL_KWARGS
@JSON
def layers(model: str, as_json: bool, **options: Any) -> None:
    """List the layers of MODEL that can be stored.

    Each layer is shown with its shape, its poolings and its bytes per image, and below, what --layers last,
    upper (the default of extract) and all store.
    """
    from toptune.extract import list_taps, named_layers
    from toptune.text import printed_records

    taps = list_taps(model, **options)
    rows = [tap.to_dict() for tap in taps]
    choices = [
        {
            "--layers": name,
            "columns": sum(array.dim for array in arrays),
            "bytes_per_image": sum(2 * array.dim for array in arrays),
            "arrays": [array.name for array in arrays],
        }
        for name, arrays in named_layers(taps).items()
    ]
    text = f"{printed_records(rows)}\n\n{printed_records(choices)}"
    show(as_json, {"model": model, "layers": rows, "choices": choices}, text)
