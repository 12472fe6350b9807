"""What a person decided about images is read strictly, and counts in every split."""

import json
from pathlib import Path
from typing import Any

import pytest

from toptune.store import InputError, Manifest
from toptune.train.rows.chosen_rows import choose_rows
from toptune.train.rows.decisions import Decisions
from toptune.train.rows.options import RowOptions

IDS = [f"g{row // 2}_{row}" for row in range(40)]


def manifest(**more: Any) -> Manifest:
    return Manifest.from_columns(ids=IDS, labels=["a", "b"] * 20, sizes=[1] * 40, **more)


def written(folder: Path, text: str, name: str = "decisions.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(
    "text",
    [
        "id,decision,label\ng0_0,exclude,\ng0_1,keep,\ng1_2,exclude,\n",
        "g0_0\n\ng1_2\n",
        "id\ng0_0\ng1_2\n",
        # A finding may suggest a class that is called "exclude"; a copy is told as two kinds.
        "id,kind,score,related,suggestion,leak\ng0_0,duplicate,1,g0_1,exclude,\ng0_1,duplicate,1,g0_0,keep,\n"
        "g0_0,near-duplicate,1,g0_1,exclude,\ng1_3,label,0.9,,exclude,\ng1_2,image,1,,exclude,\n",
    ],
)
def test_images_are_excluded_and_the_others_stay_on_their_side(text: str, tmp_path: Path) -> None:
    before = choose_rows(manifest(), RowOptions(), cv=5)
    rows = choose_rows(manifest(), RowOptions(exclude=written(tmp_path, text)), cv=5)
    assert rows.options.decisions.excluded == {"g0_0", "g1_2"}
    gone = {0, 2}
    assert set(rows.split.train.tolist()) == set(before.split.train.tolist()) - gone
    assert set(rows.split.test.tolist()) == set(before.split.test.tolist()) - gone
    assert (rows.split.n_excluded, rows.split.n_unlabelled) == (2, 0)
    assert rows.notes == [f"2 images excluded by {tmp_path / 'decisions.csv'} [TT307]"]


def test_labels_are_those_that_were_decided(tmp_path: Path) -> None:
    path = written(tmp_path, "id,decision,label\ng0_0,relabel,b\ng0_1,exclude,\n")
    decisions = RowOptions(exclude=path, relabel_with=path).decisions
    assert decisions.relabel is not None
    changed = decisions.relabel(manifest())
    assert (changed.labels[:3], manifest().labels[:3]) == (["b", "b", "a"], ["a", "b", "a"])
    assert changed.pictures_digest == manifest().pictures_digest
    rows = choose_rows(changed, RowOptions(exclude=path, relabel_with=path), cv=5)
    assert rows.notes == [f"1 image excluded by {path} [TT307]", f"1 image relabeled by {path} [TT307]"]
    told = Decisions.read(exclude=path).notes
    assert told == (f"not used: 1 decision of {path} to relabel, which --relabel-with takes [TT308]",)
    assert Decisions.read(relabel_with=path).notes[0].endswith("which --exclude takes [TT308]")


@pytest.mark.parametrize("name", ["findings.json", "findings.csv", "groups.csv"])
def test_copies_stay_on_one_side_and_in_one_fold(name: str, tmp_path: Path) -> None:
    groups = [[f"g{row // 2}_{row}" for row in (start, start + 7)] for start in range(0, 24, 3)]
    tables = {
        "findings.json": json.dumps({"groups": [{"kind": "duplicate", "ids": ids} for ids in groups]}),
        "findings.csv": "id,kind,score,related,suggestion,leak\n"
        + "".join(f"{one},near-duplicate,1,{two},keep,\n{two},near-duplicate,1,{one},keep,\n"
                  for one, two in groups)
        + "g19_39,label,1,g19_38,b,\n",
        "groups.csv": "id,group\n" + "".join(f"{i},{at}\n" for at, ids in enumerate(groups) for i in ids),
    }  # fmt: skip
    path = written(tmp_path, tables[name], name)
    for group_by in (None, "^(g[0-9]+)_"):
        rows = choose_rows(manifest(), RowOptions(keep_together=path, group_by=group_by), cv=3)
        side = dict.fromkeys(rows.split.train.tolist(), "train") | dict.fromkeys(rows.split.test, "test")
        fold = dict(zip(rows.split.train.tolist(), rows.folds.numbers.tolist(), strict=True))
        for ids in groups:
            members = [IDS.index(image) for image in ids]
            assert len({(side[row], fold.get(row)) for row in members}) == 1
        # Images of one group are joined by copies to those of another.
        assert len(set(rows.groups)) < len(set(choose_rows(manifest(), RowOptions(), cv=3).groups))
        assert any(note.startswith("16 images kept together in 8 groups") for note in rows.notes)
        if group_by is not None:
            assert rows.groups[0] == rows.groups[1] == rows.groups[6] == rows.groups[7]
    assert "8 groups of copies kept together" in rows.split.rule


