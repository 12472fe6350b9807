"""Images with several labels: kept as a column, and said plainly when a head is asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import make_folder
from shapes import MODEL, save_shapes

from toptune.extract import extract, open_source
from toptune.extract.images.labels import join_labels, split_labels
from toptune.store import InputError, Manifest

Run = Callable[..., tuple[int, str, str]]


def test_text_is_cut_at_bars_and_semicolons() -> None:
    assert split_labels("a| b;c d ;;") == ["a", "b", "c d"]
    assert split_labels(None) == split_labels(" ") == []


def test_one_label_is_the_label_and_none_is_none() -> None:
    assert join_labels([["a", "b"], ["a"], [], None], "x") == (
        [None, "a", None, None],
        ["a|b", "a", "", None],
    )


@pytest.mark.parametrize(
    ("names", "message"), [(["a|b"], r"'a\|b'.*rename"), ([""], "be empty"), (["a", "a"], "twice")]
)
def test_names_that_could_not_be_told_apart_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        join_labels([["c"], names], "somewhere")


def several(
    root: Path, labels: list[str | None], *, as_list: bool = False, own: list[str] | None = None
) -> Manifest:
    folder = make_folder(root)
    files = [str(file) for file in sorted(folder.rglob("*.png"))][: len(labels)]
    columns: dict[str, object] = {"path": files, "labels": labels}
    if as_list:
        columns["labels"] = [None if each is None else each.split(";") for each in labels]
    if own:
        columns["label"] = own
    pq.write_table(pa.table(columns), root / "m.parquet")
    return open_source(root / "m.parquet").manifest()


@pytest.mark.parametrize("as_list", [False, True])
def test_a_manifest_has_them_as_text_or_as_lists(tmp_path: Path, as_list: bool) -> None:
    manifest = several(tmp_path, ["ant;bee", "bee", None], as_list=as_list)
    assert manifest.labels == [None, "bee", None]
    assert manifest.column("labels") == ["ant|bee", "bee", None]


def test_a_label_of_its_own_stays(tmp_path: Path) -> None:
    manifest = several(tmp_path, ["ant|bee", "bee"], own=["wasp", "ant"])
    assert manifest.labels == ["wasp", "ant"]


def test_lists_of_numbers_and_names_with_bars(tmp_path: Path) -> None:
    file = make_folder(tmp_path) / "train" / "ant" / "000.png"
    pq.write_table(pa.table({"path": [str(file)], "labels": [[3, 4]]}), tmp_path / "n.parquet")
    assert open_source(tmp_path / "n.parquet").manifest().column("labels") == ["3|4"]
    pq.write_table(pa.table({"path": [str(file)], "labels": [["x|y"]]}), tmp_path / "n.parquet")
    with pytest.raises(InputError, match="column 'labels': row 0"):
        open_source(tmp_path / "n.parquet")


@pytest.mark.parametrize("split", ["", "train"])
def test_training_says_that_its_heads_take_one_label(run_cli: Run, tmp_path: Path, split: str) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=4)
    rows = [
        f"{file.relative_to(tmp_path)},{file.parent.name}|thing,{split}"
        for file in sorted(photos.rglob("*.png"))
    ]
    (tmp_path / "many.csv").write_text("\n".join(["path,labels,split", *rows]))
    store = tmp_path / "store"
    assert run_cli("extract", tmp_path / "many.csv", "--model", MODEL, "--store", store)[0] == 0
    code, _, err = run_cli(
        "train", "--store", store, "--dataset", "many", "--model", MODEL, "--out", tmp_path / "run"
    )
    assert code == 2
    for words in ("12 images with several labels", "take one label an image", "'cross|thing'", "--update"):
        assert words in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_the_way_out_that_the_message_names_works(run_cli: Run, tmp_path: Path) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=6)
    files = sorted(photos.rglob("*.png"))
    names = [str(file.relative_to(tmp_path)) for file in files]
    head, store = "path,label,labels", tmp_path / "store"
    kinds = [file.parent.name for file in files]
    (tmp_path / "many.csv").write_text(
        "\n".join([head, *(f"{a},,{b}|thing" for a, b in zip(names, kinds, strict=True))])
    )
    extract(tmp_path / "many.csv", model=MODEL, store=store)
    (tmp_path / "many.csv").write_text(
        "\n".join([head, *(f"{a},{b},{b}|thing" for a, b in zip(names, kinds, strict=True))])
    )
    assert extract(tmp_path / "many.csv", model=MODEL, store=store, update=True).units_done == 0
    common = ("--store", store, "--dataset", "many", "--model", MODEL)
    assert run_cli("train", *common, "--cv", "3", "--out", tmp_path / "run")[0] == 0


def test_where_some_have_one_label_training_goes_on_and_says_so(run_cli: Run, tmp_path: Path) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=6)
    rows = [
        f"{file.relative_to(tmp_path)},{file.parent.name}{'|thing' if file.stem == '000' else ''}"
        for file in sorted(photos.rglob("*.png"))
    ]
    (tmp_path / "some.csv").write_text("\n".join(["path,labels", *rows]))
    store, run = tmp_path / "store", tmp_path / "run"
    assert run_cli("extract", tmp_path / "some.csv", "--model", MODEL, "--store", store)[0] == 0
    common = ("--store", store, "--dataset", "some", "--model", MODEL, "--cv", "3", "--out", run)
    assert run_cli("train", *common)[0] == 0
    config = json.loads((run / "run.json").read_text())
    assert config["split"]["n_unlabelled"] == 3
    assert any("3 images with several labels" in warning for warning in config["warnings"])


def test_evaluation_of_images_says_so_too(run_cli: Run, tmp_path: Path) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=6)
    store, run = tmp_path / "store", tmp_path / "run"
    assert run_cli("extract", photos, "--model", MODEL, "--store", store)[0] == 0
    assert (
        run_cli(
            "train", "--store", store, "--dataset", "photos", "--model", MODEL, "--cv", "3", "--out", run
        )[0]
        == 0
    )
    (tmp_path / "many.csv").write_text("path,labels\nphotos/disc/000.png,disc|thing\n")
    code, _, err = run_cli("evaluate", run, "--data", tmp_path / "many.csv")
    assert code == 2
    assert "take one label an image" in " ".join(err.split())
