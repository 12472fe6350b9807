"""The small store of `small_store`, as fixtures."""

from pathlib import Path

import pytest
from small_store import write_all

from toptune.store import FeatureCache


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def complete(root: Path) -> FeatureCache:
    return write_all(root)
