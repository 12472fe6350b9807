"""What a trained head said of the rows that its fits had left out, and what the run keeps of it."""

from dataclasses import replace

import numpy as np

from toptune.store.features.feature_view import StoredFeatures
from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.kept import Kept, Said
from toptune.train.answers.novelty import Novelty
from toptune.train.figures.metrics import codes_of
from toptune.train.numerics.thresholds import F1, ThresholdRule
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.chosen_rows import ChosenRows
from toptune.train.runs.record import RunRecord
from toptune.train.runs.run import Run
from toptune.train.tasks.names import CLASSIFICATION, REGRESSION


def said_of(run: Run, rows: ChosenRows, left_out: LeftOutScores | None) -> Said | None:
    """Return what a head said of left-out rows; None where it left out none, or its scores say nothing.

    Parameters
    ----------
    run : Run
    rows : ChosenRows
        The rows that trained the head.
    left_out : LeftOutScores, optional
    """
    form, head = run.form, run.head
    if left_out is None or (form.task != REGRESSION and head.temperature is None):
        return None
    at, labels, things = left_out.rows.tolist(), rows.train_labels, rows.train_things
    taught = [labels[row] for row in at]
    scores = left_out.scores.astype(np.float64)
    is_class = form.task == CLASSIFICATION
    return Said(
        task=form.task,
        names=form.names,
        values=head.rounded(scores) if form.task == REGRESSION else head.probabilities_of(scores),
        truth=codes_of(taught, form.names) if is_class else rows.task.targets(taught, form.names).values,
        rows=rows.split.train[left_out.rows],
        things=None if things is None else [things[row] for row in at],
        way=rows.options.answers_from,
        is_ordinal=form.is_ordinal,
    )


def kept_of(
    run: Run, features: StoredFeatures, rows: ChosenRows, said: Said | None, *, tree: ClassTree | None
) -> Kept:
    """Return what sets of labels, intervals and novelty need of a training."""
    train = rows.split.train
    # A head that dropped columns judges images by those that it reads.
    seen = PreprocessedBlocks(features.blocks([array.name for array in run.arrays], train), run.preprocessing)
    return Kept(
        left_out=None if said is None else said.kept(),
        tree=tree,
        novelty=Novelty.of(seen, train, seed=rows.options.seed),
    )


def with_thing_thresholds(record: RunRecord, said: Said | None) -> RunRecord:
    """Return the record with the thresholds of labels of things, in a run that has such."""
    rule = ThresholdRule.of(str(record.options.get("threshold", F1)))
    return replace(record, thing_thresholds=None if said is None else said.thing_thresholds(rule))
