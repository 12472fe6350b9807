"""`Head2ToeClassifier` against brute force on the rows, and on problems whose answer is known."""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from shapes import save_shapes
from sklearn.linear_model import LogisticRegression, MultiTaskLasso, Ridge
from sklearn.metrics import log_loss

from toptune.extract import extract
from toptune.machine.memory import MemoryLimits
from toptune.store import ArrayBlocks, FeatureCache, FeatureStore, InputError
from toptune.train import (
    FoldsReducedWarning,
    Head2ToeClassifier,
    Run,
    evaluate_run,
    load_head,
    make_head,
    train,
)
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.head2toe.columns import Layers, agreement, choose_columns
from toptune.train.head2toe.gram_path import squared_path
from toptune.train.head2toe.plan import plan_head2toe
from toptune.train.head2toe.selected_blocks import SelectedBlocks, SomeRows
from toptune.train.rows.folds import draw_folds

Matrix = npt.NDArray[np.float64]
DIMS = (12, 20, 8)
INFORMATIVE = np.array([2, 5, 17, 21, 33])


def planted(n: int = 240, seed: int = 0) -> tuple[Matrix, npt.NDArray[Any], list[str]]:
    """Draw three layers of 40 columns, of which five carry four classes and the others carry nothing."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, size=n)
    X = rng.normal(size=(n, sum(DIMS))) + 0.5
    X[:, INFORMATIVE] += 1.5 * rng.normal(size=(4, 5))[codes]
    return X, np.array([f"class {code}" for code in codes]), [f"id {row}" for row in range(n)]


@pytest.mark.parametrize("solver", ["gram", "softmax"])
@pytest.mark.parametrize("n", [30, 240], ids=["rows", "sums"])
def test_planted_columns_are_found(solver: str, n: int) -> None:
    X, y, ids = planted()
    X, y, ids = X[:n], y[:n], ids[:n]
    head = Head2ToeClassifier(solver=solver, layer_dims=DIMS, fraction=5 / 40, group_penalty=0.3, cv=3).fit(
        X, y, groups=ids
    )
    hits = np.isin(head.columns_, INFORMATIVE).sum()
    assert len(head.columns_) == 5
    assert hits == 5 if n == 240 else hits >= 3
    report = head.report_.to_dict()
    assert report["plan"]["form"] == ("sums" if n == 240 else "rows")
    assert [layer["n_kept"] for layer in report["layers"]] == list(
        Layers.of(X, 40, DIMS).counts(head.columns_)
    )
    assert report["stationarity"]["residual"] <= report["stationarity"]["tolerance"] == 0.01
    assert (0.8 if n == 240 else 0.1) < report["fold_agreement"] <= 1


def test_the_fraction_is_chosen_by_cross_validation() -> None:
    X, y, ids = planted()
    head = Head2ToeClassifier(layer_dims=DIMS).fit(X, y, groups=ids)
    assert len(head.columns_) <= 20
    assert np.isin(INFORMATIVE, head.columns_).sum() >= 4
    test_X, test_y, _ = planted(400, seed=0)
    everything = Head2ToeClassifier(layer_dims=DIMS, fraction=1.0).fit(X, y, groups=ids)
    assert head.score(test_X[240:], test_y[240:]) > everything.score(test_X[240:], test_y[240:])


def brute_force(
    X: Matrix,
    codes: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
    share: float,
    n_kept: int,
    penalty: float,
) -> tuple[list[npt.NDArray[np.int64]], Matrix]:
    """Select without each fold by scikit-learn's lasso, and score the fold by its ridge regression."""
    Y, scores, chosen = np.eye(codes.max() + 1)[codes], np.zeros((len(X), codes.max() + 1)), []
    for fold in range(folds.max() + 1):
        rest = folds != fold
        x, t = X[rest], Y[rest]
        centered = x - x.mean(axis=0)
        most = np.linalg.norm(centered.T @ (t - t.mean(axis=0)) / rest.sum(), axis=1).max()
        lasso = MultiTaskLasso(alpha=share * most, tol=1e-10, max_iter=100_000).fit(x, t)
        columns = np.sort(np.argsort(-np.linalg.norm(lasso.coef_, axis=0))[:n_kept])
        ridge = Ridge(alpha=penalty * rest.sum()).fit(x[:, columns], t)
        scores[folds == fold] = ridge.predict(X[folds == fold][:, columns])
        chosen.append(columns)
    return chosen, scores


