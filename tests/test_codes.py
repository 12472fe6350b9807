"""Codes of notes, warnings and refusals: texts, table and page hold together, and notes can be ignored."""

import ast
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import ROOT, sources, tree_of
from shapes import MODEL, draw_shape, save_shapes

from toptune import errors
from toptune.cli import run
from toptune.codes import CODES, REFUSALS, WARNINGS, code_of, with_code, without_code
from toptune.errors import InputError, StoreError, ToptuneError
from toptune.train.reports.notes import gather_notes

Run = Callable[..., tuple[int, str, str]]
PAGE = (ROOT / "docs/reference/warnings.md").read_text(encoding="utf-8")
CODE = re.compile(r"\bTT\d{3}\b")
# What a remark says is put together by its class, which adds the code.
SAID_ELSEWHERE = ("extract/images/remarks.py",)


def texts(path: Path) -> Iterator[str]:
    """Yield the strings of a module that are no docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def used() -> dict[str, set[str]]:
    """Return the codes that the code gives, with the files that give each."""
    found: dict[str, set[str]] = {}
    for path in sources():
        # Help and examples name codes, and give none.
        if path.name not in {"codes.py", "ignoring.py"}:
            for text in texts(path):
                for code in CODE.findall(text):
                    found.setdefault(code, set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_the_code_gives_the_codes_of_the_table_and_no_others() -> None:
    given = used()
    assert given.keys() - CODES.keys() == set(), "codes that the table of codes.py lacks"
    assert CODES.keys() - given.keys() == set(), "codes that nothing gives"
    assert list(WARNINGS) == sorted(WARNINGS)
    assert list(REFUSALS) == sorted(REFUSALS)


def test_the_page_has_a_section_for_each_code_and_no_others() -> None:
    sections = dict(re.findall(r"^### (TT\d{3}): (.*)$", PAGE, flags=re.MULTILINE))
    assert sections == CODES
    assert list(sections) == list(CODES), "sections stand in the order of the codes"
    for section in PAGE.split("\n### ")[1:]:
        code, text = section[:5], " ".join(section.split())
        assert "**What to do:**" in text, f"{code} says what to do"
        assert ("**It matters**" in text) == (code in WARNINGS), f"{code} says when it matters"


def is_coded(node: ast.AST) -> bool:
    """Whether a text that is written in place, with its conditions, ends with a code."""
    if isinstance(node, ast.JoinedStr):
        return bool(node.values) and is_coded(node.values[-1])
    return isinstance(node, ast.Constant) and code_of(str(node.value)) is not None


def test_every_warning_and_note_has_a_code() -> None:
    assert [each for path in sources() for each in uncoded(path)] == []


def uncoded(path: Path) -> Iterator[str]:
    """Yield the warnings and notes of a file that have no code, such as [TT012], at their end."""
    if path.relative_to(ROOT).as_posix() in SAID_ELSEWHERE:
        return
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        owner = ast.unparse(node.func.value)
        is_warning = owner == "logger" and node.func.attr == "warning"
        is_note = node.func.attr == "append" and re.search(r"(^|[._])(notes|warnings)$", owner) is not None
        if not (is_warning or is_note):
            continue
        if not is_coded(node.args[0]) and "record.warnings" not in ast.unparse(node.args[0]):
            yield f"{path}:{node.lineno} {ast.unparse(node)}"


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ToptuneError)
    ]
    codes = [vars(kind)["code"] for kind in kinds]
    assert len(set(codes)) == len(kinds) > 10
    assert set(codes) <= REFUSALS.keys()
    error = InputError("x", option="head", code="TT902")
    assert (error.code, InputError("x").code, StoreError("y").code) == ("TT902", "TT901", "TT905")
    assert str(error) == "x"
    assert error.__notes__ == ["[TT902]"]
    assert error._render_traceback_() == ["InputError: x [TT902]"]


def test_a_code_stands_at_the_end() -> None:
    assert with_code("3 images [TT001]", "TT012") == "3 images [TT012]"
    assert without_code("3 images [TT001]") == "3 images"
    assert code_of("[TT001] 3 images") is None


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, one of which lies beside the class folders, and their stored features."""
    folder = tmp_path_factory.mktemp("codes")
    save_shapes(folder / "photos")
    draw_shape("disc", 0).save(folder / "photos" / "stray.png")
    assert run(["extract", str(folder / "photos"), "--model", MODEL, "--store", str(folder / "store")]) == 0
    return folder


