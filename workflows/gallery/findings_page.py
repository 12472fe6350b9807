"""`write_findings_page`: findings side by side with thumbnails, to be decided by keyboard, and a map."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toptune.store.files.writing import write_file
from toptune.text import counted
from toptune.workflows.gallery.cards import Card, fair_choice
from toptune.workflows.gallery.coordinates import MOST_POINTS, Coordinates, Rows, sampled
from toptune.workflows.gallery.rendering import render_page
from toptune.workflows.gallery.thumbnails import Thumbnails, data_uri

_TEMPLATE = Path(__file__).parent / "findings.html"
MOST_CARDS = 2000
# Images of a card that are shown; the others of a group are named only, and decided with it.
MOST_TILES = 24
# Thumbnails take about 3 kB each: the page stays one that a browser opens at once and a mail can hold.
MOST_THUMBNAIL_BYTES = 24 * 10**6
# A page draws points on a grid of so many places, which no screen exceeds.
_GRID = 4095
_MOST_CLASSES = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Album:
    """What is known of the images of a data set, row by row.

    Attributes
    ----------
    ids : sequence of str
    labels, splits : sequence of str or None
        None where nothing is known.
    coordinates : Coordinates or None
        A point of each row; None for a page without a map.
    thumbnails : Thumbnails or None
        Where the images are; None for a page without them.
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    splits: Sequence[str | None]
    coordinates: Coordinates | None
    thumbnails: Thumbnails | None


def write_findings_page(
    path: Path,
    *,
    title: str,
    about: str,
    counts: Mapping[str, int],
    cards: Sequence[Card],
    album: Album,
    notes: Sequence[str] = (),
    confused: Sequence[Mapping[str, object]] = (),
    seed: int = 0,
) -> None:
    """Write one page that loads nothing.

    At most 2,000 cards are on the page, leaks first and each kind in turn; at most 24 MB of thumbnails, and
    at most 20,000 points of the map. What is left out is said on the page.

    Parameters
    ----------
    path : path
        File of the page, which must not exist.
    title, about : str
        Heading, and a sentence below it.
    counts : mapping of str to int
        Images with findings of each kind.
    cards : sequence of Card
        The findings, the most suspect of each kind first.
    album : Album
    notes : sequence of str
        Sentences for the top of the page.
    confused : sequence of mapping
        Rows ``given``, ``suggested``, ``images``: classes that are confused.
    seed : int
        Seed of the points that are drawn where there are too many.
    """
    shown = fair_choice(cards, MOST_CARDS)
    said = [*notes]
    if len(shown) < len(cards):
        said.append(
            f"the page shows {len(shown)} of {counted(len(cards), 'finding')}: leaks, and the most suspect "
            "of each kind; findings.csv has all of them [TT511]"
        )
    at, points = _points(album, seed)
    wanted = {each for card in shown for each in (*card.ids, *card.beside)}
    # A data set may have millions of images, and a page names a few thousand.
    row_of = {identity: row for row, identity in enumerate(album.ids) if identity in wanted}
    named = [row_of[each] for card in shown for each in (*card.ids, *card.beside) if each in row_of]
    rows = [*dict.fromkeys([*named, *at.tolist()])]
    place_of = {row: place for place, row in enumerate(rows)}
    place = {album.ids[row]: place_of[row] for row in named}
    thumbnails, reasons = _thumbnails(shown, place, album, said)
    classes = Counter(label for label in album.labels if label is not None)
    names = [name for name, _ in classes.most_common()]
    number = {name: at for at, name in enumerate(names)}
    splits = sorted({split for split in album.splits if split is not None})
    values = {
        "images": {
            "ids": [album.ids[row] for row in rows],
            "labels": [number.get(str(album.labels[row]), -1) for row in rows],
            "splits": [-1 if (split := album.splits[row]) is None else splits.index(split) for row in rows],
            "thumbnails": thumbnails,
            "reasons": reasons,
        },
        "cards": [_card(card, place) for card in shown],
        "points": points | {"at": [place_of[row] for row in at.tolist()]},
        "classes": names,
        "splits": splits,
        "mostTiles": MOST_TILES,
        "mostClasses": _MOST_CLASSES,
    }
    if album.coordinates is not None and len(at) < len(album.ids):
        said.append(f"the map shows {len(at)} of {counted(len(album.ids), 'image')} [TT511]")
    content = render_page(
        _TEMPLATE,
        title=title,
        about=about,
        counts=counts,
        notes=said,
        kinds=sorted({card.kind for card in shown}),
        method=None if album.coordinates is None else album.coordinates.method.upper(),
        classes=classes.most_common(_MOST_CLASSES),
        n_classes=len(classes),
        has_splits=bool(splits),
        confused=confused,
        data=json.dumps(values, separators=(",", ":")),
    )
    write_file(path, content)


def _card(card: Card, place: Mapping[str, int]) -> dict[str, object]:
    """Return a card as JSON values, with images by their places on the page."""
    known = [
        (place[each], proposal)
        for each, proposal in zip(card.ids, card.proposals, strict=True)
        if each in place
    ]
    return {
        "kind": card.kind,
        "score": round(card.score, 4),
        "says": card.says,
        "leak": card.leak.replace("|", " and "),
        "ids": [image for image, _ in known],
        "proposals": [proposal for _, proposal in known],
        "beside": [place[each] for each in card.beside if each in place],
    }


def _points(album: Album, seed: int) -> tuple[Rows, dict[str, list[int]]]:
    """Return the rows of the map, and their places on a grid."""
    if album.coordinates is None:
        return np.zeros(0, dtype=np.int64), {"x": [], "y": []}
    points = album.coordinates.points
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    rows = finite[sampled(len(finite), MOST_POINTS, seed)]
    chosen = points[rows].astype(np.float64)
    low, high = (chosen.min(axis=0), chosen.max(axis=0)) if len(chosen) else (np.zeros(2), np.ones(2))
    # Both directions have one scale, as distances have one meaning.
    grid = np.rint((chosen - low) / (max(high - low) or 1.0) * _GRID).astype(int)
    return rows, {"x": grid[:, 0].tolist(), "y": grid[:, 1].tolist()}


def _thumbnails(
    cards: Sequence[Card], place: Mapping[str, int], album: Album, notes: list[str]
) -> tuple[dict[int, str], dict[int, str]]:
    """Return thumbnails and reasons for missing ones, by the place of the image, within the limit."""
    found: dict[int, str] = {}
    reasons: dict[int, str] = {}
    if album.thumbnails is None:
        return found, reasons
    wanted = [
        *dict.fromkeys(
            each
            for card in cards
            for each in (*card.ids[:MOST_TILES], *card.beside[:MOST_TILES])
            if each in place
        )
    ]
    n_bytes = 0
    for identity, (jpeg, reason) in zip(wanted, album.thumbnails.jpegs(wanted), strict=True):
        if jpeg is None:
            reasons[place[identity]] = str(reason)
            continue
        uri = data_uri(jpeg)
        n_bytes += len(uri)
        if n_bytes > MOST_THUMBNAIL_BYTES:
            notes.append(
                f"{len(found)} of {counted(len(wanted), 'image')} of findings are shown: thumbnails take at "
                f"most {MOST_THUMBNAIL_BYTES / 1e6:.0f} MB of the page, and the other images have their ids "
                "[TT511]"
            )
            break
        found[place[identity]] = uri
    return found, reasons
