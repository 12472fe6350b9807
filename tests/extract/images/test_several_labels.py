"""Images with several labels: kept as a column, learned together, and refused where a head takes one."""

import json
import re
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


# Every image has its shape's label, and every second one "thing" as well.
def listed(root: Path, *, split: str = "", own: bool = False, n_without: int = 0) -> Path:
    """Write ``many.csv``, of which column ``label`` has the shape where `own`, from row `n_without` on."""
    rows = ["path,label,labels,split"]
    for place, file in enumerate(sorted((root / "photos").rglob("*.png"))):
        kind = file.parent.name
        labels = f"{kind}|thing" if place % 2 else kind
        label = kind if own and place >= n_without else ""
        rows.append(f"{file.relative_to(root)},{label},{labels},{split}")
    (root / "many.csv").write_text("\n".join(rows))
    return root / "many.csv"


@pytest.fixture
def common(tmp_path: Path) -> tuple[str | Path, ...]:
    save_shapes(tmp_path / "photos", per_class=6)
    return ("--store", tmp_path / "store", "--dataset", "many", "--model", MODEL, "--out", tmp_path / "run")


@pytest.mark.parametrize("split", ["", "train"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "classification"), ("have several labels", "multilabel is taken", "--label-column")),
        (("--head", "lda"), ("head 'lda' does not know --task multilabel", "the heads that do are")),
    ],
    ids=str,
)
def test_what_takes_one_label_an_image_says_so(
    run_cli: Run,
    common: tuple[str | Path, ...],
    tmp_path: Path,
    split: str,
    options: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    extract(listed(tmp_path, split=split), model=MODEL, store=tmp_path / "store")
    code, _, err = run_cli("train", *common, *options)
    assert code == 2
    for each in words:
        assert each in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_the_way_out_that_the_message_names_works(
    run_cli: Run, common: tuple[str | Path, ...], tmp_path: Path
) -> None:
    extract(listed(tmp_path), model=MODEL, store=tmp_path / "store")
    listed(tmp_path, own=True)
    assert extract(tmp_path / "many.csv", model=MODEL, store=tmp_path / "store", update=True).units_done == 0
    one = ("--task", "classification", "--label-column", "label")
    assert run_cli("train", *common, *one, "--cv", "3")[0] == 0
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    assert config["split"]["n_unlabelled"] == 0
    assert set(config["classes"]) == {"cross", "disc", "square"}


def test_several_labels_are_learned_without_being_asked_for(
    run_cli: Run, common: tuple[str | Path, ...], tmp_path: Path
) -> None:
    extract(listed(tmp_path), model=MODEL, store=tmp_path / "store")
    code, _, err = run_cli("train", *common, "--cv", "3")
    assert code == 0
    assert "task: multilabel, because of the data set's labels" in err
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    assert config["task"] == "multilabel"
    # An image with one label is a row like those with several.
    assert config["split"]["n_unlabelled"] == 0
    assert set(config["classes"]) == {"cross", "disc", "square", "thing"}


def test_a_label_that_every_image_has_is_refused(
    run_cli: Run, common: tuple[str | Path, ...], tmp_path: Path
) -> None:
    csv = listed(tmp_path)
    text = csv.read_text().replace("|thing", "")
    csv.write_text(re.sub("(cross|disc|square),$", r"\1|thing,", text, flags=re.MULTILINE))
    extract(csv, model=MODEL, store=tmp_path / "store")
    code, _, err = run_cli("train", *common)
    assert code == 2
    assert "nothing to learn of such a label" in " ".join(err.split())
    assert "thing" in err
    assert not (tmp_path / "run").exists()


def test_where_some_have_one_label_training_for_one_goes_on_and_says_so(
    run_cli: Run, common: tuple[str | Path, ...], tmp_path: Path
) -> None:
    extract(listed(tmp_path, own=True, n_without=3), model=MODEL, store=tmp_path / "store")
    one = ("--task", "classification", "--label-column", "label")
    assert run_cli("train", *common, *one, "--cv", "3")[0] == 0
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    # Of the rows without a label of their own, row 1 has several; rows 0 and 2 have one, which is the label.
    assert config["split"]["n_unlabelled"] == 1
    assert any("1 image with several labels" in warning for warning in config["warnings"])


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
    assert "this head takes one label an image" in " ".join(err.split())
