"""`Decisions`: what a person decided about images, read from the files that hold it."""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from toptune.errors import InputError
from toptune.options import choices
from toptune.store.datasets.manifest import LABEL_SEPARATOR, Manifest
from toptune.store.datasets.outside_tables import head_of_table
from toptune.store.datasets.outside_text import outside_text, read_outside_text
from toptune.store.files.json_values import parse_json
from toptune.store.files.writing import csv_text
from toptune.text import counted

KEEP, EXCLUDE, RELABEL = "keep", "exclude", "relabel"
DECISIONS = (KEEP, EXCLUDE, RELABEL)
# Kinds of findings that are groups of copies, as `toptune inspect` names them.
COPIES = ("duplicate", "near-duplicate")
_LABEL_FINDING = "label"
_COLUMNS = ("id", "decision", "label", "group")
# Names that a line of ids does not hold by chance.
_TELLING = ("decision", "group", "kind", "related", "suggestion")
_SAVED_ON_THE_PAGE = "the page of toptune inspect saves such a file (columns id,decision,label)"
_MOVED_ON = (
    "name the version of the data set that was looked at (--dataset-version), inspect anew, or take the "
    "lines out"
)
_FORMULA_MARK = (
    "the ' before it is that of --spreadsheet-safe: give a file that was written without the option, or "
    "findings.json"
)


