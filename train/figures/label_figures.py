"""Figures of merit of several labels a row; labels that are unknown count nowhere.

By scikit-learn's definitions, where all labels are known. Averages over labels (macro) are over the labels
that some tested row has: the others have no average precision, and no F1 that means anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.store.files.writing import write_made
from toptune.train.figures.label_plot import save_precision_recall

# Up to so many labels, the figures of each are values in ``metrics.json``; beyond, a file beside it.
LISTED_LABELS = 200
PER_LABEL, LABEL_SCORES, CURVES = "per_label.parquet", "label_scores.parquet", "precision_recall.png"

Values = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelAnswers:
    """What a classifier of several labels said of rows whose labels are known, all or some.

    Attributes
    ----------
    truth : ndarray of float64, shape (n, n_labels)
        1 where a label applies, 0 where it does not, NaN where unknown.
    probabilities : ndarray of float64, shape (n, n_labels)
    thresholds : ndarray of float64, shape (n_labels,)
        A label is taken to apply from this probability on.
    names : sequence of str
    """

    truth: Values
    probabilities: Values
    thresholds: Values
    names: Sequence[str]

    @property
    def is_known(self) -> Marks:
        """Which labels of which rows are known."""
        return ~np.isnan(self.truth)

    @property
    def guesses(self) -> Marks:
        """Which labels of which rows are taken to apply."""
        guesses: Marks = self.probabilities >= self.thresholds
        return guesses

    @property
    def files(self) -> dict[str, str]:
        """The files that `write` makes, by the keys that name them in ``metrics.json``."""
        per_label = {} if len(self.names) <= LISTED_LABELS else {"per_label_file": PER_LABEL}
        return per_label | {"label_scores_file": LABEL_SCORES}

    def write(self, folder: Path) -> None:
        """Write the truth and the probability of each label, and the figures of many labels."""
        columns = {
            f"{what}{at}": pa.array(values[:, at], pa.float32(), from_pandas=True)
            for at in range(len(self.names))
            for what, values in (("p", self.probabilities), ("y", self.truth))
        }
        scores = pa.table(columns).replace_schema_metadata({"labels": "|".join(self.names)})
        write_made(folder / LABEL_SCORES, partial(pq.write_table, scores))
        if len(self.names) > LISTED_LABELS:
            write_made(folder / PER_LABEL, partial(pq.write_table, pa.table(label_table(self))))

    def draw(self, folder: Path, *, title: str) -> None:
        """Draw the curves of precision over recall."""
        save_precision_recall(
            folder / CURVES, self.truth, self.probabilities, self.names, self.thresholds, title=title
        )

    @classmethod
    def from_file(cls, folder: Path, names: Sequence[str], thresholds: Values) -> "LabelAnswers":
        """Read what `write` wrote.

        Raises
        ------
        FileNotFoundError, ValueError, KeyError
            If the file is missing or damaged, or is of other labels.
        """
        table = pq.read_table(folder / LABEL_SCORES)
        columns = {
            what: np.stack([table[f"{what}{at}"].to_numpy() for at in range(len(names))], axis=1)
            for what in "py"
        }
        return cls(
            truth=columns["y"].astype(np.float64), probabilities=columns["p"].astype(np.float64),
            thresholds=thresholds, names=names,
        )  # fmt: skip


def average_precision(truth: Values, scores: Values) -> float:
    """Compute the average precision of scores (n,) of rows with the label (1) and without it (0).

    ``sum_k (R_k - R_{k-1}) P_k`` over the distinct scores, the highest first; NaN where no row has the label.
    """
    n_with = truth.sum()
    if n_with == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    # Rows of equal scores enter together.
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    precision, recall = hits[last] / (last + 1), hits[last] / n_with
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def label_table(answers: LabelAnswers) -> dict[str, Any]:
    """Return the figures of each label, as columns."""
    known, guesses = answers.is_known, answers.guesses
    truth = known & (answers.truth == 1)
    hits, guessed = (truth & guesses).sum(axis=0), (known & guesses).sum(axis=0)
    support = truth.sum(axis=0)
    precisions = [
        average_precision(answers.truth[known[:, at], at], answers.probabilities[known[:, at], at])
        for at in range(len(answers.names))
    ]
    return {
        "label": list(answers.names),
        "average_precision": np.array(precisions),
        "precision": hits / np.maximum(guessed, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(guessed + support, 1),
        "threshold": answers.thresholds,
        "support": support,
        "unknown": (~known).sum(axis=0),
    }


def label_figures(answers: LabelAnswers) -> dict[str, Any]:
    """Compute the figures of answers as JSON values; None where there is no row.

    Returns
    -------
    dict
        ``mean_average_precision`` (over labels), ``mean_average_precision_micro`` (over all pairs of row and
        label), ``f1_micro``, ``f1_macro``, ``f1_samples``, ``subset_accuracy`` (rows with every known label
        right), ``coverage_error``, ``log_loss`` (a label), ``n_test``, ``n_unknown``; of at most 200 labels
        also ``per_label``.
    """
    n, table = len(answers.truth), label_table(answers)
    known, guesses = answers.is_known, answers.guesses & answers.is_known
    truth = known & (answers.truth == 1)
    figures: dict[str, Any] = dict.fromkeys(
        ("mean_average_precision", "mean_average_precision_micro", "f1_micro", "f1_macro", "f1_samples",
         "subset_accuracy", "coverage_error", "log_loss")
    )  # fmt: skip
    present = table["support"] > 0
    if n and present.any():
        hits, both = (truth & guesses), truth.sum() + guesses.sum()
        of_row = truth.sum(axis=1) + guesses.sum(axis=1)
        tiny = np.finfo(np.float64).eps
        likely = np.clip(np.where(truth, answers.probabilities, 1 - answers.probabilities), tiny, 1 - tiny)
        figures |= {
            "mean_average_precision": float(table["average_precision"][present].mean()),
            "mean_average_precision_micro": average_precision(
                answers.truth[known], answers.probabilities[known]
            ),
            "f1_micro": float(2 * hits.sum() / both),
            "f1_macro": float(table["f1"][present].mean()),
            "f1_samples": float((2 * hits.sum(axis=1) / np.maximum(of_row, 1)).mean()),
            "subset_accuracy": float((truth == guesses).all(axis=1).mean()),
            "coverage_error": _coverage_error(truth, known, answers.probabilities),
            "log_loss": float(-np.log(likely[known]).mean()),
        }
    listed = {}
    if len(answers.names) <= LISTED_LABELS:
        columns = {name: values for name, values in table.items() if name != "label"}
        listed["per_label"] = {
            label: {name: _value(values[at]) for name, values in columns.items()}
            for at, label in enumerate(answers.names)
        }
    return {**figures, **listed, "n_test": n, "n_unknown": int((~known).sum())}


def _coverage_error(truth: Marks, known: Marks, probabilities: Values) -> float:
    """Compute how many labels, the likeliest first, cover all labels that apply; 0 for rows without any."""
    least = np.where(truth, probabilities, np.inf).min(axis=1)
    return float((known & (probabilities >= least[:, None])).sum(axis=1).mean())


def _value(value: np.generic) -> float | int | None:
    found = value.item()
    return None if isinstance(found, float) and np.isnan(found) else found
