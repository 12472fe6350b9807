"""Options that several commands share: each is written once, with its type, default and help.

Those in capitals are decorators; functions make one in a command's own words.
"""

from collections.abc import Callable
from typing import Any

import click

from toptune.commands.options.parsing import parse_object, parse_seconds

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def together(*options: Decorator) -> Decorator:
    """Make one decorator of several options, listed by ``--help`` in the order given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
STORE = click.option(
    "--store",
    "root",
    required=True,
    envvar="TOPTUNE_STORE",
    metavar="ROOT",
    help="The store's folder.",
)
POOLING = click.option("--pooling", help="Which pooling, where a layer was stored with several.")
WEIGHTS = click.option(
    "--weights", type=click.Path(), help="A checkpoint: safetensors, or a torch file without code."
)
IMG_SIZE = click.option(
    "--img-size", type=click.IntRange(1), help="Input size in pixels, in place of the model's own."
)
MODEL_KWARGS = click.option(
    "--model-kwargs", callback=parse_object, help="JSON object passed on to timm.create_model."
)
DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
MAX_FAILURES = click.option(
    "--max-failures",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Unreadable images allowed before the exit code is 4.",
)
SKIP_FAILED = click.option(
    "--skip-failed", "allow_failed", is_flag=True, help="Leave out images that could not be read."
)


def stop_options(*, before: str, at_hand: str) -> Decorator:
    """Say when work that resumes stops: ``before`` such a step, after a signal with the one ``at_hand``."""
    return together(
        click.option(
            "--time-limit",
            callback=parse_seconds,
            metavar="TIME",
            help=f"Stop before {before} that would end later: 2h.",
        ),
        click.option(
            "--grace",
            callback=parse_seconds,
            default="30",
            show_default=True,
            metavar="TIME",
            help=f"After SIGTERM, SIGINT or SIGUSR1: for {at_hand} at hand, if that is enough.",
        ),
    )
