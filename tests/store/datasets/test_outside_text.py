"""One rule for text from outside: every kind of value, and every kind of file."""

import datetime
import json
import os
import unicodedata
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from toptune.commands.options.printing import show
from toptune.store import ConflictError, FeatureStore, InputError, Manifest
from toptune.store.datasets.outside_text import (
    ESCAPES,
    column_names,
    escaped,
    outside_column,
    outside_text,
    read_lines,
    read_outside_text,
)
from toptune.store.datasets.registration import find_version
from toptune.store.features.growth import grow

COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


class Unknown:
    """As pandas' NA, which does not know whether it equals itself."""

    def __eq__(self, other: object) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[
            (" dog\t", "dog"),
            ("\ufeffdog", "dog"),
            (" \ufeff dog\u3000", "dog"),
            (APART, COMPOSED),
            ("007", "007"),
        ],
        *[("NA", "NA"), ("None", "None"), ("nan", "nan"), ("", None), ("\ufeff ", None), (None, None)],
        *[
            (1.0, "1"),
            (2.5, "2.5"),
            (-0.0, "0"),
            (np.float32(0.1), "0.1"),
            (np.int8(3), "3"),
            (2**63, "9223372036854775808"),
        ],
        *[
            (float("nan"), None),
            (np.float16("nan"), None),
            (np.datetime64("NaT"), None),
            (Decimal("NaN"), None),
        ],
        *[
            (Unknown(), None),
            (Decimal("1.00"), "1"),
            (True, "True"),
            (np.bool_(False), "False"),
            (float("inf"), "inf"),
        ],
        *[(APART.encode(), COMPOSED), (b"a\xff ", "a\\xff"), (os.fsdecode(b"\xff\xc3\xa9"), "\\xffé")],
        *[("\ud800", "\\ud800"), (datetime.date(2026, 1, 2), "2026-01-02"), ("new\nline", "new\nline")],
    ],
)
def test_every_kind_of_value(value: object, text: str | None) -> None:
    assert outside_text(value) == text
    assert outside_column([value, value]) == [text, text]
    assert text is None or outside_text(text) == text


def test_blanks_stay_in_ids() -> None:
    assert outside_text(f" {APART} ", keeps_blanks=True) == f" {COMPOSED} "
    assert outside_column([" a", "", 3], keeps_blanks=True) == [" a", None, "3"]


def test_numbers_that_are_equal_stay_what_they_are() -> None:
    assert outside_column([1, True, 1.0, "1", "1.0"]) == ["1", "True", "1", "1", "1.0"]


@pytest.mark.parametrize("value", [["a"], {"a": 1}, {"a"}, np.zeros(2)])
def test_what_is_no_single_value_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="one text or number is needed"):
        outside_text(value)


def test_names_of_columns() -> None:
    assert column_names(["", " path", "\ufefflabel", ""], "m.csv") == [None, "path", "label", None]
    with pytest.raises(InputError, match=r"m\.csv has column 'note' twice"):
        column_names(["note", "path", "note "], "m.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_in_every_marked_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ids.txt").write_bytes(f"{APART}\r\n b\u2028c \r\n  \r\n".encode(encoding))
    assert read_lines(tmp_path / "ids.txt", "list") == {1: COMPOSED, 2: " b\u2028c "}


def test_a_file_in_another_encoding_is_refused_by_its_byte(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes("café".encode("cp1252"))
    with pytest.raises(InputError, match=r"byte 0xe9 at place 3\); save it as UTF-8"):
        read_outside_text(tmp_path / "ids.txt", "list")
    with pytest.raises(InputError, match=r"gone\.txt cannot be read: there is no such file"):
        read_outside_text(tmp_path / "gone.txt", "list")


def test_bytes_have_one_escaped_form() -> None:
    name = os.fsdecode(b"caf\xe9")
    assert escaped(name) == outside_text(b"caf\xe9") == outside_text(name) == "caf\\xe9"
    assert escaped(COMPOSED) == COMPOSED


def manifest(**columns: object) -> Manifest:
    return Manifest.from_columns(**{"ids": ["a", "b"], "sizes": [1, 2], **columns})  # type: ignore[arg-type]


def test_a_manifest_applies_the_rule_to_every_column() -> None:
    found = manifest(
        ids=[f" {APART}.png", 7.0],
        labels=[np.nan, f"{APART} "],
        splits=["\ufefftrain", ""],
        extra={" site ": [1.0, None], "labels": ["", None]},
    )
    assert found.ids == [f" {COMPOSED}.png", "7"]
    assert found.labels == [None, COMPOSED]
    assert found.splits == ["train", None]
    assert found.column("site") == ["1", None]
    assert found.column("labels") == ["", None]


def test_ids_that_become_one_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'cafe\\u0301' and 'caf\\xe9' are both 'café'"):
        manifest(ids=[APART, COMPOSED])
    with pytest.raises(InputError, match="column 'site' twice"):
        manifest(extra={"site": ["a", "b"], "site ": ["a", "b"]})


def test_labels_may_be_those_of_another_column() -> None:
    found = manifest(labels=["x", "y"], extra={"kind": ["p", None], "labels": ["x|y", "y"]})
    assert found.relabeled("kind").labels == ["p", None]
    assert found.relabeled("kind").extra_names == found.extra_names
    for column in ("labels", "kinds"):
        with pytest.raises(InputError, match=f"no column {column!r} can be the label; .*hoose one of kind"):
            found.relabeled(column)


def as_stored_before(found: Manifest, **columns: list[str | None]) -> Manifest:
    """Return a manifest with text as an earlier toptune kept it."""
    table = found.table
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return Manifest(table)


def test_a_data_set_with_older_text_is_adopted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = manifest(
        labels=[f"{APART} ", None], extra={"labels": ["a|b", ""], "site": ["x ", "y"], "visit": [1.0, 2.0]}
    )
    before = as_stored_before(
        now.select(["labels", "site"]), label=[f"{APART} ", ""], labels=["a|b", None], site=[" x", "y"]
    )
    store = FeatureStore.create(tmp_path)
    store.register("pets", before)
    assert find_version(tmp_path, "pets", now).manifest.labels == [f"{APART} ", ""]
    assert "keeps what was read when it was stored" in caplog.text
    assert "extra columns ['labels', 'site'] against ['labels', 'site', 'visit']" in caplog.text
    caplog.clear()
    growth = grow(store, "pets", now)
    assert growth.is_needed
    assert growth.new_part is None
    assert find_version(tmp_path, "pets", now).manifest.labels == [COMPOSED, None]
    assert not caplog.text
    with pytest.raises(ConflictError, match="label differs in 1 row"):
        find_version(
            tmp_path,
            "pets",
            manifest(labels=["other", None], extra={"labels": ["a|b", ""], "site": ["x", "y"]}),
        )


def test_outputs_have_the_escaped_form_too(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    show(True, {"path": name, "é": 1}, "")
    text = capsys.readouterr().out
    assert json.loads(text) == {"path": "caf\\xe9.png", "é": 1}
    assert "é" in text
    assert name.encode("utf-8", ESCAPES) == b"caf\\xe9.png"


def test_messages_quote_bytes_that_are_no_utf8_in_the_one_form() -> None:
    path = os.fsdecode(b"a\xff/\xc3\xa9")
    assert str(InputError(f"{path!r} is missing")) == r"'a\xff/é' is missing"
    # A backslash that belongs to the name is doubled by its quoting, and stays.
    assert str(InputError(f"{'udcff' and chr(92) + 'udcff'!r}")) == r"'\\udcff'"
