"""The demo itself is run by test_packages.py, from the installed wheel."""

from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_demo_leaves_other_folders_alone(run_cli: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run_cli("demo", "--out", tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
