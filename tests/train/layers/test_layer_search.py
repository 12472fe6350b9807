"""Layer search against ridge regression fitted directly to the columns of each subset."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import Ridge

from toptune.store import ArrayBlocks, ArraySpec, FeatureCache, InputError
from toptune.store.arrays.stored_layers import by_depth
from toptune.train.layers.choices import LayerSearch, choose_best
from toptune.train.layers.grams import DualGrams, PrimalGrams
from toptune.train.layers.paths import PenaltyPaths, all_paths, backward, forward
from toptune.train.layers.search import search_layers
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.splits import split_manifest

Build = Callable[..., FeatureCache]
DIMS = (4, 7, 3, 6)
N, N_CLASSES, N_FOLDS = 120, 3, 4


def planted(seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Layers 1 and 3 tell a part of the classes each; 0 and 2 are noise."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, N_CLASSES, N)
    values = rng.normal(size=(N, sum(DIMS)))
    values[:, 4] += 2.5 * (codes == 0)
    values[:, 14] += 2.5 * (codes == 1)
    return values * rng.uniform(0.1, 9.0, sum(DIMS)), codes


def grams(
    form: str, *, is_weighted: bool, has_aside: bool = False
) -> tuple[Any, npt.NDArray[Any], TrainingRows]:
    values, codes = planted()
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.5, 2.0, N) if is_weighted else np.ones(N)
    fitted, _ = fit_preprocessing("standardise", ArrayBlocks(values), DIMS)
    blocks = PreprocessedBlocks(ArrayBlocks(values), fitted)
    rows = TrainingRows(
        blocks=blocks,
        codes=codes,
        weights=weights / weights.mean(),
        # The number behind the last fold is that of rows without one.
        folds=rng.integers(0, N_FOLDS + has_aside, N),
        n_classes=N_CLASSES,
        n_folds=N_FOLDS,
        has_aside=has_aside,
    )
    device = torch.device("cpu")
    if form == "primal":
        return PrimalGrams(rows, DIMS, block_rows=50, device=device), blocks.take(np.arange(N)), rows
    parts = np.split(blocks.take(np.arange(N)), np.cumsum(DIMS)[:-1], axis=1)
    layers = [ArrayBlocks(part) for part in parts]
    return DualGrams(rows, layers, device=device), blocks.take(np.arange(N)), rows


@pytest.mark.parametrize(("is_weighted", "has_aside"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("form", ["primal", "dual"])
def test_subsets_equal_ridge_on_their_columns(form: str, is_weighted: bool, has_aside: bool) -> None:
    found, X, rows = grams(form, is_weighted=is_weighted, has_aside=has_aside)
    has_fold = rows.folds < N_FOLDS
    assert has_fold.all() != has_aside
    ends = np.cumsum(DIMS)
    targets = np.eye(N_CLASSES)[rows.codes]
    for subset in [(0,), (1, 3), (2, 0, 1), (0, 1, 2, 3)]:
        columns = np.concatenate([np.arange(ends[layer] - DIMS[layer], ends[layer]) for layer in subset])
        for relative in (1e-4, 1e-1):
            scores = np.zeros((N, N_CLASSES))
            scale = X[:, columns].var(axis=0).sum()
            for fold in range(N_FOLDS):
                held, rest = rows.folds == fold, (rows.folds != fold) & has_fold
                alpha = relative * scale * rows.weights[rest].sum()
                model = Ridge(alpha=alpha).fit(
                    X[rest][:, columns], targets[rest], sample_weight=rows.weights[rest]
                )
                scores[held] = model.predict(X[held][:, columns])
            weights = rows.weights * has_fold
            expected = weights @ ((targets - scores) ** 2).sum(axis=1) / weights.sum()
            penalty = relative * scale
            assert found.squared_error(subset, penalty) == pytest.approx(expected, rel=1e-5)
            (scored,) = found.left_out([(subset, penalty)])
            assert scored.correct == pytest.approx(weights @ (scores.argmax(axis=1) == rows.codes))
            np.testing.assert_allclose(scored.scores, scores[has_fold], atol=1e-5)
    if not is_weighted:
        assert sum(found.scales) == pytest.approx(sum(DIMS), rel=1e-5)


def test_primal_and_dual_agree() -> None:
    primal, _, _ = grams("primal", is_weighted=True)
    dual, _, _ = grams("dual", is_weighted=True)
    np.testing.assert_allclose(dual.scales, primal.scales, rtol=1e-10)
    for subset in [(3,), (0, 2)]:
        assert dual.squared_error(subset, 0.1) == pytest.approx(primal.squared_error(subset, 0.1), rel=1e-10)


def test_greedy_paths_find_what_is_planted() -> None:
    found, _, _ = grams("primal", is_weighted=False)
    grid = [10.0**exponent * sum(DIMS) for exponent in range(-5, 1)]
    paths = PenaltyPaths(lambda subset, at: found.squared_error(subset, grid[at]), len(grid))
    assert set(forward(paths, range(4), max_layers=4)[1]) == {1, 3}
    assert set(backward(paths, range(4))[-1]) == {1, 3}
    assert len(forward(paths, range(4), max_layers=1)) == 1
    # Against every subset and penalty.
    every = [subset for size in range(1, 5) for subset in combinations(range(4), size)]
    errors = {s: min(found.squared_error(s, penalty) for penalty in grid) for s in every}
    assert min(errors, key=lambda subset: errors[subset]) == (1, 3)
    for subset in every:
        assert paths.least(subset) == pytest.approx(errors[subset])


def test_paths_take_the_best_pooling_of_a_tap() -> None:
    errors = {0: 5.0, 1: 4.0, 2: 3.0}
    paths = PenaltyPaths(lambda subset, _at: min(errors[layer] for layer in subset), 3)
    found = all_paths(paths, ["a", "a", "b"], max_layers=3, notify=lambda _phase: None)
    assert [subset for path, subset in found if path == "first"] == [(1,), (1, 2)]
    assert [subset for path, subset in found if path == "last"] == [(2,), (2, 1)]
    assert [subset for path, subset in found if path == "alone"] == [(0,), (1,), (2,)]


def search(cache: FeatureCache, **options: Any) -> LayerSearch:
    return search_layers(
        cache,
        by_depth(cache.arrays()),
        split_manifest(cache.manifest),
        groups=cache.manifest.ids,
        cv=3,
        **options,
    )


def informative(name: str) -> dict[str, npt.NDArray[np.float32]]:
    """Features of which one array alone tells the classes of the fixture's labels."""
    rng = np.random.default_rng(5)
    dims = {"block.mean": 6, "block.cls": 5, "last.mean": 8}
    values = {array: rng.normal(size=(90, dim)) for array, dim in dims.items()}
    values[name][:, :3] += 3 * np.eye(3)[np.arange(90) % 3]
    return {array: each.astype(np.float16).astype(np.float32) for array, each in values.items()}


