import unicodedata

import numpy as np
import pytest

from toptune.extract.sources.glyphs import (
    DIGITS,
    GREEK,
    HELD_OUT_FONTS,
    MAX_SIMILARITY,
    PRETRAINING_FONTS,
    SIMILARITY_FONTS,
    SOURCE_SCRIPTS,
    distort,
    has_glyph,
    render,
    shape_similarity,
    source_characters,
)
from toptune.store import InputError

SOURCE = "".join(source_characters())


def test_no_source_character_is_a_number_in_any_script() -> None:
    assert [c for c in SOURCE if unicodedata.category(c).startswith("N")] == []
    assert [c for c in SOURCE if unicodedata.numeric(c, None) is not None] == []
    assert [c for c in SOURCE if "DIGIT" in unicodedata.name(c) or "NUMBER" in unicodedata.name(c)] == []
    assert not set(SOURCE) & set(DIGITS)


def test_no_source_character_is_greek() -> None:
    assert [c for c in SOURCE if unicodedata.name(c).startswith("GREEK")] == []
    assert not set(SOURCE) & set(GREEK)


@pytest.mark.parametrize("font", SIMILARITY_FONTS)
def test_no_source_character_looks_like_a_target_character(font: str) -> None:
    alike = shape_similarity(SOURCE, DIGITS + GREEK, font)
    assert alike.shape == (len(SOURCE), 34)
    worst = SOURCE[int(alike.max(axis=1).argmax())]
    assert alike.max() <= MAX_SIMILARITY, worst


def test_similarity_finds_what_it_is_for() -> None:
    alike = shape_similarity("OISBo", "01580", "DejaVuSans")
    assert (np.diag(alike) > 0.6).all()  # letters and the digits that are read for them
    assert shape_similarity("\N{CYRILLIC CAPITAL LETTER O}", "O", "DejaVuSans")[0, 0] == pytest.approx(1.0)
    assert shape_similarity("K", "0", "DejaVuSans")[0, 0] < 0.4
    assert shape_similarity("A", "A", "DejaVuSans")[0, 0] == pytest.approx(1.0)
    assert shape_similarity("ა", "0", "STIXGeneral")[0, 0] == -1.0  # the font has no Georgian


def test_source_characters_are_distinct_and_all_drawn_by_a_pretraining_font() -> None:
    assert len(set(SOURCE)) == len(SOURCE) == sum(map(len, SOURCE_SCRIPTS.values()))
    assert all(any(has_glyph(c, font) for font in PRETRAINING_FONTS) for c in SOURCE)


def test_fonts_of_validation_are_not_trained_on() -> None:
    assert not set(HELD_OUT_FONTS) & set(PRETRAINING_FONTS)


def test_render_is_centered_fits_and_repeats() -> None:
    image = render("A", "DejaVuSerif", size=40, ink=30)
    assert image.shape == (40, 40)
    assert image.dtype == np.uint8
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 30
    assert abs(rows.mean() - 19.5) <= 1
    assert abs(columns.mean() - 19.5) <= 1
    assert np.array_equal(image, render("A", "DejaVuSerif", size=40, ink=30))


def test_distort_is_decided_by_the_generator_alone() -> None:
    image = render("K", "DejaVuSans")
    first, again, other = (distort(image, np.random.default_rng(seed), size=20) for seed in (3, 3, 4))
    assert first.shape == (20, 20)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_computer_modern_counts_for_latin_letters_only() -> None:
    assert has_glyph("A", "cmr10")
    assert not has_glyph("∀", "cmr10")
    assert not has_glyph("7", "cmr10")


@pytest.mark.parametrize(
    ("character", "font", "message"),
    [("ა", "STIXGeneral", "no glyph"), ("A", "Comic", "ships no font Comic")],
)
def test_unknown_font_or_glyph_is_an_input_error(character: str, font: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render(character, font)


def test_ink_must_fit() -> None:
    with pytest.raises(InputError, match="size=16"):
        render("A", "DejaVuSans", size=16, ink=20)
