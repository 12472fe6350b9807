"""Heads on scikit-learn's estimators: all rows in memory, cross-validated, saved through skops."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import InvalidParameterError

from toptune.store import Blocks, CorruptError, InputError
from toptune.train.calibration import fit_temperature, softmax
from toptune.train.head_files import SKOPS, json_ready, write_description
from toptune.train.inputs import fold_numbers, is_blocks
from toptune.train.memory import check_memory
from toptune.train.passes import check_finite
from toptune.train.selection import Candidate, choose
from toptune.train.sklearn_kinds import KINDS

_CALIBRATED = "softmax of scores with one temperature fitted out of fold"


class SklearnHead:
    """`Head` over a scikit-learn classifier, its parameters chosen by cross-validation.

    Folds and the rule of choice are those of the other heads: among candidates whose left-out
    accuracy is within half a standard error of the best, the least log-loss.
    """

    def __init__(
        self,
        name: str,
        params: Mapping[str, Any],
        *,
        seed: int = 0,
        cv: int | str | None = 5,
        class_weight: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.name = name
        self.kind = KINDS[name]
        self.params = dict(params)
        self.seed = seed
        self.cv = cv
        self.class_weight = class_weight
        self.memory_limit_bytes = memory_limit_bytes
        self.temperature: float | None = None
        self.estimator: Any = None
        self._classes: list[str] = []
        self._report: dict[str, Any] = {}
        if class_weight is not None and not self.kind.takes_class_weight:
            raise InputError(f"head {name!r} cannot weigh classes; leave class_weight out")

    @property
    def classes(self) -> list[str]:
        return list(self._classes)

    @property
    def report(self) -> dict[str, Any]:
        return {key: value for key, value in self._report.items() if key != "table"}

    @property
    def table(self) -> list[dict[str, Any]]:
        return list(self._report.get("table", []))

    @property
    def columns(self) -> npt.NDArray[np.int64] | None:
        return None

    def on_columns(self) -> Self:
        return self

    def fit(
        self, X: npt.NDArray[Any] | Blocks, y: npt.ArrayLike, *, groups: Sequence[str] | None = None
    ) -> Self:
        start = time.perf_counter()
        n, d = X.shape
        check_memory(
            self.kind.peak_bytes(n, d),
            limit_bytes=self.memory_limit_bytes,
            what=f"head {self.name!r} on {n} rows of {d} features",
            instead="head 'falkon' streams its rows and does not; or take fewer layers",
        )
        values = gather(X)
        check_finite(values)
        try:
            return self._fit(values, y, groups=groups, start=start)
        except InvalidParameterError as error:
            raise InputError(f"head {self.name!r}: {error}; give another value in params") from error

    def _fit(
        self,
        values: npt.NDArray[Any],
        y: npt.ArrayLike,
        *,
        groups: Sequence[str] | None,
        start: float,
    ) -> Self:
        n, d = values.shape
        classes, codes = np.unique(np.asarray(y), return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"the labels have one class only, {classes[0]!r}; a classifier needs at least 2")
        self._classes = [str(name) for name in classes]
        grid = self.kind.grid(self.params, values)
        n_unconverged = 0
        table: list[dict[str, Any]] = []
        chosen = grid[0]
        notes: list[str] = []
        read_seconds = time.perf_counter() - start
        if self.kind.is_selected:
            folds, n_folds = fold_numbers(codes, classes, cv=self.cv, seed=self.seed, groups=groups)
            results = []
            for number, params in enumerate(grid):
                scores, unconverged = self._left_out(params, values, codes, folds, n_folds, len(classes))
                n_unconverged += unconverged
                results.append(self._judge(number, scores, codes))
            best = choose(results, n=n)
            chosen = grid[best.map_index]
            self.temperature = None if self.kind.has_probabilities else best.temperature
            table = [
                {
                    **params,
                    "accuracy": each.accuracy,
                    "log_loss": each.log_loss,
                    "temperature": each.temperature,
                    "is_chosen": each is best,
                }
                for params, each in zip(grid, results, strict=True)
            ]
            notes += _edges(grid, chosen)
        self.estimator, unconverged = self._fit_one(chosen, values, codes)
        n_unconverged += unconverged
        if n_unconverged:
            notes.append(f"{n_unconverged} fits stopped before they had converged; raise max_iter")
        self._report = json_ready(
            {
                "solver": self.kind.description,
                "n_rows": n,
                "n_features": d,
                "chosen": chosen,
                "temperature": self.temperature,
                "calibration": self.kind.probabilities if self.kind.has_probabilities else _CALIBRATED,
                "table": table,
                "warnings": notes,
                "peak_bytes": self.kind.peak_bytes(n, d),
                "seconds": {"read": read_seconds, "total": time.perf_counter() - start},
            }
        )
        return self

    def decision_function(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes); for estimators without scores the logarithm of the probabilities."""
        return self._by_block(X, lambda block: self._scores_of(self.estimator, block, len(self._classes)))

    def predict_proba(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[np.float64]:
        if self.temperature is not None:
            return softmax(self.decision_function(X), self.temperature)
        shares = self._by_block(X, lambda block: np.asarray(self.estimator.predict_proba(block)))
        # Taken in float32, shares sum to 1 in float32 only.
        probabilities: npt.NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[Any]:
        """Labels (n,) of the highest probability."""
        positions = self.predict_proba(X).argmax(axis=1)
        labels: npt.NDArray[Any] = np.array(self._classes)[positions]
        return labels

    def save(self, folder: Path, *, keep_sums: bool = True) -> None:  # noqa: ARG002
        """Write ``head.skops`` and ``head.json``."""
        import skops.io

        skops.io.dump(self.estimator, folder / SKOPS)
        description = {
            "head": self.name,
            "classes": self._classes,
            "params": self.params,
            "fitted": {"temperature": self.temperature},
            "report": self._report,
        }
        write_description(folder, json_ready(description))

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> "SklearnHead":
        """Read what `save` wrote; `description` is the content of ``head.json``.

        Raises
        ------
        CorruptError
            If a file is missing or damaged, or holds a type that this head is not made of.
        """
        import skops.io

        name, path = description["head"], folder / SKOPS
        if name not in KINDS:
            raise CorruptError(f"{folder / 'head.json'} names an unknown head {name!r}; train again")
        kind = KINDS[name]
        try:
            strange = sorted(set(skops.io.get_untrusted_types(file=path)) - set(kind.trusted))
            if strange:
                raise CorruptError(
                    f"{path} holds types that head {name!r} is not made of: {', '.join(strange)}; it is not "
                    "loaded, because loading could run foreign code. Train again"
                )
            estimator = skops.io.load(path, trusted=list(kind.trusted))
        except CorruptError:
            raise
        except Exception as error:  # whatever a damaged archive makes skops stumble over
            raise CorruptError(f"{path} cannot be read ({error}); train again") from error
        if type(estimator) is not kind.estimator_type:
            raise CorruptError(
                f"{path} holds a {type(estimator).__name__} where head {name!r} has a "
                f"{kind.estimator_type.__name__}; train again"
            )
        try:
            head = cls(name, description["params"])
            head.estimator = estimator
            head.temperature = description["fitted"]["temperature"]
            head._classes = [str(each) for each in description["classes"]]
            head._report = dict(description["report"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{folder / 'head.json'} is damaged ({error}); train again") from error
        return head

    def _fit_one(
        self, params: Mapping[str, Any], values: npt.NDArray[Any], codes: npt.NDArray[np.int64]
    ) -> tuple[Any, int]:
        estimator = self.kind.make(params, seed=self.seed, class_weight=self.class_weight)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            estimator.fit(values, codes)
        return estimator, any(issubclass(each.category, ConvergenceWarning) for each in caught)

    def _left_out(
        self,
        params: Mapping[str, Any],
        values: npt.NDArray[Any],
        codes: npt.NDArray[np.int64],
        folds: npt.NDArray[np.int64],
        n_folds: int,
        n_classes: int,
    ) -> tuple[npt.NDArray[np.float64], int]:
        scores = np.zeros((len(codes), n_classes))
        unconverged = 0
        for fold in range(n_folds):
            inside = folds != fold
            if inside.all() or len(np.unique(codes[inside])) < 2:
                continue
            fitted = {**params}
            if "n_neighbors" in fitted:
                fitted["n_neighbors"] = min(fitted["n_neighbors"], int(inside.sum()))
            estimator, stopped = self._fit_one(fitted, values[inside], codes[inside])
            unconverged += stopped
            scores[~inside] = self._scores_of(estimator, values[~inside], n_classes)
        return scores, unconverged

    def _scores_of(self, estimator: Any, values: npt.NDArray[Any], n_classes: int) -> npt.NDArray[np.float64]:
        """Scores with one column a class; a class that the estimator never saw is below all others."""
        if self.kind.has_probabilities:
            raw = np.log(np.maximum(np.asarray(estimator.predict_proba(values)), 1e-15))
        else:
            raw = np.asarray(estimator.decision_function(values), dtype=np.float64)
            if raw.ndim == 1:
                raw = np.stack([-raw / 2, raw / 2], axis=1)
        scores = np.repeat(raw.min(axis=1, keepdims=True) - 1.0, n_classes, axis=1).astype(np.float64)
        scores[:, estimator.classes_] = raw
        return scores

    def _judge(self, number: int, scores: npt.NDArray[np.float64], codes: npt.NDArray[np.int64]) -> Candidate:
        accuracy = float((scores.argmax(axis=1) == codes).mean())
        result = Candidate(map_index=number, sigma=None, penalty=0.0, squared_error=0.0, accuracy=accuracy)
        if self.kind.has_probabilities:
            return replace(result, log_loss=float(-scores[np.arange(len(codes)), codes].mean()))
        fitted = fit_temperature(scores, codes)
        return replace(result, log_loss=fitted.log_loss, temperature=fitted.value)

    def _by_block(self, X: npt.NDArray[Any] | Blocks, function: Any) -> npt.NDArray[np.float64]:
        if not is_blocks(X):
            check_finite(np.asarray(X))
            return np.asarray(function(X), dtype=np.float64)
        result = np.empty((X.shape[0], len(self._classes)))
        for where, values in X.iterate():  # type: ignore[union-attr]
            check_finite(values, start=where.start)
            result[where] = function(values)
        return result


def gather(X: npt.NDArray[Any] | Blocks) -> npt.NDArray[Any]:
    """All rows in one array (n, d)."""
    if not is_blocks(X):
        return np.asarray(X)
    values = np.empty(X.shape, dtype=X.dtype)
    for where, block in X.iterate():  # type: ignore[union-attr]
        values[where] = block
    return values


def _edges(grid: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> list[str]:
    notes = []
    for name, value in chosen.items():
        values = sorted({each[name] for each in grid if isinstance(each[name], int | float)})
        if len(values) > 1 and value in (values[0], values[-1]):
            side = "lower" if value == values[0] else "upper"
            notes.append(f"the chosen {name} {value:.4g} is at the {side} edge of its grid")
    return notes
