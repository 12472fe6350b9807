"""`Inspection`: everything that was found of a data set, and the files that hold it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toptune.costs.meter import describe_costs
from toptune.costs.values import Costs
from toptune.store.files.writing import csv_text, write_text
from toptune.text import counted, printed_records
from toptune.train.runs.writing import write_json
from toptune.workflows.gallery.atlas import opening_command
from toptune.workflows.inspection.findings import KINDS, LEAK, Finding, ImageGroup, check_kinds
from toptune.workflows.inspection.labels import Confusion

FINDINGS_CSV, FINDINGS_JSON = "findings.csv", "findings.json"
PAGE, ATLAS = "page.html", "atlas.parquet"
_COLUMNS = ("id", "kind", "score", "related", "suggestion", "leak")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """What `inspect` found.

    Attributes
    ----------
    out : str
        Folder with ``findings.csv``, ``findings.json``, ``page.html`` and ``atlas.parquet``.
    dataset, model : str
    dataset_version : int
    layers : tuple of str
        Stored arrays that were compared.
    n_images : int
        Images of the data set.
    classes : mapping of str to int
        Images of each class.
    findings : tuple of Finding
        A finding for each image and thing beyond a threshold, by kind, the most suspect first.
    groups : tuple of ImageGroup
        Groups of duplicates and near-duplicates.
    confused : tuple of Confusion
        Pairs of classes that are confused most.
    thresholds : mapping of str to float
        What had to be exceeded, and the shares by which it was chosen.
    notes : tuple of str
        What was not looked at, and why.
    not_checked : mapping of str to str
        Kinds of findings that were not looked for, with the reason; their counts of 0 mean nothing.
    options : mapping of str to object
    plan : str
        How neighbors were searched, with the projected memory.
    costs : Costs
    has_map, has_images : bool
        Whether the images have coordinates, and thumbnails.
    """

    out: str
    dataset: str
    dataset_version: int
    model: str
    layers: tuple[str, ...]
    n_images: int
    classes: Mapping[str, int]
    findings: tuple[Finding, ...]
    groups: tuple[ImageGroup, ...]
    confused: tuple[Confusion, ...]
    thresholds: Mapping[str, float]
    notes: tuple[str, ...]
    not_checked: Mapping[str, str]
    options: Mapping[str, object]
    plan: str
    costs: Costs
    has_map: bool = True
    has_images: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Images with a finding of each kind, and images of groups that lie on both sides of a split."""
        counts = {kind: len({each.id for each in self.findings if each.kind == kind}) for kind in KINDS}
        return {LEAK: len({each.id for each in self.findings if each.leak}), **counts}

    def failures(self, kinds: Collection[str]) -> dict[str, int]:
        """Return the counts above 0 of some kinds of findings, ``leak`` being one.

        Raises
        ------
        InputError
            For a kind that does not exist.
        """
        counts = self.counts
        return {kind: counts[kind] for kind in check_kinds(kinds) if counts[kind]}

    def to_dict(self) -> dict[str, object]:
        """Return JSON values, without the single findings."""
        return {
            "out": self.out,
            "dataset": self.dataset,
            "dataset_version": self.dataset_version,
            "model": self.model,
            "layers": list(self.layers),
            "images": self.n_images,
            "classes": dict(self.classes),
            "counts": self.counts,
            "groups": [group.to_dict() for group in self.groups],
            "confused": [each.to_dict() for each in self.confused],
            "thresholds": dict(self.thresholds),
            "notes": list(self.notes),
            "not_checked": dict(self.not_checked),
            "options": dict(self.options),
            "plan": self.plan,
            "costs": self.costs,
        }

    def write(self, folder: Path, *, spreadsheet_safe: bool = False) -> None:
        """Write ``findings.csv`` and ``findings.json`` into a folder that exists."""
        rows = [each.to_row() for each in self.findings]
        # A table without rows still has its columns.
        text = csv_text(rows, spreadsheet_safe=spreadsheet_safe) if rows else ",".join(_COLUMNS) + "\n"
        write_text(folder / FINDINGS_CSV, text)
        findings = [each.to_dict() for each in self.findings]
        write_json(folder / FINDINGS_JSON, self.to_dict() | {"findings": findings})

    def __str__(self) -> str:
        counts = self.counts
        lines = [
            f"{counted(self.n_images, 'image')} of {self.dataset}, version {self.dataset_version}, by "
            f"{', '.join(self.layers)} of {self.model}",
            "",
            printed_records([{"finding": kind, "images": count} for kind, count in counts.items()]),
        ]
        leaks = [group for group in self.groups if group.is_leak]
        if leaks:
            lines += ["", f"{counted(len(leaks), 'group')} of copies on several sides of the split:"]
            lines += [f"  {_shown(group.ids)} ({', '.join(group.splits)})" for group in leaks[:_SHOWN]]
        labels = [each for each in self.findings if each.kind == "label"][:_SHOWN]
        if labels:
            lines += ["", "the labels that are most probably wrong:"]
            lines += [
                f"  {each.id}: "
                + (each.told or f"rather {each.suggestion} ({1 - each.score:.3f} for its own)")
                for each in labels
            ]
        if self.confused:
            lines += ["", "the classes that are confused most:"]
            lines += [
                f"  {each.given}, rather {each.suggested}: {counted(each.n_rows, 'image')}"
                for each in self.confused[:_SHOWN]
            ]
        lines += ["", *(f"note: {note}" for note in self.notes), f"all findings: {self.out}/{FINDINGS_CSV}"]
        lines.append(f"page to decide on them: {self.out}/{PAGE}")
        # The program shows nothing without coordinates.
        if self.has_map:
            command = opening_command(f"{self.out}/{ATLAS}", has_images=self.has_images)
            lines.append(f"all images in embedding-atlas: {command}")
        return "\n".join([*lines, describe_costs(self.costs)])


def _shown(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more
