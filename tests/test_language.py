"""The rules of language that a machine can check: spelling, the word "image", whole sentences."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from house import ROOT, sources, tree_of

CODE = tuple(sorted({*sources(), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").rglob("*.py")}))
PAGES = tuple(
    page for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md")])
    if "results" not in page.parts
)  # fmt: skip
# Names that are stored or typed by users, or that belong to libraries, keep their spelling.
KEPT = re.compile(
    r"\w*unlabelled\b|\w*relabelled\b|\b[sS]tandardise\b|\blicence\b|\bcancelled\b|\bCancelledError\b"
)
BRITISH = re.compile(
    r"\w*(?:colour|centre|behaviour|favour|neighbour|grey|labelled|labelling|artefact|analyse|modelling"
    r"|(?:recogn|normal|standard|optim|initial|summar|organ|minim|maxim|general|serial|amort|real)"
    r"is(?:e|es|ed|ing|ation))\w*",
    re.IGNORECASE,
)
PICTURE = re.compile(r"\b[Pp]ictures?\b")
# A clause that begins or ends with these lacks its subject or its noun.
DANGLING = re.compile(r"^(?:Of|Its|Those|Whose|Their) (?!course)|\b(?:of|those)\.$")


def as_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """Drop what stands in backticks, in code blocks, in links and in quotes: names, not prose."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"``.*?``|`[^`\n]*`|\]\([^)]*\)|\"[^\"\n]*\"|'[^'\n]*'", "", text, flags=re.DOTALL)


@cache
def comments(path: Path) -> tuple[str, ...]:
    """Return each block of comment lines as one text."""
    return tuple(blocks(path))


def blocks(path: Path) -> Iterator[str]:
    block: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# ?(fmt|type|noqa|ruff|!)", token.string):
            if block and token.start[0] != last + 1:
                yield " ".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    if block:
        yield " ".join(block)


@cache
def docstrings(path: Path) -> list[tuple[str, str]]:
    """Return the name and the docstring of a module and of all that it defines."""
    named = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = ((node, ast.get_docstring(node)) for node in nodes(tree_of(path)) if isinstance(node, named))
    return [(getattr(node, "name", "module"), text) for node, text in found if text]


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that are or hold statements: expressions hold no docstring, and are most of a tree."""
    yield tree
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(tree, name, ()):
            yield from nodes(child)


# Each rule is one test over all files: 2,500 tests would take longer to be counted than to be run.
def test_spelling_is_american() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in [*CODE, *PAGES] if path != Path(__file__)}
    words = {path: set(re.findall(r"\w+", text)) for path, text in texts.items()}
    # A word is looked at once, however often it is written.
    british = {word for word in set().union(*words.values()) if BRITISH.fullmatch(KEPT.sub("", word))}
    assert {as_id(path): found & british for path, found in words.items() if found & british} == {}


def test_an_image_is_called_image() -> None:
    # Few files have the word at all, and fewer in their prose.
    some = [path for path in CODE if PICTURE.search(path.read_text(encoding="utf-8"))]
    prose = [
        (as_id(path), text)
        for path in some
        for text in (*comments(path), *(text for _, text in docstrings(path)))
    ]
    assert [each for each in prose if PICTURE.search(without_code(each[1]))] == []


def test_pages_call_an_image_image() -> None:
    lines = [
        (as_id(page), line)
        for page in PAGES
        for line in without_code(page.read_text(encoding="utf-8")).splitlines()
    ]
    assert [each for each in lines if PICTURE.search(each[1])] == []


def test_docstrings_are_sentences() -> None:
    faults = []
    for where, name, text in ((as_id(path), *each) for path in sources() for each in docstrings(path)):
        summary = text.split("\n\n")[0]
        if not re.match(r"[A-Z0-9`'\"-]|timm's |scikit-learn |k nearest ", summary):
            faults.append(f"{where}: {name}: {summary!r} begins without a capital")
        if not summary.endswith((".", ":", "`", "?", "``")):
            faults.append(f"{where}: {name}: {summary!r} ends without a period")
        if DANGLING.search(summary):
            faults.append(f"{where}: {name}: {summary!r} dangles")
    assert faults == []


def test_comments_have_a_subject() -> None:
    found = [(as_id(path), text) for path in sources() for text in comments(path)]
    assert found
    assert [each for each in found if DANGLING.search(each[1])] == []
