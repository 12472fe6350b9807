import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from toptune.train.fusion.pool import logs_of
from toptune.train.fusion.weights import LeftOutRows, weigh, without_members

Matrix = npt.NDArray[np.float64]


def made_rows(*noises: float, n: int = 300, n_classes: int = 3, seed: int = 0) -> LeftOutRows:
    """Heads that see the true class through noise of their own."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_classes, size=n)
    # All are equally sure, so that those of more noise deserve less weight.
    logs = [
        log_softmax(2 * (np.eye(n_classes)[codes] + noise * rng.normal(size=(n, n_classes))), axis=1)
        for noise in noises
    ]
    return LeftOutRows(logs=np.stack(logs), codes=codes, weights=np.ones(n), folds=np.arange(n) % 5)


def mean_loss(rows: LeftOutRows, weights: Matrix) -> float:
    logs = log_softmax(np.tensordot(weights, rows.logs, axes=1), axis=1)
    return float(-logs[np.arange(len(rows.codes)), rows.codes].mean())


def test_weights_are_those_of_least_log_loss() -> None:
    rows = made_rows(0.7, 1.4, 1.0)
    found = weigh(rows)
    assert not found.pool.is_equal
    assert found.pool.weights.sum() == pytest.approx(1)
    assert found.gain > 0.5 * found.standard_error > 0
    # A search without derivatives finds no better weights.
    best = minimize(lambda w: mean_loss(rows, np.exp(w)), np.zeros(3), method="Nelder-Mead")
    mine = mean_loss(rows, found.pool.weights / found.pool.temperature)
    assert mine == pytest.approx(best.fun, abs=5e-4)  # of smoothed targets
    assert mine < min(mean_loss(rows, np.eye(3)[at]) for at in range(3))


def test_heads_that_rows_do_not_tell_apart_weigh_the_same() -> None:
    found = weigh(made_rows(1.0, 1.0, n=120))
    assert found.pool.is_equal
    assert found.pool.weights.tolist() == [0.5, 0.5]
    assert found.gain <= 0.5 * found.standard_error


def test_a_head_that_harms_weighs_nothing_and_can_go() -> None:
    rows = made_rows(0.7, 1.4)
    liar = log_softmax(-made_rows(0.7, 1.4, 1.0).logs[2], axis=1)
    with_liar = LeftOutRows(
        logs=np.stack([*rows.logs, liar]), codes=rows.codes, weights=rows.weights, folds=rows.folds
    )
    pool = weigh(with_liar).pool
    assert pool.weights[2] == 0
    kept = without_members(with_liar, pool)
    assert kept.weights.tolist() == pool.weights[:2].tolist()
    np.testing.assert_allclose(kept.probabilities(rows.logs), pool.probabilities(with_liar.logs), atol=1e-9)


def test_left_out_figures_see_no_row_that_chose_the_weights() -> None:
    rows = made_rows(0.8, 1.6)
    found = weigh(rows)
    # The rows of one fold are given other classes, which changes the weights for the other folds alone.
    is_first = rows.folds == 0
    codes = np.where(is_first, (rows.codes + 1) % 3, rows.codes)
    turned = LeftOutRows(logs=rows.logs, codes=codes, weights=rows.weights, folds=rows.folds)
    without = weigh(rows.of(~is_first)).pool
    of_first = turned.of(is_first).losses(without).sum()
    expected = of_first + sum(
        turned.of(turned.folds == fold).losses(weigh(turned.of(turned.folds != fold)).pool).sum()
        for fold in range(1, 5)
    )
    assert weigh(turned).left_out.log_loss == pytest.approx(expected / 300)
    # Honest figures are no better than those of the rows by which the weights were chosen.
    assert found.left_out.log_loss is not None
    assert found.left_out.log_loss > rows.losses(found.pool).mean()


def test_rows_that_are_all_right_leave_finite_weights() -> None:
    codes = np.arange(30) % 3
    sure = logs_of(np.eye(3)[codes])
    rows = LeftOutRows(logs=np.stack([sure, sure]), codes=codes, weights=np.ones(30), folds=np.arange(30) % 3)
    pool = weigh(rows).pool
    assert np.isfinite(pool.weights).all()
    assert 0 < pool.temperature < np.inf
    assert pool.probabilities(rows.logs)[0, 0] > 0.9


def test_weighted_rows_count_by_their_weight() -> None:
    rows = made_rows(0.7, 1.4, n=200)
    doubled = rows.of(np.concatenate([np.arange(200), np.arange(100)]))
    weights = np.ones(200)
    weights[:100] = 2
    weighted = LeftOutRows(logs=rows.logs, codes=rows.codes, weights=weights, folds=rows.folds)
    # The targets are smoothed by the number of rows, which differs a little.
    np.testing.assert_allclose(weigh(weighted).pool.weights, weigh(doubled).pool.weights, atol=5e-3)


def test_one_fold_cannot_choose() -> None:
    rows = made_rows(0.5, 2.0)
    alone = LeftOutRows(
        logs=rows.logs, codes=rows.codes, weights=rows.weights, folds=np.zeros(300, dtype=np.int64)
    )
    two = LeftOutRows(logs=rows.logs, codes=rows.codes, weights=rows.weights, folds=rows.folds % 2)
    assert weigh(two).pool.weights[0] > 0.8
    with pytest.raises(ValueError, match="folds"):
        weigh(alone)
