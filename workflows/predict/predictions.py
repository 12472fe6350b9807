"""What was said of one image, and how predictions are written."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image; ``error`` is set where it could not be read."""

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self, *, probabilities: bool = False) -> dict[str, Any]:
        """Give the fields that apply, as JSON values."""
        row: dict[str, Any] = {"path": self.path, "label": self.label, "confidence": self.confidence}
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
    stream : text file
    form : {"csv", "jsonl"}
    columns : sequence of str
        Classes whose probabilities are written too, one column each.
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
