"""Settings of a head, compared on the rows that the fits left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.train.estimators.arguments import Params
from toptune.train.estimators.fit_report import HeadReport, LeftOutFigures, Record
from toptune.train.numerics.calibration import Temperature
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.passes.training_rows import OutOfFold, TrainingRows
from toptune.train.solvers.selection import choose

Matrix = npt.NDArray[np.float64]
Settings = Sequence[Params]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Settings compared, and the best of them.

    Attributes
    ----------
    chosen : dict
        The best settings.
    temperature : float
        Temperature of the left-out scores of the best settings.
    left_out : LeftOutFigures
        Figures of the best settings.
    table : list of dict
        A row for each setting, with accuracy, log-loss, temperature and ``is_chosen``.
    warnings : list of str
        Notes on a choice at the edge of its grid.
    scores : ndarray of float32, shape (n_kept, n_classes)
        Left-out scores of `TrainingRows.calibration_rows` by the best settings.
    sigmoids : Sigmoids or None
        What calibrates the scores of several labels a row; the temperature is 1 then.
    """

    chosen: Params
    temperature: float
    left_out: LeftOutFigures
    table: list[Record]
    warnings: list[str]
    scores: npt.NDArray[np.float32]
    sigmoids: Sigmoids | None = None

    def report(
        self,
        rows: TrainingRows,
        *,
        solver: str,
        calibration: str,
        peak_bytes: int,
        seconds: dict[str, float],
        notes: Sequence[str] = (),
    ) -> HeadReport:
        """Return the report of a fit of the chosen settings to all rows; `notes` are further warnings."""
        return HeadReport(
            solver=solver,
            n_rows=rows.n,
            n_features=rows.blocks.shape[1],
            n_folds=rows.n_folds,
            chosen=self.chosen,
            left_out=self.left_out,
            temperature=self.temperature,
            calibration=calibration,
            table=self.table,
            warnings=[*self.warnings, *notes],
            peak_bytes=peak_bytes,
            seconds=seconds,
        )


def score_left_out(
    blocks: Iterable[tuple[slice, Iterable[Matrix]]], rows: TrainingRows, *, n_settings: int
) -> list[OutOfFold]:
    """Count the rows that each setting classifies correctly, and keep the scores of a sample of rows.

    Parameters
    ----------
    blocks : iterable of (slice, iterable of ndarray, shape (b, n_classes))
        Rows of a block, with the left-out scores of each setting in turn. Scores of rows that take no part in
        cross-validation may be anything.
    rows : TrainingRows
    n_settings : int
    """
    # A temperature is one number, so a sample of rows is enough to fit it; accuracy is over all rows.
    kept, weights = rows.calibration_rows(), rows.validated_weights
    results = [
        # No head compared here chooses by the squared error, which therefore stays 0.
        OutOfFold(correct=0.0, squared_error=0.0, scores=np.empty((len(kept), rows.n_classes), np.float32))
        for _ in range(n_settings)
    ]
    for where, of_settings in blocks:
        first, last = np.searchsorted(kept, [where.start, where.stop])
        for result, scores in zip(results, of_settings, strict=True):
            result.correct += float(weights[where] @ right_shares(rows, where, scores))
            result.scores[first:last] = scores[kept[first:last] - where.start]
    return results


def compare(settings: Settings, left: Sequence[OutOfFold], rows: TrainingRows) -> Comparison:
    """Choose among settings by `choose`, which says the rule.

    Parameters
    ----------
    settings : sequence of mapping
        Parameters by name.
    left : sequence of OutOfFold
        Left-out figures of each setting, with scores of `TrainingRows.calibration_rows`.
    rows : TrainingRows
    """
    n, kept = rows.n_validated, rows.calibration_rows()
    accuracies = [result.correct / float(rows.validated_weights.sum()) for result in left]
    calibrated = [_calibrated(rows, result.scores, kept) for result in left]
    best = choose(accuracies, [each.log_loss for each in calibrated], n=n)
    found = calibrated[best]
    chosen = dict(settings[best])
    return Comparison(
        chosen=chosen,
        temperature=_temperature(found) or 1.0,
        left_out=LeftOutFigures(accuracy=accuracies[best], log_loss=calibrated[best].log_loss, n_rows=n),
        table=[
            {
                **each,
                "accuracy": accuracies[at],
                "log_loss": calibrated[at].log_loss,
                "temperature": _temperature(calibrated[at]),
                "is_chosen": at == best,
            }
            for at, each in enumerate(settings)
        ],
        warnings=edges(settings, chosen),
        scores=left[best].scores,
        sigmoids=found if isinstance(found, Sigmoids) else None,
    )


def _calibrated(
    rows: TrainingRows, scores: npt.NDArray[np.floating], kept: npt.NDArray[np.int64]
) -> Temperature | Sigmoids:
    found = rows.calibration(scores, kept)
    assert found is not None, "classes and labels have probabilities"
    return found


def _temperature(found: Temperature | Sigmoids) -> float | None:
    return found.value if isinstance(found, Temperature) else None


def right_shares(rows: TrainingRows, where: slice, scores: npt.NDArray[np.floating]) -> Matrix:
    """Return 1 for each row (b,) of a block whose class has the highest of its scores, else 0.

    Of several labels a row, the share of its known labels whose score has the right sign.
    """
    if rows.targets is None:
        return np.asarray(scores.argmax(axis=1) == rows.codes[where], np.float64)
    truth = rows.targets.values[where]
    known = np.isfinite(truth)
    is_right = ((scores > 0) == (truth > 0.5)) & known
    return np.asarray(is_right.sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.float64)


def edges(settings: Settings, chosen: Params) -> list[str]:
    """Return a note for each number of the choice that is at the edge of its grid."""
    notes = []
    for name, value in chosen.items():
        values = sorted({each[name] for each in settings if isinstance(each[name], int | float)})
        if len(values) > 1 and value in (values[0], values[-1]):
            side = "lower" if value == values[0] else "upper"
            notes.append(f"the chosen {name} {value:.4g} is at the {side} edge of its grid [TT401]")
    return notes
