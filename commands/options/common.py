"""Options that several commands share are written once, with type, default and help.

Names in capitals are decorators. A function makes a decorator whose help has the words of a command.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from toptune.commands.options.parsing import parse_object, parse_seconds
from toptune.machine.devices import AUTO
from toptune.store.files.folder_kinds import RUN_FILE, no_run

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class RunFolder(click.Path):
    """The folder of a run; another folder is refused at once, with the runs that are near it."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return the path if a run lies there."""
        path = Path(value)
        try:
            is_run = (path / RUN_FILE).is_file()
        except OSError:
            is_run = True  # Whoever reads the run says what the system refuses.
        if not is_run:
            self.fail(no_run(path), param, ctx)
        return super().convert(value, param, ctx)


def together(*options: Decorator) -> Decorator:
    """Make one decorator of several options, which ``--help`` lists in the order given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        # The decorator that is applied last adds the first option.
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
STORE = click.option(
    "--store",
    "root",
    required=True,
    envvar="TOPTUNE_STORE",
    metavar="ROOT",
    help="Folder of the store, or s3://bucket/prefix.",
)
OWN_COLUMNS = together(
    click.option(
        "--path-column",
        metavar="COLUMN",
        help="Column of a list of images that holds their paths; by default path, file, image or the like.",
    ),
    click.option(
        "--label-column",
        metavar="COLUMN",
        help="Column of DATA that holds the labels; by default label, class, category or the like.",
    ),
)
POOLING = click.option("--pooling", help="Which pooling to take where a layer is stored with several.")
WEIGHTS = click.option(
    "--weights",
    type=click.Path(),
    help="Load the weights from this checkpoint: safetensors, or a torch file without code.",
)
IMG_SIZE = click.option(
    "--img-size",
    type=click.IntRange(1),
    help="Input size in pixels, in place of the size that the model names.",
)
MODEL_KWARGS = click.option(
    "--model-kwargs", callback=parse_object, help="JSON object that is passed on to timm.create_model."
)
SPREADSHEET_SAFE = click.option(
    "--spreadsheet-safe",
    is_flag=True,
    help="In CSV, put ' before paths, labels and names that a spreadsheet would compute as a formula.",
)
BATCH_SIZE = click.option(
    "-b",
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Images in a forward pass.",
)
DEVICE = click.option(
    "--device",
    default=AUTO,
    show_default=True,
    help="Compute on cpu, cuda, cuda:N or mps; auto is cuda where there is one, else mps, else cpu.",
)
MAX_FAILURES = click.option(
    "--max-failures",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Exit with code 4 if more images than this could not be read.",
)
SKIP_FAILED = click.option(
    "--skip-failed",
    "allow_failed",
    is_flag=True,
    help="Leave out images that could not be read, in place of refusing them.",
)


def stop_options(*, before: str, at_hand: str) -> Decorator:
    """Return the options of work that can be resumed: a time limit, and the time left after a signal.

    Parameters
    ----------
    before, at_hand : str
        The step of the work, with its article, for the help: ``a unit``, ``the unit``.
    """
    return together(
        click.option(
            "--time-limit",
            callback=parse_seconds,
            metavar="TIME",
            help=f"Stop before {before} that would end after this time, such as 2h.",
        ),
        click.option(
            "--grace",
            callback=parse_seconds,
            default="30",
            show_default=True,
            metavar="TIME",
            help=f"After SIGTERM, SIGINT or SIGUSR1, finish {at_hand} at hand if this time is enough.",
        ),
    )
