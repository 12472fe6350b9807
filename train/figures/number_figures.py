"""Figures of merit of predicted numbers, in the unit of each target, with intervals.

Intervals hold 95 % of what other samples of as many test rows would give: of errors and R2 by the bootstrap
(Efron 1979), and of Spearman's correlation by Fisher's transformation with the standard error of Bonett &
Wright 2000.
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
from toptune.train.figures.number_plot import save_predicted, save_residuals

NUMBERS, PREDICTED, RESIDUALS = "target_scores.parquet", "predicted_against_true.png", "residuals.png"
COVERAGE = 0.95
_SAMPLES, _FEW_SAMPLES, _MANY_ROWS = 1000, 200, 50_000
_Z = 1.959963984540054

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberAnswers:
    """What a regression said of rows whose numbers are known.

    Attributes
    ----------
    truth, predicted : ndarray of float64, shape (n, n_targets)
    names : sequence of str
    is_ordinal : bool
        Whether the numbers are steps of a scale, which were rounded.
    """

    truth: Values
    predicted: Values
    names: Sequence[str]
    is_ordinal: bool = False

    @property
    def files(self) -> dict[str, str]:
        """The files that `write` makes, by the keys that name them in ``metrics.json``."""
        return {"target_scores_file": NUMBERS}

    def write(self, folder: Path) -> None:
        """Write the true and the predicted number of each target."""
        columns = {
            f"{what}{at}": pa.array(values[:, at], pa.float64())
            for at in range(len(self.names))
            for what, values in (("p", self.predicted), ("y", self.truth))
        }
        scores = pa.table(columns).replace_schema_metadata({"targets": "|".join(self.names)})
        write_made(folder / NUMBERS, partial(pq.write_table, scores))

    def draw(self, folder: Path, *, title: str) -> None:
        """Draw predicted against true numbers, and the residuals."""
        if len(self.truth):
            save_predicted(folder / PREDICTED, self.truth, self.predicted, self.names, title=title)
            save_residuals(folder / RESIDUALS, self.truth, self.predicted, self.names, title=title)

    @classmethod
    def from_file(cls, folder: Path, names: Sequence[str], *, is_ordinal: bool = False) -> "NumberAnswers":
        """Read what `write` wrote.

        Raises
        ------
        FileNotFoundError, ValueError, KeyError
            If the file is missing or damaged, or is of other targets.
        """
        table = pq.read_table(folder / NUMBERS)
        columns = {
            what: np.stack([table[f"{what}{at}"].to_numpy() for at in range(len(names))], axis=1)
            for what in "py"
        }
        return cls(truth=columns["y"], predicted=columns["p"], names=names, is_ordinal=is_ordinal)


def number_figures(answers: NumberAnswers) -> dict[str, Any]:
    """Compute the figures of answers as JSON values; None where there are too few rows.

    Returns
    -------
    dict
        ``mae``, ``rmse``, ``r2`` and ``spearman``, means over the targets, with ``intervals`` of each; with
        an ordinal target ``quadratic_kappa``; under ``targets`` the same of each target; ``n_test``.
    """
    n, k = answers.truth.shape
    names = ("r2", "mae", "rmse", "spearman", *(("quadratic_kappa",) if answers.is_ordinal else ()))
    empty: dict[str, Any] = dict.fromkeys(names)
    if n < 2:
        return {**empty, "intervals": {}, "targets": dict.fromkeys(answers.names), "n_test": n}
    samples = _bootstrap(answers.truth, answers.predicted)
    of_targets, ends = [], []
    for at in range(k):
        truth, predicted = answers.truth[:, at], answers.predicted[:, at]
        found = _figures(truth, predicted)
        if answers.is_ordinal:
            found["quadratic_kappa"] = quadratic_kappa(truth, predicted)
        of_targets.append(found)
        of_spearman = _spearman_interval(found["spearman"], n)
        ends.append({**{name: _ends(values[:, at]) for name, values in samples.items()},
                     "spearman": of_spearman})  # fmt: skip
    means = {name: _mean([each[name] for each in of_targets]) for name in names}
    intervals: dict[str, Any] = {name: _ends(values.mean(axis=1)) for name, values in samples.items()}
    # Correlations of several targets with one set of rows are not independent: their ends are averaged.
    spearman = [each["spearman"] for each in ends]
    known = [each for each in spearman if each is not None]
    intervals["spearman"] = [float(end) for end in np.mean(known, axis=0)] if len(known) == k else None
    return {
        **means,
        "intervals": {"coverage": COVERAGE, **intervals},
        "targets": {
            name: {**figures, "intervals": of_one}
            for name, figures, of_one in zip(answers.names, of_targets, ends, strict=True)
        },
        "n_test": n,
    }


def _figures(truth: Values, predicted: Values) -> dict[str, float | None]:
    error = predicted - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    return {
        "r2": 1 - float((error**2).sum()) / spread if spread > 0 else None,
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "spearman": spearman_correlation(truth, predicted),
    }


def spearman_correlation(truth: Values, predicted: Values) -> float | None:
    """Compute the correlation of the ranks (n,); None where either is the same in all rows."""
    from scipy.stats import rankdata  # takes a second to import, which a refusal does not wait for

    a, b = rankdata(truth), rankdata(predicted)
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else None


def quadratic_kappa(truth: Values, predicted: Values) -> float | None:
    """Compute Cohen's kappa of whole numbers (n,) with quadratic weights; None where nothing varies.

    The weights make the matrices of the definition unnecessary: kappa is one less the squared error over the
    squared error of predictions that are drawn at random from the same numbers.
    """
    by_chance = truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2
    return float(1 - ((truth - predicted) ** 2).mean() / by_chance) if by_chance > 0 else None


def _bootstrap(truth: Values, predicted: Values) -> dict[str, Values]:
    """Return figures of samples of the rows, (n_samples, n_targets) each."""
    n, error = len(truth), predicted - truth
    centered = truth - truth.mean(axis=0)
    # Sums of these columns over a sample give every figure.
    parts = np.concatenate([np.abs(error), error**2, centered, centered**2], axis=1)
    rng = np.random.default_rng(0)
    # So many rows that a sample takes long have narrow intervals, for which fewer samples do.
    n_samples = _SAMPLES if n <= _MANY_ROWS else _FEW_SAMPLES
    sums = np.stack(
        [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) @ parts for _ in range(n_samples)]
    )
    absolute, squared, first, second = np.split(sums / n, 4, axis=1)
    spread = second - first**2
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 0, 1 - squared / spread, np.nan)
    return {"mae": absolute, "rmse": np.sqrt(squared), "r2": r2}


def _ends(values: Values) -> list[float] | None:
    """Return the ends between which the middle of the values (n_samples,) lies."""
    known = values[np.isfinite(values)]
    if 2 * len(known) < len(values):
        return None
    return [float(end) for end in np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])]


def _spearman_interval(correlation: float | None, n: int) -> list[float] | None:
    if correlation is None or n < 4:
        return None
    middle = np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))
    half = _Z * np.sqrt((1 + correlation**2 / 2) / (n - 3))
    return [float(np.tanh(middle - half)), float(np.tanh(middle + half))]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
