"""What Windows lacks is not needed to import toptune, and a store is refused there in one sentence."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT, sources, tree_of

# Modules that Linux and macOS have, and Windows has not.
POSIX = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"}
HIDDEN = """
import os, signal, sys
for name in {modules!r}:
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL", "SIGHUP", "setitimer", "ITIMER_REAL"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("O_DIRECTORY", "O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "sysconf", "getuid"):
    if hasattr(os, name):
        delattr(os, name)
os.supports_dir_fd = set()
"""
# Everything that the command line imports before a command runs, and every module that names what is hidden.
PROGRAM = """
import toptune.cli
from toptune.costs.meter import CostMeter, describe_costs
from toptune.extract.images.open_files import read_regular
from toptune.machine.memory import memory_limit_bytes
from toptune.machine.stop_signals import stop_on_signals
from toptune.store import FeatureStore, InputError
from toptune.store.files.reading import read_linked

with stop_on_signals(5.0) as left:
    assert left() is None
    signal.raise_signal(signal.SIGTERM)
    assert 0 < left() <= 5.0
costs = CostMeter().to_dict()
assert costs["peak_memory_bytes"] == 0
assert "of memory" not in describe_costs(costs)
assert memory_limit_bytes() > 0
assert read_regular(sys.argv[1], 100) == b"image\\r\\n"
for place in ("store", "s3://bucket/store"):
    try:
        FeatureStore.create(place)
    except InputError as error:
        assert "Windows Subsystem for Linux" in str(error), error
        assert error.option == "store"
    else:
        raise AssertionError("a store was made")
assert not os.path.exists("store")
toptune.cli.main(["--version"])
"""


def test_nothing_at_import_needs_what_windows_lacks(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image\r\n")
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN.format(modules=sorted(POSIX)) + PROGRAM, "a.png"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("toptune, version ")


@pytest.mark.parametrize("module", sorted(POSIX))
def test_modules_of_posix_are_imported_where_they_may_be_absent(module: str) -> None:
    """The program above imports what costs little; all other files are looked at."""
    for path in sources():
        guarded = {
            id(node)
            for attempt in ast.walk(tree_of(path))
            if isinstance(attempt, ast.Try | ast.FunctionDef)
            for node in ast.walk(attempt)
        }
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert module not in names or id(node) in guarded, f"{path.relative_to(ROOT)} imports {module}"
            if isinstance(node, ast.ImportFrom):
                assert node.module != module or id(node) in guarded, f"{path.relative_to(ROOT)}: {module}"
