"""`Answers` and `Prediction` hold what a network says of images; predictions become CSV or JSON lines."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.options import check_choice
from toptune.store.datasets.manifest import LABEL_SEPARATOR
from toptune.store.datasets.outside_text import ESCAPES
from toptune.store.files.json_values import json_text
from toptune.store.files.writing import is_writable_folder, new_target, no_formula
from toptune.text import repr_line
from toptune.train.verdicts.verdicts import Verdict

FORMS = ("csv", "jsonl")
# Digits of probabilities in text; further digits say nothing, and ``--json`` has all of them.
_DIGITS = 4
# The field of a regression that is no number in the unit of a target.
_NOVELTY = "novelty"


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
    narrow : mapping of int to int
        Number to declared bits, for each image that uses little of the range that its file declares.
    novelty : array (k,) of float64, optional
        How far each image is from those that trained, where that was asked for.
    features : tuple of array (k, d) of float32, optional
        Features as stored, of each head, where answers are made from means of features.
    """

    rows: npt.NDArray[np.intp]
    probabilities: npt.NDArray[np.float64]
    failed: Mapping[int, str]
    narrow: Mapping[int, int] = field(default_factory=dict)
    novelty: npt.NDArray[np.float64] | None = None
    features: tuple[npt.NDArray[np.float32], ...] | None = None


