"""The commands of `toptune`: options become one call, results become text or JSON.

Only click is imported before a command runs.
"""

import click

from toptune.commands.batch_jobs import jobs
from toptune.commands.data.backbones import layers, models
from toptune.commands.data.extraction import extract
from toptune.commands.first_steps import demo, doctor
from toptune.commands.runs.advising import advise
from toptune.commands.runs.comparison import compare, layers_report
from toptune.commands.runs.finetuning import finetune
from toptune.commands.runs.scoring import evaluate, export_run, predict, report
from toptune.commands.runs.studies import study
from toptune.commands.runs.training import train
from toptune.commands.stores.group import store

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
