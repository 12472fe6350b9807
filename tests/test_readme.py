"""Commands and programs of README and docs run as they stand, in order, in a folder with some images."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import save_shapes

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
README, STORE, TRAIN, SOURCES, JOBS, FINETUNE, REPORT, STUDY, COSTS, ADVISE, INSPECT = (
    (ROOT / name).read_text()
    for name in (
        "README.md",
        "docs/store.md",
        "docs/train.md",
        "docs/sources.md",
        "docs/jobs.md",
        "docs/finetune.md",
        "docs/report.md",
        "docs/study.md",
        "docs/costs.md",
        "docs/advise.md",
        "docs/inspect.md",
    )
)


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "least"),
    [
        (README, 17),
        (STORE, 25),
        (TRAIN, 13),
        (SOURCES, 9),
        (JOBS, 2),
        (FINETUNE, 6),
        (REPORT, 5),
        (STUDY, 3),
        (COSTS, 5),
        (ADVISE, 3),
        (INSPECT, 4),
    ],
    ids=[
        "README",
        "docs/store",
        "docs/train",
        "docs/sources",
        "docs/jobs",
        "docs/finetune",
        "docs/report",
        "docs/study",
        "docs/costs",
        "docs/advise",
        "docs/inspect",
    ],
)
@pytest.mark.timeout(900)
def test_every_command_and_program_runs(
    tmp_path: Path, page: str, least: int, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_shapes(tmp_path / "photos")
    save_shapes(tmp_path / "other-photos", per_class=3)
    for name, text in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for language, text in blocks(page):
        # In this process, with names of its own: each new process would load torch and timm again.
        if language == "python":
            exec(compile(text, f"program {ran} of the page", "exec"), {"__name__": "__main__"})
            ran += 1
            continue
        for line in text.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "toptune"
            code, out, err = run_cli(*arguments)
            assert code == 0, f"{line}\n{out}\n{err}"
            ran += 1
    assert ran >= least


def test_readme_names_every_command_and_make_target() -> None:
    from toptune.cli import toptune

    for name in toptune.commands:
        assert f"toptune {name}" in README, f"README does not mention toptune {name}"
    assert "make demo" in README
    assert "make test" in README


def test_the_page_on_the_store_runs_every_store_command() -> None:
    from toptune.commands.stores.group import store

    for name in store.commands:
        assert f"\ntoptune store {name} " in STORE, f"docs/store.md does not run toptune store {name}"
