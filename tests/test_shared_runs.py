"""What a team shares besides the store: permissions of what is written, refusals told as what they are."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from permissions import another_user, mode_of
from shapes import MODEL, save_shapes

from toptune.cli import explain
from toptune.errors import StoreError
from toptune.extract import extract
from toptune.store.files.reading import read_file
from toptune.store.files.writing import new_target, write_file
from toptune.train import compare_heads, report_layers, train
from toptune.workflows import export, finetune, write_report

Cli = Callable[..., tuple[int, str, str]]
ADVICE_OF_DAMAGE = ("again", "No such file", "damaged", "extract")


@pytest.fixture(scope="module")
def team() -> Iterator[Path]:
    """A folder with setgid in which everything was written with umask 002."""
    # Not below pytest's own folder, which every start of pytest closes to all other users.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield filled(Path(place) / "shared")


def filled(team: Path) -> Path:
    team.mkdir()
    group = 12345 if os.getuid() == 0 else os.getgid()
    os.chown(team, -1, group)
    team.chmod(0o2775)
    before = os.umask(0o002)
    try:
        photos = save_shapes(team / "photos", per_class=5)
        extract(photos, model=MODEL, store=team / "store")
        stored: dict[str, Any] = {"dataset": "photos", "model": MODEL, "cv": 2}
        train(team / "store", out=team / "run", **stored)
        train(team / "store", out=team / "forest", head="forest", **stored)
        compare_heads(team / "store", heads=["ncm"], out=team / "compared", seeds=1, **stored)
        report_layers(team / "store", out=team / "layers", short_list=0, **stored)
        finetune(
            photos, model=MODEL, out=team / "tuned", epochs=1, warmup_epochs=0, min_epochs=1,
            learning_rates=[1e-3], precision="fp32",
        )  # fmt: skip
        write_report([team / "run"], out=team / "page.html")
        export(team / "run", team / "run.pt2")
    finally:
        os.umask(before)
    return team


def test_everything_follows_the_umask_and_belongs_to_the_group(team: Path) -> None:
    found = {
        (path.is_dir(), stat.filemode(path.stat().st_mode), path.stat().st_gid)
        for path in team.rglob("*")
        if "photos" not in path.relative_to(team).parts[:1]
    }
    group = team.stat().st_gid
    assert found == {(True, "drwxrwsr-x", group), (False, "-rw-rw-r--", group)}


FILES = [
    ("run", "run.json"), ("run", "head.json"), ("run", "head.safetensors"), ("run", "metrics.json"),
    ("run", "preprocessing.safetensors"), ("run", "rows.parquet"), ("run", ""), ("forest", "head.skops"),
    ("tuned", "model.safetensors"), ("tuned", "config.json"), ("tuned", "metrics.json"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "name"), FILES)
def test_a_file_that_may_not_be_read_is_no_damage(team: Path, run_cli: Cli, run: str, name: str) -> None:
    path = team / run / name
    image = sorted((team / "photos").rglob("*.png"))[0]
    with mode_of(path, 0), another_user():
        code, _, said = run_cli("predict", team / run, image)
    assert code == 1
    assert f"cannot read {path}" in said
    assert "Permission denied; ask the owner for read permission" in said
    assert not any(word in said for word in ADVICE_OF_DAMAGE)


def test_a_path_within_a_closed_folder_is_not_said_to_be_missing(team: Path, run_cli: Cli) -> None:
    with mode_of(team / "photos" / "disc", 0), another_user():
        code, _, said = run_cli("predict", team / "run", team / "photos" / "disc" / "000.png")
    assert code == 1
    assert "disc/000.png: Permission denied; ask the owner for read permission" in said


def test_an_update_and_a_report_say_so_too(team: Path, run_cli: Cli) -> None:
    place = team / "open"
    place.mkdir()
    place.chmod(0o777)
    with mode_of(team / "run" / "sums.safetensors", 0), another_user():
        code, _, said = run_cli(
            "train", "--store", team / "store", "--update", team / "run", "--forget", "disc/000.png",
            "--out", place / "new",
        )  # fmt: skip
    assert code == 1
    assert "sums.safetensors: Permission denied; ask the owner for read permission" in said
    for name in ("predictions.parquet", ""):
        with mode_of(team / "run" / name, 0), another_user():
            code, _, said = run_cli("report", team / "run", "-o", place / "page.html")
        assert code == 1
        assert "Permission denied; ask the owner for read permission" in said


def test_a_folder_that_may_not_be_written_is_named_with_what_else_to_do(team: Path, run_cli: Cli) -> None:
    closed = team / "closed"
    closed.mkdir(mode=0o755)
    stored = ("--store", team / "store", "--dataset", "photos", "--model", MODEL)
    commands = [
        ("train", *stored, "--out", closed / "run"),
        ("export", team / "run", "--out", closed / "run.pt2"),
        ("store", "export", *stored, "--format", "npy", "-o", closed / "features"),
    ]
    for command in commands:
        with mode_of(closed, 0o555), another_user():
            code, _, said = run_cli(*command)
        assert code in (1, 2)
        assert ("Permission denied; ask the owner for write permission, or give another" in said) or (
            "is not a folder that you may write to" in said
        )
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("EACCES", "ask the owner for read permission"),
        ("ESTALE", "the file server has replaced it"),
        ("EMFILE", "raise the limit"),
        ("EISDIR", "a folder stands where a file is needed"),
        ("EIO", "check the disk"),
    ],
)
def test_every_refusal_to_read_has_its_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, step: str
) -> None:
    number = getattr(errno, code)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=step) as caught:
        read_file(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    # A refusal that no part of toptune has described is told by the command line in the same way.
    said, exit_code = explain(OSError(number, os.strerror(number), "some/file"))
    assert exit_code == 1
    assert said.startswith(f"some/file: {os.strerror(number)}; ")


@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("ENOSPC", "free some space"),
        ("EDQUOT", "raise the quota"),
        ("EROFS", "read-only; give another --out"),
        ("ESTALE", "file server"),
    ],
)
def test_every_refusal_to_write_has_its_next_step_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, step: str
) -> None:
    number = getattr(errno, code)

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StoreError, match=step):  # noqa: PT012, SIM117
        with new_target(tmp_path / "run", option="--out") as folder:
            folder.mkdir()
            write_file(folder / "file", b"content")
    assert list(tmp_path.iterdir()) == []
