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


def test_gc_lists_asks_and_collects(
    run_cli: Run, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    command = ("store", "gc", "--store", cache.root)
    assert run_cli(*command)[:2] == (0, "nothing to collect\n")
    left = cache.path / "last.cls/c/1/.tmp-0123"
    left.write_text("half")
    assert run_cli(*command)[:2] == (0, "nothing to collect\n")  # too young
    code, out, _ = run_cli(*command, "--grace", "0s", "--dry-run", "--json")
    assert code == 0
    assert [item["path"] for item in json.loads(out)["removed"]] == [str(left)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run_cli(*command, "--grace", "0s")[0] == 3
    assert left.exists()
    assert run_cli(*command, "--grace", "0s", "--yes")[0] == 0
    assert not left.exists()
    assert run_cli(*command, "--older-than", "30d")[:2] == (0, "nothing to collect\n")
    assert json.loads(run_cli(*command, "--keep", "0", "-y", "--json")[1])["n_bytes"] > 0
    assert not cache.path.exists()
    for option in ("--older-than", "--grace"):
        for bad in ("month", "-1d", "d", "nan"):
            code, _, error = run_cli(*command, option, bad)
            assert code == 2
            assert "give one such as 30d, 2h, 90m or 3600 (seconds)" in error
        for bad in ("99999999999999d", "10001d", "inf"):
            code, _, error = run_cli(*command, option, bad)
            assert code == 2
            assert "give 10000d or less" in error
        # Somebody may mean hours or days, and what is older than that is removed.
        code, _, error = run_cli(*command, option, "30")
        assert code == 2
        assert "'30' has no unit; give one, such as 30d or 30s" in error
        for good in ("3600s", "0", "0s", "10000d"):
            assert run_cli(*command, option, good)[0] == 0


def test_du_adds_up(run_cli: Run, cache: FeatureCache) -> None:
    code, out, _ = run_cli("store", "du", "--store", cache.root, "--json")
    usage = json.loads(out)
    assert code == 0
    sizes = {(row["cache"], row["part"]): row["n_bytes"] for row in usage["usage"]}
    files = [path for path in cache.root.rglob("*") if path.is_file()]
    assert usage["n_bytes"] == sum(sizes.values()) == sum(path.stat().st_size for path in files)
    assert sum(row["n_files"] for row in usage["usage"]) == len(files)
    shards = (cache.path / "last.cls").rglob("*")
    assert sizes[cache.name, "last.cls"] == sum(path.stat().st_size for path in shards if path.is_file())
    assert "layer4.mean" in run_cli("store", "du", "--store", cache.root)[1]


def test_export_import_copy_and_their_exit_codes(
    run_cli: Run, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("--dataset", "pets", "--model", "resnet10t.demo")
    export = ("store", "export", "--store", cache.root, *names, "--layers", "all", "-o", tmp_path / "out")
    code, out, err = run_cli(*export, "--json")
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert done["failed"] == {"kätzchen/bild 13.png": "truncated JPEG"}
    assert run_cli(*export)[0] == 2
    into = ("store", "import", "--store", cache.root, "--dataset", "made", "--model", "m")
    files = sorted((tmp_path / "out").glob("*.npy"))
    code, _, err = run_cli(*into, *files)
    assert code == 2
    assert "too large for float32) in 1 row: " in err
    code, out, _ = run_cli(*into, *files, "--skip-failed", "--json")
    assert code == 0
    assert json.loads(out)["failed_rows"].keys() == {"13"}
    code, _, err = run_cli(*into, files[0], "--skip-failed")
    assert code == 2
    assert "holds other features" in err
    assert run_cli("store", "copy", cache.root, cache.root)[0] == 2

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    copy = ("store", "copy", cache.root, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr("toptune.store.exchange.cache_copy._read", interrupt)
        code, _, err = run_cli(*copy)
    assert (code, err.strip()) == (3, "error: stopped; the same command resumes")
    code, out, _ = run_cli(*copy, "--move", "--json")
    assert code == 0
    assert json.loads(out)["moved"] is True
    assert run_cli(*export[:-1], tmp_path / "other")[0] == 2
    assert run_cli("store", "verify", "--deep", "--store", tmp_path / "copy")[0] == 0
    # A unit that is missing: the export names it.
    shard = next((tmp_path / "copy").rglob("last.cls/c/2/0"))
    shard.unlink()
    assert run_cli("store", "repair", "--store", tmp_path / "copy")[0] == 0
    code, _, err = run_cli(
        "store", "export", "--store", tmp_path / "copy", *names, "--layers", "last", "-o", tmp_path / "x"
    )
    assert code == 1
    assert "lacks 1 of 4 units: 2" in err
    assert not (tmp_path / "x").exists()
