"""The page in a real browser: nothing on the console, figures there, sorting and filtering at work."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from chromium import Page, chromium
from made_runs import make_run, write_layer_search
from PIL import Image

from toptune.workflows import write_report

EVIL = '<script>console.error("x")</script><img src=x onerror=console.error(1)>'


def each_of(selector: str, expression: str) -> str:
    """Give JavaScript for a list: of each element, the value of an expression."""
    return f"Array.from(document.querySelectorAll({selector!r}), (each) => {expression})"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    classes = (EVIL, "dog", "鸟")
    costs = {"energy_joules": 9.0}
    for seed in (0, 1):
        make_run(folder / f"runs/a{seed}", seed=seed, seconds=10, classes=classes)
        make_run(folder / f"runs/b{seed}", seed=seed, head="svm", wrong=5, seconds=9, costs=costs)
        make_run(folder / f"runs/c{seed}", seed=seed, kind="finetune", seconds=2000, wrong=1)
    make_run(folder / "runs/d", dataset="cells", n_test=0, wrong=0, seconds=100)
    write_layer_search(folder / "runs/a0")
    write_report([folder / "runs"], out=folder / "page.html", title=EVIL)
    return (folder / "page.html").as_uri()


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_opens_from_disk_without_a_word(
    page: Page, address: str, tmp_path: Path, width: int, is_dark: bool
) -> None:
    page.messages.clear()
    page.requests.clear()
    page.open(address, width=width, is_dark=is_dark)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.save_image(tmp_path / "page.png")
    assert page.messages == []
    assert page.requests == [address]
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.title") == EVIL
    # Nothing is wider than the screen, and every drawing has a size.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(each_of("figure > svg", "each.clientHeight"))
    # All settings; pets against seconds and energy, speed-up, layers and subsets; and two for each of three
    # settings.
    assert len(sizes) == 1 + 5 + 2 * 3
    assert min(sizes) > 90
    with Image.open(tmp_path / "page.png") as image:
        brightness = sum(image.convert("RGB").getpixel((2, 2))) / 3  # type: ignore[arg-type]
    assert (brightness < 60) if is_dark else (brightness > 200)


def test_drawings_take_the_colors_of_the_theme(page: Page, address: str) -> None:
    color = "getComputedStyle(document.querySelector('#accuracy svg text')).fill"
    page.open(address, is_dark=False)
    light = page.evaluate(color)
    page.open(address, is_dark=True)
    assert light != page.evaluate(color)
    assert "#0101" not in page.evaluate("document.querySelector('#accuracy').outerHTML")


def test_columns_are_sorted_by_number(page: Page, address: str) -> None:
    page.open(address)
    names = page.evaluate(each_of("#table th", "each.textContent"))

    def click(name: str) -> list[str]:
        at = names.index(name)
        page.evaluate(f"document.querySelectorAll('#table th button')[{at}].click()")
        cells = each_of("#table tbody tr", f"each.cells[{at}].firstChild.textContent.trim()")
        found: list[str] = page.evaluate(cells)
        return found

    assert click("seconds") == ["9", "10", "100", "2,000"]
    assert click("seconds") == ["2,000", "100", "10", "9"]
    assert page.evaluate("document.querySelector('[aria-sort]').textContent") == "seconds"
    # What was not measured stands last both ways.
    assert click("accuracy, %") == ["75.00", "90.00", "95.00", "–"]  # noqa: RUF001
    assert click("accuracy, %") == ["95.00", "90.00", "75.00", "–"]  # noqa: RUF001
    assert click("method") == ["fine-tuning", "ridge", "ridge", "svm"]
    assert page.evaluate("document.querySelectorAll('[aria-sort]').length") == 1


def test_the_filter_hides_rows(page: Page, address: str) -> None:
    page.open(address)
    enter = "filter.value = {!r}; filter.dispatchEvent(new Event('input'))"
    is_shown = each_of("#table tbody tr", "each.offsetHeight > 0")
    for text, count in (("ridge", 2), ("RIDGE pets", 1), ("nothing", 0), ("", 4)):
        page.evaluate(enter.format(text))
        assert sum(page.evaluate(is_shown)) == count
        assert page.evaluate("document.getElementById('shown').textContent") == f"{count} of 4"


def test_settings_unfold(page: Page, address: str) -> None:
    page.open(address)
    is_open = "document.querySelectorAll('#repeat details')[0].open"
    assert page.evaluate(is_open) is False
    page.evaluate("document.querySelectorAll('#repeat summary')[0].click()")
    assert page.evaluate(is_open) is True


def test_the_first_screen_holds_the_answer(page: Page, tmp_path: Path) -> None:
    models = ("vit_small_patch16_dinov3.lvd1689m", "resnet50.a1_in1k")
    for dataset in ("pets", "cells", "flowers"):
        for number, (model, head) in enumerate(product(models, ("falkon", "ridge", "svm"))):
            make_run(
                tmp_path / f"runs/{dataset}/{number}", dataset=dataset, model=model, head=head,
                wrong=2 + 9 * number, n_test=100, costs={"energy_joules": 9.0, "extract_seconds": 3.0},
            )  # fmt: skip
    write_report([tmp_path / "runs"], out=tmp_path / "page.html", title="Which head, and on which backbone?")
    page.open((tmp_path / "page.html").as_uri(), width=1280, height=800)
    bottom = "[each.textContent, each.getBoundingClientRect().bottom]"
    for what, expected in (
        (".best b", "98.00 %"), (".interval", "93.00 to 99.45"), (".method", "falkon"), (".model", models[0]),
    ):  # fmt: skip
        shown = page.evaluate(each_of(f"#answer {what}", bottom))
        assert [text for text, _ in shown] == [expected] * 3
        assert max(place for _, place in shown) <= 800
    # All columns are in sight, and the most accurate settings are first.
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    cells = "#table th, #table td"
    assert max(page.evaluate(each_of(cells, "each.getBoundingClientRect().right"))) <= 1280
    assert not any(page.evaluate(each_of(cells, "each.scrollWidth > each.clientWidth + 1")))
    first = page.evaluate(each_of("#table tbody tr", "each.cells[3].firstChild.textContent.trim()"))
    assert first == sorted(first, key=float, reverse=True)
    summary = "each.querySelector('summary').firstChild.textContent.trim()"
    opened = page.evaluate(each_of("#details details[open]", summary))
    assert [each.split(" · ")[0] for each in opened] == ["cells", "flowers", "pets"]
    # On a telephone a row is a list of its cells, with their names.
    page.open((tmp_path / "page.html").as_uri(), width=400)
    edges = page.evaluate(each_of("#table td", "each.getBoundingClientRect().right"))
    assert max(edges) <= 400
    name = "getComputedStyle(document.querySelector('#table td:nth-child(4)'), '::before').content"
    assert "accuracy, %" in page.evaluate(name)