@pytest.mark.parametrize("d", [40, 300], ids=["sums", "rows"])
def test_left_out_figures_are_those_of_brute_force_with_selection_in_every_fold(
    d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Columns that carry nothing have weights so small that the usual tolerance may swap them.
    exact = partial(squared_path, tolerance=1e-8, max_steps=20_000)
    monkeypatch.setattr("toptune.train.head2toe.ranking.squared_path", exact)
    X, y, ids = planted(150)
    X = np.column_stack([X, np.random.default_rng(9).normal(size=(150, d - 40))]) if d > 40 else X
    _, codes = np.unique(y, return_inverse=True)
    n_kept, share, penalty = 6, 0.04, 0.05
    head = Head2ToeClassifier(fraction=n_kept / d, group_penalty=share, penalty=penalty, cv=3).fit(
        X, y, groups=ids
    )
    report = head.report_.to_dict()
    assert report["plan"]["form"] == ("sums" if d == 40 else "rows")
    folds = draw_folds(codes, np.unique(codes), cv=3, groups=ids).numbers
    chosen, scores = brute_force(X, codes, folds, share, n_kept, penalty)
    (row,) = report["table"]
    assert row["squared_error"] == pytest.approx(((np.eye(4)[codes] - scores) ** 2).sum() / 150, rel=1e-9)
    assert (
        row["accuracy"]
        == report["left_out"]["accuracy"]
        == pytest.approx((scores.argmax(axis=1) == codes).mean())
    )
    shares = np.exp(scores / head.temperature_)
    assert report["left_out"]["log_loss"] == pytest.approx(
        log_loss(codes, shares / shares.sum(axis=1, keepdims=True)), rel=1e-6
    )
    ridge = Ridge(alpha=penalty * 150).fit(X[:, head.columns_], np.eye(4)[codes])
    np.testing.assert_allclose(head.scores(X), ridge.predict(X[:, head.columns_]), atol=1e-10)
    overlap = [len({*each} & {*head.columns_}) / len({*each} | {*head.columns_}) for each in chosen]
    assert report["fold_agreement"] == pytest.approx(np.mean(overlap))


def test_labels_that_mean_nothing_are_left_out_at_chance() -> None:
    """If columns were chosen on all rows, noise would seem to tell the classes apart."""
    rng = np.random.default_rng(0)
    X, codes = rng.normal(size=(100, 2000)), np.arange(100) % 2
    ids = [f"id {row}" for row in range(100)]
    head = Head2ToeClassifier(fraction=0.01, group_penalty=0.3, penalty=0.1).fit(X, codes, groups=ids)
    assert head.score(X, codes) > 0.9
    left_out = head.report_.left_out["accuracy"]
    assert left_out is not None
    assert left_out < 0.65


def test_sums_and_rows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, ids = planted(100)
    heads = []
    for form in ("sums", "rows"):
        monkeypatch.setattr(
            "toptune.train.estimators.head2toe.plan_head2toe",
            lambda form=form, **sizes: type(plan_head2toe(**sizes))(
                form=form, peak_bytes=0, limit_bytes=1, is_held=True
            ),
        )
        heads.append(Head2ToeClassifier(layer_dims=DIMS, class_weight="balanced").fit(X, y, groups=ids))
    np.testing.assert_array_equal(heads[0].columns_, heads[1].columns_)
    np.testing.assert_allclose(heads[0].scores(X), heads[1].scores(X), atol=1e-9)
    for one, two in zip(heads[0].report_.table, heads[1].report_.table, strict=True):
        assert one.squared_error == pytest.approx(two.squared_error, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    "options", [{}, {"solver": "softmax"}, {"final": "falkon"}, {"final": "logistic"}], ids=str
)
def test_blocks_of_any_size_give_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, ids = planted(120)
    results = []
    for block_rows in (7, 1000):
        monkeypatch.setattr(FitInputs, "block_rows", lambda _, size=block_rows, **__: size)
        head = Head2ToeClassifier(layer_dims=DIMS, group_penalty=0.3, cv=3, random_state=0, **options)
        head.fit(ArrayBlocks(X), y, groups=ids)
        results.append((head.columns_, head.predict_proba(X)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-6)


def test_softmax_rows_are_read_from_the_store_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, ids = planted(120)
    options: dict[str, Any] = {"solver": "softmax", "fraction": 0.2, "group_penalty": 0.3, "cv": 3}
    held = Head2ToeClassifier(**options).fit(X, y, groups=ids)
    monkeypatch.setattr(
        "toptune.train.estimators.head2toe.plan_head2toe",
        lambda **sizes: type(plan_head2toe(**sizes))(form="sums", peak_bytes=0, limit_bytes=1, is_held=False),
    )
    streamed = Head2ToeClassifier(**options).fit(X, y, groups=ids)
    np.testing.assert_array_equal(held.columns_, streamed.columns_)


@pytest.mark.parametrize("final", ["logistic", "falkon"])
def test_other_finals_are_fitted_to_what_is_kept_with_unit_norm(final: str) -> None:
    X, y, ids = planted(150)
    head = Head2ToeClassifier(
        final=final, layer_dims=DIMS, fraction=0.3, group_penalty=0.3, cv=3, random_state=0
    ).fit(X, y, groups=ids)
    kept = X[:, head.columns_]
    parts = np.split(kept, np.cumsum(head.kept_dims_)[:-1], axis=1)
    unit = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1)
    if final == "logistic":
        C = 1 / (2 * 150 * head.penalty_)
        reference = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(unit, y)
        expected = reference.decision_function(unit)
        expected -= expected.mean(axis=1, keepdims=True)
        scores = head.scores(X)
        np.testing.assert_allclose(scores - scores.mean(axis=1, keepdims=True), expected, atol=0.03)
    else:
        squares = ((unit[:, None] - head.centers_[None]) ** 2).sum(axis=2)
        kernel = np.exp(-squares / (2 * (head.sigma_ or 0.0) ** 2))
        np.testing.assert_allclose(head.scores(X), kernel @ head.coef_.T + head.intercept_, atol=1e-9)
    left_out = head.report_.left_out["accuracy"]
    assert left_out is not None
    assert 0.4 < left_out < 1
    plain = Head2ToeClassifier(
        final=final, layer_dims=DIMS, fraction=0.3, group_penalty=0.3, cv=3, random_state=0, unit_norm=False
    ).fit(X, y, groups=ids)
    assert not np.allclose(plain.scores(X), head.scores(X))


def test_a_class_that_lies_in_one_fold_only() -> None:
    X, y, _ = planted(60)
    y = y.astype(object)
    y[:3] = "rare"
    groups = ["together" if label == "rare" else f"g{row}" for row, label in enumerate(y)]
    for final in ("ridge", "logistic", "falkon"):
        head = Head2ToeClassifier(final=final, fraction=0.3, group_penalty=0.3, cv=3)
        with pytest.warns(FoldsReducedWarning, match="3 training rows of 1 of 5 classes"):
            head.fit(X, y.astype(str), groups=groups)
        assert np.isfinite(head.predict_proba(X)).all()
        assert head.predict_proba(X).shape == (60, 5)
        # The final head says nothing twice.
        assert sum("'rare'" in note for note in head.report_.warnings) == 1
        assert head.report_.left_out["n_rows"] == 57


def test_whole_layers() -> None:
    X, y, ids = planted()
    X[:, 12:32] = np.random.default_rng(1).normal(size=(240, 20))  # the second layer knows nothing
    head = Head2ToeClassifier(selection="layer", layer_dims=DIMS, fraction=2 / 3, group_penalty=0.1)
    head.fit(X, y, groups=ids)
    np.testing.assert_array_equal(head.columns_, [*range(12), *range(32, 40)])
    assert head.kept_dims_.tolist() == [12, 8]
    chosen = Head2ToeClassifier(selection="layer", layer_dims=DIMS).fit(X, y, groups=ids)
    assert {row.n_columns for row in chosen.report_.table} >= {40, 8}
    with pytest.raises(InputError, match="chooses among layers and there is one"):
        Head2ToeClassifier(selection="layer").fit(X, y)


def test_the_last_layer_alone_is_a_candidate() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(200) % 4
    X = np.column_stack([rng.normal(size=(200, 60)), 3 * np.eye(4)[codes] + rng.normal(size=(200, 4))])
    head = Head2ToeClassifier(layer_dims=(60, 4), random_state=0).fit(X, codes)
    assert any(row.selection == "last layer" and row.accuracy is not None for row in head.report_.table)
    assert set(head.columns_) <= {*range(60, 64)} | set(head.columns_[:2])
    layers = Layers((6, 5, 8), ("block.mean", "last.none", "layer4.mean"))
    assert layers.last is not None
    assert layers.last.tolist() == [6, 7, 8, 9, 10]


def test_selection_of_columns() -> None:
    scores = torch.tensor([0.5, -0.1, 0.0, 0.9, -0.9, 0.2])
    layers = Layers((2, 2, 2), ("a", "b", "c"))
    assert choose_columns(scores, 0.5, layers).tolist() == [0, 3, 5]
    assert choose_columns(scores, 0.01, layers).tolist() == [3]
    assert choose_columns(scores, 1.0, layers).tolist() == [*range(6)]
    assert choose_columns(scores, 0.3, layers, selection="layer").tolist() == [2, 3]
    assert choose_columns(scores, 0.6, layers, selection="layer").tolist() == [0, 1, 2, 3]
    assert agreement([np.array([1, 2, 3]), np.array([3, 4])], np.array([3, 4])) == pytest.approx(
        (0.25 + 1) / 2
    )


def test_blocks_of_some_columns_and_rows() -> None:
    X, _, _ = planted(30)
    columns = np.array([0, 3, 13, 14, 39])
    unit = X[:, columns]
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        unit[:, start:stop] /= np.linalg.norm(unit[:, start:stop], axis=1, keepdims=True)
    blocks = SelectedBlocks(ArrayBlocks(X), columns, (2, 2, 1))
    np.testing.assert_array_equal(np.concatenate([values for _, values in blocks.iterate(7)]), unit)
    some = SomeRows(blocks, np.array([4, 9, 28]))
    assert (some.shape, some.dtype) == ((3, 5), np.dtype(np.float64))
    np.testing.assert_array_equal(np.concatenate([values for _, values in some.iterate(2)]), unit[[4, 9, 28]])
    np.testing.assert_array_equal(some.take([2, 0]), unit[[28, 4]])
    np.testing.assert_array_equal(SelectedBlocks(ArrayBlocks(X), columns).take([1]), X[[1]][:, columns])
    zero = SelectedBlocks(ArrayBlocks(np.zeros((2, 3))), np.array([0, 2]), (1, 1))
    assert (zero.take([0, 1]) == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "adam"}, r"solver 'adam' is unknown; choose one of gram, softmax"),
        ({"selection": "block"}, "selection 'block' is unknown"),
        ({"final": "svm"}, "final 'svm' is unknown; choose one of ridge, logistic, falkon"),
        ({"fraction": 1.5}, "fraction is 1.5; it is a share"),
        ({"fraction": 0}, "fraction is 0"),
        ({"group_penalty": 1.0}, "group_penalty is 1.0; it is a share of the smallest penalty"),
        ({"layer_dims": [10, 10]}, r"layer_dims are \[10, 10\], together 20 columns; X has 40"),
        ({"cv": None}, "cv is None"),
        ({"memory_limit_bytes": 10_000}, r"iB as Gram matrices of 5 folds, .*iB as rows\) needs about"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    X, y, _ = planted(60)
    with pytest.raises(InputError, match=message):
        Head2ToeClassifier(**options).fit(X, y)


def test_the_plan_is_arithmetic() -> None:
    def plan(device: str = "", host_bytes: int = 0, **sizes: int) -> Any:
        given: dict[str, Any]
        given = {"n": 1000, "d": 2000, "n_classes": 10, "n_folds": 5, "n_shares": 3, "block_rows": 500}
        given |= {"n_rules": 30, "n_penalties": 8}
        most = sizes.pop("limit_bytes", 2**33)
        limits = MemoryLimits(device=device, bytes=most, host_bytes=host_bytes)
        return plan_head2toe(solver="gram", limits=limits, **(given | sizes))

    assert plan().form == "rows"
    assert plan(n=100_000).form == "sums"
    assert plan(n=9_000, d=8_000, limit_bytes=10 * 2**29).form == "rows"
    assert plan(n=100_000).peak_bytes == pytest.approx(plan(n=200_000).peak_bytes, rel=0.2)
    with pytest.raises(InputError, match="fewer layers"):
        plan(n=1_000_000, d=30_000)
    # Beside a device, main memory holds the block that is read (22.9 MiB), scores and targets.
    assert plan("cuda", 27 * 2**20).form == "rows"
    with pytest.raises(InputError, match=r"on cuda needs about 2\d\.\d MiB of memory, and 20\.0 MiB may be"):
        plan("cuda", 20 * 2**20)


def test_the_head_of_the_columns_kept_predicts_the_same(tmp_path: Path) -> None:
    X, y, ids = planted(120)
    for final in ("ridge", "logistic", "falkon"):
        params = {"final": final, "fraction": 0.2, "group_penalty": 0.3}
        head = make_head("head2toe", params=params, cv=3).fit(X, y, groups=ids)
        assert head.columns is not None
        assert len(head.columns) == 8
        narrow = head.on_columns()
        assert narrow.columns is None
        assert narrow.on_columns() is narrow
        np.testing.assert_array_equal(narrow.predict_proba(X[:, head.columns]), head.predict_proba(X))
        narrow.save(tmp_path)
        loaded = load_head(tmp_path)
        np.testing.assert_array_equal(loaded.predict_proba(X[:, head.columns]), head.predict_proba(X))
        assert loaded.report["left_out"]["n_rows"] == 120
    assert make_head("head2toe", params={"fraction": 1.0}).fit(X, y).columns is None


def test_training_needs_only_the_layers_kept(build: Callable[..., FeatureCache], tmp_path: Path) -> None:
    cache = build()
    run = train(
        tmp_path / "store", dataset="pets", model="tiny.demo", head="head2toe", layers="all", cv=3,
        penalty=[1e-3, 1e-2, 1e-1], params={"selection": "layer", "fraction": 1 / 3}, out=tmp_path / "run",
    )  # fmt: skip
    assert run.config["preprocessing"]["spec"] == "l2"
    loaded = Run.load(run.folder)
    assert len(loaded.arrays) == 1
    report = loaded.config["report"]
    assert [layer["name"] for layer in report["layers"]] == [array.name for array in cache.arrays()]
    assert [layer["n_kept"] > 0 for layer in report["layers"]].count(True) == 1
    assert evaluate_run(loaded)["accuracy"] == run.metrics["accuracy"] > 0.6
    table = (run.folder / "selection.csv").read_text().splitlines()
    assert table[0].startswith("selection,fraction,group_penalty,n_columns,penalty,squared_error")
    assert sum(line.endswith("True") for line in table) == 1


def test_from_images_to_a_run(tmp_path: Path) -> None:
    save_shapes(tmp_path / "photos")
    model = "resnet10t.toptune_glyphs"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extract(tmp_path / "photos", model=model, store=tmp_path / "store", layers="all", pooling="target512")
    run = train(
        tmp_path / "store", dataset="photos", model=model, head="head2toe", layers="all",
        params={"fraction": [0.002, 0.01, 0.1]}, out=tmp_path / "run",
    )  # fmt: skip
    saves = run.config["saves"]
    assert saves["n_columns"] == run.config["selected"]["n_columns"] < saves["n_columns_trained_on"]
    assert run.metrics["accuracy"] > 0.8
    described = json.loads((run.folder / "run.json").read_text())["report"]
    assert sum(layer["n_kept"] for layer in described["layers"]) == saves["n_columns"]
    cache = FeatureStore.open(tmp_path / "store").cache(model, "photos")
    assert {array.name for array in run.arrays} <= {spec.name for spec in cache.arrays()}