def test_notes_are_printed_with_their_codes(stored: Path, run_cli: Run, tmp_path: Path) -> None:
    train = ("train", "--store", stored / "store", "--head", "ridge", "--val", "test")
    code, out, _ = run_cli(*train, "--out", tmp_path / "run")
    assert code == 0
    assert "note: val 'test' is not used: the data set has no split val [TT304]" in out
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]
    assert "TT304" in [code_of(text) for text in recorded]
    code, out, err = run_cli(
        "--ignore", "TT401", *train, "--ignore", "TT304,TT402", "--out", tmp_path / "again"
    )
    assert code == 0
    assert "TT304" not in out
    assert re.search(r"^\d notes? ignored: TT304 1 x", err, flags=re.MULTILINE)
    kept = json.loads((tmp_path / "again" / "run.json").read_text())["warnings"]
    assert kept == recorded, "files stay whole"
    code, out, err = run_cli(*train, "--json", "--ignore", "TT304", "--out", tmp_path / "json")
    assert "TT304" not in json.dumps(json.loads(out)["warnings"])
    assert "1 note ignored: TT304 1 x" in err


def test_warnings_of_images_are_ignored_in_logs_and_json(
    stored: Path, run_cli: Run, caplog: pytest.LogCaptureFixture
) -> None:
    extract = (
        "extract",
        stored / "photos",
        "--model",
        MODEL,
        "--store",
        stored / "store",
        "--dry-run",
        "--json",
    )
    code, out, err = run_cli(*extract)
    assert code == 0
    assert [each["code"] for each in json.loads(out)["remarks"]] == ["TT003"]
    assert any(code_of(record.getMessage()) == "TT003" for record in caplog.records)
    assert "ignored" not in err
    caplog.clear()
    code, out, err = run_cli(*extract, "--ignore", "TT003")
    assert json.loads(out)["remarks"] == []
    assert not caplog.records
    assert "2 notes ignored: TT003 2 x" in err


def test_codes_that_cannot_be_ignored_are_refused(run_cli: Run) -> None:
    code, _, err = run_cli("doctor", "--ignore", "TT030")
    assert code == 2
    assert "'TT030' is no code; the nearest is TT023: Rows are boxes of images" in " ".join(err.split())
    code, _, err = run_cli("doctor", "--ignore", "TT901")
    assert code == 2
    assert "a code is such as TT012" in run_cli("doctor", "--ignore", "edges")[2]
    assert "TT901 is a refusal (An input cannot be used)" in err


def test_refusals_have_their_codes(run_cli: Run, tmp_path: Path) -> None:
    code, out, err = run_cli("store", "ls", "--store", tmp_path / "none", "--json")
    assert (code, json.loads(out)["code"]) == (2, "TT906")
    assert err.rstrip().endswith("[TT906]")
    assert "TT" not in json.loads(out)["error"]
    save_shapes(tmp_path / "photos", per_class=1)
    arguments = ("extract", tmp_path / "photos", "--model", "resnet", "--store", tmp_path / "store", "--json")
    code, out, err = run_cli(*arguments)
    assert (code, json.loads(out)["code"]) == (2, "TT901")
    assert err.rstrip().endswith("[TT901]")


def test_a_study_counts_the_trainings_of_each_code() -> None:
    edge = "the chosen penalty {} is at the edge of its grid [TT401]"
    found = gather_notes(
        [
            ("ridge", [edge.format(1), "the chosen width 3 is at the edge of its grid [TT401]"]),
            ("falkon", [edge.format(2), "an older note"]),
            ("lda", []),
        ]
    )
    assert found.codes == {"TT401": 2}
    assert found.different[0].code == "TT401"
    assert found.lines()[-1] == "trainings by code: TT401 2"
    assert all(code_of(line) == "TT401" for line in found.lines()[1:3])


def test_a_handler_is_left_as_it_was(run_cli: Run) -> None:
    before = [*logging.getLogger().handlers]
    filters = [[*each.filters] for each in before]
    run_cli("doctor", "--ignore", "TT001", "--json")
    assert [[*each.filters] for each in before] == filters
