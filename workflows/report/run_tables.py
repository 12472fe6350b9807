"""The tables beside the records of a run: its predictions, and the layers that a search compared."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toptune.errors import CorruptError
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.files.reading import read_linked
from toptune.train.layers.choices import LAYER_SEARCH
from toptune.train.reports.layer_plot import LayerPoint
from toptune.train.runs.record import PREDICTIONS

# The next step for every file of a run that is damaged.
ADVICE = "train again, or leave the run out"
# Probabilities that should add up to one may exceed one by rounding.
_ROUNDING = 1e-6
_PREDICTED = ("id", "label", "predicted", "confidence")


@dataclass(frozen=True)
class Predictions:
    """Predictions of a run for n test images.

    Attributes
    ----------
    ids, labels, predicted : ndarray of str, shape (n,)
        The images, their true classes and the predicted ones.
    confidence : ndarray of float64, shape (n,)
        Probability of the predicted class.
    """

    ids: npt.NDArray[np.object_]
    labels: npt.NDArray[np.object_]
    predicted: npt.NDArray[np.object_]
    confidence: npt.NDArray[np.float64]

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Whether the true class of an image was predicted, for each image."""
        right: npt.NDArray[np.bool_] = (self.labels == self.predicted).astype(bool)
        return right


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Put the predictions of several runs one after the other."""
    return Predictions(
        **{
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(Predictions)
        }
    )


def read_predictions(folder: Path, *, n_test: int) -> Predictions | None:
    """Read the predictions of a run; None for a run that is older than the table of predictions.

    Raises
    ------
    CorruptError
        If the table cannot be read, or does not have `n_test` rows.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    try:
        table = read_parquet(read_linked(path), columns=_PREDICTED)
        if not all(pa.types.is_string(table[name].type) for name in ("id", "label", "predicted")):
            raise ValueError("a column of names is no text")
        found = Predictions(
            ids=np.array(table["id"].to_pylist(), dtype=object),
            labels=np.array(table["label"].to_pylist(), dtype=object),
            predicted=np.array(table["predicted"].to_pylist(), dtype=object),
            confidence=table["confidence"].to_numpy().astype(np.float64),
        )
        is_share = (found.confidence >= 0) & (found.confidence <= 1 + _ROUNDING)
        if len(found.ids) != n_test or not is_share.all():
            raise ValueError("its rows are not those of metrics.json, or a confidence is not between 0 and 1")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise CorruptError(f"{path} cannot be read ({error}); {ADVICE}") from error
    return found


def read_layer_search(folder: Path) -> list[LayerPoint]:
    """Read the layers that a search of a run compared; empty where no search was made.

    Raises
    ------
    CorruptError
        If the table cannot be read.
    """
    path = folder / LAYER_SEARCH
    if not path.is_file():
        return []
    try:
        text = read_linked(path).decode("utf-8")
        return [_layer_point(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (FileNotFoundError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CorruptError(f"{path} cannot be read ({error}); {ADVICE}") from error


def _layer_point(row: dict[str, str]) -> LayerPoint:
    is_r2 = not row["accuracy"] and bool(row.get("r2"))
    figure = float(row["r2" if is_r2 else "accuracy"])
    if not math.isfinite(figure) or None in (row["path"], row["arrays"]):
        raise ValueError(f"a line {row}")
    error = row.get("standard_error")
    return LayerPoint(
        path=row["path"],
        arrays=tuple(row["arrays"].split()),
        figure=figure,
        standard_error=float(error) if error else None,
        is_r2=is_r2,
    )