@dataclass(frozen=True)
class Prediction:
    """Label that a classifier gives to one image.

    Attributes
    ----------
    path : str
        The image's file, or ``image N`` for encoded bytes.
    label, confidence : str and float, optional
        The most probable class and the probability of the class; None where the image could not be used. Of
        several labels an image: those that apply, with ``|`` between them, and how sure the least sure
        decision about a label is.
    labels : tuple of str, optional
        Of several labels an image, those that apply, and none where no label does.
    targets : mapping of str to float, optional
        Of a regression, the number of each target.
    probabilities : dict of str to float
        Probability of each class.
    error : str, optional
        Why the image could not be used.
    verdict : Verdict, optional
        What was asked besides the label: a set of labels, the novelty, a class of a tree.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    verdict: Verdict | None = None
    labels: tuple[str, ...] | None = None
    targets: Mapping[str, float] | None = None

    def __repr__(self) -> str:
        return repr_line(self, self.path, label=self.label, confidence=self.confidence, error=self.error)

    def top(self, n: int) -> list[tuple[str, float]]:
        """Return the `n` most probable classes with their probabilities, the most probable first."""
        # Sorting is stable, so that classes of equal probability keep their order.
        ranked = sorted(self.probabilities.items(), key=lambda pair: -pair[1])
        return ranked[:n]

    def to_dict(self, *, probabilities: bool = False, top: int = 1) -> dict[str, object]:
        """Return the fields that apply, as JSON values; with `top` above 1 also the likeliest classes."""
        row: dict[str, object] = {"path": self.path, "label": self.label, "confidence": self.confidence}
        row |= self.verdict.to_dict() if self.verdict is not None else {}
        if self.labels is not None:
            row["labels"] = list(self.labels)
        if self.targets is not None:
            row["targets"] = dict(self.targets)
        if top > 1:
            row["top"] = [{"label": label, "confidence": value} for label, value in self.top(top)]
        if probabilities:
            row["probabilities"] = self.probabilities
        if self.error:
            row["error"] = self.error
        return row


def write_predictions(
    predictions: Iterable[Prediction],
    stream: TextIO,
    *,
    form: str = "csv",
    columns: Sequence[str] = (),
    top: int = 1,
    spreadsheet_safe: bool = False,
) -> None:
    """Write predictions as CSV or JSON lines, probabilities with four digits after the point, numbers whole.

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
    top : int
        Number of classes to write for each image, the most probable first: columns ``label_2``,
        ``confidence_2`` and so on in CSV, and a list ``top`` in JSON lines.
    spreadsheet_safe : bool
        Put ``'`` before paths and labels in CSV that a spreadsheet would compute as a formula. Otherwise they
        are written exactly.
    """
    if form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        cells = partial(map, no_formula) if spreadsheet_safe else list
        further = [f"{name}_{place}" for place in range(2, top + 1) for name in ("label", "confidence")]
        told = list(predictions)
        asked = asked_columns(told)
        writer.writerow(cells(["path", "label", "confidence", *asked, *further, *columns]))
        for each in told:
            row = [each.path, each.label, _digits(each.confidence), *_asked_cells(each, asked)]
            ranked = [cell for label, value in each.top(top)[1:] for cell in (label, _digits(value))]
            row += ranked + [None] * (len(further) - len(ranked))
            row += [_written(each, name, each.probabilities.get(name)) for name in columns]
            writer.writerow(cells(row))
    else:
        for each in predictions:
            values = {
                name: value if _is_in_unit(each, name) else _rounded(value)
                for name, value in each.to_dict(probabilities=bool(columns), top=top).items()
            }
            stream.write(json_text(values) + "\n")


def save_predictions(
    predictions: Sequence[Prediction],
    out: str | os.PathLike[str],
    *,
    form: str | None = None,
    columns: Sequence[str] = (),
    top: int = 1,
    spreadsheet_safe: bool = False,
) -> Path:
    """Write predictions into a new file, which appears when it is whole.

    Parameters
    ----------
    predictions : sequence of Prediction
        The predictions, in the order of the lines.
    out : path
        The file; nothing is overwritten.
    form : {"csv", "jsonl"}, optional
        Format of the lines; by default told by the file's ending.
    columns, top, spreadsheet_safe : optional
        What is written of each; see `write_predictions`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If the file cannot be made, or the format cannot be told; see `check_predictions_file`.
    """
    form = check_predictions_file(out, form)
    path = Path(out).absolute()
    with (
        new_target(path, option="--out") as temporary,
        temporary.open("x", encoding="utf-8", errors=ESCAPES, newline="") as stream,
    ):
        write_predictions(
            predictions, stream, form=form, columns=columns, top=top, spreadsheet_safe=spreadsheet_safe
        )
    return path


def check_predictions_file(out: str | os.PathLike[str], form: str | None = None) -> str:
    """Refuse a file that predictions cannot be written to, before any work; return the format.

    Raises
    ------
    InputError
        If `out` exists, is a folder or lies in none, or its ending is that of no format.
    """
    path = Path(out).absolute()
    known = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    if os.fspath(out).endswith(("/", os.sep)) or path.is_dir():
        raise InputError(
            f"out {os.fspath(out)} is a folder; give a file in it, such as {path}/predictions.csv",
            option="out",
        )
    if path.exists():
        raise InputError(f"out {path} exists; nothing is overwritten: give another --out", option="out")
    if not is_writable_folder(path.parent):
        raise InputError(
            f"out {path} cannot be made: {path.parent} is not a folder that you may write to", option="out"
        )
    told = known.get(path.suffix.lower())
    if form is None and told is None:
        raise InputError(
            f"out {path.name} has no ending of a format; give one that ends in .csv or .jsonl, or --format",
            option="out",
        )
    if form is not None:
        check_choice(form, FORMS, option="format")
        if told not in (None, form):
            raise InputError(
                f"out {path.name} ends in {path.suffix}, and --format is {form}; leave one out",
                option="format",
            )
    return form or str(told)


def asked_columns(predictions: Iterable[Prediction]) -> list[str]:
    """Return the names of what was asked besides labels, of predictions that all were asked the same."""
    told = (each.verdict.to_dict() for each in predictions if each.verdict is not None)
    return list(dict.fromkeys(name for values in told for name in values))


def _asked_cells(prediction: Prediction, asked: Sequence[str]) -> list[str | None]:
    """Return the cells of what was asked besides the label; labels of a set with bars between them."""
    values = prediction.verdict.to_dict() if prediction.verdict is not None else {}
    cells: list[str | None] = []
    for name in asked:
        value = values.get(name)
        if isinstance(value, list):
            cells.append(LABEL_SEPARATOR.join(map(str, value)))
        elif isinstance(value, bool):
            cells.append(str(value).lower())
        elif isinstance(value, float):
            cells.append(_written(prediction, name, value))
        else:
            cells.append(None if value is None else str(value))
    return cells


def _is_in_unit(prediction: Prediction, name: str) -> bool:
    """Tell whether a field holds numbers in the unit of a target, which may be far below 0.0001."""
    return prediction.targets is not None and name != _NOVELTY


def _written(prediction: Prediction, name: str, value: float | None) -> str | None:
    """Write a number of a field: a probability with few digits, and a number in a unit with all of them."""
    return repr(value) if value is not None and _is_in_unit(prediction, name) else _digits(value)


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.{_DIGITS}f}"


def _rounded(value: object) -> object:
    """Round the numbers in JSON values."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, _DIGITS) if isinstance(value, float) else value
