"""The commands of `toptune`: options become one call, and results become text or JSON.

Only click is imported before a command runs: torch takes seconds to load, and ``--help`` must be quick.
"""

from collections.abc import Mapping, Sequence

import click

from toptune.commands.batch_jobs import jobs
from toptune.commands.data.backbones import layers, models
from toptune.commands.data.extraction import extract
from toptune.commands.data.inspection import inspect
from toptune.commands.data.similar_images import similar
from toptune.commands.first_steps import demo, doctor
from toptune.commands.runs.advising import advise
from toptune.commands.runs.blending import blend
from toptune.commands.runs.comparison import compare, layers_report
from toptune.commands.runs.finetuning import finetune
from toptune.commands.runs.scoring import evaluate, export_run, predict, report, verify_runs
from toptune.commands.runs.sharing import push
from toptune.commands.runs.studies import study
from toptune.commands.runs.training import train
from toptune.commands.stores.group import store

__all__ = ["COMMANDS"]

# The sections of ``toptune --help``.
COMMANDS: Mapping[str, Sequence[click.Command]] = {
    "First steps": (demo, doctor),
    "From images to features": (extract, inspect, similar, models, layers, store),
    "From features to a classifier": (train, blend, layers_report, compare),
    "Use a classifier": (evaluate, predict, export_run, push, report, verify_runs),
    "Compare with fine-tuning": (advise, finetune, study),
    "Clusters": (jobs,),
}
