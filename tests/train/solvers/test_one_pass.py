"""The one-pass solver against dense float64 answers and explicitly refitted folds."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import make_classification

from toptune.store import ArrayBlocks, InputError
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.estimators.ridge import StreamingRidgeClassifier
from toptune.train.kernels.kernels import kernel_of
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.whitening import whiten
from toptune.train.numerics.calibration import softmax
from toptune.train.passes.fold_parts import fold_parts
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.peak_memory import one_pass_peak_bytes
from toptune.train.passes.sums import FoldSums, PassTargets, SumsBuilder
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.folds import FoldsReducedWarning, draw_folds
from toptune.train.rows.inputs import row_weights
from toptune.train.solvers.one_pass import solve
from toptune.train.solvers.ridge import CenteredSystem, left_out
from toptune.train.solvers.selection import Candidate, choose_candidate

CPU = torch.device("cpu")
Matrix = npt.NDArray[np.float64]


def make_rows(
    n: int = 120, d: int = 6, n_classes: int = 3, seed: int = 0, weights: Matrix | None = None
) -> tuple[Matrix, TrainingRows]:
    X, y = make_classification(
        n, d, n_informative=d - 1, n_redundant=0, n_classes=n_classes, random_state=seed
    )
    folds = np.random.default_rng(seed).integers(0, 4, size=n)
    rows = TrainingRows(
        blocks=ArrayBlocks(X),
        codes=y.astype(np.int64),
        weights=np.ones(n) if weights is None else weights,
        folds=folds,
        n_classes=n_classes,
        n_folds=4,
    )
    return X, rows


def dense_ridge(phi: Matrix, Y: Matrix, w: Matrix, penalty: float) -> tuple[Matrix, Matrix]:
    """Weighted ridge regression with a free intercept, solved as a stacked least-squares problem."""
    n, r = phi.shape
    top = np.sqrt(w)[:, None] * np.column_stack([phi, np.ones(n)])
    bottom = np.column_stack([np.sqrt(w.sum() * penalty) * np.eye(r), np.zeros(r)])
    solution = np.linalg.lstsq(
        np.vstack([top, bottom]), np.vstack([np.sqrt(w)[:, None] * Y, np.zeros((r, Y.shape[1]))]), rcond=None
    )[0]
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("penalty", [1e-9, 1e-5, 1e-1])
def test_solution_equals_dense_float64_over_condition_numbers(condition: float, penalty: float) -> None:
    rng = np.random.default_rng(1)
    n, r = 90, 20
    left, right = np.linalg.qr(rng.normal(size=(n, r)))[0], np.linalg.qr(rng.normal(size=(r, r)))[0]
    phi = left * np.logspace(0, -np.log10(condition) / 2, r) * np.sqrt(n) @ right
    codes, w = rng.integers(0, 3, n), rng.uniform(0.5, 2, n)
    folds = np.zeros(n, dtype=np.int64)
    targets = PassTargets.of(codes, w, folds, n_folds=1, n_classes=3, device=CPU)
    builder = SumsBuilder(targets, rank=r)
    builder.add(torch.from_numpy(phi), slice(0, n), fold_parts(folds, CPU))
    sums = builder.result()
    beta, jitter = CenteredSystem.of(sums.gram[0], sums.cross[0]).solve(penalty)
    expected, intercept = dense_ridge(phi, np.eye(3)[codes], w, penalty)
    assert jitter == 0
    fitted, wanted = phi @ beta[:-1].numpy() + beta[-1].numpy(), phi @ expected + intercept
    assert np.abs(fitted - wanted).max() < 1e-6


def test_all_centers_reproduce_kernel_ridge_regression() -> None:
    X, rows = make_rows()
    kernel, penalty = kernel_of("gaussian", 2.0), 1e-3
    maps = NystromMaps.on([kernel], torch.from_numpy(X))
    (sums,) = accumulate(rows, maps, [0], block_rows=32, device=CPU)
    beta, _ = CenteredSystem.of(sums.gram.sum(dim=0), sums.cross.sum(dim=0)).solve(penalty)
    centers, dual = maps.coefficients(0, beta[:-1])
    scores = kernel(torch.from_numpy(X), centers) @ dual + beta[-1]
    # The dense answer: (K + n penalty I) a + 1 b = Y with 1'a = 0 (least-squares kernel classifier).
    n, K = len(X), kernel(torch.from_numpy(X), torch.from_numpy(X)).numpy()
    system = np.block([[K + n * penalty * np.eye(n), np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    solution = np.linalg.solve(system, np.vstack([np.eye(3)[rows.codes], np.zeros((1, 3))]))
    np.testing.assert_allclose(scores.numpy(), K @ solution[:n] + solution[n], atol=1e-7)


def on_basis(maps: NystromMaps, beta: torch.Tensor) -> torch.Tensor:
    return torch.cat([maps.on_basis(0, beta[:, :-1]), beta[:, -1:]], dim=1)


@pytest.mark.parametrize("is_lean", [False, True], ids=["whole kept", "folds added up"])
@pytest.mark.parametrize(("is_weighted", "has_aside"), [(False, False), (True, False), (True, True)])
def test_closed_form_fold_errors_equal_refitted_folds(
    is_weighted: bool, has_aside: bool, is_lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_lean:
        monkeypatch.setattr("toptune.train.passes.peak_memory.LARGE_BYTES", 0)
    weights = np.random.default_rng(2).uniform(0.2, 3, 120) if is_weighted else None
    X, rows = make_rows(weights=weights)
    if has_aside:
        # The number behind the last fold is that of rows without one.
        rows = replace(rows, folds=np.where(np.arange(120) % 7, rows.folds, 4), has_aside=True)
    maps = NystromMaps.on([kernel_of("gaussian", 2.0)], torch.from_numpy(X[::4]))
    (phi,) = maps.features(torch.from_numpy(X), [0])
    (sums,) = accumulate(rows, maps, [0], block_rows=50, device=CPU)
    penalties = [1e-8, 1e-4, 1e-1]
    result = left_out(sums, penalties)
    Y = np.eye(3)[rows.codes]
    for index, penalty in enumerate(penalties):
        for fold in range(4):
            inside, left = (rows.folds != fold) & (rows.folds < 4), rows.folds == fold
            beta, b = dense_ridge(phi.numpy()[inside], Y[inside], rows.weights[inside], penalty)
            residual = Y[left] - phi.numpy()[left] @ beta - b
            expected = rows.weights[left] @ (residual**2).sum(axis=1)
            assert float(result.errors[index, fold]) == pytest.approx(expected, rel=1e-6)
        (scored,), kept = predict_left_out(
            rows, maps, [(0, on_basis(maps, result.coefficients[index]))], block_rows=7, device=CPU
        )
        assert scored.squared_error == pytest.approx(float(result.errors[index].sum()), rel=1e-9)
        assert kept.tolist() == np.flatnonzero(rows.folds < 4).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_one_fold_tells_the_others_which_penalties_to_try(seed: int) -> None:
    X, rows = make_rows(seed=seed)
    maps = NystromMaps.on([kernel_of("gaussian", 2.0)], torch.from_numpy(X[::2]))
    (sums,) = accumulate(rows, maps, [0], block_rows=50, device=CPU)
    penalties = [10.0**power for power in range(-10, 3)]
    whole, some = (left_out(sums, penalties, is_exhaustive=every) for every in (True, False))
    assert some.best == whole.best
    assert whole.is_tried.all()
    assert some.is_tried.sum() <= len(penalties) + 5 * 3
    tried = some.is_tried.all(dim=1)
    assert tried[max(0, some.best - 1) : some.best + 2].all()
    assert torch.equal(some.errors[tried], whole.errors[tried])
    # The coefficients of others were let go as the window moved, and made again where it came back.
    assert {*range(max(0, some.best - 1), min(len(penalties), some.best + 2))} <= some.coefficients.keys()
    for index, coefficients in some.coefficients.items():
        assert torch.equal(coefficients, whole.coefficients[index])


def test_widths_far_behind_on_one_fold_are_not_tried_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    X, rows = make_rows()
    sigmas = [0.01, 2.0, 4.0]
    maps = NystromMaps.on([kernel_of("gaussian", sigma) for sigma in sigmas], torch.from_numpy(X[::2]))
    whole = solve(rows, maps, sigmas, penalties=[1e-4, 1e-2], block_rows=50, device=CPU)
    monkeypatch.setattr("toptune.train.solvers.one_pass.EXHAUSTIVE_RANK", 10)
    some = solve(rows, maps, sigmas, penalties=[1e-4, 1e-2], block_rows=50, device=CPU)
    folds = {sigma: {row.n_folds for row in some.table if row.sigma == sigma} for sigma in sigmas}
    assert folds == {0.01: {1}, 2.0: {4}, 4.0: {4}}
    assert all(row.accuracy is None for row in some.table if row.sigma == 0.01)
    assert (some.chosen.sigma, some.chosen.penalty) == (whole.chosen.sigma, whole.chosen.penalty)
    assert torch.equal(some.beta, whole.beta)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_sums_of_the_basis_whitened_at_the_end_equal_those_of_features(
    is_weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.random.default_rng(2).uniform(0.2, 3, 400) if is_weighted else None
    X, rows = make_rows(400, weights=weights)
    centers = torch.from_numpy(X[::20].astype(np.float32))
    maps = NystromMaps.on([kernel_of("gaussian", 1.0), kernel_of("laplacian", 2.0)], centers)
    kept = accumulate(rows, maps, [0, 1], block_rows=64, device=CPU, keep_raw=True)
    assert all(each.factor is not None for each in kept)
    penalties = [1e-4, 1e-1]
    raw = accumulate(rows, maps, [0, 1], block_rows=64, device=CPU)
    monkeypatch.setattr(NystromMaps, "raw_factor", lambda *_, **__: None)
    plain = accumulate(rows, maps, [0, 1], block_rows=64, device=CPU, keep_raw=True)
    for index, (sums, theirs) in enumerate(zip(kept, plain, strict=True)):
        mine, other = left_out(sums, penalties), left_out(theirs, penalties)
        assert torch.allclose(mine.errors, other.errors, rtol=1e-6)
        for at in range(2):
            dual = maps.on_basis(index, other.coefficients[at][:, :-1])
            assert torch.allclose(mine.coefficients[at][:, :-1], dual, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(raw, plain, strict=True):
        assert torch.allclose(ours.gram, theirs.gram, rtol=1e-9, atol=1e-8)
        assert torch.allclose(ours.cross, theirs.cross, rtol=1e-9, atol=1e-8)
        assert torch.equal(ours.square, theirs.square)


def test_errors_that_cancel_are_clipped_and_counted() -> None:
    n_clipped = 0
    for seed in range(20):
        phi = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 20, 1)))
        z, y = torch.cat([phi, torch.ones_like(phi)], dim=2), 3 * phi
        sums = FoldSums(gram=z.mT @ z, cross=z.mT @ y, square=y.square().sum(dim=(1, 2)))
        result = left_out(sums, [1e-16, 1e-15])
        assert (result.errors >= 0).all()
        assert result.errors.max() < 1e-9
        n_clipped += result.n_clipped
    assert n_clipped > 0


class Shuffled:
    """Blocks that come in another order, as they would from several workers."""

    def __init__(self, values: Matrix) -> None:
        self.inner = ArrayBlocks(values)
        self.shape, self.dtype, self.take = self.inner.shape, self.inner.dtype, self.inner.take

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        yield from reversed(list(self.inner.iterate(11)))


def test_block_size_order_and_type_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    X, rows = make_rows(200)
    options: dict[str, Any] = {"n_centers": 60, "sigma": 2.0, "penalty": 1e-3, "random_state": 0}
    whole = FalkonClassifier(**options).fit(X, rows.codes)
    scores = whole.decision_function(X)
    np.testing.assert_allclose(
        FalkonClassifier(**options).fit(Shuffled(X), rows.codes).decision_function(X), scores, atol=1e-9
    )
    monkeypatch.setattr("toptune.train.solvers.kernel_fit.block_rows_for", lambda **_: 7)
    small = FalkonClassifier(**options).fit(X, rows.codes)
    np.testing.assert_allclose(small.decision_function(X), scores, atol=1e-9)
    assert small.temperature_ == pytest.approx(whole.temperature_, rel=1e-3)
    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0)
    single = FalkonClassifier(**options).fit(X.astype(np.float32), rows.codes)
    assert single.report_.precision == "float32"
    assert single.centers_.dtype == np.float32
    np.testing.assert_allclose(single.decision_function(X), scores, atol=5e-3)


def test_sums_beyond_the_limit_are_taken_in_further_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    X, rows = make_rows(200)
    whole = FalkonClassifier(n_centers=40, random_state=0).fit(X, rows.codes)
    monkeypatch.setattr("toptune.train.solvers.one_pass.SUMS_BYTES", 1)
    parts = FalkonClassifier(n_centers=40, random_state=0).fit(X, rows.codes)
    assert (whole.report_.n_passes, parts.report_.n_passes) == (2, 7)
    assert parts.sigma_ == whole.sigma_
    np.testing.assert_allclose(parts.decision_function(X), whole.decision_function(X), atol=1e-9)


STRESS: dict[str, Callable[[Matrix], Matrix]] = {
    "duplicated rows": lambda X: np.repeat(X[:30], 4, axis=0),
    "constant features": lambda X: np.column_stack([X, np.full((len(X), 3), 7.0)]),
    "one column": lambda X: X[:, :1],
    "all rows equal": lambda X: np.ones_like(X),
    "tiny": lambda X: X * 1e-6,
    "huge": lambda X: X * 1e6,
    "far away": lambda X: X + 1e6,
    "mixed scales": lambda X: X * np.logspace(-6, 6, X.shape[1]),
}


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear"])
@pytest.mark.parametrize("case", STRESS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hard_inputs_never_give_nan(
    kernel: str, case: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0)  # float32 stays float32
    X, rows = make_rows()
    X = np.ascontiguousarray(STRESS[case](X), dtype=dtype)
    y = np.repeat(rows.codes[:30], 4) if case == "duplicated rows" else rows.codes
    fitted = FalkonClassifier(kernel=kernel, n_centers=500, cv=3, random_state=0, penalty=[1e-12, 1e-4, 1e3])
    probabilities = fitted.fit(X, y).predict_proba(X)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    report = fitted.report_
    assert report.rank + report.n_dropped == report.n_centers == 120
    if case == "duplicated rows":
        assert report.rank <= 30
    if case in ("tiny", "huge") and kernel == "gaussian":
        assert (fitted.predict(X) == y).mean() > 0.8


def test_one_row_a_class_is_fitted_without_folds_only() -> None:
    X = np.eye(5)
    with pytest.raises(InputError, match=r"0 of 5 classes .*--cv none"):
        FalkonClassifier(random_state=0, penalty=1e-6).fit(X, list("abcde"))
    fitted = FalkonClassifier(random_state=0, penalty=1e-6, sigma=1.0, cv=None).fit(X, list("abcde"))
    assert (fitted.predict(X) == list("abcde")).all()
    assert any("5 of 5 rows are the only ones of their class" in note for note in fitted.report_.warnings)


def test_few_rows_a_class_work_and_say_that_folds_are_fewer() -> None:
    X = np.repeat(np.eye(5), 2, axis=0)
    with pytest.warns(FoldsReducedWarning, match="2 folds in place of 5"):
        fitted = FalkonClassifier(random_state=0, penalty=1e-6).fit(X, list("aabbccddee"))
    assert (fitted.predict(X) == list("aabbccddee")).all()
    assert fitted.report_.n_folds == 2
    assert fitted.report_.accuracy == 1


def test_dropped_rank_and_edges_are_reported() -> None:
    X, rows = make_rows()
    fitted = FalkonClassifier(sigma=[1e3, 1e4], penalty=[1e2, 1e3], random_state=0).fit(X, rows.codes)
    text = " ".join(fitted.report_.warnings)
    assert "dropped" in text
    assert "lower edge" in text
    assert fitted.report_.to_dict()["table"][0]["penalty"] == 1e2
    fixed = FalkonClassifier(sigma=2.0, penalty=1e-3, random_state=0).fit(X, rows.codes)
    assert (fixed.sigma_, fixed.penalty_, len(fixed.report_.table)) == (2.0, 1e-3, 1)


def test_groups_share_a_fold_and_decide_alone() -> None:
    X, rows = make_rows()
    groups = [f"slide {row // 3}" for row in range(120)]
    first = FalkonClassifier(random_state=0, n_centers=500, sigma=2.0).fit(X, rows.codes, groups=groups)
    second = FalkonClassifier(random_state=9, n_centers=500, sigma=2.0).fit(X, rows.codes, groups=groups)
    assert [row["squared_error"] for row in first.report_.table] == pytest.approx(
        [row["squared_error"] for row in second.report_.table]
    )
    with pytest.raises(InputError, match="one fold"):
        FalkonClassifier().fit(X, rows.codes, groups=["same"] * 120)
    with pytest.raises(InputError, match="3 entries for 120"):
        FalkonClassifier().fit(X, rows.codes, groups=["a", "b", "c"])


@pytest.mark.parametrize("estimator", [FalkonClassifier, StreamingRidgeClassifier])
def test_every_group_is_left_out_by_itself(estimator: Any) -> None:
    """Equals leaving each group out by hand, in left-out squared error."""
    X, rows = make_rows()
    groups = [f"slide {row % 6}" for row in range(120)]
    options: dict[str, Any] = {"penalty": 1e-3, "random_state": 0}
    if estimator is FalkonClassifier:
        options |= {"sigma": 2.0, "n_centers": 120}
    fitted = estimator(cv="leave-one-group-out", **options).fit(X, rows.codes, groups=groups)
    (candidate,) = fitted.report_.to_dict()["table"]
    targets = np.eye(rows.n_classes)[rows.codes]
    total = 0.0
    right = 0
    for slide in range(6):
        out = np.arange(120) % 6 == slide
        one = estimator(cv=2, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FoldsReducedWarning)
            one.fit(X[~out], rows.codes[~out])
        scores = one.scores(X[out])
        total += float(((scores - targets[out]) ** 2).sum())
        right += int((scores.argmax(axis=1) == rows.codes[out]).sum())
    assert candidate["accuracy"] == pytest.approx(right / 120, abs=0.02)
    if estimator is StreamingRidgeClassifier:  # for kernels by hand other rows are centers
        assert candidate["squared_error"] == pytest.approx(total / 120, rel=1e-6)
    with pytest.raises(InputError, match="has 120 groups to leave out; 2 to 100"):
        estimator(cv="leave-one-group-out").fit(X, rows.codes, groups=list(map(str, range(120))))
    with pytest.raises(InputError, match="1 groups"):
        estimator(cv="leave-one-group-out").fit(X, rows.codes, groups=["a"] * 120)


def test_choice_prefers_log_loss_among_accuracies_that_are_as_good() -> None:
    def candidate(accuracy: float, log_loss: float) -> Candidate:
        return Candidate(
            map_index=0, sigma=1.0, penalty=1.0, squared_error=0.1, accuracy=accuracy, log_loss=log_loss
        )

    better, tied, worse = candidate(0.900, 0.5), candidate(0.897, 0.3), candidate(0.80, 0.1)
    assert choose_candidate([better, tied, worse], n=1000) is tied
    assert choose_candidate([better, tied, worse], n=1_000_000) is better


def test_other_rules_of_choice() -> None:
    def candidate(penalty: float, accuracy: float, squared_error: float) -> Candidate:
        return Candidate(
            map_index=0,
            sigma=1.0,
            penalty=penalty,
            squared_error=squared_error,
            accuracy=accuracy,
            log_loss=0.5,
        )

    finalists = [candidate(1e-6, 0.900, 0.2), candidate(1e-4, 0.893, 0.3), candidate(1e-2, 0.85, 0.1)]
    # One standard error of 0.9 in a thousand rows is 0.0095.
    assert choose_candidate(finalists, n=1000, rule="one-se") is finalists[1]
    assert choose_candidate(finalists, n=100, rule="one-se") is finalists[1]
    assert choose_candidate(finalists, n=30, rule="one-se") is finalists[2]
    assert choose_candidate(finalists, n=1000, rule="squared-error") is finalists[2]


@pytest.mark.parametrize("estimator", [FalkonClassifier, StreamingRidgeClassifier])
def test_one_standard_error_is_at_least_as_regularized(estimator: Any) -> None:
    X, rows = make_rows()
    grid = [10.0**power for power in range(-8, 2)]
    plain, simpler, errors = (
        estimator(penalty=grid, random_state=0, selection=rule).fit(X, rows.codes)
        for rule in ("accuracy", "one-se", "squared-error")
    )
    assert simpler.penalty_ >= plain.penalty_
    table = [row for row in errors.report_.to_dict()["table"] if row["accuracy"] is not None]
    assert min(table, key=lambda row: row["squared_error"])["penalty"] == errors.penalty_


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "tophat"}, "tophat.*gaussian"),
        ({"solver": "magic"}, "magic.*auto"),
        ({"centers": "best"}, "best.*uniform"),
        ({"n_centers": 0}, "n_centers is 0"),
        ({"cv": 1}, "cv is 1"),
        ({"cv": "slides"}, "cv is 'slides'.*leave-one-group-out"),
        ({"cv": "leave-one-group-out"}, "needs the group of each of the 120 rows; none given"),
        ({"selection": "luck"}, "luck.*one-se"),
        ({"penalty": -1.0}, "penalty is -1"),
        ({"penalty": []}, "penalty is"),
        ({"sigma": "wide"}, "sigma is 'wide'"),
        ({"kernel": "linear", "sigma": 1.0}, "no width"),
        ({"class_weight": "heavy"}, "class_weight"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    X, rows = make_rows()
    with pytest.raises(InputError, match=message):
        FalkonClassifier(**options).fit(X, rows.codes)


@pytest.mark.parametrize("estimator", [FalkonClassifier(random_state=0), StreamingRidgeClassifier()])
def test_rows_that_are_not_finite_are_named(estimator: Any) -> None:
    X, rows = make_rows()
    broken = X.copy()
    broken[17, 2], broken[40, 0] = np.nan, np.inf
    for data in (broken, ArrayBlocks(broken)):
        with pytest.raises(InputError, match="17, 40"):
            estimator.fit(data, rows.codes)
    estimator.fit(X, rows.codes)
    with pytest.raises(InputError, match="17, 40"):
        estimator.predict(broken)


def test_centers_are_seeded_and_balanced_when_asked() -> None:
    from toptune.train.kernels.centers import choose_centers

    codes = np.repeat([0, 1, 2], [90, 9, 3])
    uniform = choose_centers(codes, 30, seed=1)
    assert (uniform == choose_centers(codes, 30, seed=1)).all()
    assert len(np.unique(uniform)) == 30
    balanced = np.bincount(codes[choose_centers(codes, 15, how="class-balanced", seed=1)])
    assert balanced.tolist() == [6, 6, 3]
    assert len(choose_centers(codes, 1000)) == 102


def test_whitening_inverts_on_the_rank_it_keeps() -> None:
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(12, 5))
    gram = basis @ basis.T
    whitening = whiten(torch.from_numpy(gram), tolerance=1e-10)
    assert (whitening.rank, whitening.n_dropped) == (5, 7)
    W = np.linalg.inv(whitening.factor.numpy()).T
    K_bC = gram[:, whitening.kept]
    np.testing.assert_allclose(K_bC @ W @ W.T @ K_bC.T, gram, atol=1e-9)
    assert whiten(torch.zeros(4, 4).double(), tolerance=1e-10).rank == 0


@pytest.mark.parametrize("d", [5, 200])
def test_linear_ridge_is_the_same_in_primal_and_dual(d: int) -> None:
    rng = np.random.default_rng(0)
    X, codes = rng.normal(size=(90, d)), rng.integers(0, 3, 90)
    fitted = StreamingRidgeClassifier(penalty=0.1, random_state=0).fit(X, codes)
    assert fitted.report_.solver == ("primal" if d == 5 else "dual")
    beta, b = dense_ridge(X, np.eye(3)[codes], np.ones(90), 0.1)
    np.testing.assert_allclose(fitted.coef_, beta.T, atol=1e-8)
    np.testing.assert_allclose(fitted.intercept_, b, atol=1e-8)


def test_linear_ridge_refuses_beyond_its_memory() -> None:
    with pytest.raises(InputError, match=r"iB of memory, and .* may be taken"):
        StreamingRidgeClassifier(memory_limit_bytes=1000).fit(np.eye(10), [0, 1] * 5)


def test_balanced_weights_equal_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.repeat([0, 1], [30, 10])
    repeated = np.concatenate([X, X[30:], X[30:]]), np.concatenate([y, y[30:], y[30:]])
    options: dict[str, Any] = {"penalty": 0.01, "cv": 2}
    weighted = StreamingRidgeClassifier(class_weight="balanced", **options).fit(X, y)
    plain = StreamingRidgeClassifier(**options).fit(*repeated)
    np.testing.assert_allclose(weighted.coef_, plain.coef_, atol=1e-9)


def test_projected_peak_hardly_grows_with_rows() -> None:
    options: dict[str, Any] = {
        "d": 512, "rank": 1000, "n_maps": 5, "n_classes": 100, "n_folds": 5, "block_rows": 2000,
        "n_fits": 40, "n_finalists": 15, "n_calibration": 20_000,
    }  # fmt: skip
    small, large = (one_pass_peak_bytes(n=n, **options) for n in (50_000, 500_000))
    assert large / small < 1.02


def test_kernel_matrices_that_are_kept_are_the_products_of_their_factors() -> None:
    rng = np.random.default_rng(0)
    centers = torch.from_numpy(rng.normal(size=(40, 6)).astype(np.float32))
    kernels = [kernel_of("gaussian", 1.0), kernel_of("laplacian", 2.0)]
    maps = NystromMaps.on(kernels, centers, keep_grams=True)
    for index in range(len(kernels)):
        factor = maps.raw_factor(index, n=1000)
        assert factor is not None
        torch.testing.assert_close(maps.take_metric(index), factor @ factor.T, rtol=1e-12, atol=1e-12)
        # Whoever took it may have written over it.
        assert maps.take_metric(index) is None
    # Without them, in float64, or where centers nearly coincide, there are none to take.
    assert NystromMaps.on(kernels, centers).grams == {}
    assert NystromMaps.on(kernels, centers.double(), keep_grams=True).grams == {}
    near = torch.cat([centers, centers + 1e-4])
    assert 0 not in NystromMaps.on(kernels, near, keep_grams=True).grams


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_left_out_probabilities_equal_those_of_refitted_folds(dtype: type) -> None:
    X, rows = make_rows()
    X, y = X.astype(dtype), rows.codes.copy()
    # One row of a class of its own lies in one fold, which no fit without it can know.
    y[17] = 3
    groups = [f"g{row // 2}" for row in range(len(X))]
    head = FalkonClassifier(n_centers=30, cv=4, class_weight="balanced", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FoldsReducedWarning)
        head.fit(X, y, groups=groups)
    left = head.left_out_probabilities(X, y, groups=groups)
    assert left.shape == (len(X), 4)
    assert np.isnan(left[17]).all()
    assert np.isfinite(np.delete(left, 17, axis=0)).all()
    folds = draw_folds(y, np.arange(4), cv=4, groups=groups)
    weights = row_weights(y, np.arange(4), "balanced")
    kernel, centers = kernel_of("gaussian", head.sigma_), torch.from_numpy(head.centers_)
    maps = NystromMaps.on([kernel], centers)
    (phi,) = (each.numpy() for each in maps.features(torch.from_numpy(X).to(centers.dtype), [0]))
    for fold in range(folds.count):
        inside, out = folds.is_validated & (folds.numbers != fold), folds.places == fold
        beta, intercept = dense_ridge(phi[inside], np.eye(4)[y[inside]], weights[inside], head.penalty_)
        expected = softmax((phi @ beta + intercept)[out], head.temperature_)
        np.testing.assert_allclose(left[out], expected, atol=1e-5 if dtype is np.float64 else 2e-3)
    with pytest.raises(InputError, match="fit with a number of folds"):
        FalkonClassifier(sigma=1.0, penalty=1e-3, cv=None).fit(X, y).left_out_probabilities(X, y)
