"""`evaluate` measures what a run says besides labels, on stored features or on images."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.json_values import json_ready
from toptune.train.answers.novelty import Novelty
from toptune.train.answers.options import AnswerOptions
from toptune.train.answers.things import FEATURES, Things
from toptune.train.figures.label_figures import LabelAnswers
from toptune.train.figures.number_figures import NumberAnswers
from toptune.train.figures.tables import Tables
from toptune.train.fusion.evaluation import FoundRows, find_rows
from toptune.train.fusion.fused_run import FusedRun, load_run
from toptune.train.rows.groups import group_keys
from toptune.train.runs.evaluation import any_rows
from toptune.train.runs.run import Run
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.verdicts.detection import MOST_TRAINING_ROWS, Side, detection_figures
from toptune.train.verdicts.figures import Measured, target_figures
from toptune.train.verdicts.nearness import novelty_of, novelty_of_rows
from toptune.train.verdicts.verdicts import Verdicts, is_measured, task_in
from toptune.workflows.predict.answering import Asked
from toptune.workflows.predict.predictions import Answers
from toptune.workflows.predict.windows import Network

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Where:
    """The stored features that a run is scored on; the fields are those of `EvaluateOptions`."""

    store: str | Path | FeatureStore | None
    dataset: str | None
    split: str | None
    ood: str | None


def score_asked(run: str | Path, where: Where, options: AnswerOptions) -> tuple[dict[str, Any], Tables]:
    """Score a run on stored features, and measure what it was asked besides labels.

    Returns
    -------
    metrics : dict
        As of `toptune.train.evaluate_run`, with ``label_sets``, ``levels``, ``back_off``, ``novelty``,
        ``things`` and ``detection`` of what was asked.
    tables : Tables
    """
    start = time.perf_counter()
    trained = load_run(run)
    verdicts = Verdicts.of(trained.record, trained.folder, options)
    if task_in(trained.record) != CLASSIFICATION:
        return _score_other_task(trained, where, verdicts, start=start)
    _tell(verdicts)
    found = find_rows(trained, store=where.store, dataset=where.dataset, split=where.split)
    measured = Measured(verdicts=verdicts, thing_of=things_of(found.manifest, verdicts, found.usable))
    scored = found.score(measured)
    wants_novelty = options.wants_novelty or where.ood is not None
    members = [novelty_of(head) for head in found.heads] if wants_novelty else []
    novelty = None
    if options.wants_novelty:
        novelty = novelty_of_rows(found.heads, members, found.blocks(found.usable))
    of_means = None
    if measured.thing_of is not None and verdicts.answer_from == FEATURES:
        of_means = _of_means(found, measured.things)
    added = measured.figures(novelty=novelty, of_means=of_means)
    if where.ood is not None:
        added["detection"] = _detection(found, members, where)
    metrics = found.metrics(scored, seconds=time.perf_counter() - start)
    return metrics | json_ready(added), scored.tables


def _score_other_task(
    trained: Run | FusedRun, where: Where, verdicts: Verdicts, *, start: float
) -> tuple[dict[str, Any], Tables]:
    """Score a run of numbers or of several labels, and measure what it was asked besides."""
    task, options = task_in(trained.record), verdicts.options
    if where.ood is not None:
        raise InputError(
            f"{trained.folder} is a run of --task {task}, and other data sets are told from the own by runs "
            "with one class an image; leave --ood out",
            option="ood",
        )
    found = find_rows(trained, store=where.store, dataset=where.dataset, split=where.split)
    thing_of = things_of(found.manifest, verdicts, found.usable)
    keys = None if thing_of is None else [thing_of[row] for row in found.usable.tolist()]
    _tell(verdicts, of_things=keys is not None)
    scored = found.score()
    novelty = of_means = None
    if options.wants_novelty:
        members = [novelty_of(head) for head in found.heads]
        novelty = novelty_of_rows(found.heads, members, found.blocks(found.usable))
    if keys is not None and verdicts.answer_from == FEATURES:
        of_means = _of_means(found, Things.of(keys))
    assert isinstance(scored.tables, LabelAnswers | NumberAnswers), "the task is none of classes"
    added = target_figures(
        verdicts, scored.tables, scored.labels, trained.form, keys=keys, novelty=novelty, of_means=of_means
    )
    metrics = found.metrics(scored, seconds=time.perf_counter() - start)
    return metrics | json_ready(added), scored.tables


def _tell(verdicts: Verdicts, *, of_things: bool = False) -> None:
    for note in verdicts.notes(of_things=of_things):
        logger.warning("%s [TT516]", note)


def things_of(manifest: Manifest, verdicts: Verdicts, rows: Rows) -> dict[int, str] | None:
    """Return the thing that each of some rows shows; None where images are measured one by one.

    Raises
    ------
    InputError
        If the column or pattern that was asked for does not tell the things of all rows.
    """
    by = verdicts.answer_by
    if by is None:
        return None
    try:
        keys = group_keys(manifest, by, option="answer_by")
    except InputError as error:
        if verdicts.options.answer_by is not None:
            raise
        logger.warning("no figures of things by %r, as the run was trained: %s [TT515]", by, error)
        return None
    return {row: keys[row] for row in rows.tolist()}


def _of_means(found: FoundRows, things: Things) -> npt.NDArray[np.float64]:
    """Return what the run says of each thing by the mean of the features of its images."""
    return found.probabilities([things.means_of(blocks) for blocks in found.blocks(found.usable)])


def _detection(found: FoundRows, members: Sequence[Novelty], where: Where) -> dict[str, Any]:
    """Tell the images of another data set from those that were scored."""
    assert where.ood is not None
    others = [any_rows(head, store=where.store, dataset=where.ood) for head in found.heads]
    rows = others[0].usable
    for other in others[1:]:
        rows = np.intersect1d(rows, other.usable)
    outside = FoundRows(run=found.run, of_heads=tuple(others), usable=rows)
    sides = [
        Side(blocks=each.blocks(each.usable), probabilities=each.probabilities(each.blocks(each.usable)))
        for each in (found, outside)
    ]
    first = found.heads[0]
    trained = find_rows(first, store=where.store, dataset=None, split="train")
    some = trained.usable[np.unique(np.linspace(0, len(trained.usable) - 1, MOST_TRAINING_ROWS).astype(int))]
    labels = trained.of_heads[0].labels or {}
    figures = detection_figures(
        found.heads,
        members,
        trained.blocks(some)[0],
        [labels[row] for row in some.tolist()],
        inside=sides[0],
        outside=sides[1],
    )
    return {"dataset": where.ood} | figures


@dataclass(kw_only=True)
class Seen:
    """What a network says of batches of labeled images, as it is measured.

    Attributes
    ----------
    network : FrozenNetwork, FusedNetwork or FineTunedNetwork
        One that says what was asked.
    measured : Measured or None
        None if nothing was asked.
    """

    network: Network
    measured: Measured | None = None
    _novelty: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _features: list[tuple[npt.NDArray[np.float32], ...]] = field(default_factory=list)

    @classmethod
    def of(cls, network: Network, options: AnswerOptions, manifest: Manifest, rows: Sequence[int]) -> "Seen":
        """Read what the answers need of the run; `rows` are those of the manifest that are scored."""
        if not is_measured(network.record.record, network.record.folder, options):
            return cls(network=network)
        asked = Asked.of(network, options)
        things = things_of(manifest, asked.verdicts, np.array(rows, dtype=np.int64))
        # Notes of classes are told of images, whose sets are measured beside those of things.
        of_things = things is not None and asked.verdicts.task != CLASSIFICATION
        _tell(asked.verdicts, of_things=of_things)
        return cls(network=asked.network, measured=Measured(verdicts=asked.verdicts, thing_of=things))

    def batch(self, rows: Rows, codes: Rows, answers: Answers) -> npt.NDArray[np.float64]:
        """Take what was said of rows of the manifest, and return the probabilities that are scored."""
        if self.measured is None or not len(rows):
            return answers.probabilities
        self.keep(answers)
        return self.measured(rows, codes, answers.probabilities)

    def keep(self, answers: Answers) -> None:
        """Take what was said beside the answers of images that could be used."""
        if len(answers.rows):
            self._novelty += [answers.novelty] if answers.novelty is not None else []
            self._features += [answers.features] if answers.features is not None else []

    def figures(self) -> dict[str, Any]:
        """Return what is added to the metrics, of classes."""
        if self.measured is None:
            return {}
        things = None if self.measured.thing_of is None else self.measured.things
        novelty, of_means = self._beside(things)
        found: dict[str, Any] = json_ready(self.measured.figures(novelty=novelty, of_means=of_means))
        return found

    def target_figures(self, rows: Sequence[int], tables: Tables, truth: Sequence[str]) -> dict[str, Any]:
        """Return what is added to the metrics of several labels or of numbers, of these rows (n,)."""
        if self.measured is None:
            return {}
        assert isinstance(tables, LabelAnswers | NumberAnswers), "the task is none of classes"
        thing_of = self.measured.thing_of
        keys = None if thing_of is None else [thing_of[row] for row in rows]
        novelty, of_means = self._beside(None if keys is None else Things.of(keys))
        found: dict[str, Any] = json_ready(
            target_figures(
                self.measured.verdicts,
                tables,
                truth,
                self.network.record.form,
                keys=keys,
                novelty=novelty,
                of_means=of_means,
            )
        )
        return found

    def _beside(self, things: Things | None) -> tuple[Values | None, Values | None]:
        """Return the novelty of all rows that were seen, and what is said of means of features of things."""
        of_means = None
        if self._features and things is not None:
            means = [
                things.means(np.concatenate(each)).astype(np.float32)
                for each in zip(*self._features, strict=True)
            ]
            of_means = self.network.of_means(means)
        return np.concatenate(self._novelty) if self._novelty else None, of_means