def test_copies_cannot_be_moved_across_a_named_split(tmp_path: Path) -> None:
    named = manifest(splits=["train"] * 30 + ["test"] * 10)
    path = written(tmp_path, "id,group\ng0_0,1\ng19_39,1\n", "groups.csv")
    with pytest.raises(InputError, match=r"1 group of copies .* 'g0_0' train; exclude these"):
        choose_rows(named, RowOptions(keep_together=path), cv=5)
    out = written(tmp_path, "g0_0\n", "out.txt")
    rows = choose_rows(named, RowOptions(keep_together=path, exclude=out), cv=5)
    assert len(rows.split.train) == 29


def test_decisions_are_written_and_read_again(tmp_path: Path) -> None:
    path = written(tmp_path, 'id,decision,label,group\n"a,1",exclude,,0\nb,relabel," x, y",\nc,keep,,0\n')
    decisions = Decisions.read(exclude=path, relabel_with=path, keep_together=path)
    again = Decisions.saved(Path(written(tmp_path, decisions.to_csv(), "again.csv")), decisions.files)
    assert again.excluded == {"a,1"}
    assert again.labels == {"b": "x, y"}
    assert again.groups == decisions.groups == (("a,1", "c"),)
    assert again.files == decisions.files


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("exclude", "", "holds no decision; the page of toptune inspect saves"),
        ("exclude", "id,decision,label\n", "holds no decision"),
        ("exclude", "id,decision,label\ng0_0,drop,\n", "line 2: decision 'drop' is unknown; choose one"),
        ("exclude", "id,decision\ng0_0,exclude\ng0_0,keep\n", "lines 2 and 3: two decisions about 'g0_0'"),
        ("exclude", "id,decision,label\ng0_0,exclude\n", "line 2: the line has not as many cells as the 3"),
        ("exclude", "elsewhere/7.png\n", "names 1 id that the data set of 40 images does not have"),
        ("exclude", "elsewhere/7.png\n", "--dataset-version"),
        ("exclude", "'g0_0\n", "is that of --spreadsheet-safe"),
        # Another name of a column must not exclude what its rows keep.
        ("exclude", "id,action\ng0_0,keep\n", "none of them says which images are excluded; name that"),
        ("exclude", "id,kind,score\ng0_0,label,1\n", "has the columns id, kind, score, and none of them"),
        ("exclude", "ID,Decision\ng0_0,keep\n", "has the columns ID, Decision, and none .* is called id"),
        ("exclude", "image;decision\ng0_0;keep\n", "and none of them is called id"),
        ("exclude", "id,id,decision\ng0_0,g0_1,exclude\n", "has column 'id' twice"),
        ("exclude", 'id,decision\n"g0_0,exclude\n', "line 2: unexpected end of data; write a quotation"),
        ("relabel_with", "id,decision,label,label\ng0_0,relabel,a,b\n", "has column 'label' twice"),
        ("relabel_with", "g0_0\n", "has one id a line, and new labels need the columns id"),
        ("relabel_with", "id,kind,suggestion\ng0_0,label,b\n", "are not taken for decisions"),
        ("relabel_with", "id,decision,label\ng0_0,relabel,\n", "relabels 1 image without saying how"),
        ("relabel_with", "id,decision,label\ng0_0,relabel,bb\n", "'bb', which no image .* did you mean 'b'"),
        ("relabel_with", "id,decision,label\ng0_0,relabel,b\ng0_0,relabel,a\n", "'relabel b' and 'relabel"),
        ("keep_together", "g0_0\ng0_1\n", "has one id a line, and groups need findings.json"),
        ("keep_together", "", "has no rows, and groups need"),
        ("keep_together", '{"counts": {}}', "is no findings.json"),
        ("keep_together", "id,group\nx,1\ny,1\n", "names 2 ids that the data set"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(option: str, text: str, message: str, tmp_path: Path) -> None:
    path: Any = {option: written(tmp_path, text)}
    with pytest.raises(InputError, match=message) as caught:
        RowOptions(**path).decisions.check(manifest())
    assert caught.value.option == option


def test_findings_of_a_clean_data_set_decide_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "id,kind,score,related,suggestion,leak\n", "findings.csv")
    decisions = Decisions.read(exclude=path, keep_together=path)
    assert (decisions.excluded, decisions.groups) == (frozenset(), ())
    again = written(tmp_path, decisions.to_csv(), "again.csv")
    assert Decisions.saved(Path(again), decisions.files) == decisions
    rows = choose_rows(manifest(), RowOptions(exclude=path, keep_together=path), cv=5)
    assert rows.notes == [
        f"0 images excluded by {path} [TT307]",
        f"0 images kept together in 0 groups by {path} [TT307]",
    ]  # fmt: skip


