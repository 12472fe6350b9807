"""Figures of things and of levels of a tree, which a run has beside those of its test images."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.gathered import Gathered
from toptune.train.answers.thing_figures import thing_figures, thing_form
from toptune.train.answers.things import FEATURES, Things
from toptune.train.figures.label_figures import LabelAnswers
from toptune.train.figures.number_figures import NumberAnswers
from toptune.train.rows.groups import group_keys
from toptune.train.rows.options import ways_of
from toptune.train.runs.record import RunRecord
from toptune.train.tasks.answer_form import AnswerForm

if TYPE_CHECKING:
    from toptune.train.runs.scoring import Scored

logger = logging.getLogger(__name__)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Beside:
    """What is measured of test rows besides the figures of images.

    Attributes
    ----------
    record : RunRecord
    form : AnswerForm
    gathered : Gathered
        Sees the rows of a run of classes.
    """

    record: RunRecord
    form: AnswerForm
    gathered: Gathered

    @classmethod
    def of(
        cls,
        record: RunRecord,
        form: AnswerForm,
        manifest: Manifest,
        rows: npt.NDArray[np.int64],
        tree: ClassTree | None,
    ) -> "Beside | None":
        """Return what is measured of rows of the manifest; None without things, a tree, or rows."""
        thing_of = _thing_of(record, manifest, rows)
        if not len(rows) or (thing_of is None and tree is None):
            return None
        return cls(record=record, form=form, gathered=Gathered(tree=tree, thing_of=thing_of))

    def added_to(self, scored: "Scored", of_means: Callable[[Things], Values]) -> "Scored":
        """Add ``things`` and ``levels`` to the metrics of rows that were scored.

        Parameters
        ----------
        scored : Scored
        of_means : callable (Things) -> ndarray, shape (n_things, k)
            What the run says of means of features.
        """
        found: dict[str, Any] = {}
        if self.gathered.tree is not None:
            found["levels"] = self.gathered.levels()
        try:
            if (thing_of := self.gathered.thing_of) is not None:
                things = Things.of([thing_of[row] for row in scored.rows.tolist()])
                found["things"] = self._things(things, scored, of_means)
        except InputError as error:
            # A training refuses such things before it begins; an update may find them in a newer version.
            logger.warning("no figures of things: %s [TT515]", error)
        return replace(scored, metrics=scored.metrics | found)

    def _things(
        self, things: Things, scored: "Scored", of_means: Callable[[Things], Values]
    ) -> dict[str, Any]:
        options, task = self.record.options, self.form.task
        by, way = str(options["answer_by"]), str(options.get("answer_from") or ways_of(task)[0])
        truth = things.labels(scored.labels, by=by, task=task)
        if way == FEATURES:
            said = of_means(things)
        else:
            said = things.answers(self._of_rows(scored), task=task, way=way, is_ordinal=self.form.is_ordinal)
        form = thing_form(self.form, self.record.thing_thresholds)
        return thing_figures(things, said, truth, form=form, by=by, way=way)

    def _of_rows(self, scored: "Scored") -> Values:
        """Return what was said (n, k) of the rows that were scored."""
        tables = scored.tables
        if isinstance(tables, NumberAnswers):
            return tables.predicted
        return tables.probabilities if isinstance(tables, LabelAnswers) else self.gathered.probabilities


def _thing_of(record: RunRecord, manifest: Manifest, rows: npt.NDArray[np.int64]) -> Mapping[int, str] | None:
    """Return the thing that each row shows; None in a run that answers for images."""
    by = record.options.get("answer_by")
    if by is None:
        return None
    try:
        keys = group_keys(manifest, str(by), option="answer_by")
    except InputError as error:
        logger.warning("no figures of things by %r: %s [TT515]", by, error)
        return None
    return {row: keys[row] for row in rows.tolist()}
