"""``run.json`` as a typed record: nothing of an older or a newer run is lost."""

import json
from pathlib import Path

import pytest

from toptune.errors import CorruptError, FormatVersionError, InputError
from toptune.train import RunRecord

STORED = sorted((Path(__file__).parents[2] / "stored" / "runs").glob("*/run.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_a_stored_record_is_written_as_it_was(path: Path) -> None:
    record = RunRecord.read(path, advice="train again", needed=())
    assert json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n" == path.read_text("utf-8")


def test_keys_of_newer_and_older_runs_survive() -> None:
    content = json.loads(STORED[0].read_text()) | {"newer": {"a": [1]}, "relabelled": {"labels": "odd.csv"}}
    content["split"]["of_a_newer_toptune"] = 7
    content["cache"]["older"] = None
    record = RunRecord.from_json(content)
    assert record.others == {"newer": {"a": [1]}}
    assert record.relabelled == {"labels": "odd.csv"}
    assert record.to_json() == content


def test_numbers_that_json_lacks_become_null() -> None:
    record = RunRecord(dataset="pets", model="vit", selected={"penalty": float("inf")})
    assert record.to_json()["selected"] == {"penalty": None}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", CorruptError, "cannot be read .* train again"),
        ('{"format": "other"}', InputError, "not of a toptune run"),
        ('{"format": "toptune-run", "version": 99}', FormatVersionError, "of version 99, .* reads 2"),
        ('{"format": "toptune-run", "version": 2}', CorruptError, "lacks dataset; train again"),
        (
            '{"format": "toptune-run", "version": 2, "model": "vit", "dataset": 3}', CorruptError,
            "dataset is 3, where text is expected; train again",
        ),
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused(
    content: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(error, match=message):
        RunRecord.read(tmp_path / "run.json", advice="train again", needed=("dataset",))
