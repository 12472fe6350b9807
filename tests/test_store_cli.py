"""The `toptune store` commands, through `main`, on the small store."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_store import write_all

from toptune.store import FeatureCache

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """A complete cache of one's own."""
    return write_all(tmp_path / "store")


def test_repair_says_what_it_dropped(run_cli: Run, cache: FeatureCache) -> None:
    assert run_cli("store", "repair", "--store", cache.root)[1] == "nothing is damaged\n"
    cache.shard_path("last.cls", 2).write_bytes(b"half")
    assert run_cli("store", "verify", "--store", cache.root)[0] == 1
    code, out, _ = run_cli("store", "repair", "--store", cache.root, "--json")
    assert code == 0
    assert json.loads(out)["dropped"] == {f"{cache.name}/pets/last.cls": [2]}
    assert run_cli("store", "verify", "--store", cache.root)[0] == 3
    write_all(cache.root)
    assert run_cli("store", "verify", "--deep", "--store", cache.root)[0] == 0
    (cache.path / "cache.json").write_text("{}")
    assert run_cli("store", "repair", "--store", cache.root)[0] == 1


def test_rm_asks(run_cli: Run, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    command = ("store", "rm", "--store", cache.root, "--dataset", "pets")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, out, err = run_cli(*command)
    assert (code, out) == (3, "")
    assert "remove data set pets with resnet10t.demo" in err
    assert cache.path.exists()
    code, out, _ = run_cli(*command, "--model", "resnet10t.demo", "--layers", "last", "--yes", "--json")
    assert code == 0
    assert json.loads(out)["arrays"] == ["last.cls"]
    assert [spec.name for spec in cache.arrays()] == ["layer4.mean"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, _ = run_cli(*command, "--json")
    assert json.loads(out)["is_whole"] is True
    assert not cache.path.exists()
    assert run_cli(*command, "--yes")[0] == 2
