"""`Finding` and `ImageGroup`: what was found of an image, and which images belong together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toptune.options import check_choice
from toptune.store.datasets.manifest import LABEL_SEPARATOR

DUPLICATE, NEAR_DUPLICATE, LABEL, OUTLIER, IMAGE = "duplicate", "near-duplicate", "label", "outlier", "image"
KINDS = (DUPLICATE, NEAR_DUPLICATE, LABEL, OUTLIER, IMAGE)
# Findings of any kind that lie on both sides of a split.
LEAK = "leak"
FAILURES = (LEAK, *KINDS)
KEEP, EXCLUDE, CHECK = "keep", "exclude", "check the labels"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found of one image.

    Attributes
    ----------
    id : str
        The image.
    kind : {"duplicate", "near-duplicate", "label", "outlier", "image"}
    score : float
        How far beyond the threshold; a larger one is more suspect. It is the largest cosine to another image
        of the group, 1 less the left-out probability of the label, the robust z-score of a number, the
        distance to the farthest neighbor that was looked for, or 1 for a property of the image.
    related : tuple of str
        Ids of other images: the group, or the nearest images that have the suggested label.
    suggestion : str
        ``keep`` or ``exclude``, the label that is more likely, ``with LABEL`` or ``without LABEL`` of
        several labels an image, ``TARGET=NUMBER`` of numbers, or the property of the image.
    leak : str
        Splits on which the group lies, with ``|`` between them; empty if it lies in one split.
    novelty : float, optional
        Of an outlier: the share of images to which a kernel on the others is less new.
    told : str
        Of one of several labels, or of a number: what was found, in a few words. The suggestion is then not
        a class that the image could be relabeled to.
    """

    id: str
    kind: str
    score: float
    related: tuple[str, ...] = ()
    suggestion: str = ""
    leak: str = ""
    novelty: float | None = None
    told: str = ""

    def to_row(self) -> dict[str, object]:
        """Return the row of ``findings.csv``."""
        return {
            "id": self.id,
            "kind": self.kind,
            "score": round(self.score, 6),
            "related": LABEL_SEPARATOR.join(self.related),
            "suggestion": self.suggestion,
            "leak": self.leak,
        }

    def to_dict(self) -> dict[str, object]:
        """Return JSON values: the row of the table with ids as a list, and the novelty of an outlier."""
        more: dict[str, object] = {} if self.novelty is None else {"novelty": round(self.novelty, 6)}
        return self.to_row() | {"related": list(self.related)} | more


@dataclass(frozen=True, kw_only=True)
class ImageGroup:
    """Images that are copies of one another, or nearly so.

    Attributes
    ----------
    kind : {"duplicate", "near-duplicate"}
    ids : tuple of str
        The images; the first one is the one to keep.
    scores : tuple of float
        Largest cosine of each image to another one of the group; 1 for equal bytes.
    splits, classes, groups : tuple of str
        Different splits, labels and groups among the images. More than one says that the images cross.
    """

    kind: str
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def is_leak(self) -> bool:
        """Whether images of the group lie in more than one split."""
        return len(self.splits) > 1

    def to_dict(self) -> dict[str, object]:
        """Return JSON values, with what the group crosses."""
        values = (("split", self.splits), ("class", self.classes), ("group", self.groups))
        return {
            "kind": self.kind,
            "ids": list(self.ids),
            "splits": list(self.splits),
            "classes": list(self.classes),
            "groups": list(self.groups),
            "crosses": [name for name, found in values if len(found) > 1],
        }

    def findings(self) -> list[Finding]:
        """Return a finding for each image: one is kept, unless the labels of the images contradict."""
        leak = LABEL_SEPARATOR.join(self.splits) if self.is_leak else ""
        is_sure = len(self.classes) < 2
        return [
            Finding(
                id=image,
                kind=self.kind,
                score=score,
                related=tuple(other for other in self.ids if other != image),
                suggestion=(EXCLUDE if place else KEEP) if is_sure else CHECK,
                leak=leak,
            )
            for place, (image, score) in enumerate(zip(self.ids, self.scores, strict=True))
        ]


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings by kind, and by score from the most suspect on; groups of copies stay together."""
    copies = (DUPLICATE, NEAR_DUPLICATE)
    together = [each for kind in copies for each in findings if each.kind == kind]
    others = [each for each in findings if each.kind not in copies]
    return together + sorted(others, key=lambda each: (KINDS.index(each.kind), -each.score, each.id))


def check_kinds(kinds: Iterable[str]) -> list[str]:
    """Return kinds of findings, ``leak`` being one, after each was found to be known.

    Raises
    ------
    InputError
        For a kind that does not exist, with the nearest one.
    """
    found = list(kinds)
    for kind in found:
        check_choice(kind, FAILURES, option="fail_on")
    return found
