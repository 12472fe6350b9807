"""Heads on toptune's own estimators: streamed, saved as safetensors and JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from toptune.store import Blocks, CorruptError
from toptune.train.falkon_classifier import FalkonClassifier
from toptune.train.head2toe import Head2ToeClassifier
from toptune.train.head_files import json_ready, read_arrays, write_arrays, write_description
from toptune.train.logistic_classifier import FalkonLogisticClassifier
from toptune.train.ridge_classifier import StreamingRidgeClassifier
from toptune.train.scored_classifier import ScoredClassifier

OWN = {
    "falkon": ("kernel", "sigma", "penalty", "n_centers", "centers", "solver"),
    "falkon-logistic": ("kernel", "sigma", "penalty", "n_centers", "centers"),
    "ridge": ("penalty",),
    "head2toe": ("solver", "selection", "fraction", "group_penalty", "final", "penalty", "unit_norm"),
}
_ESTIMATORS: dict[str, type[ScoredClassifier]] = {
    "falkon": FalkonClassifier,
    "falkon-logistic": FalkonLogisticClassifier,
    "ridge": StreamingRidgeClassifier,
    "head2toe": Head2ToeClassifier,
}
_KERNEL_ARRAYS = ("centers", "dual_coef", "intercept")
_ARRAYS = {
    "falkon": _KERNEL_ARRAYS,
    "falkon-logistic": _KERNEL_ARRAYS,
    "ridge": ("coef", "intercept"),
    "head2toe": ("columns", "kept_dims", "coef", "intercept", "centers"),
}


class OwnHead:
    """`Head` over one of toptune's own classifiers."""

    def __init__(
        self,
        name: str,
        params: Mapping[str, Any],
        *,
        seed: int = 0,
        cv: int | str | None = 5,
        class_weight: str | None = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
        dask: str | None = None,
    ) -> None:
        self.name = name
        self.params = dict(params)
        common: dict[str, Any] = {
            "cv": cv,
            "class_weight": class_weight,
            "random_state": seed,
            "device": device,
            "memory_limit_bytes": memory_limit_bytes,
        } | ({} if dask is None else {"dask": dask})
        self.estimator: Any = _ESTIMATORS[name](**self.params, **common)
        self._report: dict[str, Any] = {}

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.estimator.classes_]

    @property
    def report(self) -> dict[str, Any]:
        return {key: value for key, value in self._report.items() if key != "table"}

    @property
    def table(self) -> list[dict[str, Any]]:
        return list(self._report.get("table", []))

    @property
    def columns(self) -> npt.NDArray[np.int64] | None:
        columns: npt.NDArray[np.int64] | None = getattr(self.estimator, "columns_", None)
        return None if columns is None or len(columns) == self.estimator.n_features_in_ else columns

    def on_columns(self) -> "OwnHead":
        return self if self.columns is None else self.with_estimator(self.estimator.on_kept(), self._report)

    def fit(
        self, X: npt.NDArray[Any] | Blocks, y: npt.ArrayLike, *, groups: Sequence[str] | None = None
    ) -> Self:
        self.estimator.fit(X, np.asarray(y), groups=groups)
        self._report = json_ready(self.estimator.report_.to_dict())
        return self

    def with_estimator(self, estimator: Any, report: Mapping[str, Any]) -> "OwnHead":
        """Give the head of the same name and parameters over another fitted estimator."""
        head = OwnHead(self.name, self.params)
        head.estimator = estimator
        head._report = json_ready(dict(report))
        return head

    def decision_function(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = self.estimator.scores(X)
        return scores

    def predict_proba(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[np.float64]:
        probabilities: npt.NDArray[np.float64] = self.estimator.predict_proba(X)
        return probabilities

    def predict(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[Any]:
        labels: npt.NDArray[Any] = self.estimator.predict(X)
        return labels

    def save(self, folder: Path, *, keep_sums: bool = True) -> None:
        """Write ``head.safetensors``, ``head.json`` and, of a fit that keeps them, ``sums.safetensors``."""
        estimator = self.estimator
        arrays = {name: getattr(estimator, f"{name}_") for name in _ARRAYS[self.name]}
        if getattr(estimator, "center_indices_", None) is not None:
            arrays["center_indices"] = estimator.center_indices_
        write_arrays(folder, arrays)
        if keep_sums and getattr(estimator, "sums_", None) is not None:
            estimator.sums_.save(folder)
        fitted = {
            "penalty": estimator.penalty_,
            "temperature": estimator.temperature_,
            "n_features": estimator.n_features_in_,
        }
        if _ARRAYS[self.name] is _KERNEL_ARRAYS:
            fitted |= {"kernel": estimator.kernel, "sigma": estimator.sigma_}
        elif self.name == "head2toe":
            fitted |= {"sigma": estimator.sigma_}
        description = {
            "head": self.name,
            "classes": self.classes,
            "params": self.params,
            "fitted": fitted,
            "report": self._report,
        }
        write_description(folder, json_ready(description))

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> "OwnHead":
        """Read what `save` wrote; `description` is the content of ``head.json``."""
        name = description["head"]
        arrays = read_arrays(folder, _ARRAYS[name])
        try:
            fitted = description["fitted"]
            head = cls(name, description["params"])
            estimator = head.estimator
            for key, values in arrays.items():
                setattr(estimator, f"{key}_", values)
            estimator.sums_ = None
            estimator.classes_ = np.array(description["classes"])
            estimator.penalty_ = fitted["penalty"]
            estimator.temperature_ = float(fitted["temperature"])
            estimator.n_features_in_ = int(fitted["n_features"])
            if _ARRAYS[name] is _KERNEL_ARRAYS:
                estimator.kernel, estimator.sigma_ = fitted["kernel"], fitted["sigma"]
            elif name == "head2toe":
                estimator.sigma_ = fitted["sigma"]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{folder / 'head.json'} is damaged ({error}); train again") from error
        columns = len(estimator.intercept_)
        if columns != len(estimator.classes_):
            raise CorruptError(
                f"{folder} holds {columns} scores for {len(estimator.classes_)} classes; train again"
            )
        head._report = dict(description["report"])
        return head
