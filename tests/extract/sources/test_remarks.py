"""What of DATA is no row is told, whatever the source: counted, with an example, and with what to do."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from containers import MAKERS, make_idx, make_npz, make_parquet, make_saved, png, table, write_tar

from toptune.extract import ImageSource, extract, open_source
from toptune.extract.images.remarks import remarks_of
from toptune.store import InputError

PNG = png(0)
TEXT = b"no image"


def said(source: ImageSource) -> list[str]:
    return [remark.sentence for remark in remarks_of(source) if not remark.is_litter]


def in_folder(root: Path, names: Mapping[str, bytes]) -> Path:
    for name, data in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def in_zip(root: Path, names: Mapping[str, bytes]) -> Path:
    root.mkdir()
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return root / "data.zip"


Put = Callable[[Path, Mapping[str, bytes]], Path]
places = pytest.mark.parametrize("put", [in_folder, in_zip])
CATS = {f"{kind}/{number}.png": PNG for kind in ("cat", "dog") for number in range(2)}


def under(name: str, names: Mapping[str, bytes] = CATS) -> dict[str, bytes]:
    return {f"{name}/{each}": data for each, data in names.items()}


@places
@pytest.mark.parametrize(
    ("names", "remarks"),
    [
        (CATS, []),
        # One kind is one line.
        (CATS | {f"loose{n}.jpg": PNG for n in range(5)},
         ["left out: 5 images beside the class folders (loose0.jpg, loose1.jpg, loose2.jpg, ...); move "
         "them into "
          "a folder to take them"]),
        (under("train") | under("test") | {"test/loose.jpg": PNG, "more.jpg": PNG},
         ["left out: 1 image beside the splits (more.jpg); move them into a folder to take them",
          "left out: 1 image beside the class folders (test/loose.jpg); move them into a folder to take "
          "them"]),
        (CATS | {"cat/0.xml": TEXT, "cat/0.JSON": TEXT, "dog/0.xml": TEXT, "LICENSE": TEXT},
         ["left out: 4 files whose names are not those of images (2 .xml such as cat/0.xml, "
          "1 .json such as cat/0.JSON, 1 no suffix such as LICENSE)"]),
        ({"1.png": PNG, "2.cr3": TEXT, "metadata.csv": TEXT, "labels.jsonl": TEXT},
         ["left out: 2 tables beside the images, not read (labels.jsonl, metadata.csv); where a table "
          "lists the images with their labels, give the table in place of the folder "
          "(.csv, .tsv, .jsonl or .parquet)",
          "left out: 1 file whose names are not those of images (1 .cr3 such as 2.cr3)"]),
        (under("train") | under("test") | {"extra/deep/1.png": PNG, "notes/1.txt": TEXT},
         ["left out: 2 folders beside the splits (extra: 1 image, notes: 0 images); "
          "only folders called train, val or test are splits"]),
        ({"train/1.png": PNG, "test/2.png": PNG, "annotations/1.xml": TEXT},
         ["left out: 1 folder beside the splits (annotations: 0 images); "
          "only folders called train, val or test are splits"]),
        (CATS | {"empty/readme.txt": TEXT},
         ["left out: 1 folder without images (empty: 1 file such as readme.txt)"]),
        (CATS | {".more/1.png": PNG, ".git/x": TEXT, "cat/._0.png": TEXT, "@eaDir/cat/0.png": PNG},
         ["left out: 1 hidden name with a dot in front (.more)"]),
        (CATS | {"features/toptune.json": TEXT, "features/x/y.png": PNG, "cat/run/run.json": TEXT,
                 "cat/run/confusion_matrix.png": PNG},
         ["left out: 2 folders that toptune made (cat/run: a RUN folder, features: a store); keep "
         "stores and runs "
          "beside DATA, not in it"]),
        ({"1.png": PNG, "features/toptune.json": TEXT, "features/x/y.png": PNG},
         ["left out: 1 folder that toptune made (features: a store); keep stores and runs beside DATA, "
         "not in it"]),
        (under("train", CATS | {"run/run.json": TEXT, "run/a.png": PNG}),
         ["left out: 1 folder that toptune made (train/run: a RUN folder); keep stores and runs beside "
         "DATA, not "
          "in it"]),
    ],
)  # fmt: skip
def test_what_is_no_row_is_told(
    tmp_path: Path, put: Put, names: Mapping[str, bytes], remarks: list[str]
) -> None:
    assert said(open_source(put(tmp_path / "photos", names))) == remarks


@places
@pytest.mark.parametrize(
    ("names", "labels", "words"),
    [
        ({"photos/1.png": PNG}, {"photos"}, "taken for the only class (photos); where it is none, give it"),
        (under("top") | {"top/loose.png": PNG}, {"top"},
         "taken for the only class, with the folders top/cat, top/dog in it (top)"),
        (under("train") | {"val/images/1.png": PNG, "test/images/1.png": PNG}, {"cat", "dog", "images"},
         "2 folders taken for classes that no training image has (test/images, val/images)"),
        (under("training_set") | under("test_set"), {"training_set", "test_set"},
         "2 folders taken for classes, by their names splits"),
        ({"train2017/1.jpg": PNG, "val2017/1.jpg": PNG}, {"train2017", "val2017"},
         "where they are splits, rename train2017 to train, val2017 to val"),
        (under("seg_train/seg_train") | under("seg_test/seg_test"), {"seg_train", "seg_test"},
         "rename seg_"),
        (under("site1") | under("site2"), {"site1", "site2"},
         "2 folders taken for classes, which all hold folders of the same names: cat, dog"),
        ({f"{kind}/{split}/1.png": PNG for kind in ("cat", "dog") for split in ("train", "test")},
         {"cat", "dog"}, "splits are folders above the classes"),
        (under("train/site1") | under("train/site2") | {"test/site1/cat/1.png": PNG}, {"site1", "site2"},
         "(train/site1, train/site2)"),
    ],
)  # fmt: skip
def test_classes_that_look_like_splits_or_like_one_level_more_are_told(
    tmp_path: Path, put: Put, names: Mapping[str, bytes], labels: set[str], words: str
) -> None:
    source = open_source(put(tmp_path / "photos", names))
    assert set(source.manifest().labels) == labels
    (remark,) = said(source)
    assert remark.startswith("note: ")
    assert words in remark


@places
@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (under("photos"), {"cat/0.png", "dog/1.png"}),
        (under("a/b") | {"a/README.md": TEXT, "LICENSE": TEXT, "empty/x.txt": TEXT}, {"cat/0.png"}),
        (under("Data/train") | under("Data/test"), {"train/cat/0.png", "test/dog/1.png"}),
        (under("train/images") | under("test/images"), {"train/images/cat/0.png"}),
        (under("photos") | under("store", {"toptune.json": TEXT}), {"cat/0.png"}),
    ],
)
def test_folders_around_the_classes_are_passed_over_with_a_word(
    tmp_path: Path, put: Put, names: Mapping[str, bytes], ids: set[str]
) -> None:
    source = open_source(put(tmp_path / "photos", names))
    assert set(source.manifest().labels) == {"cat", "dog"}
    assert ids <= set(source.manifest().ids)
    assert any("passed over" in remark for remark in said(source))


def test_one_class_of_images_is_no_wrapping(tmp_path: Path) -> None:
    source = open_source(in_folder(tmp_path / "photos", {"cat/1.png": PNG, "cat/more/2.png": PNG}))
    assert source.manifest().labels == ["cat", "cat"]


def test_a_table_beside_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    in_folder(tmp_path, {"train/1.png": PNG, "train.csv": TEXT})
    (remark,) = said(open_source(tmp_path / "train"))
    assert f"not read ({tmp_path / 'train.csv'}); where a table lists the images" in remark


@pytest.mark.parametrize(("name", "kind"), [("toptune.json", "store"), ("run.json", "RUN folder")])
def test_a_store_or_run_is_no_folder_of_images(tmp_path: Path, name: str, kind: str) -> None:
    in_folder(tmp_path / "x", CATS | {name: TEXT})
    with pytest.raises(InputError, match=f"is a {kind} of toptune"):
        open_source(tmp_path / "x")
    with pytest.raises(InputError, match=f"is a {kind} of toptune"):
        open_source(in_zip(tmp_path / "y", {name: TEXT, "1.png": PNG}))


def test_where_nothing_is_left_the_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds no images; .*2 folders without images \(a: 1 file such as 1\.npz, b"
    ):
        open_source(in_folder(tmp_path / "x", {"a/1.npz": TEXT, "b/2.txt": TEXT}))
    with pytest.raises(InputError, match=r"no images among its 1 entries.*1 folder without images"):
        open_source(in_zip(tmp_path / "y", {"a/1.txt": TEXT}))
    with pytest.raises(InputError, match="1 sample without an image"):
        open_source(write_tar(tmp_path / "z.tar", {"1.cr3": TEXT}))


def test_samples_and_members_without_use_are_told(tmp_path: Path) -> None:
    members = {
        "1.png": PNG, "1.cls": b"a", "1.mask.npy": TEXT, "1.txt": b"a", "2.cr3": TEXT, "2.cls": b"b",
        "3.cls": b"c", "nameless": TEXT, "._4.png": TEXT, "__index__": TEXT,
    }  # fmt: skip
    assert said(open_source(write_tar(tmp_path / "d.tar", members))) == [
        "left out: 1 member without an extension, so that its kind is not known (d.tar: nameless)",
        "left out: 2 samples without an image that is known by its extension (2 of d.tar, the first is "
        "2 with "
        ".cr3, .cls)",
        "left out: 2 files whose names are not those of images (1 .mask.npy such as d.tar: 1.mask.npy, "
        "1 .txt "
        "such as d.tar: 1.txt)",
    ]
    members = {"1.png": PNG, "1.json": json.dumps({"category": 3, "width": 2}).encode()}
    (remark,) = said(open_source(write_tar(tmp_path / "e.tar", members)))
    assert "1 member without a field label, of kind .json (1.json has category, width)" in remark
    (remark,) = said(open_source(write_tar(tmp_path / "f.tar", {"cat/1.png": PNG, "dog/1.png": PNG})))
    assert remark.startswith("note: 2 folders in shards without labels, no classes (cat, dog)")


@pytest.mark.parametrize("make", [make_saved, make_parquet, make_idx, MAKERS["tars"]])
def test_files_beside_containers_are_told(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    assert said(open_source(folder)) == []
    (folder / "README.md").write_bytes(TEXT)
    (folder / "labels.csv").write_bytes(TEXT)
    (folder / "old").mkdir()
    remarks = said(open_source(folder))
    assert any("1 table beside" in remark and "labels.csv" in remark for remark in remarks)
    assert any("1 folder beside" in remark and "old" in remark for remark in remarks)
    assert len(remarks) == 2


def test_labels_of_idx_files_without_images_are_told(tmp_path: Path) -> None:
    folder = make_idx(tmp_path)
    for file in folder.rglob("t10k-images*"):
        file.unlink()
    (remark,) = said(open_source(folder))
    assert remark.startswith("left out: 1 file of labels without images (t10k-labels-idx1-ubyte")


def test_arrays_and_columns_without_use_are_told(tmp_path: Path) -> None:
    with np.load(make_npz(tmp_path)) as arrays:
        np.savez(tmp_path / "more.npz", **arrays, features=np.zeros((8, 3)), y_val=np.zeros(4))
    assert said(open_source(tmp_path / "more.npz")) == [
        "left out: 2 arrays neither images nor their labels, by their names (features, y_val)"
    ]
    content = table(range(4)).append_column("score", [[0.5] * 4]).append_column("raw", [[b"x"] * 4])
    pq.write_table(content, tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert source.manifest().column("score") == ["0.5"] * 4
    assert said(source) == ["left out: 1 column with neither text nor numbers, not kept (raw)"]


def test_images_of_no_split_are_told_where_a_split_is_asked_for(tmp_path: Path) -> None:
    in_folder(tmp_path / "p", CATS)
    (tmp_path / "p" / "m.csv").write_text(
        "path,split\ncat/0.png,train\ncat/1.png,\ndog/0.png,test\ndog/1.png,test\n"
    )
    assert said(open_source(tmp_path / "p" / "m.csv", split="train")) == ["left out: 1 image of no split"]


def test_images_without_any_label_are_told_with_the_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_folder(tmp_path / "p", CATS)
    (tmp_path / "p" / "m.csv").write_text("path,kind,site\n" + "".join(f"{path},a,1\n" for path in CATS))
    store = tmp_path / "s"
    dry: Callable[[Path], object] = lambda data: extract(  # noqa: E731
        data, model="random:test_resnet", store=store, img_size=32, dry_run=True
    )
    dry(tmp_path / "p" / "m.csv")
    (record,) = caplog.records
    assert "note: 4 images without a label, which are all of them; --label-column" in record.getMessage()
    assert record.getMessage().endswith(": kind, site [TT012]")
    caplog.clear()
    dry(in_folder(tmp_path / "flat", {"1.png": PNG}))
    assert "1 image without a label, which are all of them; training needs class folders" in caplog.text
    caplog.clear()
    dry(tmp_path / "p")
    assert "without a label" not in caplog.text


def test_extraction_ends_with_what_was_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = in_folder(tmp_path / "photos", CATS | {"loose.png": PNG, ".DS_Store": TEXT})
    summary = extract(folder, model="random:test_resnet", store=tmp_path / "photos" / "store", img_size=32)
    assert [record.getMessage() for record in caplog.records] == [
        "photos: left out: 1 image beside the class folders (loose.png); move them into a folder to take "
        "them [TT003]"
    ]
    found = {each["noun"]: each for each in json.loads(json.dumps(summary.to_dict()))["remarks"]}
    assert found["image"]["examples"] == ["loose.png"]
    assert found["hidden name"]["is_litter"]
    again = extract(folder, model="random:test_resnet", store=tmp_path / "photos" / "store", img_size=32)
    assert again.nothing_to_do
    with pytest.raises(InputError, match="is the folder of the images itself"):
        extract(folder, model="random:test_resnet", store=folder)
    assert "1 folder that toptune made (store: a store)" in caplog.text


def test_images_beside_listed_ones_are_told(tmp_path: Path) -> None:
    """A list of some images says how many others lie in the same folders."""
    in_folder(tmp_path, CATS | {"cat/Late.JPG": PNG, "cat/notes.txt": TEXT, "cat/.hidden.png": PNG})
    in_folder(tmp_path, {"other/far.png": PNG})
    listed = ["cat/0.png", "./cat/../cat/1.png", "dog/0.png"]
    (tmp_path / "some.csv").write_text("path,label\n" + "".join(f"{path},a\n" for path in listed))
    assert said(open_source(tmp_path / "some.csv")) == [
        "left out: 2 images in folders of listed images, but not listed (Late.JPG, 1.png)"
    ]
    rows = [{"path": path, "label": "a"} for path in [*listed, "dog/1.png", "cat/Late.JPG"]]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert said(open_source(tmp_path / "all.jsonl")) == []


def test_a_mask_that_is_taken_for_the_image_is_told(tmp_path: Path) -> None:
    members = {"a.png": PNG, "a.mask.png": PNG, "a.cls": b"x", "b.mask.png": PNG, "b.cls": b"y"}
    source = open_source(write_tar(tmp_path / "t.tar", members))
    assert source.manifest().ids == ["t/a", "t/b"]
    (note,) = [line for line in said(source) if "further extension" in line]
    assert note.startswith("note: 1 sample whose image has a further extension")
    assert "(t.tar: b.mask.png)" in note