@dataclass(frozen=True, kw_only=True)
class DecisionFile:
    """A file of decisions: its name, the SHA-256 of its bytes, and how many images it concerns."""

    file: str
    sha256: str
    n_images: int
    others: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Which images are left out, which have another label, and which stay together.

    Attributes
    ----------
    excluded : frozenset of str
        Ids of images that neither train nor test.
    labels : mapping of str to str
        The label of each relabeled image, by its id.
    groups : tuple of tuple of str
        Ids of images that stay on one side of the split and in one fold, a tuple for each group.
    files : mapping of str to DecisionFile
        The files, by the option that named them: ``exclude``, ``relabel_with``, ``keep_together``.
    notes : tuple of str
        Decisions that were read and are not used, in words.
    """

    excluded: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    files: Mapping[str, DecisionFile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, *, exclude: str | None = None, relabel_with: str | None = None, keep_together: str | None = None
    ) -> "Decisions":
        """Read files of decisions; None where an option was not given.

        Parameters
        ----------
        exclude : path, optional
            A table with the columns ``id`` and ``decision``, of which the rows ``exclude`` count; the
            ``findings.csv`` of `toptune.workflows.inspect`, of which the rows count that suggest ``exclude``;
            or one id a line.
        relabel_with : path, optional
            A table with the columns ``id``, ``decision`` and ``label``, of which the rows ``relabel`` count.
        keep_together : path, optional
            ``findings.json`` or ``findings.csv`` of `toptune.workflows.inspect`, of which the groups of
            copies count; or a table with the columns ``id`` and ``group``.

        Raises
        ------
        InputError
            If a file cannot be read, holds nothing of the kind, or contradicts itself or another file.
        """
        decisions = cls()
        if exclude is not None:
            decisions = decisions._with_excluded(exclude, others_used=relabel_with)
        if relabel_with is not None:
            decisions = decisions._with_labels(relabel_with, others_used=exclude)
        if keep_together is not None:
            decisions = decisions._with_groups(keep_together)
        if both := sorted(decisions.excluded & decisions.labels.keys()):
            raise InputError(
                f"{counted(len(both), 'image')} excluded by {exclude} and relabeled by {relabel_with}, the "
                f"first is {both[0]!r}; take one of the two decisions out",
                option="relabel_with",
            )
        return decisions

    def check(self, manifest: Manifest) -> "Decisions":
        """Return these decisions if all their images and labels are those of a data set.

        Raises
        ------
        InputError
            For ids that are no images of the data set, and for labels that no image of it has.
        """
        known = set(manifest.ids)
        concerned: dict[str, Iterable[str]] = {
            "exclude": self.excluded,
            "relabel_with": self.labels,
            "keep_together": {image for group in self.groups for image in group},
        }
        for option, ids in concerned.items():
            if strange := sorted(set(ids) - known):
                is_marked = strange[0].startswith("'") and strange[0][1:] in known
                raise InputError(
                    f"{self.files[option].file} names {counted(len(strange), 'id')} that the data set of "
                    f"{counted(manifest.n_rows, 'image')} does not have, the first is {strange[0]!r}; "
                    f"{_FORMULA_MARK if is_marked else _MOVED_ON}",
                    option=option,
                )
        classes = {label for label in manifest.labels if label is not None}
        if new := sorted(set(self.labels.values()) - classes):
            image = next(image for image, label in self.labels.items() if label == new[0])
            raise InputError(
                f"{self.files['relabel_with'].file} gives {image!r} the label {new[0]!r}, which no image of "
                f"the data set has; {choices(new[0], sorted(classes))}. For a new class, give the data set a "
                "column of labels (extract --update) and name it with --label-column",
                option="relabel_with",
            )
        return self

    @property
    def relabel(self) -> Callable[[Manifest], Manifest] | None:
        """What checks the decisions and makes a data set's labels those of training; None without labels."""
        return (lambda manifest: self.check(manifest).relabeled(manifest)) if self.labels else None

    @property
    def relabel_again(self) -> Callable[[Manifest], Manifest] | None:
        """What `relabel` does to another version of the data set, which images may have left."""
        return self.relabeled if self.labels else None

    def relabeled(self, manifest: Manifest) -> Manifest:
        """Return a manifest with the labels that were decided, without any check."""
        return manifest.with_labels(self.labels) if self.labels else manifest

    def to_csv(self) -> str:
        """Return all decisions as a table that `read` takes for each of its options."""
        group_of = {image: str(at) for at, group in enumerate(self.groups) for image in group}
        rows = [
            {
                "id": image,
                "decision": EXCLUDE if image in self.excluded else RELABEL if image in self.labels else KEEP,
                "label": self.labels.get(image, ""),
                "group": group_of.get(image, ""),
            }
            for image in sorted({*self.excluded, *self.labels, *group_of})
        ]
        # A table without rows still has its columns.
        return csv_text(rows) if rows else ",".join(_COLUMNS) + "\n"

    @classmethod
    def saved(cls, path: Path, files: Mapping[str, DecisionFile]) -> "Decisions":
        """Read what `to_csv` wrote, of decisions that came from some files."""
        if not any(file.n_images for file in files.values()):
            return cls(files=dict(files))
        names = dict.fromkeys(files, str(path))
        return replace(cls.read(**names), files=dict(files), notes=())

    def _with_excluded(self, path: str, *, others_used: str | None) -> "Decisions":
        table = _Table.read(path, option="exclude")
        if table.has("decision"):
            decided = table.decided()
            excluded = [image for image, (decision, _) in decided.items() if decision == EXCLUDE]
            notes = _unused(decided, RELABEL, path, "--relabel-with") if others_used != path else []
        elif table.has("kind", "suggestion"):
            # A class may be called "exclude", which a finding of a label would then suggest.
            excluded = [
                image
                for image, kind, suggestion in table.columns("id", "kind", "suggestion")
                if suggestion == EXCLUDE and kind != _LABEL_FINDING
            ]
            notes = []
        elif len(table.header) == 1:
            excluded, notes = [image for (image,) in table.columns("id")], []
        else:
            # A row may well say that its image is kept, in a column that is called otherwise.
            raise InputError(
                f"{path} has {table.told}, and none of them says which images are excluded; name that column "
                "decision, give findings.csv as it was written (columns kind, suggestion), or one id a line",
                option="exclude",
            )
        return self._with(table, {*excluded}, notes, excluded=frozenset(excluded))

    def _with_labels(self, path: str, *, others_used: str | None) -> "Decisions":
        table = _Table.read(path, option="relabel_with")
        if not table.has("decision", "label"):
            raise InputError(
                f"{path} has {table.told}, and new labels need the columns id, decision and label: "
                f"{_SAVED_ON_THE_PAGE}. Suggestions of findings.csv are not taken for decisions",
                option="relabel_with",
            )
        decided = table.decided()
        labels = {image: label for image, (decision, label) in decided.items() if decision == RELABEL}
        if missing := [image for image, label in labels.items() if not label]:
            raise InputError(
                f"{path} relabels {counted(len(missing), 'image')} without saying how, the first is "
                f"{missing[0]!r}; write the label into the column label",
                option="relabel_with",
            )
        notes = _unused(decided, EXCLUDE, path, "--exclude") if others_used != path else []
        return self._with(table, {*labels}, notes, labels=labels)

    def _with_groups(self, path: str) -> "Decisions":
        found, digest = _groups_of(path)
        groups = tuple(group for group in found if len(group) > 1)
        file = DecisionFile(
            file=path, sha256=digest, n_images=len({each for group in groups for each in group})
        )
        return replace(self, groups=groups, files={**self.files, "keep_together": file})

    def _with(
        self, table: "_Table", images: set[str], notes: Sequence[str], **changes: object
    ) -> "Decisions":
        file = DecisionFile(file=table.path, sha256=table.sha256, n_images=len(images))
        files = {**self.files, table.option: file}
        return replace(self, files=files, notes=(*self.notes, *notes), **changes)  # type: ignore[arg-type]


