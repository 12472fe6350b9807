"""Manifests as other programs write them: separators, names of columns, types, encodings, missing files."""

import json
import os
import unicodedata
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import draw, encode

from toptune.extract import open_source
from toptune.extract.images.remarks import remarks_of
from toptune.store import InputError, Manifest, UnreadableImageError

PNG = encode(draw(0))
COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("p/1.png", "p/2.png", "q/3.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def opened(folder: Path, text: str, name: str = "m.csv", encoding: str = "utf-8") -> Manifest:
    (folder / name).write_bytes(text.encode(encoding))
    return open_source(folder / name).manifest()


def said(file: Path) -> str:
    return "; ".join(map(str, remarks_of(open_source(file))))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "separator", "remark"),
    [
        ("m.csv", ",", ""),
        ("m.csv", ";", "';' between"),
        ("m.txt", "\t", "a tab between"),
        ("m.tsv", "\t", ""),
    ],
)
def test_separators_and_encodings(
    folder: Path, name: str, separator: str, remark: str, encoding: str
) -> None:
    lines = [("path", "label", "site"), ("p/1.png", f" {APART}", '"a;b,c"'), ("p/2.png", "", "x")]
    manifest = opened(folder, "\r\n".join(map(separator.join, lines)), name, encoding)
    assert (manifest.ids, manifest.labels) == (["p/1.png", "p/2.png"], [COMPOSED, None])
    assert manifest.column("site") == ["a;b,c", "x"]
    assert remark in said(folder / name)
    assert bool(remark) == bool(said(folder / name))


def test_a_line_may_tell_the_separator(folder: Path) -> None:
    manifest = opened(folder, '"sep=;"\npath;label,x\np/1.png;"a\nb"\n')
    assert manifest.column("label,x") == ["a\nb"]


@pytest.mark.parametrize(
    ("header", "path", "label"),
    [
        ("Path, Label ", "Path", "Label"),
        ("file_name,Class", "file_name", "Class"),
        ("Image Path,CATEGORY", "Image Path", "CATEGORY"),
    ],
)
def test_columns_of_other_spellings_are_taken_and_said(
    folder: Path, header: str, path: str, label: str
) -> None:
    manifest = opened(folder, f"{header}\np/1.png,a\np/2.png,b \n")
    assert manifest.labels == manifest.column(label) == ["a", "b"]
    assert f"note: 1 column taken for the path ({path})" in said(folder / "m.csv")
    assert f"note: 1 column taken for the label ({label})" in said(folder / "m.csv")


def test_images_without_a_label_are_told_with_the_columns(folder: Path) -> None:
    assert opened(folder, "path,animal\np/1.png,a\np/2.png,b\n").labels == [None, None]
    assert "2 images without a label, which are all of them; --label-column" in said(folder / "m.csv")
    assert "animal" in said(folder / "m.csv")
    assert opened(folder, "path,label\np/1.png,a\np/2.png,b\n").labels == ["a", "b"]
    assert not said(folder / "m.csv")


def test_named_columns_go_before_others(folder: Path) -> None:
    file = folder / "m.csv"
    file.write_text("path, photo,label,kind\nx,p/1.png,a,k\ny,p/2.png,b,\n")
    source = open_source(file, path_column="photo", label_column=" kind")
    assert source.manifest().ids == ["p/1.png", "p/2.png"]
    assert source.manifest().labels == ["k", None]
    assert source.manifest().column("path") == ["x", "y"]
    assert source.manifest().column("kind") == ["k", None]
    assert "with a name of toptune's own (label)" in "; ".join(map(str, remarks_of(source)))
    with pytest.raises(InputError, match="no column 'pohto' for --path-column; its columns are path, photo"):
        open_source(file, path_column="pohto")
    with pytest.raises(InputError, match="'kind' names a column of a list of images"):
        open_source(folder / "p", path_column="kind")
    with pytest.raises(InputError, match="no column 'kind' can be the label; there is no further column"):
        open_source(folder / "p", label_column="kind")


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet", "m.jsonl"])
def test_two_columns_of_one_name_are_refused(folder: Path, name: str) -> None:
    if name == "m.parquet":
        arrays = [pa.array(["p/1.png"]), pa.array(["x"]), pa.array(["y"])]
        pq.write_table(pa.Table.from_arrays(arrays, ["path", "note", "note "]), folder / name)
    elif name == "m.jsonl":
        (folder / name).write_text('{"path": "p/1.png", "note": 1, "note": 2}\n')
    else:
        (folder / name).write_text(
            "path,note,note\np/1.png,x,y\n".replace(",", "\t" if "tsv" in name else ",")
        )
    with pytest.raises(InputError, match="has column 'note' twice"):
        open_source(folder / name)


