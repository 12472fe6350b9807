"""`json_values`: what is parsed, and what is refused because it is too deep or too large."""

import ast
import json
from pathlib import Path

import pytest

from toptune.store.files.json_values import MAX_JSON_DEPTH, canonical_json, load_json, parse_json

ROOT = Path(__file__).resolve().parents[3]


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, "é"]}', "[]", "3", '"x"', nested(MAX_JSON_DEPTH)])
def test_plain_json_is_parsed(text: str) -> None:
    assert parse_json(text) == json.loads(text)
    assert canonical_json(parse_json(text.encode())) == canonical_json(json.loads(text))


@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize("form", [("[", "]"), ('{"a":', "}"), ('[0,{"b":1,"a":', "}]")])
def test_deep_json_is_a_value_error(depth: int, form: tuple[str, str]) -> None:
    opening, closing = form
    text = opening * depth + "1" + closing * depth
    with pytest.raises(ValueError, match="more than 100 levels deep"):
        parse_json(text)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than the limit"):
        load_json(path)


def test_json_that_others_read_is_written_by_one_module() -> None:
    """Text that this process alone reads again may be written by `json.dumps`; so may what must be light."""
    allowed = {
        # On lower floors than the one writer, or answered before numpy is imported.
        "cli.py", "machine/progress.py", "commands/options/printing.py",
        # Bytes whose digest is stored, in the spelling of the first version; formats with their own spelling.
        "store/files/json_values.py", "store/files/sealed.py", "store/datasets/versions.py",
        "store/arrays/tensor_files.py", "store/exchange/export_formats.py",
        # Keys and checks that no file holds.
        "extract/backbone/build.py", "extract/pipeline/dask_worker.py", "store/datasets/outside_tables.py",
        "workflows/report/method_names.py", "workflows/finetuning/checkpoint.py",
            # In a page, beyond ASCII escaped.
            "workflows/gallery/findings_page.py",
        "workflows/finetuning/run.py", "workflows/predict/finetuned_network.py", "train/runs/sources.py",
    }  # fmt: skip
    rooms = ("commands", "costs", "extract", "machine", "store", "train", "workflows")
    files = [ROOT / "cli.py", *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]
    found = {
        path.relative_to(ROOT).as_posix() for path in files if "json.dump" in path.read_text(encoding="utf-8")
    }
    assert found == allowed


def test_only_one_module_parses_json() -> None:
    """A round trip through text, `json.loads(json.dumps(...))`, parses what this process wrote."""
    allowed = {"store/files/json_values.py", "costs/emissions.py", "extract/pipeline/dask_worker.py"}
    found = set()
    for room in ("commands", "costs", "extract", "machine", "store", "train", "workflows"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "json.load"):
                    inner = node.args[0]
                    own = isinstance(inner, ast.Call) and ast.unparse(inner.func).rpartition(".")[2] in (
                        "dumps", "canonical_json", "to_json", "to_bytes",
                    )  # fmt: skip
                    if not own:
                        found.add(path.relative_to(ROOT).as_posix())
    assert found <= allowed
