"""`TuningRows` holds the rows and classes of a fine-tuning, checked without torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.images.remarks import remarks_of, say_remarks
from toptune.extract.images.source import ImageData, ImageSource
from toptune.extract.sources.opening import absolute_place, open_source
from toptune.store.datasets.manifest import Manifest
from toptune.train.rows.chosen_rows import choose_rows
from toptune.train.rows.splits import Split, held_out
from toptune.workflows.finetuning.options import FineTuneOptions

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class TuningRows:
    """What a fine-tuning reads.

    Attributes
    ----------
    data : str
        The place that was given, as an absolute path; the name of the source if a source was given.
    source, manifest : ImageSource, Manifest
        The images, and their ids and labels.
    split : Split
        Training and test rows, which are the rows of `toptune.train.train`.
    validation : ndarray of int64
        The training rows that choose learning rate and epoch.
    classes : dict of str to int
        Names of the classes, and the number of training rows of each.
    notes : tuple of str
        Notes on images that are in neither part.
    """

    data: str
    source: ImageSource
    manifest: Manifest
    split: Split
    validation: Rows
    classes: dict[str, int]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, data: ImageData, options: FineTuneOptions) -> Self:
        """Open the images and choose rows; none is read.

        Raises
        ------
        InputError
            If data, labels or rows cannot be used.
        """
        source = open_source(data, label_column=options.rows.label_column)
        say_remarks(remarks_of(source), source.name)
        given = source.manifest()
        manifest = options.rows.decisions.check(given).relabeled(given)
        # Images that cannot be read show when they are looked at, and are left out or refused then.
        rows = choose_rows(manifest, options.rows, cv=None).check_tested()
        return cls(
            data=absolute_place(data) if isinstance(data, str | os.PathLike) else source.name,
            source=source,
            manifest=manifest,
            split=rows.split,
            validation=draw_validation(manifest, rows.split.train, groups=rows.groups, options=options),
            classes=rows.classes,
            notes=tuple(rows.notes),
        )


def draw_validation(
    manifest: Manifest, train: Rows, *, groups: Sequence[str], options: FineTuneOptions
) -> Rows:
    """Choose the training rows that validate: a share of each class, groups kept together.

    The rule is the one that holds out test rows, `toptune.train.rows.splits.held_out`, applied to the
    training rows.

    Raises
    ------
    InputError
        If no row could be chosen.
    """
    fraction = options.validation_fraction
    if not fraction:
        return train[:0]
    rows = train.tolist()
    chosen = held_out(
        [manifest.ids[row] for row in rows],
        [str(manifest.labels[row]) for row in rows],
        seed=options.rows.seed,
        test_fraction=fraction,
        groups=[groups[row] for row in rows],
    )
    if not chosen.any():
        raise InputError(
            f"a validation part of {fraction:g} of each class leaves none of the {len(train)} training rows "
            "to validate on; raise --validation-fraction, group more finely, or give 0 and one rate"
        )
    return train[chosen]