def test_columns_without_a_name_are_left_out_with_a_word(folder: Path) -> None:
    assert opened(folder, ",,path,label\n0,0,p/1.png,a\n").extra_names == []
    assert "left out: 2 columns without a name" in said(folder / "m.csv")


def test_json_lines(folder: Path) -> None:
    lines = [
        {"file_name": "p/1.png", "label": 3.0, "labels": ["a ", 2], "box": {"x": 1}},
        {"file_name": "p/2.png", "label": None, "labels": [], "site": " s"},
        {"file_name": "q/3.PNG", "label": "NA", "site": ""},
    ]
    manifest = opened(folder, "\n".join(map(json.dumps, lines)), "metadata.jsonl")
    assert manifest.labels == ["3", None, "NA"]
    assert manifest.column("labels") == ["a|2", "", None]
    assert manifest.column("site") == [None, "s", None]
    with pytest.raises(InputError, match=r"line 2, is no JSON"):
        opened(folder, '{"path": "p/1.png"}\n{"path"\n', "bad.jsonl")


def test_types_of_parquet(folder: Path) -> None:
    table = pa.table(
        {
            "path": ["p/1.png", "p/2.png", "q/3.PNG"],
            "label": pa.array([0.0, np.nan, None]),
            "patient": [7, None, 8],
            "visit": pa.array([1.0, np.nan, 2.0], pa.float32()),
            "site": pa.array([f" {APART}", COMPOSED, ""]).dictionary_encode(),
            "is_sick": [True, False, None],
            "weight": [0.5, None, np.inf],
            "price": [Decimal("1.50"), None, Decimal(2)],
            "raw": [b"1", None, b"2"],
        }
    )
    pq.write_table(table, folder / "m.parquet")
    manifest = open_source(folder / "m.parquet").manifest()
    assert manifest.labels == ["0", None, None]
    assert manifest.column("patient") == ["7", None, "8"]
    assert manifest.column("visit") == ["1", None, "2"]
    assert manifest.column("site") == [COMPOSED, COMPOSED, None]
    assert manifest.column("is_sick") == ["True", "False", None]
    # Targets of a regression.
    assert manifest.column("weight") == ["0.5", None, "inf"]
    assert manifest.column("price") == ["1.50", None, "2"]
    assert "1 column of neither text nor numbers, not kept (raw)" in said(folder / "m.parquet")


