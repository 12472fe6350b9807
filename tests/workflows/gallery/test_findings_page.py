"""The page of findings: nothing is loaded, hostile names stay text, and what is left out is said."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from self_contained import check_self_contained
from shapes import save_shapes

from toptune.workflows.gallery import findings_page
from toptune.workflows.gallery.cards import Card, fair_choice
from toptune.workflows.gallery.coordinates import Coordinates
from toptune.workflows.gallery.findings_page import Album, write_findings_page
from toptune.workflows.gallery.thumbnails import Thumbnails

EVIL = '</script></pre><script>alert("x")</script>\n\u2028,\'"&lt;=1+1'


def card(*ids: str, kind: str = "outlier", proposal: Any = None, **more: Any) -> Card:
    values: dict[str, Any] = {"score": 1.0, "says": "far", "proposals": (proposal,) * len(ids)} | more
    return Card(kind=kind, ids=ids, **values)


def album(n: int, **more: Any) -> Album:
    values: dict[str, Any] = {
        "ids": [f"{row}.png" for row in range(n)],
        "labels": ["cat", "dog"] * (n // 2),
        "splits": [None] * n,
        "coordinates": Coordinates(points=np.arange(2.0 * n).reshape(n, 2).astype(np.float32), method="pca"),
        "thumbnails": None,
    }
    return Album(**(values | more))


def page_of(path: Path, cards: list[Card], images: Album, **more: Any) -> tuple[str, dict[str, Any], Any]:
    counts = {"leak": 0, "outlier": len(cards)}
    write_findings_page(
        path, title="Findings", about="a set", counts=counts, cards=cards, album=images, **more
    )
    elements = check_self_contained(path.read_text(encoding="utf-8"))
    (values,) = (json.loads(text) for text in elements.texts if text.startswith('{"images"'))
    return elements.text, values, elements


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    images = album(2, ids=[EVIL, "b"], labels=[EVIL, EVIL], splits=[EVIL, None])
    text, values, elements = page_of(
        tmp_path / "page.html",
        [card(EVIL, kind="label", proposal=("relabel", EVIL), says=EVIL, leak=EVIL, beside=("b",))],
        images,
        notes=[EVIL],
        confused=[{"given": EVIL, "suggested": EVIL, "images": 3}],
    )
    assert values["images"]["ids"] == [EVIL, "b"]
    assert values["classes"] == values["splits"] == [EVIL]
    assert values["cards"][0]["proposals"] == [["relabel", EVIL]]
    assert values["cards"][0]["beside"] == [1]
    assert text.count('<script>alert("x")</script>') >= 4
    assert not [tag for tag, _ in elements.found if tag in ("img", "svg")]


def test_points_lie_as_the_coordinates_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.array([[0, 0], [2, 1], [np.nan, 0], [4, 0]], dtype=np.float32)
    images = album(4, coordinates=Coordinates(points=points, method="umap"))
    text, values, _ = page_of(tmp_path / "a.html", [card("3.png")], images)
    ids = [values["images"]["ids"][at] for at in values["points"]["at"]]
    assert ids == ["0.png", "1.png", "3.png"]
    # Both directions have one scale.
    assert values["points"]["x"] == [0, pytest.approx(4095 / 2, abs=1), 4095]
    assert values["points"]["y"] == [0, pytest.approx(4095 / 4, abs=1), 0]
    assert "two dimensions by UMAP" in text
    monkeypatch.setattr(findings_page, "MOST_POINTS", 2)
    text, values, _ = page_of(tmp_path / "b.html", [card("3.png")], images)
    assert len(values["points"]["x"]) == 2
    assert "the map shows 2 of 4 images" in text
    text, values, _ = page_of(tmp_path / "c.html", [card("3.png")], album(4, coordinates=None))
    assert values["points"] == {"x": [], "y": [], "at": []}
    assert "There is no map" in text


def test_thumbnails_are_a_part_of_the_page_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=2)
    ids = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    (photos / ids[1]).write_bytes(b"no image")
    (photos / ids[2]).unlink()
    images = album(len(ids), ids=ids, thumbnails=Thumbnails(photos))
    cards = [card(ids[0], ids[1]), card(ids[2], beside=(ids[3],))]
    _, values, _ = page_of(tmp_path / "page.html", cards, images)
    place = {identity: str(at) for at, identity in enumerate(values["images"]["ids"])}
    shown = values["images"]["thumbnails"]
    assert shown.keys() == {place[ids[0]], place[ids[3]]}
    encoded = shown[place[ids[0]]].removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as thumbnail:
        assert thumbnail.size == (48, 48)
    reasons = values["images"]["reasons"]
    assert "not an image" in reasons[place[ids[1]]]
    assert reasons[place[ids[2]]] == "no longer among the images"
    monkeypatch.setattr(findings_page, "MOST_THUMBNAIL_BYTES", len(shown[place[ids[0]]]))
    text, values, _ = page_of(tmp_path / "less.html", cards, images)
    assert values["images"]["thumbnails"].keys() == {place[ids[0]]}
    assert "1 of 4 images of findings are shown" in text


def test_cards_beyond_the_limit_are_said_and_each_kind_has_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [card(f"{row}.png", kind="label") for row in range(6)]
    cards += [card("6.png", "7.png", kind="near-duplicate", leak="test|train"), card("7.png")]
    chosen = fair_choice(cards, 4)
    assert [each.ids[0] for each in chosen] == ["0.png", "1.png", "6.png", "7.png"]
    assert fair_choice(cards, 100) == cards
    monkeypatch.setattr(findings_page, "MOST_CARDS", 4)
    text, values, _ = page_of(tmp_path / "page.html", cards, album(8))
    assert "the page shows 4 of 8 findings" in text
    assert [each["leak"] for each in values["cards"]] == ["", "", "test and train", ""]
