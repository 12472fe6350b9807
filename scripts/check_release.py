"""Refuse a release whose version or addresses do not stand: ``python scripts/check_release.py v0.1.0``."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def faults(
    tag: str, places: dict[str, Any], citation: dict[str, Any], *, version: str, changes: str
) -> Iterator[str]:
    """Yield what must be mended before a release.

    Parameters
    ----------
    tag : str
        Name of the tag, such as ``v0.1.0``.
    places : dict
        Content of publishing.toml.
    citation : dict
        Content of CITATION.cff.
    version : str
        Version of the package.
    changes : str
        Text of CHANGELOG.md.
    """
    yield from (f"publishing.toml: {name} is empty" for name, value in places.items() if not value)
    if tag.removeprefix("v") != version:
        yield f"the tag is {tag}, and toptune.__version__ is {version}"
    if str(citation["version"]) != version:
        yield f"CITATION.cff names version {citation['version']}, and toptune.__version__ is {version}"
    if places["repository"] and citation.get("repository-code") != places["repository"]:
        yield "CITATION.cff: repository-code is not the repository of publishing.toml"
    if places["authors"]:
        named = [
            each.get("name") or f"{each.get('given-names', '')} {each.get('family-names', '')}".strip()
            for each in citation["authors"]
        ]
        if named != places["authors"]:
            yield f"CITATION.cff names {', '.join(named)}, and publishing.toml {', '.join(places['authors'])}"
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d{{2}}-\d{{2}}\)$", changes, flags=re.MULTILINE):
        yield f"CHANGELOG.md has no heading with the date of version {version}: ## {version} (YYYY-MM-DD)"


def main(tag: str) -> int:
    """Print what must be mended, and return the exit code."""
    text = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("__init__.py", "CHANGELOG.md")}
    version = re.search(r'^__version__ = "(.+)"$', text["__init__.py"], flags=re.MULTILINE)
    found = list(
        faults(
            tag,
            tomllib.loads((ROOT / "publishing.toml").read_text(encoding="utf-8")),
            yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8")),
            version=version[1] if version else "",
            changes=text["CHANGELOG.md"],
        )
    )
    print("\n".join(found) or f"{tag} can be published")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
