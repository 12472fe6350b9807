"""The layout of the repository: what may import what, and that packaging ships it all."""

import ast
import importlib
import resource
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("store", "extract", "train", "workflows", "commands")
MAY_IMPORT = {
    "store": {"store"},
    "extract": {"store", "extract"},
    "train": {"store", "train"},
    "workflows": {"store", "extract", "train", "workflows"},
    "commands": {"store", "extract", "train", "workflows", "commands"},
    "cli": {"store", "commands"},
}
ONLY_IN = {
    "zarr": ("store/zarr_arrays.py",),
    "h5py": ("store/hdf5_arrays.py", "store/matrix_files.py"),
    "click": ("cli.py", "commands/"),
    "dask": ("store/dask_arrays.py",),
    "distributed": ("store/dask_cluster.py",),
    "dask_jobqueue": ("store/dask_cluster.py",),
    "falkon": ("train/falkon_lib.py",),
    "pynvml": ("store/accelerators.py",),
    # Its table is read, its code never runs: see `toptune.store.emissions`.
    "codecarbon": (),
}
NOT_IN = {"torch": ("store/", "commands/", "cli.py"), "timm": ("store/", "train/", "commands/", "cli.py")}


def sources() -> list[Path]:
    return [ROOT / "cli.py", *(path for part in PARTS for path in sorted((ROOT / part).glob("*.py")))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    part = path.stem if path.parent == ROOT else path.parent.name
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("toptune.")}
    assert parts <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    libraries = {name.split(".")[0] for name in imported(path)}
    for library, places in ONLY_IN.items():
        assert library not in libraries or where.startswith(places)
    for library, places in NOT_IN.items():
        assert library not in libraries or not where.startswith(places)
    assert not libraries & {"pickle", "joblib", "cloudpickle", "dill"}, "nothing is ever pickled"


def test_the_package_list_is_the_folders() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["packages"] == ["toptune", *(f"toptune.{part}" for part in sorted(PARTS))]
    assert [path.name for path in ROOT.glob("*.py")] == ["cli.py"]
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("part", PARTS)
def test_all_names_exactly_what_is_public(part: str) -> None:
    module = importlib.import_module(f"toptune.{part}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert not isinstance(value, ModuleType), f"toptune.{part}.{name} is a module"
        assert not callable(value) or value.__doc__, f"toptune.{part}.{name} has no docstring"


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_at_once_and_without_torch() -> None:
    code = (
        "import sys\nfrom toptune.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'timm', 'numpy', 'zarr', 'sklearn'} & sys.modules.keys()"
    )
    seconds = []
    for _ in range(3):
        # Of the processor, not by the clock: other work on the machine must not count.
        start = cpu_seconds_of_children()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(cpu_seconds_of_children() - start)
        assert done.returncode == 0, done.stderr
        # One example a line, as they were written.
        assert "\n  toptune predict run new-photos\n" in done.stdout
    assert min(seconds) < 0.5
