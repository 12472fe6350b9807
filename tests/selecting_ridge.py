"""A head that uses some of its columns, made where `train` makes heads."""

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest

from toptune.train.heads.native_heads import OwnHead


class SelectingRidge(OwnHead):
    """Head ridge on some of its inputs."""

    chosen: npt.NDArray[np.int64]

    @property
    def columns(self) -> npt.NDArray[np.int64]:
        return self.chosen

    def fit(self, X: Any, y: Any, *, groups: Any = None) -> Self:
        super().fit(X.take(np.arange(X.shape[0]))[:, self.chosen], y, groups=groups)
        narrow = self.estimator.coef_
        self.estimator.coef_ = np.zeros((len(narrow), X.shape[1]))
        self.estimator.coef_[:, self.chosen] = narrow
        self.estimator.n_features_in_, self.estimator.sums_ = X.shape[1], None
        return self

    def on_columns(self) -> Any:
        estimator = copy(self.estimator)
        estimator.coef_, estimator.n_features_in_ = estimator.coef_[:, self.chosen], len(self.chosen)
        return self.with_estimator(estimator, self._report)


def heads_that_select(monkeypatch: pytest.MonkeyPatch, columns: Sequence[int]) -> list[SelectingRidge]:
    """Have `train` make this head from now on; they are in the list once made."""
    made: list[SelectingRidge] = []

    def make(name: str, *, params: Any, seed: int, cv: Any, **_: Any) -> SelectingRidge:
        made.append(SelectingRidge(name, params, seed=seed, cv=cv))
        made[-1].chosen = np.array(columns)
        return made[-1]

    monkeypatch.setattr("toptune.train.heads.heads.make_head", make)
    return made
