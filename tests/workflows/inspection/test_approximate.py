"""Approximate neighbors are nearly the exact ones, and whoever asked for none is told why."""

import sys
from pathlib import Path

import numpy as np
import pytest

from toptune.store import ArrayBlocks, FeatureStore, import_features
from toptune.workflows import inspect
from toptune.workflows.inspection.approximate import approximate_neighbors, plan_approximate
from toptune.workflows.inspection.neighbors import nearest_neighbors, plan_neighbors
from toptune.workflows.inspection.outliers import novelty_of


def rows(n: int, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = rng.normal(size=(n, 4)) @ rng.normal(size=(4, d)) + 0.1 * rng.normal(size=(n, d))
    return made.astype(np.float32)


def test_nearly_all_of_the_exact_neighbors_are_found() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    values = rows(3000)
    # A row that no cell is near to has its neighbors all the same.
    values[7] = -40 * values[8]

    def read(some: slice) -> ArrayBlocks:
        return ArrayBlocks(values[some])

    found = approximate_neighbors(read, plan_approximate(n=3000, d=16, k=10))
    exact = nearest_neighbors(read, plan_neighbors(n=3000, d=16, k=10, limit_bytes=2**30))
    hits = (found.neighbors.rows[:, :, None] == exact.rows[:, None, :]).any(axis=2)
    assert found.recall >= 0.99
    assert hits.mean() == pytest.approx(found.recall, abs=0.01)
    assert (found.neighbors.rows >= 0).all()
    assert (found.neighbors.rows != np.arange(3000)[:, None]).all()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    products = np.einsum("nd,nkd->nk", unit, unit[found.neighbors.rows])
    np.testing.assert_allclose(found.neighbors.cosines, products, atol=1e-5)


def imported(root: Path) -> FeatureStore:
    store = FeatureStore.create(root)
    labels = [f"class {row % 2}" for row in range(200)]
    import_features(store, {"last": rows(200)}, dataset="pets", model="mine", labels=labels)
    return store


def test_findings_say_how_approximate_they_are(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    found = inspect(
        imported(tmp_path / "s"), dataset="pets", model="mine", out=tmp_path / "look", exact_up_to=100,
        device="cpu",
    )  # fmt: skip
    assert "approximate by faiss" in found.plan
    assert found.thresholds["neighbor_recall"] >= 0.99
    assert any("because 200 images are more than 100 (--exact-up-to)" in note for note in found.notes)


def test_exact_search_stands_in_where_faiss_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    found = inspect(
        imported(tmp_path / "s"), dataset="pets", model="mine", out=tmp_path / "look", exact_up_to=100,
        device="cpu",
    )  # fmt: skip
    assert "exact, in one sweep" in found.plan
    assert "neighbor_recall" not in found.thresholds
    assert any("exact, although 200 images are more than 100" in note for note in found.notes)
    assert any("pip install 'toptune[faiss]'" in note for note in found.notes)
    outliers = [each.to_dict() for each in found.findings if each.kind == "outlier"]
    assert outliers
    assert all(0 <= each["novelty"] < 1 for each in outliers)  # type: ignore[operator]


def test_novelty_is_a_share_of_the_images() -> None:
    values = rows(300)
    values[5] = 30 * np.eye(16, dtype=np.float32)[0]
    found = novelty_of(ArrayBlocks(values), seed=0)
    assert found.shape == (300,)
    assert found[5] > 0.9
    # As many images are above each share as the share says, ties aside.
    assert np.mean(found >= 0.9) == pytest.approx(0.1, abs=0.01)
