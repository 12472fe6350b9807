"""The layout of the repository: what may import what."""

import ast
import importlib
import resource
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from house import (
    FLOOR,
    FLOORS,
    HOUSES,
    ROOT,
    functions,
    import_circles,
    imported_files,
    named_modules,
    room_of,
    root_files,
    sources,
    tree_of,
)  # fmt: skip

FRONTS = ("store", "extract", "train", "workflows", "commands")
ONLY_IN = {
    "zarr": ("store/arrays/zarr_format.py",),
    "h5py": ("store/arrays/hdf5_format.py",),
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


# Each rule is one test over all files: 1,200 tests would take longer to be counted than to be run.
def test_rooms_import_lower_floors_only() -> None:
    assert [each for path in sources() for each in higher_imports(path)] == []


def higher_imports(path: Path) -> Iterator[str]:
    """Yield what a file imports that is neither of its own room nor of a lower floor."""
    room = room_of(path)
    # A front names what the upper rooms of its house offer.
    house = room.split("/")[0] if path.name == "__init__.py" and room in FRONTS else None
    for target in imported_files(path, for_types=True):
        its = room_of(target)
        is_own = its == room if house is None else its.split("/")[0] == house
        if not is_own and FLOOR[its] >= FLOOR[room]:
            yield (
                f"{path.relative_to(ROOT)} on floor {FLOOR[room]} imports {target.relative_to(ROOT)} "
                f"on floor {FLOOR[its]}"
            )


def test_libraries_stay_where_they_belong() -> None:
    assert [each for path in sources() for each in misplaced(path)] == []


def misplaced(path: Path) -> Iterator[str]:
    """Yield the libraries that a file imports and should not."""
    where = path.relative_to(ROOT).as_posix()
    libraries = libraries_of(path)
    # CIFAR is published as pickles: its reader admits stand-ins for numpy's arrays, and no other name.
    may = {"pickle"} if where == "extract/sources/arrays/cifar_pickles.py" else set()
    for library in sorted(libraries & {"pickle", "joblib", "cloudpickle", "dill"} - may):
        yield f"{where} imports {library}: nothing is ever pickled"
    for library in sorted(libraries):
        is_elsewhere = library in ONLY_IN and not where.startswith(ONLY_IN[library])
        if is_elsewhere or where.startswith(NOT_IN.get(library, ())):
            yield f"{where} imports {library}"


@pytest.mark.parametrize("part", ["", *FRONTS])
def test_all_names_exactly_what_is_public(part: str) -> None:
    module = importlib.import_module(f"toptune.{part}".rstrip("."))
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            assert (part, name) in [("", front) for front in FRONTS], f"toptune.{part}.{name} is a module"
            continue
        assert not callable(value) or value.__doc__, f"toptune.{part}.{name} has no docstring"


def test_no_files_import_each_other_in_a_circle() -> None:
    assert import_circles() == []


def test_a_room_has_at_most_fifteen_files() -> None:
    files = Counter(room_of(path) for path in sources() if path.name != "__init__.py")
    assert {room: count for room, count in files.items() if count > 15} == {}


def test_a_room_says_in_one_line_what_it_is_for() -> None:
    for room in FLOOR:
        if (ROOT / f"{room}.py").exists():
            continue
        tree = tree_of(ROOT / room / "__init__.py")
        purpose = ast.get_docstring(tree) or ""
        assert purpose.endswith("."), f"the docstring of {room} is no sentence: {purpose!r}"
        # A front has a list of public names and a longer docstring; any other room holds its docstring only,
        # so that importing one of its files imports nothing else.
        if room not in FRONTS:
            assert len(tree.body) == 1
            assert "\n" not in purpose


def test_a_function_fits_on_a_page() -> None:
    assert [function for function in functions() if function.lines > 80] == []
    assert len([function for function in functions() if function.lines > 60]) <= 10


def test_a_function_has_at_most_twelve_parameters() -> None:
    assert [function for function in functions() if function.parameters > 12] == []


def test_names_of_modules_in_texts_lead_somewhere() -> None:
    """A move that forgets a text such as the preload of dask workers would be found by its users only."""
    loggers = [path for path in sources() if "toptune.train.plan" in named_modules(path)]
    assert loggers == [ROOT / "machine" / "plans.py"], "import the logger in place of its name"
    for path in sources():
        for text in named_modules(path) - {"toptune.json", "toptune.train.plan"}:
            module, _, name = text.rpartition(".")
            try:
                importlib.import_module(text)
            except ModuleNotFoundError:
                found = hasattr(importlib.import_module(module), name)
                assert found, f"{path.relative_to(ROOT)} names {text}, which does not exist"


def test_type_checkers_see_what_is_there() -> None:
    links = {link.name for link in (ROOT / ".typing" / "toptune").iterdir()}
    modules = {path.name for path in (*root_files(), *ROOT.glob("*.pyi"))}
    assert links == modules | {*HOUSES, "benchmarks", "scripts", "tests"}
    # A copy in the place of a link would be checked instead of the code: `sed -i` makes one.
    for link in (ROOT / ".typing" / "toptune").iterdir():
        assert link.is_symlink(), f"{link} is a copy; make it a link to ../../{link.name} again"
        assert link.resolve() == (ROOT / link.name).resolve()
    banned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    names = {*HOUSES, *(path.stem for path in root_files())} - {"__init__"}
    assert banned["flake8-tidy-imports"]["banned-api"].keys() == names, "import toptune.x, never x"


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_at_once_and_without_torch() -> None:
    code = (
        # The rooms are there after `import toptune`, and cost nothing until a name of theirs is used.
        "import sys\nimport toptune\n"
        "toptune.store, toptune.extract, toptune.train, toptune.workflows\nfrom toptune.cli import main\n"
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
