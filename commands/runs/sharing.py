"""`toptune push` hands a run on."""

from typing import Any

import click

from toptune.commands.options.common import JSON, RunFolder
from toptune.commands.options.help import Command, examples
from toptune.commands.options.printing import show


@click.command(
    cls=Command,
    epilog=examples("toptune push run ada/bird-heads --dry-run", "toptune push run ada/bird-heads --private"),
)
@click.argument("run", type=RunFolder())
@click.argument("repository", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Make a new repository a private one.")
@click.option("--message", help="Message of the commit; by default the name of the RUN folder.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@JSON
def push(run: str, repository: str, as_json: bool, **options: Any) -> None:
    """Write RUN into the repository USER/NAME of the Hugging Face hub, with a model card.

    Safetensors and JSON are sent, and no table of images. The hub's own login is used: hf auth login, or
    HF_TOKEN. Classifier.from_hub opens the run again.
    """
    from toptune.workflows import push as push_run

    done = push_run(run, repository, **options)
    show(as_json, done.to_dict(), str(done))
