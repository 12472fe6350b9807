"""Commands and programs of README and docs run as they stand, in order, in a folder with some images."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import MODEL, save_shapes

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The backbone of README's example comes from the hub. The embedded one stands in for it here.
FROM_THE_HUB = "vit_small_patch16_dinov3.lvd1689m"
# The least number of commands and programs of each page, so that no page loses its examples unseen.
LEAST = {
    "README.md": 4,
    "docs/advise.md": 3,
    "docs/backbones.md": 1,
    "docs/costs.md": 5,
    "docs/extract.md": 5,
    "docs/finetune.md": 6,
    "docs/inspect.md": 11,
    "docs/jobs.md": 2,
    "docs/predict.md": 17,
    "docs/regression.md": 7,
    "docs/report.md": 5,
    "docs/several-labels.md": 6,
    "docs/share.md": 2,
    "docs/sources.md": 10,
    "docs/start/install.md": 1,
    "docs/start/python.md": 8,
    "docs/start/your-images.md": 9,
    "docs/store.md": 34,
    "docs/study.md": 3,
    "docs/train.md": 26,
}


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def test_every_page_with_commands_is_run() -> None:
    # What pages for developers show is code to be added, which test_add_a_head.py adds.
    pages = [path for path in ROOT.glob("docs/**/*.md") if "develop" not in path.parts]
    with_blocks = {path.relative_to(ROOT).as_posix() for path in pages if blocks(path.read_text())}
    assert {"README.md", *with_blocks} == set(LEAST)


@pytest.mark.parametrize("name", LEAST, ids=[name.removesuffix(".md") for name in LEAST])
@pytest.mark.timeout(900)
def test_every_command_and_program_runs(
    tmp_path: Path, name: str, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / name).read_text(encoding="utf-8").replace(FROM_THE_HUB, MODEL)
    save_shapes(tmp_path / "photos")
    save_shapes(tmp_path / "other-photos", per_class=3)
    for file, text in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for language, text in blocks(page):
        # In this process, with names of its own: each new process would load torch and timm again.
        if language == "python":
            exec(compile(text, f"program {ran} of the page", "exec"), {"__name__": "__main__"})
            ran += 1
            continue
        for line in text.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "toptune"
            code, out, err = run_cli(*arguments)
            assert code == 0, f"{line}\n{out}\n{err}"
            ran += 1
    assert ran >= LEAST[name]


def test_the_backbone_of_the_first_page_is_one_of_timm() -> None:
    import timm

    assert FROM_THE_HUB in README
    assert FROM_THE_HUB in timm.list_pretrained("vit_small*dinov3*")


def sessions(page: str) -> list[tuple[str, str]]:
    """Return the commands that a page shows with what they print, and what they print there."""
    found = re.findall(r"^```console\n(\$ toptune .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = re.split(r"^\$ (.*)\n", "".join(found), flags=re.MULTILINE)[1:]
    return list(zip(lines[::2], lines[1::2], strict=True))


def words(text: str) -> list[str]:
    """Return the words of an output, with 0 for each number and with files by their last part."""
    found = [word.rpartition("/")[2] for word in text.split()]
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", " ".join(found)).replace(" GB", " MB").split()


def accuracies(text: str) -> list[float]:
    return [float(figure) for figure in re.findall(r"accuracy (\d\.\d+)", text)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the commands and programs on digits run, on one extraction."""
    return tmp_path_factory.mktemp("digits")


def test_the_first_commands_print_what_the_first_page_shows(
    digits: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits)
    session = sessions(README)
    assert len(session) == 3
    for command, shown in session:
        code, out, err = run_cli(*shlex.split(command)[1:])
        assert code == 0, f"{command}\n{out}\n{err}"
        assert words(out) == words(shown), command
        assert accuracies(out) == pytest.approx(accuracies(shown), abs=0.006), command


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("a_store_of_a_team", ["nothing to do: True - 0 units computed", " 0 damaged", "lda 0.99"]),
        ("features_elsewhere", ["(1797, 256) float32", "183 images of a three", "accuracy 0.9", "(1797, 2)"]),
        # Last, because its images are a second data set of the store.
        ("images_to_classifier", ["accuracy ", "003.png digit-3"]),
    ],
)
def test_notebooks_run(
    name: str,
    printed: list[str],
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(digits)
    text = (ROOT / "docs/notebooks" / f"{name}.py").read_text(encoding="utf-8")
    exec(compile(text, f"{name}.py", "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert [each for each in printed if each not in out] == [], out


def test_the_recording_is_of_the_first_commands_and_loads_nothing() -> None:
    from html import unescape

    image = (ROOT / "docs/pictures/terminal.svg").read_text(encoding="utf-8")
    assert len(image) < 200_000
    assert "url(http" not in image
    assert "href=" not in image
    # Each line of the terminal is one element; blanks are those that do not break.
    shown = " ".join(re.findall(r"<text [^>]*>([^<]*)</text>", image))
    shown = " ".join(unescape(shown).replace("\xa0", " ").split())
    for command, _ in sessions(README):
        assert command in shown


def test_the_reference_names_every_command_and_the_first_page_the_make_targets() -> None:
    from toptune.cli import toptune

    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    for name in toptune.commands:
        assert f"toptune {name}" in page, f"docs/reference/commands.md does not mention toptune {name}"
    assert "make demo" in README
    assert "make test" in README


def test_the_first_page_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_page_on_the_store_runs_every_store_command() -> None:
    from toptune.commands.stores.group import store

    page = (ROOT / "docs/store.md").read_text(encoding="utf-8")
    for name in store.commands:
        assert f"\ntoptune store {name} " in page, f"docs/store.md does not run toptune store {name}"
