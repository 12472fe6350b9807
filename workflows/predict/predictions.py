"""`Answers` and `Prediction` hold what a network says of images; predictions are written as CSV or JSON."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Probabilities that a network gives for a batch of images.

    Attributes
    ----------
    rows : array (k,) of int
        Numbers of the images that could be used, ascending.
    probabilities : array (k, n_classes) of float64
        Probabilities of the classes, one row for each of `rows`.
    failed : mapping of int to str
        Number to reason, for each image that could not be used.
    """

    rows: npt.NDArray[np.intp]
    probabilities: npt.NDArray[np.float64]
    failed: Mapping[int, str]


@dataclass(frozen=True)
class Prediction:
    """Label that a classifier gives to one image.

    Attributes
    ----------
    path : str
        The image's file, or ``image N`` for encoded bytes.
    label, confidence : str and float, optional
        The most probable class and the probability of the class; None where the image could not be used.
    probabilities : dict of str to float
        Probability of each class.
    error : str, optional
        Why the image could not be used.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self, *, probabilities: bool = False) -> dict[str, object]:
        """Return the fields that apply, as JSON values."""
        row: dict[str, object] = {"path": self.path, "label": self.label, "confidence": self.confidence}
        if probabilities:
            row["probabilities"] = self.probabilities
        if self.error:
            row["error"] = self.error
        return row


def write_predictions(
    predictions: Iterable[Prediction], stream: TextIO, *, form: str = "csv", columns: Sequence[str] = ()
) -> None:
    """Write predictions as CSV or JSON lines.

    Parameters
    ----------
    predictions : iterable of Prediction
        The predictions, in the order of the lines.
    stream : text file
        The file to write to.
    form : {"csv", "jsonl"}
        Format of the lines.
    columns : sequence of str
        Classes whose probabilities are written too, a column for each class in CSV. JSON lines have the
        probabilities of all classes if `columns` names any.
    """
    if form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "label", "confidence", *columns])
        for each in predictions:
            row = [each.path, each.label, each.confidence]
            writer.writerow(row + [each.probabilities.get(name) for name in columns])
    else:
        for each in predictions:
            stream.write(json.dumps(each.to_dict(probabilities=bool(columns)), ensure_ascii=False) + "\n")
