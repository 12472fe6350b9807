"""Head auto: heads compared on the same folds within a budget."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from toptune.store import ArrayBlocks, FeatureCache, FeatureStore, InputError, NumericalError
from toptune.train import Head, Run, make_head, train, update_run
from toptune.train.estimators.fit_report import LeftOutFigures
from toptune.train.heads.budget import estimated_seconds
from toptune.train.heads.heads import HEADS
from toptune.train.heads.kinds import tried_heads
from toptune.train.heads.problem_size import ProblemSize
from toptune.train.heads.trials import try_heads, why_chosen
from toptune.train.solvers.selection import choose

Build = Callable[..., FeatureCache]
OPTIONS: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3}
ORDER = tried_heads()


def made(name: str) -> Head:
    return make_head(name, cv=3, is_compared=True)


@pytest.fixture(scope="module")
def rings() -> tuple[npt.NDArray[np.float32], list[str]]:
    """Classes that no line parts."""
    rng = np.random.default_rng(0)
    angle, y = rng.uniform(0, 6.3, 240), np.arange(240) % 2
    X = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 + 2 * y)[:, None]
    return (X + 0.2 * rng.normal(size=X.shape)).astype(np.float32), [str(each) for each in y]


def test_every_head_has_a_place_and_a_price() -> None:
    # Head2Toe is for many layers, with a preprocessing of its own: asked for by name.
    assert set(ORDER) == set(HEADS) - {"head2toe"}
    small, large = (ProblemSize(n=n, d=500, n_classes=10, n_folds=5) for n in (500, 50_000))
    for name in ORDER:
        assert 0 < estimated_seconds(name, small) < 60
        assert estimated_seconds(name, large) > 3 * estimated_seconds(name, small)


def test_the_best_is_kept_by_the_common_rule(rings: Any) -> None:
    X, y = rings
    trials = try_heads(ArrayBlocks(X), y, make=made, n_folds=3, budget_seconds=300)
    assert [row.head for row in trials.table] == list(ORDER)
    assert not any(row.skipped for row in trials.table)
    by_name = {row["head"]: row for row in trials.to_dict()["table"]}
    assert by_name["ridge"]["accuracy"] < 0.75 < 0.9 < by_name["falkon"]["accuracy"]
    (chosen,) = (at for at, row in enumerate(trials.table) if row.is_chosen)
    accuracies, losses = [row.accuracy for row in trials.table], [row.log_loss for row in trials.table]
    assert choose(accuracies, losses, n=len(y)) == chosen
    assert trials.head.name == trials.table[chosen].head
    assert (trials.head.predict(X) == np.array(y)).mean() > 0.9
    # On the same folds as by itself.
    keys = [str(row) for row in range(len(y))]
    alone = made("svm").fit(X, y, groups=keys)
    assert alone.report["left_out"]["accuracy"] == by_name["svm"]["accuracy"]


class Slow:
    """A head that takes the time that it is told to, on a clock of its own."""

    def __init__(self, name: str, clock: list[float], seconds: float) -> None:
        self.name, self.clock, self.seconds = name, clock, seconds
        self.left_out = LeftOutFigures(accuracy=0.5, log_loss=1.0, n_rows=20)

    def fit(self, *_: Any, **__: Any) -> "Slow":
        self.clock[0] += self.seconds
        return self


def trials_of(
    seconds: dict[str, float], budget: float, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    clock = [0.0]
    monkeypatch.setattr("toptune.train.heads.trials.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("toptune.train.heads.trials.estimated_seconds", lambda name, _: seconds[name])
    make: Any = lambda name: Slow(name, clock, 2 * seconds[name])  # noqa: E731
    trials = try_heads(ArrayBlocks(np.zeros((20, 2))), ["a", "b"] * 10, make=make, budget_seconds=budget)
    return {row["head"]: row for row in trials.to_dict()["table"]}


def test_what_would_not_fit_is_skipped_and_cheaper_heads_after_it_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = dict.fromkeys(ORDER, 1.0) | {"logistic": 50.0, "forest": 30.0}
    table = trials_of(seconds, 60.0, monkeypatch)
    # Heads here take twice what is estimated, which the first shows.
    assert table["logistic"]["skipped"] == "about 100 s, 52 s of the budget left"
    assert table["forest"]["skipped"] == "about 60 s, 48 s of the budget left"
    assert [name for name, row in table.items() if not row["skipped"]] == [
        "ncm", "ridge", "lda", "knn", "falkon", "svm", "falkon-logistic",
    ]  # fmt: skip
    assert sum(row["seconds"] or 0 for row in table.values()) <= 60
    assert table["ncm"]["is_chosen"]


def test_the_first_is_tried_whatever_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    table = trials_of(dict.fromkeys(ORDER, 10.0), 1.0, monkeypatch)
    assert [name for name, row in table.items() if row["seconds"] is not None] == ["ncm"]


def test_heads_that_cannot_be_fitted_are_skipped_with_the_reason(rings: Any) -> None:
    X, y = rings

    def make(name: str) -> Head:
        if name not in ("ncm", "ridge", "lda"):
            raise NumericalError(f"{name} is broken")
        return make_head(name, cv=3, class_weight="balanced")

    table = {row["head"]: row for row in try_heads(ArrayBlocks(X), y, make=make).to_dict()["table"]}
    assert "cannot weigh classes" in table["ncm"]["skipped"]
    assert table["svm"]["skipped"] == "svm is broken"
    assert table["lda"]["accuracy"] is not None
    with pytest.raises(InputError, match="one class only"):
        try_heads(ArrayBlocks(X), ["a"] * len(X), make=made)


def test_a_run_of_auto_is_a_run_of_the_head_that_it_chose(build: Build, tmp_path: Path) -> None:
    build()
    run = train(tmp_path / "store", out=tmp_path / "run", head="auto", budget=60, **OPTIONS)
    loaded = Run.load(tmp_path / "run")
    assert loaded.head.name == run.head.name in HEADS
    assert loaded.config["options"]["head"] == "auto"
    assert loaded.config["auto"]["budget_seconds"] == 60
    with (tmp_path / "run" / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["head"] for row in rows] == list(ORDER)
    assert [row["head"] for row in rows if row["is_chosen"] == "True"] == [run.head.name]
    assert all(float(row["accuracy"]) > 0.5 for row in rows if not row["skipped"])
    assert "* " + run.head.name in str(loaded)
    named = train(tmp_path / "store", out=tmp_path / "named", head=run.head.name, **OPTIONS)
    assert named.metrics["log_loss"] == pytest.approx(run.metrics["log_loss"])
    assert json.loads((tmp_path / "named" / "run.json").read_text())["auto"] is None


def test_what_auto_chose_can_be_updated(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.train.heads.trials.tried_heads", lambda: ("ridge",))
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    run = train(store, out=tmp_path / "run", head="auto", **OPTIONS)
    gone = cache.manifest.ids[int(run.train_rows[0])]
    updated = update_run(tmp_path / "run", out=tmp_path / "updated", store=store, forget=[gone])
    assert isinstance(updated, Run)
    assert updated.head.name == "ridge"
    assert updated.metrics["n_train"] == run.metrics["n_train"] - 1
    assert updated.config["auto"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "auto", "params": {"penalty": 1.0}}, "params penalty have no meaning for head 'auto'"),
        ({"head": "auto", "sigma": 2.0}, "sigma has no meaning for head 'auto'"),
        ({"head": "auto", "cv": None}, "compares by cross-validation"),
        ({"head": "auto", "dask": "local:2"}, "head 'auto' does not know"),
        ({"head": "auto", "budget": 0.0}, "budget is 0 seconds"),
        ({"head": "ridge", "budget": 5.0}, "budget has no meaning for head 'ridge'"),
    ],
)
def test_bad_options_of_auto_are_refused(
    options: dict[str, Any], message: str, build: Build, tmp_path: Path
) -> None:
    build()
    with pytest.raises(InputError, match=message):
        train(tmp_path / "store", out=tmp_path / "run", **{**OPTIONS, **options})
    assert not (tmp_path / "run").exists()


def test_a_head_that_beats_a_more_accurate_one_says_why() -> None:
    def row(head: str, accuracy: float | None, log_loss: float | None, *, is_chosen: bool = False) -> Any:
        return {"head": head, "accuracy": accuracy, "log_loss": log_loss, "is_chosen": is_chosen}

    skipped, best = row("svm", None, None), row("knn", 0.91, 0.9)
    why = why_chosen([row("lda", 0.905, 0.3, is_chosen=True), best, skipped], n=100)
    assert why is not None
    assert why.startswith("lda was kept although knn has a higher left-out accuracy (0.9100 against 0.9050)")
    assert "(0.3000 against 0.9000)" in why
    assert why_chosen([row("lda", 0.95, 0.3, is_chosen=True), best], n=100) is None
    assert why_chosen([], n=100) is None
