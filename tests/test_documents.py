"""Pages name files, tests, links and make targets that exist."""

import functools
import re
from pathlib import Path

import pytest
from house import ROOT
from house_drawing import drawn_page

PAGES = tuple(
    sorted(
        page
        for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md"))
        # What has changed speaks of what was there before, and so does a decision.
        if page.name != "CHANGELOG.md" and page.parent.name != "decisions"
    )
)
# Paths that pages give as examples of a user's files.
EXAMPLES = {"train/0000.parquet"}


def as_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@functools.cache
def test_names() -> dict[str, set[str]]:
    """Return the names of the test functions of each test file; files of one name are taken together."""
    names: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        found = re.findall(r"^\s*def (test_\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        names.setdefault(path.name, set()).update(found)
    return names


test_names.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=as_id)
def test_named_tests_exist(page: Path) -> None:
    every = set().union(*test_names().values())
    for file, name in re.findall(r"`(?:[\w/]*/)?(test_\w+\.py)?(?:::)?(test_\w+)?`", page.read_text()):
        assert not file or file in test_names(), f"no test file {file}"
        if name and name not in ("test_fraction",):
            assert name in (test_names()[file] if file else every), f"no test {file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=as_id)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{target} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=as_id)
def test_named_files_of_the_repository_exist(page: Path) -> None:
    houses = "benchmarks|commands|costs|docs|extract|machine|scripts|store|tests|train|workflows"
    for name in set(re.findall(rf"`((?:{houses})/[\w./-]*)`", page.read_text())) - EXAMPLES:
        assert (ROOT / name).exists(), f"{name} does not exist"


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text()))
        assert named <= targets, f"{as_id(page)} names {named - targets}"


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/explain/README.md"]
)
def test_the_glossary_is_found(name: str) -> None:
    assert "reference/glossary.md" in (ROOT / name).read_text()


def test_the_rooms_are_drawn_as_the_code_stands() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert drawn_page(page) == page, "rooms have changed; run `make drawing`"


def test_each_promise_names_the_test_that_holds_it() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    promises = page.partition("## Ten things")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 10
    assert all("`test_" in row for row in rows)
