"""`toptune models` and `layers`: which backbones there are, and what can be taken from one."""

from typing import Any

import click

from toptune.commands.options.common import JSON
from toptune.commands.options.parsing import parse_object
from toptune.commands.options.printing import show


@click.command()
@click.argument("pattern", default="*")
@JSON
def models(pattern: str, as_json: bool) -> None:
    """List backbones with pretrained weights, the embedded one first."""
    from toptune.extract import list_models

    names = list_models(pattern)
    if not names:
        raise click.UsageError(
            f"no model with pretrained weights matches {pattern!r}; try '*{pattern.strip('*')}*'"
        )
    show(as_json, {"pattern": pattern, "models": names}, "\n".join(names))


@click.command()
@click.argument("model")
@click.option("--weights", type=click.Path())
@click.option("--img-size", type=click.IntRange(1))
@click.option("--model-kwargs", callback=parse_object)
@JSON
def layers(model: str, as_json: bool, **options: Any) -> None:
    """List a MODEL's layers with shapes, poolings and bytes per image."""
    from toptune.extract import list_taps
    from toptune.text import printed_records

    taps = list_taps(model, **options)
    rows = [tap.to_dict() for tap in taps]
    show(as_json, {"model": model, "layers": rows}, printed_records(rows))
