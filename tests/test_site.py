"""The site has every page, and every link leads somewhere. `make docs` builds it, with more programs."""

import ast
import re
import tomllib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import llms_txt
import pytest
import site_pages
import yaml
from house import ROOT
from test_documents import PAGES, as_id

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


class _Settings(yaml.SafeLoader):  # type: ignore[misc]
    """Settings of MkDocs, without the Python objects that they name."""


_Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def settings() -> dict[str, Any]:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return dict(yaml.load(text, _Settings))


def in_nav() -> list[str]:
    return [page for section in settings()["nav"] for pages in section.values() for page in pages]


def files_of_site() -> set[str]:
    """Return the paths of the site's files, without `docs/`."""
    files = {
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()
    }
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.py")}
    return files | notebooks | set(site_pages.PAGES)


def slugs(page: str) -> set[str]:
    """Return the names that links within a page go by: those of code hosting sites, and of the site."""
    without_code = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ (.+)$", without_code, flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def test_every_page_is_in_the_nav_once() -> None:
    pages = {name for name in files_of_site() if name.endswith(".md")}
    records = {name for name in pages if name.startswith("develop/decisions/0")}
    assert Counter(in_nav()) == Counter(pages - records)
    listed = (ROOT / "docs/develop/decisions/README.md").read_text(encoding="utf-8")
    assert {name for name in records if f"({Path(name).name})" not in listed} == set()


@pytest.mark.parametrize("page", PAGES, ids=as_id)
def test_links_lead_to_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in LINK.findall(text):
        place = page.parent / target if target else page
        if anchor and not target.startswith("http") and place.suffix == ".md":
            assert anchor in slugs(place.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_links_of_the_site_lead_to_its_pages() -> None:
    files = files_of_site()
    seen = 0
    for uri in sorted(name for name in files if name.endswith(".md") and not name.startswith("notebooks/")):
        path = ROOT / (uri if uri in site_pages.PAGES else f"docs/{uri}")
        text = site_pages.linked(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix(), files)
        for _, _, target, _ in site_pages.LINK.findall(site_pages.CODE.sub("", text)):
            if not re.match(r"[a-z]+:", target):
                place = (ROOT / "site" / uri).parent / target
                assert place.resolve().relative_to(ROOT / "site").as_posix() in files, f"{uri}: {target}"
                seen += 1
    assert seen > 200


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    for front in ("extract", "store", "train", "workflows"):
        assert f"\n::: toptune.{front}\n" in page
        public = re.findall(r" as (\w+)", (ROOT / front / "__init__.pyi").read_text(encoding="utf-8"))
        text = site_pages.documented(f"toptune.{front}")
        named = re.findall(rf"heading: toptune\.{front}\.(\w+)", text)
        assert sorted(named) == sorted(name for name in public if not name.startswith("_"))


def test_the_reference_has_the_help_of_every_command() -> None:
    from toptune.cli import toptune

    text = site_pages.helps(toptune, site_pages.whole_context(toptune))
    for name, command in toptune.commands.items():
        assert f"\n## toptune {name}\n" in text
        below = command.commands if isinstance(command, click.Group) else {}
        assert all(f"\n## toptune {name} {each}\n" in text for each in below)
    assert "\n  -h, --help  Show this message and exit." in text


def test_the_page_on_installing_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs/start/install.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([\w-]+)` \|", page, flags=re.MULTILINE))
    # What benchmarks, tests and the site take is for developers.
    assert named == project["optional-dependencies"].keys() - {"bench", "dev", "docs"}


def test_lists_begin_after_a_blank_line() -> None:
    # Markdown of code hosting sites needs none, that of the site does.
    faults = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines = text.splitlines()
        for before, line in pairwise(lines):
            if line.startswith("- ") and before and not before.startswith(("- ", "  ")):
                faults.append(f"{as_id(page)}: {line}")
    assert faults == []


def test_notebooks_are_programs_of_cells() -> None:
    programs = sorted((ROOT / "docs/notebooks").glob("*.py"))
    assert len(programs) == 3
    for program in programs:
        text = program.read_text(encoding="utf-8")
        assert text.startswith("# %% [markdown]\n# # ")
        assert text.count("\n# %%\n") >= 3
        ast.parse(text)


def test_programs_find_every_page() -> None:
    from toptune.cli import toptune

    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    assert text == llms_txt.llms_text(), "pages have changed; run `make drawing`"
    places = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)$", text, flags=re.MULTILINE)
    assert len(places) == len(in_nav())
    assert all((ROOT / place).is_file() for place in places)
    # What the summary tells to type is there.
    for command in re.findall(r"`toptune (\w+)", text):
        assert command in toptune.commands
