"""Features as a torch data set: every row once, whoever reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_store import N_ROWS, features, write_all
from torch.utils.data import DataLoader

from toptune.store import ArrayBlocks, InputError
from toptune.train import FeatureDataset

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


def test_labels_stay_with_their_rows(tmp_path: Path) -> None:
    cache = write_all(tmp_path / "store")
    labels = list(range(N_ROWS))
    data = FeatureDataset(cache.blocks(["last.cls"]), labels, block_rows=5, seed=0)
    assert len(data) == N_ROWS
    for values, label in data:
        if label != 13:  # the picture that failed
            np.testing.assert_array_equal(values.numpy(), features("last.cls")[label])


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"labels have shape \(2,\)"):
        FeatureDataset(ArrayBlocks(VALUES), [0, 1])
    with pytest.raises(InputError, match="block_rows is 0"):
        FeatureDataset(ArrayBlocks(VALUES), block_rows=0)
