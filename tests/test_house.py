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
from house import FLOOR, FLOORS, ROOT, imported_files, room_of, sources, tree_of

FRONTS = ("store", "extract", "train", "workflows", "commands")
ONLY_IN = {
    "zarr": ("store/arrays/zarr_format.py",),
    "h5py": ("store/arrays/hdf5_format.py", "store/exchange/matrix_files.py"),
    "click": ("cli.py", "commands/"),
    "dask": ("store/features/dask_arrays.py",),
    "distributed": ("machine/dask_cluster.py",),
    "dask_jobqueue": ("machine/dask_cluster.py",),
    "falkon": ("train/solvers/falkon_lib.py",),
    "pynvml": ("costs/accelerators.py",),
    # Its table is read, its code never runs: see `toptune.costs.emissions`.
    "codecarbon": (),
}
NOT_IN = {"torch": ("store/", "commands/", "cli.py"), "timm": ("store/", "train/", "commands/", "cli.py")}


def libraries_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_every_file_is_in_a_room_of_the_table() -> None:
    assert {room_of(path) for path in sources()} <= FLOOR.keys()
    assert len(FLOOR) == sum(map(len, FLOORS)), "a room stands on one floor"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_lower_floors_only(path: Path) -> None:
    room = room_of(path)
    if path.name == "__init__.py" and room in FRONTS:
        house = room.split("/")[0]
        assert all(
            room_of(target).split("/")[0] == house or FLOOR[room_of(target)] < FLOOR[room]
            for target in imported_files(path, for_types=True)
        )
        return
    for target in imported_files(path, for_types=True):
        assert room_of(target) == room or FLOOR[room_of(target)] < FLOOR[room], (
            f"{path.relative_to(ROOT)} on floor {FLOOR[room]} imports {target.relative_to(ROOT)} "
            f"on floor {FLOOR[room_of(target)]}"
        )


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    libraries = libraries_of(path)
    for library, places in ONLY_IN.items():
        assert library not in libraries or where.startswith(places)
    for library, places in NOT_IN.items():
        assert library not in libraries or not where.startswith(places)
    # CIFAR is published as pickles: its reader admits stand-ins for numpy's arrays, and no other name.
    may = {"pickle"} if where == "extract/sources/arrays/cifar_pickles.py" else set()
    assert not libraries & {"pickle", "joblib", "cloudpickle", "dill"} - may, "nothing is ever pickled"


def test_the_package_list_is_the_folders() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in sources()} - {Path()}
    assert setuptools["packages"] == [
        "toptune",
        *sorted("toptune." + folder.as_posix().replace("/", ".") for folder in folders),
    ]
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("part", FRONTS)
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
