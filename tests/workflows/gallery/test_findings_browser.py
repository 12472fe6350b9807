"""The page of findings in a real browser: keys decide, decisions end in a file, nothing is on the console."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Page, chromium
from shapes import save_shapes

from toptune.train.rows.decisions import Decisions
from toptune.workflows.gallery.cards import Card
from toptune.workflows.gallery.coordinates import Coordinates
from toptune.workflows.gallery.findings_page import Album, write_findings_page
from toptune.workflows.gallery.thumbnails import Thumbnails

EVIL = '</script></pre><script>console.error("x")</script>\n"a",b'
STATE = (
    "Array.from(document.querySelectorAll('.card'), (each) => each.getAttribute('aria-current') === 'true')"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("findings")
    photos = save_shapes(folder / "photos", per_class=20)
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))[:8]
    ids[6], ids[7] = EVIL, "absent.png"
    group: dict[str, Any] = {"kind": "near-duplicate", "score": 0.99, "says": "3", "leak": "test|train"}
    copies: dict[str, Any] = {
        "ids": (ids[0], ids[1], ids[7]),
        "proposals": (("keep", ""), ("exclude", ""), ("exclude", "")),
    }
    label: dict[str, Any] = {"kind": "label", "score": 0.9, "beside": (ids[2],)}
    cards = [
        Card(**group, **copies),
        Card(says=EVIL, ids=(EVIL,), proposals=(("relabel", EVIL),), **label),
        Card(kind="label", score=0.8, says="rather b", ids=(ids[3],), proposals=(("relabel", "b"),)),
        Card(kind="outlier", score=1.2, says="far", ids=(ids[0],), proposals=(None,), beside=(ids[4],)),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    album = Album(
        ids=ids,
        labels=["a", "b", "a", "a", None, "b", EVIL, "b"],
        splits=["train", "test"] * 4,
        coordinates=Coordinates(points=rng.normal(size=(8, 2)).astype(np.float32), method="pca"),
        thumbnails=Thumbnails(photos),
    )
    write_findings_page(
        folder / "page.html",
        title=EVIL,
        about="a set",
        counts={"leak": 3, "near-duplicate": 3, "label": 2, "outlier": 1, "image": 0},
        cards=cards,
        album=album,
    )
    return (folder / "page.html").as_uri()


def text(page: Page, selector: str) -> str:
    found: str = page.evaluate(f"document.querySelector({selector!r}).textContent")
    return found


def saved(page: Page, folder: Path) -> list[dict[str, str]]:
    """Press s, and read the file that the browser has put into a folder."""
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.press("s")
    deadline = time.monotonic() + 20
    while not (folder / "decisions.csv").exists():
        assert time.monotonic() < deadline, "the browser has saved nothing"
        time.sleep(0.02)
    with (folder / "decisions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_opens_from_disk_without_a_word(page: Page, address: str, width: int, is_dark: bool) -> None:
    page.messages.clear()
    page.requests.clear()
    page.open(address, width=width, is_dark=is_dark)
    assert page.messages == []
    assert page.requests == [address]
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.title").split() == EVIL.split()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = page.evaluate(
        "Array.from(document.querySelectorAll('.card img'), (each) => each.naturalHeight)"
    )
    assert heights == [48] * 6
    assert text(page, ".tile .absent") == "no longer among the images"
    # The map has as many colors as labels, in those of the theme.
    pixels = (
        "(() => { const plot = document.getElementById('plot');"
        "const { data } = plot.getContext('2d').getImageData(0, 0, plot.width, plot.height);"
        "const found = new Set(); for (let at = 0; at < data.length; at += 4)"
        "if (data[at + 3] === 204) found.add(data.slice(at, at + 3).join()); return found.size; })()"
    )
    assert page.evaluate(pixels) >= 3
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(17, 21, 27)" if is_dark else "rgb(255, 255, 255)")


def test_keys_decide_and_decisions_end_in_a_file(page: Page, address: str, tmp_path: Path) -> None:
    page.open(address)
    page.messages.clear()
    # Nothing is decided before a finding was chosen.
    page.press("a", "x")
    assert text(page, "#decided") == "0 decided"
    page.press("j", "a")  # All three images of the first finding, and on to the second.
    assert page.evaluate(STATE) == [False, True, False, False]
    page.press("a", "k", "k", "ArrowRight", "o")  # The second label, then the second copy is kept after all.
    page.press("ArrowDown", "j", "r", *"ca,t", "Enter")
    assert page.evaluate(STATE) == [False, False, False, True]
    page.press("a")  # Nothing is suggested of an outlier.
    page.press("x", "u", "j", "j")
    assert page.evaluate(STATE) == [False, False, False, True]
    assert text(page, "#decided") == "5 decided, not saved"
    assert saved(page, tmp_path) == [
        {"id": "cross/000.png", "decision": "keep", "label": ""},
        {"id": "cross/001.png", "decision": "keep", "label": ""},
        {"id": "absent.png", "decision": "exclude", "label": ""},
        {"id": EVIL, "decision": "relabel", "label": EVIL},
        {"id": "cross/003.png", "decision": "relabel", "label": "ca,t"},
    ]
    assert text(page, "#decided") == "5 decided"
    # A training takes the file as it is.
    file = str(tmp_path / "decisions.csv")
    decisions = Decisions.read(exclude=file, relabel_with=file)
    assert decisions.excluded == {"absent.png"}
    assert decisions.labels == {EVIL: EVIL, "cross/003.png": "ca,t"}
    for _ in range(5):
        page.press("u")
    assert text(page, "#decided") == "0 decided"
    assert page.evaluate("document.getElementById('save').disabled") is True
    assert page.messages == []


def test_findings_are_filtered_and_sorted(page: Page, address: str) -> None:
    page.open(address)

    def kinds(change: str) -> list[str]:
        name, _, value = change.partition("=")
        field = "checked" if value in ("true", "false") else "value"
        shown = value if field == "checked" else repr(value)
        page.evaluate(
            f"(() => {{ const each = document.getElementById({name!r}); each.{field} = {shown};"
            "each.dispatchEvent(new Event(each.type === 'search' ? 'input' : 'change')); })()"
        )
        badges = (
            "Array.from(document.querySelectorAll('.card .badge:first-child'), (each) => each.textContent)"
        )
        found: list[str] = page.evaluate(badges)
        return found

    assert kinds("kind=label") == ["label", "label"]
    assert kinds("filter=RATHER") == ["label"]
    assert text(page, "#shown") == "1 of 4"
    assert kinds("filter=") == ["label", "label"]
    assert kinds("kind=") == ["near-duplicate", "label", "label", "outlier"]
    assert kinds("sort=score") == ["outlier", "near-duplicate", "label", "label"]
    assert kinds("leaks=true") == ["near-duplicate"]
    assert kinds("leaks=false")[0] == "outlier"
    assert kinds("label=1") == [
        "near-duplicate"
    ]  # The second class by its images is "a" or "b": both have three.
    assert len(kinds("label=")) == 4
    page.press("j", "x")
    assert kinds("state=decided") == ["outlier"]
    assert len(kinds("state=open")) == 3
    page.evaluate("document.querySelector('#counts [data-kind=label]').click()")
    assert text(page, "#shown") == "2 of 4"
    page.press("u")


def test_a_point_of_the_map_leads_to_its_finding(page: Page, address: str) -> None:
    page.open(address)
    page.evaluate("document.getElementById('map').scrollIntoView()")
    # The image of the first finding lies at the first point.
    at = page.evaluate(
        "(() => { const { images, points } = JSON.parse(document.getElementById('data').textContent);"
        "const plot = document.getElementById('plot'), box = plot.getBoundingClientRect();"
        "const [wide, high] = [Math.max(...points.x), Math.max(...points.y)];"
        "const scale = Math.min((box.width - 28) / wide, (box.height - 28) / high);"
        "const one = points.at.indexOf(3);"
        "return [box.left + (box.width - wide * scale) / 2 + points.x[one] * scale,"
        "box.top + (box.height + high * scale) / 2 - points.y[one] * scale, images.ids[3]]; })()"
    )
    mouse: dict[str, Any] = {"x": at[0], "y": at[1]}
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **mouse)
    assert at[2] in text(page, "#tip")
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **mouse)
    shown = page.evaluate("document.querySelector('.card[aria-current=true]').textContent")
    assert at[2] in shown
