"""What is published: sdist and wheel, installed in an environment of their own, outside the checkout."""

import email
import json
import os
import runpy
import shlex
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from house import HOUSES, ROOT, sources

import toptune
from toptune.workflows.demonstration import TARGETS

Run = Callable[..., tuple[int, str, str]]
# The script that makes the package lies among its modules, and is none of them.
BUILD = {"setup.py"}
faults = runpy.run_path(str(ROOT / "scripts" / "check_release.py"))["faults"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> set[str]:
    """Files of the checkout that git knows or would know, in the folders of the package and at the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    inside = {name for name in listed if name.split("/")[0] in HOUSES or "/" not in name}
    return {name for name in inside if (ROOT / name).exists()}


def build(folder: Path, hook: str) -> Path:
    """Call a hook of the build backend, as `python -m build` does, which would download the backend."""
    code = f"from setuptools import build_meta; print('made:', build_meta.{hook}('.'), sep='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.rsplit("made:")[-1].strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("packages")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    sdist = build(folder, "build_sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (inside,) = (folder / "unpacked").iterdir()
    return build(inside, "build_wheel")


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `toptune` of a new environment that has the wheel, and sees this one's dependencies."""
    pytest.importorskip("pip", reason="pip is not installed")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # The folders are searched, and files for editable installations in them are not: toptune is the wheel's.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    install = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    python = folder / "bin" / "python"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *install], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "toptune"


def test_a_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shipped = {name.removeprefix("toptune/") for name in names if ".dist-info/" not in name}
    code = {name for name in tracked() if "/" in name or name.endswith((".py", ".pyi"))} | {"py.typed"}
    assert shipped == code - BUILD
    assert {path.relative_to(ROOT).as_posix() for path in sources()} <= shipped, "a room is not shipped"


def test_a_wheel_is_small_and_says_what_it_is(wheel: Path) -> None:
    assert wheel.stat().st_size < 6e6
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == toptune.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    # An address that nobody has filled in appears nowhere.
    places = tomllib.loads((ROOT / "publishing.toml").read_text(encoding="utf-8"))
    urls = metadata.get_all("Project-URL") or []
    assert len(urls) == 3 * bool(places["repository"]) + bool(places["documentation"])


@pytest.mark.timeout(900)
def test_demo_of_the_installed_wheel(
    program: Path, run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [program, "demo", "--out", out, "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert done.stderr.count("$ toptune") == 8
    assert report["n_test"]["digits"] == 599
    assert report["accuracy"]["digits"] >= 0.97
    assert report["accuracy"]["digits"] - report["accuracy_untrained"]["digits"] >= 0.015
    assert report["accuracy"]["greek"] - report["accuracy_untrained"]["greek"] >= 0.2
    assert len(report["predictions"]) == 10
    assert (out / "runs" / "digits" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "predictions.csv").read_text().startswith("path,label,confidence")
    # What ran was the wheel, and not the checkout.
    of_wheel = subprocess.run(
        [program.with_name("python"), "-c", "import toptune; print(toptune.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(of_wheel.stdout.strip()).is_relative_to(program.parents[1])

    # What somebody put beside its own things survives another demo, here of the smaller data set alone.
    monkeypatch.setattr("toptune.workflows.demonstration.TARGETS", {"greek": TARGETS["greek"]})
    (out / "runs" / "mine").mkdir()
    (out / "pictures" / "mine.png").write_bytes(b"mine")
    assert run_cli("demo", "--out", out)[0] == 0
    assert (out / "runs" / "mine").is_dir()
    assert (out / "pictures" / "mine.png").read_bytes() == b"mine"

    # Its commands, typed in another folder, give the same run.
    lines = (out / "commands.sh").read_text().splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("toptune") and "greek" in line]
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.chdir(again)
    for command in commands[:2]:
        assert run_cli(*command[1:])[0] == 0
    metrics = json.loads((again / "runs" / "greek" / "metrics.json").read_text())
    assert metrics["accuracy"] == report["accuracy"]["greek"]


def test_groups_and_extra_of_developers_are_the_same() -> None:
    groups = PROJECT["dependency-groups"]

    def all_of(name: str) -> set[str]:
        found: set[str] = set()
        for each in groups[name]:
            found |= {each} if isinstance(each, str) else all_of(each["include-group"])
        return found

    assert all_of("dev") == set(PROJECT["project"]["optional-dependencies"]["dev"])


def test_every_extra_is_named_by_the_message_that_needs_it() -> None:
    """What an optional command needs is an extra, and the refusal says how to get it."""
    texts = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    for extra in PROJECT["project"]["optional-dependencies"].keys() - {"dev", "docs", "bench", "co2", "gpu"}:
        assert f"toptune[{extra}]" in texts, f"no message names the extra {extra}"


def test_a_release_waits_for_what_a_person_fills_in() -> None:
    places = tomllib.loads((ROOT / "publishing.toml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == toptune.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    # Names and addresses are filled in together.
    filled = [name for name, value in places.items() if value]
    assert len(filled) in (0, len(places)), f"publishing.toml has {filled} only"

    places = {"repository": "https://a.example/b", "documentation": "d", "contact": "c", "authors": ["A B"]}
    whole = citation | {
        "repository-code": "https://a.example/b",
        "authors": [{"given-names": "A", "family-names": "B"}],
    }
    named = {"version": "0.1.0", "changes": "# Changelog\n\n## 0.1.0 (2026-12-24)\n"}
    assert list(faults("v0.1.0", places, whole, **named)) == []
    for other in (
        {"tag": "v0.2.0"},
        {"places": places | {"contact": ""}},
        {"citation": whole | {"version": "0.0.9"}},
        {"citation": citation | {"repository-code": "https://a.example/b"}},
        {"citation": whole | {"repository-code": "https://a.example/c"}},
        {"changes": "## 0.1.0 (unreleased)"},
    ):
        arguments: dict[str, Any] = {"tag": "v0.1.0", "places": places, "citation": whole, **named, **other}
        assert len(list(faults(**arguments))) == 1, other
