"""What the site has beyond `docs/`: pages at the root of the repository, and notebooks. A hook of MkDocs.

A page keeps the path that it has in the repository, without `docs/`, so that one rule turns every link
between files into one between pages. Links to files that are no page, such as source code, become plain text:
the site has no address of a repository to point to.
"""

import ast
import posixpath
import re
from collections.abc import Container
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/RESULTS.md",
)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def linked(markdown: str, path: str, pages: Container[str]) -> str:
    """Return a page whose links lead to pages of the site.

    Parameters
    ----------
    markdown
        Text of the page.
    path
        Path of the page in the repository, with `/`.
    pages
        Paths of the site's files, without `docs/`.

    Examples
    --------
    >>> linked("[a](docs/a.md#b), [code](cli.py), `[c](d.md)`", "README.md", {"a.md"})
    '[a](a.md#b), code, `[c](d.md)`'
    """

    def moved(link: re.Match[str]) -> str:
        image, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        place = place.removeprefix("docs/")
        if place not in pages:
            return text
        here = posixpath.dirname(path.removeprefix("docs/"))
        return f"{image}[{text}]({posixpath.relpath(place, here or '.')}{anchor})"

    # Code is kept aside, because `values[0](page)` is no link. A link around code is one, so that a
    # mark stands in place of the code, with a character that no page has.
    kept: list[str] = []

    def put_aside(code: re.Match[str]) -> str:
        kept.append(code[0])
        return f"\0{len(kept) - 1}\0"

    text = LINK.sub(moved, CODE.sub(put_aside, markdown))
    return re.sub("\0(\\d+)\0", lambda name: kept[int(name[1])], text)


def notebook_page(program: Path) -> str:
    """Return a notebook that is a program with cells (`# %%`) as Markdown."""
    import jupytext

    notebook = jupytext.read(program, fmt="py:percent")
    notebook.metadata = {}
    text = str(jupytext.writes(notebook, fmt="md"))
    # jupytext writes its own header before the page.
    return re.sub(r"\A---\n.*?^---\n+", "", text, flags=re.MULTILINE | re.DOTALL)


def documented(front: str) -> str:
    """Return what mkdocstrings turns into the documentation of a front's public names.

    Parameters
    ----------
    front
        Name of the front, such as ``toptune.store``. Its public names stand in its ``__init__.pyi``.
    """
    room = front.removeprefix("toptune.")
    lines = []
    for node in ast.parse((ROOT / room / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            for name in node.names:
                lines.append(f"::: {front}.{node.module}.{name.name}")
                lines.append(f"    options: {{heading: {front}.{name.asname}, toc_label: {name.asname}}}\n")
    return "\n".join(lines)


def whole_context(command: click.Command) -> click.Context:
    """Return the context in which the terminal shows a command and those below it."""
    settings = {**command.context_settings, "terminal_width": 100}
    return click.Context(command, info_name=command.name, **settings)


def helps(command: click.Command, context: click.Context) -> str:
    """Return what `--help` prints of a command and of all commands below it, a section each.

    The text is that of the terminal. A page that is made from the options alone loses the examples and the
    headings.
    """
    parts = [f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.commands[name]
            parts.append(helps(below, click.Context(below, parent=context, info_name=name)))
    return "\n".join(parts)


def on_files(files, config):  # type: ignore[no-untyped-def]
    """Add the pages that lie elsewhere."""
    from mkdocs.structure.files import File

    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    # The site has the list of its pages where programs look for it.
    files.append(File.generated(config, "llms.txt", content=(ROOT / "llms.txt").read_text(encoding="utf-8")))
    for program in sorted((ROOT / "docs/notebooks").glob("*.py")):
        files.remove(files.get_file_from_path(f"notebooks/{program.name}"))
        files.append(File.generated(config, f"notebooks/{program.stem}.md", content=notebook_page(program)))
    return files


def on_page_markdown(markdown, page, files, **_):  # type: ignore[no-untyped-def]
    """Make the links of a page lead to pages."""
    uri = page.file.src_uri
    path = uri if uri in PAGES else f"docs/{uri}"
    if uri == "reference/python.md":
        markdown = re.sub(r"^::: (\S+)$", lambda front: documented(front[1]), markdown, flags=re.MULTILINE)
    if uri == "reference/command-line.md":
        from toptune.cli import toptune

        markdown += helps(toptune, whole_context(toptune))
    return linked(markdown, path, files.src_uris)