def test_an_empty_cell_among_several_labels_says_that_none_applies(folder: Path) -> None:
    manifest = opened(folder, "path,labels\np/1.png, a|b \np/2.png,\n")
    assert manifest.column("labels") == ["a|b", ""]
    assert manifest.labels == [None, None]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        (r"p\1.png", r"'p\\1.png' is there as 'p/1.png': a backslash"),
        ("p/1", "is there as 'p/1.png': write the extension too"),
        ("q/3", "is there as 'q/3.PNG'"),
        ("p/1.jpg", "is there as 'p/1.png': correct the extension"),
        (" p/1.png ", "is there as 'p/1.png': take the blanks"),
        (r"C:\data\p\2.png", "is there as 'p/2.png': make the paths relative"),
        ("/home/me/data/p/2.png", "is there as 'p/2.png': make the paths relative"),
        ("p/9.png", "paths are relative to"),
    ],
)
def test_a_missing_file_is_named_as_it_is_there(folder: Path, path: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        opened(folder, f"path,label\n{path},a\n")
    assert hint in str(error.value)
    assert ("is there as" in str(error.value)) == ("is there as" in hint)


def test_a_path_that_is_there_twice(folder: Path) -> None:
    with pytest.raises(InputError, match=r"m\.csv: column 'path' has 'p/1\.png' twice, in rows 0 and 2"):
        opened(folder, "path,label\np/1.png,a\np/2.png,a\np/1.png,b\n")
    with pytest.raises(InputError, match="column 'id' has 'x' twice"):
        opened(folder, "path,id\np/1.png,x\np/2.png,x\n")
    with pytest.raises(InputError, match="are both 'café' once their Unicode form is unified"):
        opened(folder, f"path,id\np/1.png,{APART}\np/2.png,{COMPOSED}\n")


def test_another_encoding_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"not text in UTF-8 \(byte 0xe9"):
        opened(folder, "path,label\np/1.png,café\n", encoding="cp1252")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,label\np/1.png,x\nb.png,"y\nc.png,z\n', r"row that begins in line 3 is not closed; close it"),
        ("path,label\np/1.png,x,\n", "as many cells as the first line has names"),
        ("p/1.png,x\n", "write a first line with the names of the columns, such as path,label"),
        ("path|label\np/1.png|x\n", "put commas, semicolons or tabs between the columns"),
        (
            "path,label\n,x\n",
            "row 0 .* has no path; write the paths into column 'path', or take these rows out",
        ),
        ("path,label\nnone.png,x\n", "put the files there, or take their rows out"),
    ],
)
def test_messages_about_tables_name_the_remedy(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(folder, text)


def test_a_quote_within_a_value_is_an_inch(folder: Path) -> None:
    assert list(opened(folder, 'path,label\np/1.png,5" pipe\n').labels) == ['5" pipe']


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"path": "p/1.png", "label": {"name": "x"}},
            "column 'label' holds lists or objects.*--label-column",
        ),
        ({"path": "p/1.png", "label": ["x"]}, "several labels of an image are a list in a column 'labels'"),
        ({"path": ["p/1.png"]}, "column 'path' holds lists or objects.*--path-column"),
        ({"path": "p/1.png", "labels": [["x"]]}, "column 'labels' holds lists or objects"),
        ({"path": "p/1.png", "split": ["train"]}, "column 'split' holds lists or objects"),
    ],
)
def test_lists_and_objects_are_no_text(folder: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(folder, json.dumps(row), "m.jsonl")


def test_boxes_beside_the_labels_stop_nothing(folder: Path) -> None:
    row = {"path": "p/1.png", "label": "x", "boxes": [[1, 2]], "parts": [{"n": 1}]}
    assert list(opened(folder, json.dumps(row), "m.jsonl").labels) == ["x"]
    assert "2 columns of neither text nor numbers, not kept (boxes, parts)" in said(folder / "m.jsonl")


def test_a_link_that_leads_nowhere_is_a_row_that_cannot_be_read(folder: Path) -> None:
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "m.csv").write_text("path,label\np/1.png,x\ngone.png,y\nloop.png,y\n")
    source = open_source(folder / "m.csv")
    assert source.manifest().ids == ["p/1.png", "gone.png", "loop.png"]
    for row, reason in ((1, "No such file"), (2, "Too many levels")):
        with pytest.raises(UnreadableImageError, match=reason):
            source.read(row)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_names_that_are_no_utf8(folder: Path, name: str) -> None:
    place = folder / os.fsdecode(b"\xff")
    place.mkdir()
    file = place / name
    if name.endswith("parquet"):
        with file.open("wb") as stream:
            pq.write_table(pa.table({"path": ["../p/1.png", "none.png"]}), stream)
    else:
        lines = (
            '{"path": "../p/1.png"}\n{"path": "none.png"}'
            if name == "m.jsonl"
            else "path\n../p/1.png\nnone.png"
        )
        file.write_text(lines)
    with pytest.raises(InputError, match=r"1 of 2 files are missing: 'none\.png'"):
        open_source(file)
