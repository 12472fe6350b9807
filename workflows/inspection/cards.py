"""Findings become cards, which a page shows."""

from collections.abc import Iterable

from toptune.train.rows.decisions import EXCLUDE, KEEP, RELABEL
from toptune.workflows.gallery.cards import Card
from toptune.workflows.inspection.findings import (
    DUPLICATE,
    LABEL,
    NEAR_DUPLICATE,
    OUTLIER,
    Finding,
    ImageGroup,
)


def cards_of(findings: Iterable[Finding], groups: Iterable[ImageGroup]) -> list[Card]:
    """Return a card for each group of copies and for each other finding, in the order given."""
    cards = [_of_group(group) for group in groups]
    return cards + [_of_finding(each) for each in findings if each.kind not in (DUPLICATE, NEAR_DUPLICATE)]


def _of_group(group: ImageGroup) -> Card:
    told = {each.id: each for each in group.findings()}
    crossed = [
        f"{name} {' and '.join(values)}"
        for name, values in (("splits", group.splits), ("classes", group.classes), ("groups", group.groups))
        if len(values) > 1
    ]
    same = "the same bytes" if group.kind == DUPLICATE else f"cosine {max(group.scores):.3f}"
    return Card(
        kind=group.kind,
        score=max(group.scores),
        says="; ".join([f"{len(group.ids)} images, {same}", *crossed]),
        leak=next(iter(told.values())).leak,
        ids=group.ids,
        proposals=tuple(_proposal(told[image]) for image in group.ids),
    )


def _of_finding(found: Finding) -> Card:
    if found.kind == LABEL:
        says = found.told or f"rather {found.suggestion}, {1 - found.score:.3f} for its own label"
    elif found.kind == OUTLIER:
        says = f"far from all images: distance {found.score:.3f}"
        says += "" if found.novelty is None else f", novelty {found.novelty:.3f}"
    elif found.suggestion == EXCLUDE:
        says = "cannot be used"
    else:
        says = f"{found.suggestion} ({found.score:.1f})"
    return Card(
        kind=found.kind,
        score=found.score,
        says=says,
        leak=found.leak,
        ids=(found.id,),
        proposals=(_proposal(found),),
        beside=found.related,
    )


def _proposal(found: Finding) -> tuple[str, str] | None:
    """Return what accepting the suggestion of a finding decides, if it suggests a decision."""
    if found.kind == LABEL:
        return None if found.told else (RELABEL, found.suggestion)
    return (found.suggestion, "") if found.suggestion in (KEEP, EXCLUDE) else None
