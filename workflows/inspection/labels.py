"""Labels that are probably wrong: confident learning on left-out probabilities.

Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels" (JAIR 70). The
given label is y~, the true one is y*, and p(j; x) is the left-out probability of class j.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import row_slices

Probabilities = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfidentLabels:
    """What confident learning says of the labels of n rows.

    Attributes
    ----------
    thresholds : ndarray of float64, shape (n_classes,)
        Mean probability of each class over the rows that are labeled so; NaN for a class without rows.
    joint : ndarray of int64, shape (n,)
        The class as which a row is counted in the confident joint: the most probable one among those that
        reach their thresholds; -1 where no class does.
    suggested : ndarray of int64, shape (n,)
        The most probable class.
    self_confidence : ndarray of float64, shape (n,)
        Left-out probability of the given label; a small one is suspect.
    is_issue : ndarray of bool, shape (n,)
        Rows whose label is probably wrong.
    """

    thresholds: npt.NDArray[np.float64]
    joint: Codes
    suggested: Codes
    self_confidence: npt.NDArray[np.float64]
    is_issue: npt.NDArray[np.bool_]


def confident_labels(probabilities: Probabilities, codes: Codes) -> ConfidentLabels:
    """Find labels that contradict a confident prediction.

    A row of given label i is counted as one of true class j if p(j; x) reaches the threshold of j, and is the
    largest probability that reaches its threshold (eq. 1 of the paper). The threshold of a class is the mean
    of its probability over the rows that are labeled so (eq. 2), so that a class of which the head is never
    sure has a low one. The rows counted with j other than i say how many labels are wrong. Which ones they
    are the least self-confidence says better: as many rows are issues, of those whose most probable class is
    not the given one.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, n_classes)
        Probabilities by fits that had left the row out; finite.
    codes : ndarray of int64, shape (n,)
        Given class of each row.

    Examples
    --------
    >>> left_out = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]], dtype=np.float32)
    >>> found = confident_labels(left_out, np.array([0, 0, 1, 1]))
    >>> found.is_issue.tolist(), found.suggested.tolist(), found.joint.tolist()
    ([False, False, False, True], [0, 0, 1, 0], [0, -1, 1, 0])
    """
    n, n_classes = probabilities.shape
    own = probabilities[np.arange(n), codes].astype(np.float64)
    counts = np.bincount(codes, minlength=n_classes)
    with np.errstate(invalid="ignore"):
        thresholds = np.bincount(codes, weights=own, minlength=n_classes) / counts
    # A class that nobody was given is suggested to nobody.
    limits = np.where(counts > 0, thresholds, np.inf)
    joint, suggested = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    # Rows are taken some at a time, because the comparison makes another matrix of their probabilities.
    for some in row_slices(probabilities.shape, np.dtype(np.float64)):
        part = np.where(probabilities[some] >= limits - 1e-9, probabilities[some], -1.0)
        best = part.argmax(axis=1)
        joint[some] = np.where(part[np.arange(len(part)), best] >= 0, best, -1)
        suggested[some] = probabilities[some].argmax(axis=1)
    doubtful = np.flatnonzero(suggested != codes)
    n_issues = int(((joint >= 0) & (joint != codes)).sum())
    is_issue = np.zeros(n, dtype=bool)
    is_issue[doubtful[np.argsort(own[doubtful], kind="stable")[:n_issues]]] = True
    return ConfidentLabels(
        thresholds=thresholds, joint=joint, suggested=suggested, self_confidence=own, is_issue=is_issue
    )


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A pair of classes that are confused.

    Attributes
    ----------
    given, suggested : str
        The class of the labels, and the class that the left-out predictions are confident of.
    n_rows : int
        Rows of the given class of which a prediction is confident of the other one.
    share : float
        Estimated share of all rows that have the given label and the other true class.
    """

    given: str
    suggested: str
    n_rows: int
    share: float

    def to_dict(self) -> dict[str, object]:
        """Return JSON values."""
        return {
            "given": self.given,
            "suggested": self.suggested,
            "images": self.n_rows,
            "share": self.share,
        }


def confused_classes(
    found: ConfidentLabels, codes: Codes, classes: npt.NDArray[np.str_], *, most: int = 10
) -> list[Confusion]:
    """Return the pairs of classes with the largest estimated shares off the diagonal.

    The counts C[i][j] of the confident joint are scaled to the rows of each class,
    ``Q[i][j] = C[i][j] / sum_j C[i][j] * |X_i| / n`` (eq. 3 of the paper).

    Parameters
    ----------
    found : ConfidentLabels
    codes : ndarray of int64, shape (n,)
        Given class of each row.
    classes : ndarray of str, shape (n_classes,)
    most : int
        Pairs that are returned, at most.
    """
    counted = found.joint >= 0
    n_classes = len(classes)
    # Pairs that occur are few, while a matrix of ten thousand classes would take a gigabyte.
    pairs, counts = np.unique(codes[counted] * n_classes + found.joint[counted], return_counts=True)
    given, suggested = np.divmod(pairs, n_classes)
    sums = np.bincount(given, weights=counts, minlength=n_classes)
    shares = counts / sums[given] * np.bincount(codes, minlength=n_classes)[given] / len(codes)
    off = np.flatnonzero(given != suggested)
    order = off[np.argsort(-shares[off], kind="stable")][:most]
    return [
        Confusion(
            given=str(classes[given[at]]),
            suggested=str(classes[suggested[at]]),
            n_rows=int(counts[at]),
            share=float(shares[at]),
        )
        for at in order
    ]
