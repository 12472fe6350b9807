"""The recipes of containers name no registry and no host, and install what the project says."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = [ROOT / "docs/containers" / name for name in ("Dockerfile", "toptune.def")]
HOST = re.compile(
    r"\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:io|com|org|net|dev|ai|example)\b|://|\blocalhost\b|:\d{2,}"
)


def test_both_recipes_are_there_and_what_is_not_copied() -> None:
    ignored = "Dockerfile.dockerignore"
    assert sorted((ROOT / "docs/containers").iterdir()) == [
        RECIPES[0],
        RECIPES[0].with_name(ignored),
        RECIPES[1],
    ]
    lines = RECIPES[0].with_name(ignored).read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv", "shared"} <= set(lines)
    # Whoever starts a container with --user has no home there, in which weights could be kept.
    assert "ENV HOME=/data" in RECIPES[0].read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_names_no_host_and_no_image(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert HOST.findall(text) == []
    (base,) = re.findall(r"^(?:FROM|From:) *(.*)$", text, flags=re.MULTILINE)
    assert base in ("${BASE}", "{{ BASE }}")
    # The image has no default: whoever builds names it.
    assert re.search(r"BASE *=(?!IMAGE)", text) is None


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_installs_this_project(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"EXTRAS=([\w,-]+)", text):
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert (ROOT / "constraints.txt").is_file()
    assert "constraints.txt" in text
    assert "toptune" in project["scripts"]
    assert re.search(r'ENTRYPOINT \["toptune"\]|exec toptune "\$@"', text)
