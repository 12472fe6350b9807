from pathlib import Path

import numpy as np
import pytest

from toptune.store import ArrayBlocks, CorruptError
from toptune.train import StandardisedBlocks, Standardiser, fit_standardiser


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 7)) * np.logspace(-3, 3, 7) + np.arange(7) * 1e3
    values[:, 2] = 0.1
    return values.astype(np.float32)


def test_one_layer_is_plainly_standardised(values: np.ndarray) -> None:
    standardiser, bad = fit_standardiser(ArrayBlocks(values), [7])
    result = standardiser.apply(values)
    assert len(bad) == 0
    assert standardiser.n_constant == 1
    assert result.dtype == np.float32
    assert (result[:, 2] == 0).all()
    others = np.delete(result, 2, axis=1).astype(np.float64)
    np.testing.assert_allclose(others.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(others.std(axis=0), 1, rtol=1e-3)


def test_layers_weigh_the_same_whatever_their_size() -> None:
    values = np.random.default_rng(0).normal(size=(500, 12))
    standardiser, _ = fit_standardiser(ArrayBlocks(values), [2, 10])
    result = standardiser.apply(values).astype(np.float64)
    totals = [result[:, :2].var(axis=0).sum(), result[:, 2:].var(axis=0).sum()]
    np.testing.assert_allclose(totals, [6, 6], rtol=1e-5)


def test_block_size_changes_nothing(values: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = fit_standardiser(ArrayBlocks(values), [7])
    monkeypatch.setattr("toptune.store.blocks.BLOCK_BYTES", 100)
    parts, _ = fit_standardiser(ArrayBlocks(values), [7])
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-9)


def test_rows_that_are_not_finite_are_left_out_and_told(values: np.ndarray) -> None:
    broken = np.insert(values, [5, 100], np.nan, axis=0)
    standardiser, bad = fit_standardiser(ArrayBlocks(broken), [7])
    assert bad.tolist() == [5, 101]
    np.testing.assert_allclose(standardiser.mean, fit_standardiser(ArrayBlocks(values), [7])[0].mean)


def test_blocks_standardise_what_they_read(values: np.ndarray) -> None:
    standardiser, _ = fit_standardiser(ArrayBlocks(values), [7])
    blocks = StandardisedBlocks(ArrayBlocks(values), standardiser)
    expected = standardiser.apply(values)
    assert blocks.shape == values.shape
    np.testing.assert_array_equal(np.concatenate([part for _, part in blocks.iterate(17)]), expected)
    np.testing.assert_array_equal(blocks.take([3, 1]), expected[[3, 1]])


def test_saved_and_loaded(values: np.ndarray, tmp_path: Path) -> None:
    standardiser, _ = fit_standardiser(ArrayBlocks(values), [7])
    standardiser.save(tmp_path)
    loaded = Standardiser.load(tmp_path)
    np.testing.assert_array_equal(loaded.apply(values), standardiser.apply(values))
    (tmp_path / "standardise.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptError, match="standardise"):
        Standardiser.load(tmp_path)
