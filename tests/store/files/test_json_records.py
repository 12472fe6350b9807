"""Dataclasses as JSON: what is read is checked, and what is written again is what was read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from toptune.errors import CorruptError
from toptune.store.files.json_records import record_from_json, record_to_json


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    share: float = 0.0
    others: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: tuple[Part, ...] = ()
    first: Part | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    is_good: bool | None = None
    seen: int | None = None
    anything: object = None
    others: Mapping[str, object] = field(default_factory=dict)


FULL = {
    "parts": [{"name": "a", "share": 1, "color": "red"}, {"name": "b", "share": 0.5}],
    "first": {"name": "c", "share": 0.25},
    "counts": {"cat": 3},
    "is_good": False,
    "seen": 0,
    "anything": [1, {"deep": None}],
    "newer": {"x": [1, None]},
}


def test_what_was_read_is_written_again() -> None:
    whole = record_from_json(Whole, FULL, where="file")
    assert whole.parts[0] == Part(name="a", share=1, others={"color": "red"})
    assert whole.others == {"newer": {"x": [1, None]}}
    assert record_to_json(whole) == FULL
    assert list(record_to_json(whole)) == list(FULL)


def test_what_is_absent_is_left_out_unless_null_was_asked_for() -> None:
    whole = record_from_json(Whole, {"seen": None}, where="file")
    assert whole == Whole()
    assert record_to_json(whole, nulls=["seen"]) == {"parts": [], "counts": {}, "seen": None}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"parts": {}}, "file: parts is {}, where a list is expected"),
        ({"parts": [{"share": 1}]}, r"file: parts\[0\] lacks name"),
        ({"parts": [{"name": 1}]}, r"file: parts\[0\]: name is 1, where text is expected"),
        ({"first": "c"}, "file: first is 'c', where an object is expected"),
        ({"counts": {"cat": 1.5}}, "file: counts.cat is 1.5, where a whole number is expected"),
        ({"seen": True}, "file: seen is True, where a whole number is expected"),
        ({"is_good": 1}, "file: is_good is 1, where true or false is expected"),
        ({"first": {"name": "c", "share": "1"}}, "file: first: share is '1', where a number is expected"),
    ],
)  # fmt: skip
def test_another_type_is_refused_with_its_name(value: dict[str, object], message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        record_from_json(Whole, value, where="file")
