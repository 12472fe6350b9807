"""Stores of older and of newer versions are refused, and left as they are."""

from pathlib import Path

import pytest
from small_store import open_empty

from toptune.store import FeatureCache, FeatureStore, FormatVersionError, repair


@pytest.mark.parametrize(
    ("version", "next_step"),
    [
        (0, "extract again with this toptune into another --store"),
        (1, "extract again with this toptune into another --store"),
        (3, "upgrade toptune, or use another --store"),
        (99, "upgrade toptune, or use another --store"),
    ],
)
def test_other_versions_are_refused_and_left_alone(
    complete: FeatureCache, version: int, next_step: str
) -> None:
    root = complete.root
    (root / "toptune.json").write_text(f'{{"format": "toptune-store", "version": {version}}}\n')
    before = contents(root)
    for action in (FeatureStore.open, FeatureStore.create, open_empty, repair):
        with pytest.raises(
            FormatVersionError, match=rf"version {version}; .*version 2 only; {next_step}(\n\[TT\d+\])?$"
        ):
            action(root)
    assert contents(root) == before


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
