"""Data sets of Hugging Face: saved to disk as Arrow, and as Parquet files from the hub."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import FEATURES, make_parquet, make_saved, png, table, write_saved

from toptune.extract import open_source
from toptune.extract.images.remarks import remarks_of
from toptune.extract.sources.tables.parquet import GROUPS_IN_MEMORY
from toptune.store import InputError, UnreadableImageError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(*numbers: int) -> pa.Array:
    return pa.array([{"bytes": png(each), "path": None} for each in numbers], STRUCT)


def noted(features: dict[str, object], **columns: object) -> pa.Table:
    return pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def save(file: Path, content: pa.Table, form: str) -> Path:
    """One file a data set, in either form; the path to open."""
    if form == "parquet":
        pq.write_table(content, file.with_suffix(".parquet"))
        return file.with_suffix(".parquet")
    return write_saved(file, content)


both = pytest.mark.parametrize("form", ["arrow", "parquet"])


@both
def test_class_names_come_from_the_features(tmp_path: Path, form: str) -> None:
    source = open_source(save(tmp_path / "beans", table(range(3)), form))
    assert source.name == "beans"
    assert source.manifest().ids == ["00000000", "00000001", "00000002"]
    assert source.manifest().labels == ["ant", "bee", "ant"]
    assert source.read(1) == png(1)


@both
def test_labels_of_every_kind(tmp_path: Path, form: str) -> None:
    features = FEATURES | {"coarse": {"_type": "ClassLabel", "names": ["x", "y"]}, "note": {"_type": "Value"}}
    content = noted(
        features, image=images(0, 1, 2), label=pa.array([1, -1, None]), coarse=pa.array([0, 1, 0]),
        note=pa.array(["a", None, "c"]), weight=pa.array([0.1, 0.2, 0.3]), number=pa.array([1, 2, 3]),
    )  # fmt: skip
    manifest = open_source(save(tmp_path / "d", content, form)).manifest()
    assert manifest.labels == ["bee", None, None]
    assert manifest.extra_names == ["coarse", "note", "weight", "number"]
    assert manifest.column("coarse") == ["x", "y", "x"]
    assert manifest.column("note") == ["a", None, "c"]
    assert manifest.column("weight") == ["0.1", "0.2", "0.3"]


@both
@pytest.mark.parametrize("wrapping", ["Sequence", "List", "brackets"])
def test_several_labels_of_every_version(tmp_path: Path, form: str, wrapping: str) -> None:
    inner = FEATURES["label"]
    feature = [inner] if wrapping == "brackets" else {"_type": wrapping, "feature": inner}
    content = noted(
        {"image": FEATURES["image"], "labels": feature},
        image=images(0, 1, 2), labels=pa.array([[0, 1], [1], []], pa.list_(pa.int64())),
    )  # fmt: skip
    manifest = open_source(save(tmp_path / "d", content, form)).manifest()
    assert manifest.labels == [None, "bee", None]
    assert manifest.column("labels") == ["ant|bee", "bee", ""]


@both
def test_without_features_the_types_decide(tmp_path: Path, form: str) -> None:
    content = pa.table({"img": images(0, 1), "fine_label": ["cat", "dog"], "coarse_label": ["p", "p"]})
    manifest = open_source(save(tmp_path / "d", content.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {}}})}), form)).manifest()  # fmt: skip
    assert manifest.labels == ["cat", "dog"]
    assert manifest.column("coarse_label") == ["p", "p"]


@both
def test_a_row_without_a_image_keeps_its_place(tmp_path: Path, form: str) -> None:
    holes = pa.array([None, {"bytes": png(1), "path": "x"}, {"bytes": None, "path": None}], STRUCT)
    source = open_source(save(tmp_path / "d", noted(FEATURES, image=holes, label=pa.array([0, 1, 0])), form))
    assert source.manifest().n_rows == 3
    assert source.read(1) == png(1)
    for row in (0, 2):
        with pytest.raises(UnreadableImageError, match="no image"):
            source.read(row)


@both
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"left": images(0), "right": images(1)}, r"2 columns of images \(left, right\).*call one of them"),
        ({"label": pa.array([0])}, "no column 'path'|0 columns of images"),
        ({"image": images(0), "label": pa.array([5])}, "has the label 5, and its features name 2 classes"),
    ],
)
def test_tables_that_cannot_be_used(
    tmp_path: Path, form: str, columns: dict[str, object], message: str
) -> None:
    path = save(tmp_path / "d", noted(FEATURES, **columns), form)
    with pytest.raises(InputError, match=message):
        open_source(path)


@both
def test_paths_without_bytes_are_refused(tmp_path: Path, form: str) -> None:
    content = noted(
        FEATURES, image=pa.array([{"bytes": None, "path": "/a/b.png"}], STRUCT), label=pa.array([0])
    )
    path = save(tmp_path / "d", content, form)
    with pytest.raises(InputError, match=r"1 rows of column 'image' .* do not hold their bytes; embed them"):
        open_source(path)


def test_a_saved_data_set_of_one_split(tmp_path: Path) -> None:
    source = open_source(write_saved(tmp_path / "d", table(range(3)), split="validation"))
    assert source.manifest().splits == ["val"] * 3
    assert source.manifest().ids[0] == "validation/00000000"


def test_splits_of_other_names_stay_in_the_ids(tmp_path: Path) -> None:
    write_saved(tmp_path / "d" / "unsupervised", table(range(2)))
    write_saved(tmp_path / "d" / "train", table(range(2)))
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "unsupervised"]}')
    source = open_source(tmp_path / "d")
    manifest = source.manifest()
    assert "unsupervised" in str(remarks_of(source)[0])
    assert manifest.splits == ["train", "train", None, None]
    assert manifest.ids[2] == "unsupervised/00000000"


def test_only_the_files_that_the_state_names_are_read(tmp_path: Path) -> None:
    folder = write_saved(tmp_path / "d", table(range(4)), n_files=2)
    (folder / "cache-123.arrow").write_bytes(b"left by map()")
    assert open_source(folder).manifest().n_rows == 4
    assert open_source(folder / "data-00001-of-00002.arrow").read(0) == png(2)
    (folder / "data-00000-of-00002.arrow").unlink()
    with pytest.raises(InputError, match="data-00000-of-00002"):
        open_source(folder)


def test_a_selection_by_index_is_refused(tmp_path: Path) -> None:
    folder = write_saved(tmp_path / "d", table(range(2)))
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(InputError, match="flatten_indices"):
        open_source(folder)


def test_arrow_files_cut_off_or_damaged(tmp_path: Path) -> None:
    folder = write_saved(tmp_path / "d", table(range(4)))
    file = folder / "data-00000-of-00001.arrow"
    data = file.read_bytes()
    for length in (0, 4, 300, len(data) // 2, len(data) - 200):
        file.write_bytes(data[:length])
        with pytest.raises(InputError, match="cut off, damaged or no Arrow file"):
            open_source(folder)


def test_arrow_is_mapped_and_not_loaded(tmp_path: Path) -> None:
    folder = write_saved(tmp_path / "d", table(range(4)))
    before = pa.total_allocated_bytes()
    source = open_source(folder)
    assert source.manifest().sizes.sum() > pa.total_allocated_bytes() - before - 4096


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001-abc123"], [*"tttv"]),
        (["data/train-00000-of-00001", "data/test-00000-of-00001"], [*"xt"]),
        (["train/0000", "test/0000"], [*"xt"]),
        (["part-0", "part-1"], [None] * 2),
    ],
)
def test_the_hubs_layouts_of_parquet(tmp_path: Path, names: list[str], splits: list[str | None]) -> None:
    for number, name in enumerate(names):
        file = tmp_path / "d" / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(range(number, number + (2 if name.endswith("1-of-00002") else 1))), file)
    manifest = open_source(tmp_path / "d").manifest()
    letters = {"t": "train", "v": "val", "x": "test", None: None}
    assert manifest.splits == [letters[each] for each in splits]
    assert len(set(manifest.ids)) == len(splits)


def test_parquet_is_read_a_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toptune.extract.sources.tables.parquet import ParquetSource

    source = open_source(make_parquet(tmp_path))
    loads: list[int] = []
    load = ParquetSource._load

    def count(self: ParquetSource, number: int) -> object:
        loads.append(number)
        return load(self, number)

    monkeypatch.setattr(ParquetSource, "_load", count)
    for row in range(8):
        source.read(row)
    assert loads == [0, 1, 2, 3]
    assert len(source._loaded) == GROUPS_IN_MEMORY  # type: ignore[attr-defined]


def test_parquet_cut_off_damaged_or_of_huge_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "d.parquet"
    pq.write_table(table(range(4)), file, row_group_size=2, compression="snappy", use_dictionary=False)
    data = file.read_bytes()
    place = data.index(png(1)[40:60])
    file.write_bytes(data[:100])
    with pytest.raises(InputError, match="cannot be read"):
        open_source(file)
    file.write_bytes(data[: place - 60] + os.urandom(30) + data[place - 30 :])
    source = open_source(file)
    assert source.manifest().n_rows == 4
    assert source.read(3) == png(3)
    monkeypatch.setattr("toptune.extract.sources.tables.parquet.MAX_GROUP_BYTES", 1000)
    with pytest.raises(InputError, match=r"smaller ones.*row_group_size"):
        open_source(file)


@pytest.mark.parametrize("n_good", [0, 1])
def test_a_cut_off_file_among_others_is_not_passed_over(tmp_path: Path, n_good: int) -> None:
    folder = make_parquet(tmp_path)
    files = sorted((folder / "data").iterdir())
    for file in files[: len(files) - n_good]:
        file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"00000-of-00001\.parquet is cut off"):
        open_source(folder)


def test_both_forms_hold_the_same_images(tmp_path: Path) -> None:
    saved, hub = open_source(make_saved(tmp_path)), open_source(make_parquet(tmp_path))
    one = {name: saved.read(row) for row, name in enumerate(saved.manifest().ids)}
    assert one == {name: hub.read(row) for row, name in enumerate(hub.manifest().ids)}
    assert np.unique([len(each) for each in one.values()]).size > 1


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_blanks_are_taken_off_the_names_of_columns(tmp_path: Path, form: str) -> None:
    columns = {" label ": ["a ", "b"], "site ": ["x", "y"], "split": ["p", "q"]}
    content = noted({}, image=images(0, 1), **columns)
    file = save(tmp_path / "t", content, form)
    source = open_source(file)
    assert list(source.manifest().labels) == ["a", "b"]
    assert source.manifest().column("site") == ["x", "y"]
    assert [remark.sentence for remark in remarks_of(source)] == [
        "left out: 1 column with a name of toptune's own (split); rename it"
    ]
    assert list(open_source(file, label_column="site").manifest().labels) == ["x", "y"]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_names_of_classes_that_are_no_list_or_are_one(tmp_path: Path, form: str) -> None:
    kind = {"_type": "ClassLabel", "names": 5}
    columns = {"image": images(0, 1), "label": [0, 1]}
    with pytest.raises(InputError, match="have 5 for the names of classes, which are a list"):
        open_source(save(tmp_path / "t", noted({"label": kind}, **columns), form))
    source = open_source(
        save(tmp_path / "u", noted({"label": kind | {"names": ["dog", "dog "]}}, **columns), form)
    )
    assert list(source.manifest().labels) == ["dog", "dog"]
    assert "1 class of several names that are one" in str(*remarks_of(source))