def _unused(decided: Mapping[str, tuple[str, str]], kind: str, path: str, option: str) -> list[str]:
    """Say that a file holds decisions of another kind, which another option takes."""
    n = sum(decision == kind for decision, _ in decided.values())
    if not n:
        return []
    return [f"not used: {counted(n, 'decision')} of {path} to {kind}, which {option} takes [TT308]"]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A file of decisions as rows of text, or as one id a line.

    Attributes
    ----------
    path, option : str
    sha256 : str
    header : tuple of str
    rows : sequence of (int, sequence of str)
        The number of the line and the cells of each row.
    """

    path: str
    option: str
    sha256: str
    header: tuple[str, ...]
    rows: Sequence[tuple[int, Sequence[str]]]

    @classmethod
    def read(cls, path: str, *, option: str) -> "_Table":
        """Read a table with a column ``id``; text without such a header has one id a line."""
        text, digest = _text_of(path, option)
        lines = iter(io.StringIO(text, newline=""))
        n_before, names, separator = head_of_table(lines)
        reader = csv.reader(chain([names], lines), delimiter=separator, strict=True)
        cells: list[tuple[int, list[str]]] = []
        broken = None
        try:
            cells.extend((n_before + reader.line_num, row) for row in reader if any(map(str.strip, row)))
        except csv.Error as error:  # Names of files may hold quotation marks, and such a list is no table.
            line = n_before + reader.line_num
            broken = f"{path}, line {line}: {error}; write a quotation mark of an id twice"
        header = tuple(str(outside_text(cell) or "") for cell in cells[0][1]) if cells else ()
        if len(header) > 1:
            _check_header(path, header, broken, option)
        if "id" in header and not broken:
            body = cells[1:]
        else:
            # `splitlines` would also cut at letters that a file's name may hold.
            numbered = enumerate(text.split("\n"), 1)
            header, body = ("id",), [(number, [line]) for number, line in numbered if line.strip()]
        # Findings of a clean data set are none, which is nothing to refuse.
        if not body and not {"kind", "suggestion"} <= {*header}:
            raise InputError(
                f"{path} holds no decision; {_SAVED_ON_THE_PAGE}, or leave the option out", option=option
            )
        if ragged := next((number for number, row in body if len(row) != len(header)), None):
            raise InputError(
                f"{path}, line {ragged}: the line has not as many cells as the {len(header)} of the header; "
                "correct the line",
                option=option,
            )
        return cls(path=path, option=option, sha256=digest, header=header, rows=body)

    @property
    def told(self) -> str:
        """The columns, in words."""
        return f"the columns {', '.join(self.header)}" if len(self.header) > 1 else "one id a line"

    def has(self, *names: str) -> bool:
        """Whether the table has columns of all these names."""
        return {*names} <= {*self.header}

    def columns(self, *names: str) -> list[tuple[str, ...]]:
        """Return the cells of some columns, as text by the rules of `outside_text`."""
        at = [self.header.index(name) for name in names]
        return [
            tuple(outside_text(row[each], keeps_blanks=self.header[each] == "id") or "" for each in at)
            for _, row in self.rows
        ]

    def decided(self) -> dict[str, tuple[str, str]]:
        """Return the decision and the label of each id.

        Raises
        ------
        InputError
            For a decision that is none, and for two decisions about one image.
        """
        labels = "label" if "label" in self.header else "decision"
        found: dict[str, tuple[str, str]] = {}
        lines: dict[str, int] = {}
        for (line, _), (image, decision, label) in zip(
            self.rows, self.columns("id", "decision", labels), strict=True
        ):
            if decision not in DECISIONS:
                raise InputError(
                    f"{self.path}, line {line}: decision {decision!r} is unknown; "
                    f"{choices(decision, DECISIONS)}",
                    option=self.option,
                )
            value = (decision, label if decision == RELABEL else "")
            if found.setdefault(image, value) != value:
                raise InputError(
                    f"{self.path}, lines {lines[image]} and {line}: two decisions about {image!r}, "
                    f"{' '.join(found[image]).strip()!r} and {' '.join(value).strip()!r}; leave one of them",
                    option=self.option,
                )
            lines.setdefault(image, line)
        return found


def _check_header(path: str, header: Sequence[str], broken: str | None, option: str) -> None:
    """Refuse a table that would be taken for a list of ids, or whose columns cannot be told apart."""
    lowered = [name.lower() for name in header]
    if "id" not in header and {*lowered} & {"id", *_TELLING}:
        raise InputError(
            f"{path} has the columns {', '.join(header)}, and none of them is called id; name the column of "
            "the images id, in small letters",
            option=option,
        )
    if "id" in header and broken is not None:
        raise InputError(broken, option=option)
    known = [name for name in header if name in {"id", "label", *_TELLING}]
    if twice := [name for at, name in enumerate(known) if name in known[:at]]:
        raise InputError(
            f"{path} has column {twice[0]!r} twice, and only one can be meant; rename or remove the other",
            option=option,
        )


def _groups_of(path: str) -> tuple[list[tuple[str, ...]], str]:
    """Return groups of ids that a file of findings or of groups holds, and the SHA-256 of the file."""
    option = "keep_together"
    text, digest = _text_of(path, option)
    if text.lstrip().startswith("{"):
        try:
            return [tuple(map(str, group["ids"])) for group in parse_json(text)["groups"]], digest
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no findings.json of toptune inspect: it has no groups with ids; give the file "
                "that toptune inspect wrote",
                option=option,
            ) from error
    table = _Table.read(path, option=option) if text.strip() else None
    if table is not None and table.has("group"):
        members: dict[str, list[str]] = {}
        for image, group in table.columns("id", "group"):
            if group:
                members.setdefault(group, []).append(image)
        return [tuple(dict.fromkeys(each)) for each in members.values()], digest
    if table is None or not table.has("kind", "related"):
        raise InputError(
            f"{path} has {table.told if table else 'no rows'}, and groups need findings.json or findings.csv "
            "of toptune inspect, or the columns id and group",
            option=option,
        )
    found = [each for each in table.columns("id", "kind", "related") if each[1] in COPIES and each[2]]
    # Ids that hold a bar themselves are among the images of the same groups, and are looked for first.
    with_bars = sorted({image for image, _, _ in found if LABEL_SEPARATOR in image}, key=len, reverse=True)
    bar = re.escape(LABEL_SEPARATOR)
    related_id = re.compile(f"(?:{'|'.join([*map(re.escape, with_bars), f'[^{bar}]+'])})(?={bar}|$)")
    groups = {tuple(sorted({image, *related_id.findall(related)})) for image, _, related in found}
    return sorted(groups), digest


def _text_of(path: str, option: str) -> tuple[str, str]:
    """Return the text of a file, and the SHA-256 of its bytes."""
    try:
        text = read_outside_text(Path(path), "the file of decisions")
        return text, hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except InputError as error:
        raise InputError(str(error), option=option) from error
