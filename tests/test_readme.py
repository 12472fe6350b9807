"""README's commands and programs run as they stand, in order, in a folder with some pictures."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from shapes import save_shapes

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_every_command_and_program_of_readme_runs(tmp_path: Path) -> None:
    save_shapes(tmp_path / "photos")
    ran = 0
    for language, text in blocks():
        programs = (
            [["-c", text]]
            if language == "python"
            else [["-m", *shlex.split(line)] for line in text.splitlines()]
        )
        for program in programs:
            if program[0] == "-m":
                assert program.pop(1) == "toptune"
                program[1:1] = ["toptune.cli"]
            done = subprocess.run(
                [sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{program}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran >= 14


def test_readme_names_every_command_and_make_target() -> None:
    from toptune.cli import toptune

    for name in toptune.commands:
        assert f"toptune {name}" in README, f"README does not mention toptune {name}"
    assert "make demo" in README
    assert "make test" in README
