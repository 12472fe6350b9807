"""Neighbors are the exact ones, however few rows fit into memory at a time."""

import numpy as np
import pytest
import torch

from toptune.errors import InputError
from toptune.store import ArrayBlocks
from toptune.workflows.inspection import neighbors
from toptune.workflows.inspection.neighbors import NeighborPlan, nearest_neighbors, plan_neighbors


@pytest.mark.parametrize(("held", "block"), [(40, 40), (40, 7), (13, 7), (9, 16), (1, 1)])
def test_neighbors_are_those_of_the_whole_product(
    held: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "_TILE_ROWS", 6)
    values = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    values[7] = 3 * (values[31] + 0.02)
    read: list[int] = []

    def rows(some: slice) -> ArrayBlocks:
        read.append(some.stop - some.start)
        return ArrayBlocks(values[some])

    told: list[tuple[int, int]] = []
    plan = NeighborPlan(n=40, d=5, k=4, held_rows=held, block_rows=block, peak_bytes=0)
    found = nearest_neighbors(rows, plan, progress=lambda done, total: told.append((done, total)))
    unit = values.astype(np.float64) / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-cosines, axis=1)[:, :4]
    assert found.rows.tolist() == expected.tolist()
    np.testing.assert_allclose(found.cosines, np.take_along_axis(cosines, expected, 1), atol=1e-6)
    assert found.rows[7, 0] == 31
    assert found.cosines[7, 0] == pytest.approx(1, abs=1e-2)
    # Every pair is compared once, and all rows are read once where all of them are held.
    assert told[-1] == (780, 780)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert sum(read) == (40 if held == 40 else sum(40 - start for start in range(0, 40, held)))


def test_the_plan_keeps_to_the_limit_or_refuses() -> None:
    limits = [2**27, 2**28, 2**29, 2**33]
    plans = [plan_neighbors(n=100_000, d=512, k=10, limit_bytes=limit) for limit in limits]
    assert all(plan.peak_bytes <= limit for plan, limit in zip(plans, limits, strict=True))
    sweeps = [plan.n_sweeps for plan in plans]
    assert sweeps == sorted(sweeps, reverse=True)
    assert sweeps[0] > 2
    assert sweeps[-1] == 1
    assert "in one sweep" in str(plans[-1])
    with pytest.raises(InputError, match=r"needs at least .* may be taken; raise --memory-limit"):
        plan_neighbors(n=100_000, d=512, k=10, limit_bytes=2**20)


def test_neighbors_are_the_same_on_a_device(gpu: str) -> None:
    values = np.random.default_rng(2).normal(size=(50, 6)).astype(np.float32)
    plan = NeighborPlan(n=50, d=6, k=3, held_rows=20, block_rows=8, peak_bytes=0)

    def found(device: str) -> list[list[int]]:
        read = nearest_neighbors(lambda some: ArrayBlocks(values[some]), plan, device=torch.device(device))
        rows: list[list[int]] = read.rows.tolist()
        return rows

    assert found(gpu) == found("cpu")
