"""The commands of `toptune`: options become one call, results become text or JSON.

Only click is imported before a command runs.
"""

import click

from toptune.commands.advising import advise
from toptune.commands.backbones import layers, models
from toptune.commands.batch_jobs import jobs
from toptune.commands.comparison import compare, layers_report
from toptune.commands.extraction import extract
from toptune.commands.finetuning import finetune
from toptune.commands.first_steps import demo, doctor
from toptune.commands.runs import evaluate, export_run, predict, report
from toptune.commands.stores import store
from toptune.commands.studies import study
from toptune.commands.training import train

__all__ = ["COMMANDS"]

COMMANDS: tuple[click.Command, ...] = (
    extract,
    train,
    compare,
    layers_report,
    finetune,
    advise,
    evaluate,
    predict,
    export_run,
    report,
    layers,
    models,
    demo,
    doctor,
    study,
    jobs,
    store,
)
