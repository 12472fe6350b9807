"""Small images and small models for the tests of `toptune.extract`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import drawn_file, save_model

from toptune.extract import extract
from toptune.store import FeatureCache, FeatureStore


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def save_pets(folder: Path, n: int, first: int = 0) -> Path:
    for i in range(n):
        file = folder / ("cat", "dog")[i % 2] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawn_file(first + i))
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make ``NAME/{cat,dog}/00.png ...`` with n images."""

    def make(n: int = 10, name: str = "pets", first: int = 0) -> Path:
        return save_pets(tmp_path / name, n, first)

    return make


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a ``local-dir:`` folder with a tiny convolutional net that has a head of five classes."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny.net", seed=1)


@pytest.fixture
def stored(model_folder: Path, tmp_path: Path) -> Callable[..., FeatureCache]:
    """Extract a folder of images with the tiny model and give the cache."""

    def run(data: Path, *, store: Path | None = None, **options: object) -> FeatureCache:
        root = store or tmp_path / "store"
        defaults = {"model": f"local-dir:{model_folder}", "batch_size": 4, "workers": 2, "layers": "last"}
        summary = extract(data, store=root, **(defaults | options))  # type: ignore[arg-type]
        return FeatureStore.open(root).cache(summary.model, summary.dataset)

    return run


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and fifty images, three units of 64 rows, that no test changes."""
    return save_pets(tmp_path_factory.mktemp("images") / "pets", 150)


@pytest.fixture(scope="session")
def undisturbed(pets: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """What one run without any stop makes of `pets`; no test changes it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    model = f"local-dir:{model_folder}"
    summary = extract(pets, model=model, store=root, batch_size=4, workers=2, layers="all")
    return FeatureStore.open(root).cache(summary.model, summary.dataset)
