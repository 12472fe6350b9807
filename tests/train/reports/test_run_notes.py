"""What many trainings warn of, in a few lines."""

from toptune.train.reports.notes import Note, gather_notes

EDGE = "the chosen penalty {} is at the lower edge of its grid; give smaller ones"


def test_warnings_that_differ_in_numbers_alone_are_one() -> None:
    found = gather_notes(
        [
            ("ridge", [EDGE.format("1e-06")]),
            ("knn", []),
            ("lda", ["layer4 is constant", "layer3 is constant"]),
            ("falkon", [EDGE.format("1.5e-07"), EDGE.format("2,000"), "3 of 10 centers were dropped"]),
            ("ridge", [EDGE.format("-3.")]),
        ]
    )
    assert (found.trainings, found.noted) == (5, 4)
    assert found.different == (
        Note(code=None, text=EDGE.format("1e-06"), methods=("ridge", "falkon"), trainings=3),
        Note(code=None, text="layer4 is constant", methods=("lda",), trainings=1),
        Note(code=None, text="layer3 is constant", methods=("lda",), trainings=1),
        Note(code=None, text="3 of 10 centers were dropped", methods=("falkon",), trainings=1),
    )
    first, second, *_ = found.lines()
    assert first.startswith("notes of 4 of 5 trainings, whole in each one's run.json")
    assert second == f"  3 x ridge, falkon: {EDGE.format('1e-06')}"


def test_few_short_lines_are_printed() -> None:
    words = [chr(ord("a") + at) * 8 for at in range(7)]
    lines = gather_notes([("ridge", [f"{word} is odd " + "very " * 100 for word in words])]).lines()
    assert len(lines) == 1 + 5 + 1
    assert lines[-1] == "  and 2 others"
    assert all(len(line) < 190 for line in lines)
    assert lines[1].endswith("very ...")
    assert gather_notes([("ridge", [])]).lines() == []
