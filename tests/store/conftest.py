"""The small store of `small_store`, as fixtures."""

import shutil
from pathlib import Path

import pytest
from small_store import open_empty, write_all

from toptune.store import FeatureCache


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store that no test changes."""
    return write_all(tmp_path_factory.mktemp("template") / "store").root


@pytest.fixture
def complete(template: Path, root: Path) -> FeatureCache:
    """A complete store of one's own."""
    shutil.copytree(template, root)
    return open_empty(root)
