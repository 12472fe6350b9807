"""`Card`: images of one finding side by side, and what a person may decide of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Card:
    """One finding as a page shows it.

    Attributes
    ----------
    kind : str
        Kind of the finding.
    score : float
        How suspect the images are; a larger score is more suspect.
    says : str
        What was found, in a few words.
    leak : str
        Splits on which the images lie, with ``|`` between them; empty for one split.
    ids : tuple of str
        The images that a decision is asked of.
    proposals : tuple of (decision, label) or None
        What is proposed for each of these images: ``keep``, ``exclude`` or ``relabel`` with the new label.
    beside : tuple of str
        Further images to compare with.
    """

    kind: str
    score: float
    says: str
    leak: str = ""
    ids: tuple[str, ...]
    proposals: tuple[tuple[str, str] | None, ...]
    beside: tuple[str, ...] = ()


def fair_choice(cards: Sequence[Card], most: int) -> list[Card]:
    """Choose at most `most` cards, leaks first, then as many of each kind as the rarer kinds leave room for.

    The cards of a kind are taken from the first on, and keep their order.

    Examples
    --------
    >>> def card(kind, score):
    ...     return Card(kind=kind, score=score, says="", ids=("a",), proposals=(None,))
    >>> cards = [card("label", 3), card("label", 2), card("label", 1), card("image", 1)]
    >>> [(each.kind, each.score) for each in fair_choice(cards, 3)]
    [('label', 3), ('label', 2), ('image', 1)]
    """
    places: Mapping[str, list[int]] = defaultdict(list)
    for place, card in enumerate(cards):
        places["leak" if card.leak else card.kind].append(place)
    # The n-th card of each kind comes before the next one of any kind; leaks come before all others.
    ranked = sorted(
        (0 if kind == "leak" else rank, place)
        for kind, found in places.items()
        for rank, place in enumerate(found)
    )
    return [cards[place] for place in sorted(place for _, place in ranked[:most])]
