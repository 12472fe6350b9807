"""`Similarity`: the images that are like each given image, as a table, a file or a page."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toptune.costs.meter import describe_costs
from toptune.costs.values import Costs
from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.source import ImageSource, read_bytes
from toptune.store.datasets.outside_text import ESCAPES
from toptune.store.files.json_values import json_text
from toptune.store.files.writing import csv_text, is_writable_folder, new_target, write_file
from toptune.text import counted, printed_records
from toptune.workflows.gallery.rendering import render_page
from toptune.workflows.gallery.thumbnails import Thumbnails, data_uri, jpeg_of
from toptune.workflows.predict.images import ImageLike, LooseImages, find_images

FORMS = ("csv", "jsonl", "html")
_TEMPLATE = Path(__file__).parent / "similar.html"
_DIGITS = 6
# A table without rows still has its columns.
_NO_ROWS = "image,rank,id,label,split\n"


@dataclass(frozen=True, kw_only=True)
class Like:
    """A stored image that is like a given one.

    Attributes
    ----------
    id : str
    label, split : str or None
        None where nothing is known.
    value : float
        Cosine to the given image; or, of a run, the signed share of the score.
    """

    id: str
    label: str | None
    split: str | None
    value: float


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What is like one image.

    Attributes
    ----------
    image : str
        The file, or the id of the data set.
    found : tuple of Like
        The nearest first; of a run, the largest shares first.
    error : str or None
        Why the image could not be used.
    predicted : str or None
        Of a run, the predicted class; None otherwise, as the fields below.
    confidence, score, intercept, others : float or None
        Its probability; its score, which is the intercept plus all shares; and the sum of the shares of the
        centers that are not in `found`.
    """

    image: str
    found: tuple[Like, ...] = ()
    error: str | None = None
    predicted: str | None = None
    confidence: float | None = None
    score: float | None = None
    intercept: float | None = None
    others: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """What `similar` found.

    Attributes
    ----------
    measure : {"cosine", "share"}
        What the values are.
    dataset : str
    dataset_version : int
    model : str
    layers : tuple of str
    run : str or None
        The RUN folder whose predictions are told.
    images : tuple of Likeness
        One for each given image, in order.
    notes : tuple of str
    costs : Costs
    """

    measure: str
    dataset: str
    dataset_version: int
    model: str
    layers: tuple[str, ...]
    run: str | None
    images: tuple[Likeness, ...]
    notes: tuple[str, ...]
    costs: Costs

    @property
    def failed(self) -> dict[str, str | None]:
        """Why images could not be used, by image."""
        return {each.image: each.error for each in self.images if each.error is not None}

    def to_dict(self) -> dict[str, object]:
        """Return JSON values."""
        return asdict(self)

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield a row for each given image and image that is like it."""
        for each in self.images:
            for rank, like in enumerate(each.found, start=1):
                row: dict[str, object] = {
                    "image": each.image,
                    "rank": rank,
                    "id": like.id,
                    "label": like.label or "",
                    "split": like.split or "",
                    self.measure: round(like.value, _DIGITS),
                }
                if self.run is not None:
                    row |= {"predicted": each.predicted, "confidence": round(each.confidence or 0.0, _DIGITS)}
                yield row

    def write(
        self,
        out: str | os.PathLike[str],
        *,
        form: str | None = None,
        spreadsheet_safe: bool = False,
        data: str | os.PathLike[str] | ImageSource | None = None,
        images: Sequence[ImageLike] = (),
    ) -> None:
        """Write a new file: CSV, JSON lines or a page; see `check_similar_file`.

        Parameters
        ----------
        out : path
        form : {"csv", "jsonl", "html"}, optional
            By default told by the file's ending.
        spreadsheet_safe : bool
            Put ``'`` before text in CSV that a spreadsheet would compute as a formula.
        data : path or ImageSource, optional
            The images of the data set, whose thumbnails the page shows.
        images : sequence of path or bytes
            The given images, whose thumbnails the page shows.

        Raises
        ------
        InputError
            If the file cannot be written, or a page is to show images and none of them is in `data`.
        """
        form = check_similar_file(out, form)
        text = ""
        if form == "csv":
            rows = list(self.rows())
            text = (
                csv_text(rows, spreadsheet_safe=spreadsheet_safe) if rows else "image,rank,id,label,split\n"
            )
        elif form == "jsonl":
            text = "".join(json_text(asdict(each)) + "\n" for each in self.images)
        content = self._page(data, images) if form == "html" else text.encode("utf-8", ESCAPES)
        with new_target(Path(out).absolute(), option="--out") as temporary:
            write_file(temporary, content)

    def _page(self, data: str | os.PathLike[str] | ImageSource | None, images: Sequence[ImageLike]) -> bytes:
        """Return the page: each given image with those like it, side by side."""
        shown = {}
        for name, image in find_images(images):
            with contextlib.suppress(UnreadableImageError):
                shown[name] = jpeg_of(read_bytes(LooseImages([image]), 0))[0]
        notes = [*self.notes]
        if data is None:
            notes.append("stored images are named only: --data PATH gives the images of the data set [TT511]")
        else:
            wanted = dict.fromkeys(like.id for each in self.images for like in each.found)
            thumbnails = Thumbnails(data)
            if missing := [each for each in wanted if each not in thumbnails]:
                advice = "give the images that were extracted"
                if len(missing) == len(wanted):
                    raise InputError(
                        f"data has none of the {counted(len(wanted), 'stored image')} to show, the first is "
                        f"{missing[0]!r}; {advice}, or leave --data out",
                        option="data",
                    )
                notes.append(
                    f"{len(missing)} of {counted(len(wanted), 'stored image')} are named only, because "
                    f"--data lacks them; {advice} [TT511]"
                )
            wanted |= dict.fromkeys(each.image for each in self.images if each.image not in shown)
            found = thumbnails.jpegs(wanted)
            shown |= {name: jpeg for name, (jpeg, _) in zip(wanted, found, strict=True)}
        return render_page(
            _TEMPLATE,
            found=self,
            shown={name: data_uri(jpeg) for name, jpeg in shown.items() if jpeg is not None},
            notes=notes,
            title=f"Like these in {self.dataset}",
        )

    def __str__(self) -> str:
        lines = []
        for each in self.images:
            lines.append(each.image if each.predicted is None else _told(each))
            if each.error is not None:
                lines.append(f"  failed: {each.error}")
            rows = [
                {
                    self.measure: f"{like.value:+.4f}" if self.measure == "share" else f"{like.value:.4f}",
                    "image": like.id,
                    "label": like.label or "",
                    "split": like.split or "",
                }
                for like in each.found
            ]
            if rows:
                lines += ["  " + line for line in printed_records(rows).splitlines()]
            lines.append("")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), describe_costs(self.costs)])


def _told(each: Likeness) -> str:
    return (
        f"{each.image}: {each.predicted} ({100 * (each.confidence or 0):.1f} %), score {each.score:+.4f} = "
        f"{each.intercept:+.4f} for any image, the shares below, and {each.others:+.4f} of other centers"
    )


def check_similar_file(out: str | os.PathLike[str], form: str | None = None) -> str:
    """Refuse a file that cannot be written, before any work; return the format.

    Raises
    ------
    InputError
        If `out` exists or lies in no folder that can be written, or its ending is that of no format.
    """
    path = Path(out).absolute()
    told = path.suffix.lower().lstrip(".")
    if path.exists():
        raise InputError(f"out {path} exists; nothing is overwritten: give another --out", option="out")
    if not is_writable_folder(path.parent):
        raise InputError(
            f"out {path} cannot be made: {path.parent} is not a folder that you may write to", option="out"
        )
    if form is None and told not in FORMS:
        raise InputError(
            f"out {path.name} has no ending of a format; give one that ends in .csv, .jsonl or .html",
            option="out",
        )
    if form is not None and told in FORMS and told != form:
        raise InputError(
            f"out {path.name} ends in {path.suffix}, and --format is {form}; leave one out", option="format"
        )
    return form or told
