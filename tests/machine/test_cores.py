"""The cores that a process may use, by its affinity and by the quota of its control group."""

import os
from pathlib import Path

import pytest

from toptune.extract.request.options import ExtractOptions
from toptune.machine import cores
from toptune.machine.cores import MOST_READERS, reading_threads, usable_cores
from toptune.workflows.finetuning.options import FineTuneOptions


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def group(tmp_path: Path, own: str, files: dict[str, str]) -> int:
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    return usable_cores(tmp_path / "groups", tmp_path / "own")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "800000 100000"}, 8),
        # A container that sees its group as the root of all.
        ("0::/not/here\n", {"cpu.max": "300000 100000"}, 3),
        ("0::/../x\n", {"cpu.max": "300000 100000"}, 3),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "500000", "cpu/a/cpu.cfs_period_us": "100000"}, 5),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("3:memory:/\n", {"cpu.max": "100000 100000"}, 64),
        ("0::/\n", {"cpu.max": "no numbers"}, 64),
        ("0::/\n", {}, 64),
        ("", {}, 64),
    ],
)  # fmt: skip
def test_a_quota_counts_beside_the_affinity(
    tmp_path: Path, many: None, own: str, files: dict[str, str], expected: int
) -> None:
    assert group(tmp_path, own, files) == expected


def test_readers_take_every_core_up_to_what_the_interpreter_serves(
    many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_quotas", lambda *_: [])
    assert reading_threads() == MOST_READERS
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8, 9, 11, 12})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert ExtractOptions().n_workers == FineTuneOptions().n_workers == reading_threads() == 6
    assert ExtractOptions(workers=2).n_workers == FineTuneOptions(workers=2).n_workers == 2
