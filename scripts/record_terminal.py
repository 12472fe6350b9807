"""Record the first commands of README.md as an image: what they print, drawn as a terminal.

    python scripts/record_terminal.py [docs/pictures/terminal.svg]

The commands are those that README.md shows with their output, and run in an empty folder. What they print is
printed here as well, so that README.md can be brought up to date.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COLUMNS = 110


def commands(page: str) -> list[str]:
    """Return the commands of a page that it shows with what they print."""
    sessions = re.findall(r"^```console\n(\$ toptune .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return [line[2:] for text in sessions for line in text.splitlines() if line.startswith("$ toptune ")]


def printed(command: str, folder: Path) -> str:
    """Return what a command writes to standard output, with names of files relative to its folder.

    Raises
    ------
    subprocess.CalledProcessError
        The command failed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent), "COLUMNS": str(COLUMNS)}
    program = [sys.executable, "-m", "toptune.cli", *shlex.split(command)[1:]]
    done = subprocess.run(  # noqa: S603 - the commands are those of our page
        program, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.replace(f"{folder}/", "")


def drawn(session: list[tuple[str, str]]) -> str:
    """Return commands and what they printed as one SVG that loads nothing, not even its fonts."""
    console = Console(record=True, width=COLUMNS, file=StringIO())
    for command, text in session:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")), soft_wrap=False)
        console.print(Text(text))
    image = console.export_svg(title="toptune", unique_id="terminal")
    # rich names fonts on a web server; the fonts that a machine has will do.
    image = re.sub(r"@font-face\s*\{.*?\}", "", image, flags=re.DOTALL)
    return image.replace("font-family: Fira Code, monospace", "font-family: monospace")


def main() -> None:
    """Run the commands, print the session and write the image."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/pictures/terminal.svg"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        session = [
            (command, printed(command, folder)) for command in commands((ROOT / "README.md").read_text())
        ]
    for command, text in session:
        sys.stdout.write(f"$ {command}\n{text}\n")
    target.write_text(drawn(session), encoding="utf-8")


if __name__ == "__main__":
    main()