@pytest.mark.parametrize("name", ["block.cls", "last.mean"])
@pytest.mark.parametrize("search_rows", [2000, 10])
def test_the_search_chooses_the_layer_that_tells(build: Build, name: str, search_rows: int) -> None:
    found = search(build(features=informative(name)), search_rows=search_rows)
    assert name in found.chosen.arrays
    assert found.cheapest.arrays == (name,)
    assert found.form == "primal"
    alone = {choice.arrays[0]: choice for choice in found.path("alone")}
    assert max(alone, key=lambda array: alone[array].figure) == name
    assert alone["last.mean"].bytes_per_picture == 16
    assert {choice.is_chosen for choice in found.choices if choice.arrays == found.chosen.arrays} == {True}


def test_the_dual_on_a_sample_says_so(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toptune.train.layers.stored_grams.PRIMAL_COLUMNS", 1)
    cache = build(features=informative("block.cls"))
    whole = search(cache)
    assert (whole.form, whole.n_rows, whole.notes) == ("dual", 72, ())
    sample = search(cache, search_rows=40)
    assert sample.n_rows == 40
    assert "40 of the 72 training rows" in sample.notes[0]
    assert len(sample.notes) == 1
    monkeypatch.undo()
    primal = search(cache)
    for one, other in zip(whole.choices, primal.choices, strict=True):
        assert one.arrays == other.arrays
        assert one.squared_error == pytest.approx(other.squared_error, rel=1e-5)
        assert one.accuracy == pytest.approx(other.accuracy)


def test_classes_that_only_a_sample_leaves_aside_are_said_to_be_of_the_sample(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.train.layers.stored_grams.PRIMAL_COLUMNS", 1)
    labels = [f"class {row % 2}" for row in range(84)] + ["rare"] * 6
    cache = build(labels=labels)
    assert search(cache).notes == ()
    drawn, aside = search(cache, search_rows=14).notes
    assert "14 of the 73 training rows" in drawn
    assert aside.startswith("1 rows of 1 classes of this sample took no part in the comparison of layers")
    assert aside.endswith("raise --search-rows [TT312]")


def test_test_rows_change_nothing(build: Build, tmp_path: Any) -> None:
    features = informative("block.cls")
    first = search(build(features=features))
    test = split_manifest(build(root=tmp_path / "b", features=features).manifest).test
    for values in features.values():
        values[test] = 7.0
    second = search(build(root=tmp_path / "c", features=features))
    assert [each.squared_error for each in first.choices] == [each.squared_error for each in second.choices]


def test_bad_input(build: Build) -> None:
    cache = build()
    with pytest.raises(InputError, match="memory"):
        search(cache, memory_limit=1000)
    arrays, split = cache.arrays(), split_manifest(cache.manifest)
    with pytest.raises(InputError, match="pca mixes the layers"):
        search(cache, preprocess="pca:3")
    with pytest.raises(InputError, match="cv is None"):
        search_layers(cache, arrays, split, groups=cache.manifest.ids, cv=None)


def test_depth_of_names() -> None:
    names = ["last.pre", "layer4.1.mean", "layer10.mean", "layer4.0.max", "stem.mean", "layer4.0.mean"]
    names += ["norm.cls"]
    specs = [ArraySpec(name=n, dim=1, dtype="float16", unit_rows=8, chunk_rows=8, n_rows=8) for n in names]
    assert [spec.name for spec in by_depth(specs)] == [
        "stem.mean", "layer4.0.max", "layer4.0.mean", "layer4.1.mean", "layer10.mean", "norm.cls", "last.pre",
    ]  # fmt: skip


def test_ties_within_half_a_standard_error_go_to_the_better_log_loss(build: Build) -> None:
    found = search(build())
    best = choose_best(found.choices, n=found.n_rows)
    top = max(choice.figure for choice in found.choices)
    assert best.figure >= top - 0.5 * best.standard_error - 0.02
    assert found.chosen.arrays == best.arrays


def test_finalists_of_several_passes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = grams("primal", is_weighted=True)
    fits = [((0,), 0.1), ((1, 3), 0.2), ((2,), 0.3)]
    at_once = found.left_out(fits)
    monkeypatch.setattr("toptune.train.layers.grams._FINALISTS_BYTES", 1)
    for one, other in zip(at_once, found.left_out(fits), strict=True):
        assert one.correct == other.correct
        np.testing.assert_array_equal(one.scores, other.scores)
