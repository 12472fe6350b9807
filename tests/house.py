"""The rooms of the package, floor by floor, and what the code says of them.

tests/test_house.py holds the code against this table.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
HOUSES = ("commands", "costs", "extract", "machine", "store", "train", "workflows")
# A module may import its own room and rooms of lower floors, and nothing else. A room is a folder, or a file
# at the root.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "text", "codes"),
    ("options",),
    ("machine", "costs", "store/files", "train/numerics"),
    ("store/arrays", "store/datasets"),
    ("store/features", "extract/images/kinds", "train/tasks"),
    (
        "store/joined",
        "store/upkeep",
        "extract/images",
        "extract/backbone/libraries",
        "train/rows",
        "train/preprocessing",
        "train/figures",
    ),
    (
        "store/exchange",
        "extract/sources/archives",
        "extract/sources/tables",
        "extract/sources/arrays",
        "extract/backbone",
        "train/kernels",
    ),
    ("store", "extract/sources", "train/passes"),
    ("extract/request", "train/solvers"),
    ("extract/pipeline", "train/logistic", "train/head2toe", "train/partial"),
    ("extract", "train/estimators"),
    ("train/regressors",),
    ("train/heads",),
    ("train/answers", "train/layers"),
    ("train/runs",),
    ("train/updates",),
    ("train/fusion",),
    ("train/verdicts",),
    ("train/best",),
    ("train/reports",),
    ("train",),
    ("workflows/finetuning", "workflows/gallery"),
    ("workflows/inspection", "workflows/predict", "workflows/report", "workflows/study"),
    ("workflows/deploy", "workflows/likeness", "workflows/sharing"),
    ("workflows",),
    ("workflows/advice", "workflows/jobs"),
    ("commands/options",),
    ("commands/data", "commands/stores", "commands/runs"),
    ("commands",),
    ("cli", "__init__"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def root_files() -> list[Path]:
    """The Python files at the root that are modules of the package; setup.py builds it."""
    return [path for path in ROOT.glob("*.py") if path.name != "setup.py"]


@functools.cache
def sources() -> tuple[Path, ...]:
    """Every Python file of the package."""
    inside = (path for house in HOUSES for path in (ROOT / house).rglob("*.py"))
    return tuple(sorted([*root_files(), *inside]))


def room_of(path: Path) -> str:
    """Return the room of a file: its folder, or its own name at the root."""
    place = path.relative_to(ROOT)
    return place.stem if len(place.parts) == 1 else place.parent.as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_for_types(node: ast.stmt) -> bool:
    """Whether a statement is an ``if TYPE_CHECKING:``, which does not run."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def file_of(module: str, name: str) -> Path:
    """Return the file that ``from module import name`` leads to."""
    place = ROOT.joinpath(*module.split(".")[1:])
    for candidate in (place / f"{name}.py", place.with_suffix(".py"), place / "__init__.py"):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"from {module} import {name} leads to no file of the package")


def imported_names(path: Path, *, for_types: bool) -> list[tuple[str, str]]:
    """Return ``(module, name)`` for each name of the package that a file imports, late imports included.

    A front imports what its stub says, by relative imports, because `lazy_loader` reads no others.
    """
    stub = path.with_suffix(".pyi")
    is_front = stub.exists()
    tree = tree_of(stub if is_front else path)
    hidden = {
        id(node) for statement in tree.body if is_for_types(statement) for node in ast.walk(statement)
    }  # fmt: skip
    found = []
    for node in ast.walk(tree):
        if id(node) in hidden and not for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == int(is_front), f"{path}: a relative import"
            if is_front and node.module is None:  # `from . import train`: another front.
                found += [(f"toptune.{alias.name}", "__init__") for alias in node.names]
                continue
            house = "" if path.parent == ROOT else f"{path.parent.name}."
            module = f"toptune.{house}{node.module}" if is_front else str(node.module)
            if module.split(".")[0] == "toptune":
                found += [(module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import) and is_front:
            pairs = (alias.name.rpartition(".") for alias in node.names)
            found += [(module, name) for module, _, name in pairs]
        elif isinstance(node, ast.Import):
            inside = [alias.name for alias in node.names if alias.name.split(".")[0] == "toptune"]
            assert not inside, f"{path}: `import {inside[0]}`; write `from toptune... import ...`"
    return found


@functools.cache
def imported_files(path: Path, *, for_types: bool = False) -> frozenset[Path]:
    """Return the files of the package that a file imports; those of annotations only `for_types`."""
    return frozenset(file_of(*pair) for pair in imported_names(path, for_types=for_types)) - {path}


def import_circles() -> list[list[str]]:
    """Return the groups of files that import each other in a circle, by Tarjan's algorithm."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    circles = []

    def visit(path: Path) -> None:
        index[path] = low[path] = len(index)
        stack.append(path)
        for target in imported_files(path):
            if target.name == "__init__.py":
                continue
            if target not in index:
                visit(target)
                low[path] = min(low[path], low[target])
            elif target in stack:
                low[path] = min(low[path], index[target])
        if low[path] == index[path]:
            group = stack[stack.index(path) :]
            del stack[stack.index(path) :]
            if len(group) > 1:
                circles.append(sorted(member.relative_to(ROOT).as_posix() for member in group))

    for path in sources():
        if path not in index and path.name != "__init__.py":
            visit(path)
    return circles


class Function(NamedTuple):
    """A function or method of the package, measured."""

    name: str  # File and qualified name: "store/files/commit.py:commit".
    lines: int  # Lines of its body, without the docstring.
    parameters: int  # All but `**arguments`, which stand for a value of options.


@functools.cache
def functions() -> tuple[Function, ...]:
    """Measure every function of the package, nested ones too.

    What has 12 parameters for a reason is counted with none: an `__init__`, whose parameters scikit-learn
    reads from the signature, and a command, which click calls with one parameter an option.
    """

    def measured(node: ast.AST, name: str) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f"{name}.{child.name}".replace(":.", ":")
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                body = child.body[1:] if ast.get_docstring(child) else child.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                given = child.args
                parameters = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
                is_command = any("click" in ast.unparse(decorator) for decorator in child.decorator_list)
                is_free = is_command or child.name == "__init__"
                yield Function(inner, lines, 0 if is_free else parameters)
            yield from measured(child, inner)

    return tuple(
        function
        for path in sources()
        for function in measured(tree_of(path), f"{path.relative_to(ROOT).as_posix()}:")
    )


def named_modules(path: Path) -> set[str]:
    """Return the texts of a file that look like the name of a module: ``toptune.machine.heap``."""
    texts = {node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)}
    return {
        text
        for text in texts
        if isinstance(text, str) and text.startswith("toptune.") and text.replace(".", "").isidentifier()
    }
