"""Coordinates are those of the principal components, and a missing library is said."""

import sys

import numpy as np
import pytest

from toptune.errors import InputError
from toptune.store import ArrayBlocks
from toptune.workflows.gallery.coordinates import check_map, map_rows, sampled


def test_coordinates_are_the_first_two_principal_components() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(50, 6)) * [5, 1, 3, 1, 1, 1]).astype(np.float32)
    centered = values - values.mean(axis=0)
    _, _, axes = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    expected = centered @ axes[:2].T
    found = map_rows(ArrayBlocks(values)).points
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)


def test_rows_that_do_not_vary_lie_on_one_point_or_a_line() -> None:
    told: list[str] = []
    found = map_rows(ArrayBlocks(np.ones((4, 3), dtype=np.float32)), notify=told.append)
    assert not found.points.any()
    assert "one point" in told[0]
    line = map_rows(ArrayBlocks(np.arange(4, dtype=np.float32)[:, None])).points
    assert np.ptp(line[:, 0]) == pytest.approx(3)
    assert not line[:, 1].any()


def test_a_sample_is_drawn_by_the_seed() -> None:
    rows = sampled(100, 10, 3)
    assert len(set(rows.tolist())) == 10
    assert rows.tolist() == sorted(rows.tolist()) == sampled(100, 10, 3).tolist()
    assert sampled(5, 10, 3).tolist() == [0, 1, 2, 3, 4]


def test_umap_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"pip install 'toptune\[umap\]', or take --map pca"):
        check_map("umap")
    with pytest.raises(InputError, match="did you mean 'umap'"):
        check_map("umpa")


def test_umap_keeps_clusters_apart() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    rng = np.random.default_rng(0)
    codes = np.arange(40) % 2
    values = (rng.normal(size=(40, 5)) + 20 * codes[:, None]).astype(np.float32)
    found = map_rows(ArrayBlocks(values), method="umap")
    assert found.method == "umap"
    centers = [found.points[codes == code].mean(axis=0) for code in (0, 1)]
    spread = max(found.points[codes == code].std(axis=0).max() for code in (0, 1))
    assert np.linalg.norm(centers[0] - centers[1]) > 3 * spread
