"""Tables as text: what is aligned, and that names are printed as they are."""

from toptune.text import counted, named, printed_records, printed_table


def test_records_stand_under_their_keys() -> None:
    rows = [
        {"cache": "digits", "rows": 1797, "arrays": ["last.mean", "last.max"]},
        {"cache": "a", "rows": 3, "arrays": []},
    ]
    assert printed_records(rows).splitlines() == [
        "cache   rows  arrays",
        "digits  1797  last.mean last.max",
        "a       3",
    ]


def test_figures_stand_flush_right_under_a_rule() -> None:
    text = printed_table("heads", ("head", "accuracy"), [("ridge", "0.9"), ("falkon", "0.91")])
    title, blank, columns, rule, *rows = text.splitlines()
    assert (title, blank, set(rule.strip())) == ("heads", "", {"─"})
    assert columns.split() == ["head", "accuracy"]
    assert [row.split() for row in rows] == [["ridge", "0.9"], ["falkon", "0.91"]]
    assert {len(line) for line in (columns, *rows)} == {len(columns)}


def test_names_are_printed_as_they_are() -> None:
    long = "blocks.0 " * 2000
    for name in (":cat:", "[bold]x[/bold]", "\udcff", long.strip()):
        assert name in printed_records([{"name": name}])
        assert name in printed_table("names", ("name",), [(name,)])


def test_wide_letters_take_two_columns() -> None:
    assert printed_records([{"name": "日本", "n": 1}]).splitlines() == ["name  n", "日本  1"]


def test_many_names_are_some_and_a_number() -> None:
    assert named(["a", "b"]) == "'a', 'b'"
    assert named([("a", 3), ("b", 1), ("c", 0)], most=2) == "'a' (3), 'b' (1) and 1 more"
    assert [counted(number, "class") for number in (1, 2)] == ["1 class", "2 classes"]