def test_two_files_must_not_contradict_and_must_be_there(tmp_path: Path) -> None:
    out = written(tmp_path, "g0_0\n", "out.txt")
    path = written(tmp_path, "id,decision,label\ng0_0,relabel,b\n")
    with pytest.raises(InputError, match=r"1 image excluded by .*out.txt and relabeled by .*decisions.csv"):
        Decisions.read(exclude=out, relabel_with=path)
    with pytest.raises(InputError, match="no such file; check the path") as caught:
        Decisions.read(keep_together=str(tmp_path / "none.json"))
    assert caught.value.option == "keep_together"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("id,decision,label\r\ng0_0,exclude,\r\ng0_1,relabel,a\r\n", "utf-8-sig"),
        ("id;decision;label\r\ng0_0;exclude;\r\ng0_1;relabel;a\r\n", "utf-8-sig"),
        ("sep=;\r\nid;decision;label\r\ng0_0;exclude;\r\ng0_1;relabel;a\r\n", "utf-8"),
        ("id\tdecision\tlabel\r\ng0_0\texclude\t\r\ng0_1\trelabel\ta\r\n", "utf-16"),
    ],
)
def test_a_table_is_read_as_spreadsheets_save_it(text: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_bytes(text.encode(encoding))
    decisions = Decisions.read(exclude=str(path), relabel_with=str(path)).check(manifest())
    assert decisions.excluded == {"g0_0"}
    assert decisions.labels == {"g0_1": "a"}


def test_lines_are_counted_from_the_first_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "sep=;\nid;decision\ng0_0;exclude\ng0_1;drop\n")
    with pytest.raises(InputError, match="line 4: decision 'drop' is unknown"):
        Decisions.read(exclude=path)


def test_separators_in_a_list_of_ids_are_part_of_the_ids(tmp_path: Path) -> None:
    path = written(tmp_path, 'a;b.png\nc,d.png\nan inch".png\n', "ids.txt")
    assert Decisions.read(exclude=path).excluded == {"a;b.png", "c,d.png", 'an inch".png'}


def test_ids_with_a_bar_are_found_again_in_the_findings(tmp_path: Path) -> None:
    header = "id,kind,score,related,suggestion,leak\n"
    rows = [("a|b", "a|c|d"), ("a", "a|b|c|d"), ("c|d", "a|a|b"), ("e", "f"), ("f", "e")]
    text = header + "".join(f"{one},duplicate,1,{others},keep,\n" for one, others in rows)
    assert Decisions.read(keep_together=written(tmp_path, text)).groups == (("a", "a|b", "c|d"), ("e", "f"))
