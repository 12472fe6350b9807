"""How new rows of features are to a run, of one head or of several."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.features.blocks import Blocks
from toptune.train.answers.files import ADVICE, NOVELTY
from toptune.train.answers.novelty import Novelty, joint_quantiles
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.runs.run import Run
from toptune.train.verdicts.verdicts import train_command

Values = npt.NDArray[np.float64]


def novelty_of(run: Run) -> Novelty:
    """Read what a run keeps of its training rows.

    Raises
    ------
    InputError
        If the run keeps nothing, with the command that makes one that does.
    """
    run.record.check_files(run.folder, [NOVELTY])
    found = Novelty.read(run.folder, n_columns=run.preprocessing.n_outputs, advice=ADVICE)
    if found is None:
        raise InputError(
            f"run {run.folder} keeps no training rows that images could be compared with, as runs did not "
            f"before novelty; train it again: {train_command(run.record)}",
            option="novelty",
        )
    return found


def residuals_of(run: Run, novelty: Novelty, blocks: Blocks) -> Values:
    """Return the residuals (n,) of rows (n, d) of features as stored, the arrays of the run side by side."""
    return novelty.residuals_of(PreprocessedBlocks(blocks, run.preprocessing))


def novelty_of_rows(runs: Sequence[Run], members: Sequence[Novelty], blocks: Sequence[Blocks]) -> Values:
    """Return the novelty (n,) of rows by a run of one head or of several.

    Parameters
    ----------
    runs : sequence of Run
        The heads.
    members : sequence of Novelty
        Of each head.
    blocks : sequence of Blocks, shape (n, d)
        Features as stored, for each head.
    """
    found = [residuals_of(*each) for each in zip(runs, members, blocks, strict=True)]
    return joint_quantiles(members, found)
