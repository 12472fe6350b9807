"""Features as a torch data set: every row once, whoever reads."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_store import N_ROWS, features, write_all
from torch.utils.data import DataLoader

from toptune.store import ArrayBlocks, InputError
from toptune.train import FeatureDataset
from toptune.train.rows import torch_dataset

VALUES = np.arange(60, dtype=np.float32).reshape(30, 2)


def rows(loader: DataLoader[tuple[torch.Tensor, int]]) -> list[float]:
    return [float(value) for batch, _ in loader for value in batch[:, 0]]


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("seed", [None, 3])
def test_every_row_once(n_workers: int, seed: int | None) -> None:
    data = FeatureDataset(ArrayBlocks(VALUES), block_rows=4, seed=seed)
    loader = DataLoader(data, batch_size=7, num_workers=n_workers)
    found = rows(loader)
    assert sorted(found) == VALUES[:, 0].tolist()
    assert (found == VALUES[:, 0].tolist()) == (seed is None and n_workers == 0)
    assert rows(loader) == found
    if seed is not None:
        data.set_epoch(1)
        assert rows(DataLoader(data, batch_size=7)) != found


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("block_rows", [1, 4, 30, 99])
def test_workers_share_the_rows(monkeypatch: pytest.MonkeyPatch, block_rows: int, seed: int | None) -> None:
    """As each of the workers sees it, also where there are more of them than blocks."""
    data = FeatureDataset(ArrayBlocks(VALUES), block_rows=block_rows, seed=seed)
    for n_workers in (1, 2, 3, 7, 40):
        found: list[float] = []
        for number in range(n_workers):
            worker = SimpleNamespace(id=number, num_workers=n_workers)
            monkeypatch.setattr(torch_dataset, "get_worker_info", lambda worker=worker: worker)
            found += [float(values[0]) for values, _ in data]
        assert sorted(found) == VALUES[:, 0].tolist()


def test_it_travels_to_spawned_workers(tmp_path: Path) -> None:
    cache = write_all(tmp_path / "store")
    data = FeatureDataset(cache.blocks(["last.cls"]), range(N_ROWS), seed=0)
    again = pickle.loads(pickle.dumps(data))
    assert [label for _, label in again] == [label for _, label in data]


def test_labels_stay_with_their_rows(tmp_path: Path) -> None:
    cache = write_all(tmp_path / "store")
    labels = list(range(N_ROWS))
    data = FeatureDataset(cache.blocks(["last.cls"]), labels, block_rows=5, seed=0)
    assert len(data) == N_ROWS
    for values, label in data:
        if label != 13:  # the image that failed
            np.testing.assert_array_equal(values.numpy(), features("last.cls")[label])


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"labels have shape \(2,\)"):
        FeatureDataset(ArrayBlocks(VALUES), [0, 1])
    with pytest.raises(InputError, match="block_rows is 0"):
        FeatureDataset(ArrayBlocks(VALUES), block_rows=0)
