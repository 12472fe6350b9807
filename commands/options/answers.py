"""What predict and evaluate may be asked besides labels."""

import click

from toptune.commands.options.common import together
from toptune.commands.options.help import Choice
from toptune.train.answers.options import WAYS, AnswerOptions

# The keywords of `ANSWERS`.
ANSWER_NAMES = tuple(AnswerOptions.__dataclass_fields__)
ANSWERS = together(
    click.option(
        "--coverage",
        type=float,
        help="Give a set of labels for each image that holds the true one with this probability, such as "
        "0.95; of several labels this share of the true ones, and of numbers an interval.",
    ),
    click.option(
        "--novelty",
        is_flag=True,
        help="Say which share of the training images (0 to 1) is nearer to the others than each image is.",
    ),
    click.option(
        "--abstain-above",
        type=float,
        help="Give no label to images of a novelty above this, such as 0.99.",
    ),
    click.option(
        "--prior",
        type=click.Path(),
        metavar="FILE",
        help="Correct for other frequencies of the classes: lines class,frequency.",
    ),
    click.option(
        "--class-tree",
        type=click.Path(),
        metavar="FILE",
        help="Parents of the classes: lines class,parent, the parent of the top ones empty; by default the "
        "tree that the run was trained with.",
    ),
    click.option(
        "--back-off",
        type=float,
        help="Answer with the deepest class or parent that is at least so probable, such as 0.9.",
    ),
    click.option(
        "--answer-by",
        metavar="COLUMN",
        help="Give one answer for all images of a thing: a column of the list of images, or a pattern on the "
        "path; by default that of the run.",
    ),
    click.option(
        "--answer-from",
        type=Choice(WAYS),
        help="Make the answer of a thing from the mean of log-probabilities, of numbers or of features, or "
        "from the maximum; by default as the run.",
    ),
)
THINGS = together(
    click.option(
        "--answer-by",
        metavar="COLUMN",
        help="Column of the manifest, or pattern on the id, of the thing that several images show: its "
        "images stay together in the split and folds, and the run gives one answer a thing.",
    ),
    click.option(
        "--answer-from",
        type=Choice(WAYS),
        help="Make the answer of a thing from the mean of log-probabilities (default), of numbers (of a "
        "regression) or of features, or from the maximum.",
    ),
    click.option(
        "--class-tree",
        metavar="COLUMN|FILE",
        help="Parents of the classes: a column, several from the labels upwards with commas between them, or "
        "a file of lines class,parent.",
    ),
)
