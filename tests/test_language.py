"""The rules of language that a machine can check: spelling, the word "image", whole sentences."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
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


def comments(path: Path) -> Iterator[str]:
    """Yield each block of comment lines as one text."""
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


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of a module and of all that it defines."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "module"), text


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=as_id)
def test_spelling_is_american(path: Path) -> None:
    if path == Path(__file__):
        return
    found = set(BRITISH.findall(KEPT.sub("", path.read_text(encoding="utf-8"))))
    assert found == set()


@pytest.mark.parametrize("path", CODE, ids=as_id)
def test_an_image_is_called_image(path: Path) -> None:
    prose = [*comments(path), *(text for _, text in docstrings(path))]
    assert [text for text in prose if PICTURE.search(without_code(text))] == []


@pytest.mark.parametrize("page", PAGES, ids=as_id)
def test_pages_call_an_image_image(page: Path) -> None:
    lines = without_code(page.read_text(encoding="utf-8")).splitlines()
    assert [line for line in lines if PICTURE.search(line)] == []


@pytest.mark.parametrize("path", sources(), ids=as_id)
def test_docstrings_are_sentences(path: Path) -> None:
    faults = []
    for name, text in docstrings(path):
        summary = text.split("\n\n")[0]
        if not re.match(r"[A-Z0-9`'\"-]|timm's |scikit-learn |k nearest ", summary):
            faults.append(f"{name}: {summary!r} begins without a capital")
        if not summary.endswith((".", ":", "`", "?", "``")):
            faults.append(f"{name}: {summary!r} ends without a period")
        if DANGLING.search(summary):
            faults.append(f"{name}: {summary!r} dangles")
    assert faults == []


@pytest.mark.parametrize("path", sources(), ids=as_id)
def test_comments_have_a_subject(path: Path) -> None:
    assert [text for text in comments(path) if DANGLING.search(text)] == []
