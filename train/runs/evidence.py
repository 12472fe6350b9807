"""Which training images carried a prediction of a kernel head: its centers, with their shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.estimators.falkon_logistic import FalkonLogisticClassifier
from toptune.train.estimators.scored_classifier import center_shares
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.runs.record import ROWS
from toptune.train.runs.run import Run, read_table


@dataclass(frozen=True, kw_only=True)
class CenterShare:
    """A training image that is a center, and what it adds to a score.

    Attributes
    ----------
    id, label : str
        The image, and the label that it was trained with.
    share : float
        Signed; a negative one speaks against the class.
    """

    id: str
    label: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The score of one class for one image, taken apart.

    Attributes
    ----------
    label : str
        The class: the predicted one.
    confidence : float
        Probability of the class.
    score : float
        Its score, which is `intercept` plus the shares of `centers` plus `others`.
    intercept : float
        What the class has for any image.
    centers : tuple of CenterShare
        The centers with the largest shares in absolute value, the largest first.
    others : float
        Sum of the shares of all other centers.
    """

    label: str
    confidence: float
    score: float
    intercept: float
    centers: tuple[CenterShare, ...]
    others: float


def check_kernel_head(run: Run) -> FalkonClassifier | FalkonLogisticClassifier:
    """Return the estimator of a run whose scores are sums over training images.

    Raises
    ------
    InputError
        For a head of another kind, or one that does not know which images its centers are.
    """
    estimator = getattr(run.head, "estimator", None)
    if not isinstance(estimator, FalkonClassifier | FalkonLogisticClassifier):
        raise InputError(
            f"{run.folder} has head {run.head.name}, whose scores are no sums over training images; train "
            "one with --head falkon or falkon-logistic"
        )
    if getattr(estimator, "center_indices_", None) is None:
        raise InputError(f"{run.folder} does not tell which images its centers are; train again")
    return estimator


def evidence_of(run: Run, blocks: Blocks, *, k: int) -> list[Evidence]:
    """Take the scores of the predicted classes apart into the shares of training images.

    A kernel head scores x by ``sum_j k(x, center_j) dual_coef_j + intercept``, and its centers are training
    images, so that each of them has a share, which is exact.

    Parameters
    ----------
    run : Run
        A run with a kernel head.
    blocks : Blocks, shape (n, d)
        Features as stored, the run's arrays side by side.
    k : int
        Centers that are named of each row.

    Raises
    ------
    InputError
        If the head is of another kind, or a row is not finite.
    """
    estimator = check_kernel_head(run)
    labels, probabilities = run.predict_blocks(blocks)
    codes = probabilities.argmax(axis=1)
    ids, given = _centers(run, np.asarray(estimator.center_indices_))
    found: list[Evidence] = []
    for where, shares in center_shares(estimator, PreprocessedBlocks(blocks, run.preprocessing), codes):
        for row, own in enumerate(shares, start=where.start):
            largest = np.argsort(-np.abs(own), kind="stable")[:k]
            intercept, total = float(estimator.intercept_[codes[row]]), float(own.sum())
            found.append(
                Evidence(
                    label=str(labels[row]),
                    confidence=float(probabilities[row, codes[row]]),
                    score=total + intercept,
                    intercept=intercept,
                    centers=tuple(
                        CenterShare(id=ids[at], label=given[at], share=float(own[at])) for at in largest
                    ),
                    others=total - float(own[largest].sum()),
                )
            )
    return found


def _centers(run: Run, indices: npt.NDArray[np.int64]) -> tuple[Sequence[str], Sequence[str]]:
    """Return ids and labels of the training rows with some indices."""
    table = read_table(run.folder / ROWS, ["row", "id", "label"])
    columns = (table[name].to_pylist() for name in ("row", "id", "label"))
    known = {row: (identity, label) for row, identity, label in zip(*columns, strict=True)}
    found = [known[row] for row in run.train_rows[indices].tolist()]
    return [str(identity) for identity, _ in found], [str(label) for _, label in found]
