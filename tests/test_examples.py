"""Every `>>>` example in a docstring of the package runs and prints what it says."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import ROOT, sources, tree_of

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
DOCUMENTED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def module_of(path: Path) -> str:
    """Return the name that a file of the package is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("toptune", *parts[: -1 if parts[-1] == "__init__" else None]))


def documented(node: ast.Module | DOCUMENTED, name: str) -> Iterator[tuple[str, str]]:
    """Yield ``(name, docstring)`` of a module and of all that it defines, inner classes and methods too."""
    yield name, ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, DOCUMENTED):
            yield from documented(child, f"{name}.{child.name}")


def examples() -> list[tuple[Path, str, str]]:
    """Return ``(file, name, docstring)`` for every docstring with an example."""
    # The syntax trees are read in place of the modules, so that collecting the tests imports no torch.
    return [
        (path, name, text)
        for path in sources()
        for name, text in documented(tree_of(path), module_of(path).removeprefix("toptune."))
        if ">>> " in text
    ]


@pytest.mark.parametrize(
    ("path", "name", "text"),
    [pytest.param(*example, id=example[1]) for example in examples()],
)
def test_examples_print_what_they_say(
    path: Path, name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An example may write files. The folder is its own, so that no example builds on another.
    monkeypatch.chdir(tmp_path)
    names = dict(vars(importlib.import_module(module_of(path))))
    test = doctest.DocTestParser().get_doctest(text, names, name, str(path), 0)
    report: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert outcome.attempted, "the docstring has `>>>` in prose; examples begin a line"
    assert not outcome.failed, "".join(report)
