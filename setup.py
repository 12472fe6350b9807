"""What pyproject.toml cannot say: the rooms of the package, and addresses that a person fills in."""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildModules(build_py):
    """Take the modules at the root but for this script, which lies there because the root is the package."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return ``(package, module, file)`` for each module of a package."""
        return [each for each in super().find_package_modules(package, package_dir) if each[1] != "setup"]


places = tomllib.loads(Path(__file__).with_name("publishing.toml").read_text(encoding="utf-8"))
repository, documentation = places["repository"].rstrip("/"), places["documentation"]
urls = {"Documentation": documentation} if documentation else {}
if repository:
    urls |= {
        "Repository": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }
setup(
    # Rooms are the folders with an `__init__.py`. The root of the repository is the package itself, which a
    # search below pyproject.toml cannot express.
    packages=["toptune", *(f"toptune.{room}" for room in find_packages())],
    project_urls=urls,
    cmdclass={"build_py": BuildModules},
)
