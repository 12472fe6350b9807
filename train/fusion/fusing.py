"""Heads become one run: weighed by their left-out rows, scored together, written into one folder."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from toptune.costs.phases import Phases
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.extraction_costs import added_costs
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.json_values import json_ready
from toptune.store.files.names import plain_model_name
from toptune.store.files.provenance import provenance
from toptune.text import counted
from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.intervals import LeftOutErrors
from toptune.train.answers.kept import Said
from toptune.train.answers.left_out import LeftOut
from toptune.train.answers.things import Things
from toptune.train.fusion.fused_run import MEMBERS, FusedRun, noun_of
from toptune.train.fusion.label_pool import pair_rows, pooled
from toptune.train.fusion.pool import Pool
from toptune.train.fusion.weights import LeftOutRows, Weighing, weigh, without_members
from toptune.train.numerics.thresholds import F1, ThresholdRule, choose_thresholds
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.rows.chosen_rows import ChosenRows
from toptune.train.rows.folds import Folds
from toptune.train.rows.inputs import row_weights
from toptune.train.runs.beside import Beside
from toptune.train.runs.left_out import with_thing_thresholds
from toptune.train.runs.options import LATE
from toptune.train.runs.record import (
    LIBRARIES,
    VERSION,
    FusionRecord,
    MemberRecord,
    RunRecord,
    library_versions,
)
from toptune.train.runs.run import Run
from toptune.train.runs.scoring import Rows, Scored, score_together
from toptune.train.runs.training import run_metrics
from toptune.train.runs.writing import new_run_folder, size_note, write_account, write_decisions
from toptune.train.tasks.task import TargetMatrix

# The folder of a member has its number and so much of the name of its model.
_SLUG_LENGTH = 60


@dataclass(frozen=True, kw_only=True)
class Member:
    """A fitted head that may become a part of a fused run.

    Attributes
    ----------
    name : str
        What the head is called among the others.
    run : Run
    features : StoredFeatures
        The features of its model over the data set.
    left_out : LeftOutScores or None
        None of a head that is weighed already.
    seconds : float
        Seconds of the fit.
    costs : mapping
        What extracting its arrays took.
    feature_bytes : int
        Bytes of the features of all images that the head uses.
    write : callable (folder, scored, metrics)
        Writes the RUN folder of the head, sealed, into a folder that exists.
    """

    name: str
    run: Run
    features: StoredFeatures
    left_out: LeftOutScores | None
    seconds: float
    costs: Mapping[str, float]
    feature_bytes: int
    write: Callable[[Path, Scored, dict[str, Any]], None]

    def blocks(self, rows: Rows) -> Any:
        """Return the features of some rows, as the run takes them."""
        return self.features.blocks([array.name for array in self.run.arrays], rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What the training rows say of each other: classes, weights and folds, each (n,)."""

    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    folds: npt.NDArray[np.int64]
    things: Sequence[str] | None = None
    answers_from: str = ""
    # Labels stand in place of codes where a row may have several: 1, 0, or NaN (n, n_labels).
    labels: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, rows: ChosenRows, *, class_weight: str | None) -> "Training":
        """Take them from the rows that were chosen."""
        found = cls.taught(rows.train_targets, rows.folds.numbers, class_weight=class_weight)
        return replace(found, things=rows.train_things, answers_from=rows.options.answers_from)

    @classmethod
    def taught(
        cls,
        targets: Sequence[str] | TargetMatrix,
        folds: npt.NDArray[np.int64],
        *,
        class_weight: str | None,
    ) -> "Training":
        """Take them from the class or the labels of each row and from folds (n,)."""
        if isinstance(targets, TargetMatrix):
            n = len(targets)
            return cls(codes=np.zeros(n, np.int64), weights=np.ones(n), folds=folds, labels=targets.values)
        classes, codes = np.unique(targets, return_inverse=True)
        codes = codes.astype(np.int64)
        return cls(codes=codes, weights=row_weights(codes, classes, class_weight), folds=folds)

    def left_out(self, members: Sequence[Member]) -> LeftOutRows:
        """Return what the heads say of the rows that all of them left out."""
        of_members = [member.left_out for member in members if member.left_out is not None]
        kept = of_members[0].rows
        assert len(of_members) == len(members), "all heads have left-out scores"
        for scores in of_members:
            assert np.array_equal(scores.rows, kept), "all heads have the same folds"
        if self.labels is not None:
            return pair_rows(_probabilities(members), self.labels[kept], self.folds[kept])
        return LeftOutRows(
            logs=np.stack(
                [
                    calibrated_logs(scores, member.run.head.temperature)
                    for scores, member in zip(of_members, members, strict=True)
                ]
            ),
            codes=self.codes[kept],
            weights=self.weights[kept],
            folds=self.folds[kept],
        )


def _probabilities(members: Sequence[Member]) -> list[npt.NDArray[np.float64]]:
    """Return the calibrated probabilities (n_kept, n_labels) of the rows that each head left out."""
    return [
        member.run.head.probabilities_of(member.left_out.scores)
        for member in members
        if member.left_out is not None
    ]


def _thresholds(members: Sequence[Member], training: Training, pool: Pool) -> dict[str, float] | None:
    """Choose from which probability each label applies, by the rows that all heads left out."""
    left = members[0].left_out
    if training.labels is None or left is None:
        return None
    run = members[0].run
    rule = ThresholdRule.of(str(run.record.options.get("threshold", F1)))
    found = choose_thresholds(pooled(pool, _probabilities(members)), training.labels[left.rows], rule)
    return dict(zip(run.classes, found.tolist(), strict=True))


def fused_run(
    path: Path, members: Sequence[Member], training: Training
) -> tuple[FusedRun, list[Member], LeftOut | LeftOutErrors | None]:
    """Weigh heads and make the run of those that weigh something; the run has no metrics yet.

    Parameters
    ----------
    path : Path
        Folder that the run will have.
    members : sequence of Member
        Heads of the same classes, trained on the same rows with the same folds.
    training : Training

    Returns
    -------
    run : FusedRun
    kept : list of Member
        The members of the run.
    said : LeftOut or None
        What the heads together say of the rows that they had left out; None where rows have several labels.
    """
    left = training.left_out(members)
    weighing = weigh(left)
    pool = without_members(left, weighing.pool)
    is_kept = weighing.pool.weights > 0
    kept = [member for member, keeps in zip(members, is_kept, strict=True) if keeps]
    dropped = [member for member, keeps in zip(members, is_kept, strict=True) if not keeps]
    run = FusedRun(
        folder=path,
        record=_record(kept, dropped, pool, weighing, thresholds=_thresholds(kept, training, pool)),
        metrics={},
        members=tuple(member.run for member in kept),
        train_rows=kept[0].run.train_rows,
        test_rows=kept[0].run.test_rows,
    )
    said = _said(run, kept, training, replace(left, logs=left.logs[is_kept]))
    return replace(run, record=with_thing_thresholds(run.record, said)), kept, said.kept()


def _said(run: FusedRun, kept: Sequence[Member], training: Training, left: LeftOutRows) -> Said:
    """Return what the heads of a run together say of the rows that they had left out."""
    scores, labels = kept[0].left_out, training.labels
    assert scores is not None, "members without left-out scores are refused before they are weighed"
    things = training.things
    return Said(
        task=run.record.task_name,
        names=run.classes,
        values=(
            run.pool.probabilities(left.logs) if labels is None else pooled(run.pool, _probabilities(kept))
        ),
        truth=left.codes if labels is None else labels[scores.rows],
        rows=run.train_rows[scores.rows],
        things=None if things is None else [things[row] for row in scores.rows.tolist()],
        way=training.answers_from,
    )


def score_together_with(
    run: FusedRun,
    members: Sequence[Member],
    manifest: Manifest,
    rows: Rows,
    labels: Mapping[int, str] | None = None,
    *,
    tree: ClassTree | None = None,
) -> list[Scored]:
    """Score a fused run and each of its members on rows of the manifest; the first is the fused run's.

    Only the fused run has figures of things, and of the levels of a tree of its classes.
    """

    def answer(some: Rows) -> list[npt.NDArray[np.float64]]:
        of_members = [member.run.predict_blocks(member.blocks(some))[1] for member in members]
        return [run.fuse(of_members), *of_members]

    beside = Beside.of(run.record, run.form, manifest, rows, tree)
    scored, *others = score_together(
        answer, rows, forms=[run.form, *(member.run.form for member in members)], manifest=manifest,
        labels=labels, looks=[None if beside is None else beside.gathered],
    )  # fmt: skip

    def of_means(things: Things) -> npt.NDArray[np.float64]:
        return run.predict_blocks([things.means_of(member.blocks(rows)) for member in members])[1]

    return [scored if beside is None else beside.added_to(scored, of_means), *others]


def write_fused(
    run: FusedRun,
    members: Sequence[Member],
    scored: Sequence[Scored],
    manifest: Manifest,
    phases: Phases,
    *,
    folds: Folds | None,
    all_members: Sequence[Member],
    said: LeftOut | LeftOutErrors | None,
    forgotten: Sequence[str] = (),
) -> FusedRun:
    """Write a fused run with its members, and return it with its metrics.

    Parameters
    ----------
    run : FusedRun
    members : sequence of Member
        Those of the run.
    scored : sequence of Scored
        As of `score_together_with`.
    manifest : Manifest
    phases : Phases
        Of the work so far.
    folds : Folds, optional
        Folds of the training rows.
    all_members : sequence of Member
        Also those that weigh nothing; their features cost as much.
    said : LeftOut, optional
        As of `fused_run`.
    forgotten : sequence of str
        Ids that may never come back by an update.
    """
    of_run, *of_members = scored
    counts = {
        "n_train": len(run.train_rows), "n_test": len(run.test_rows), "n_skipped": run.record.split.n_skipped,
    }  # fmt: skip
    extraction = added_costs([member.costs for member in all_members])
    run = replace(run, metrics=run_metrics(of_run, counts, phases, extraction))
    whole = []
    with phases("write"), new_run_folder(run.folder) as folder:
        for member, inner, own in zip(members, run.fusion.members, of_members, strict=True):
            # The costs of the work are those of the whole; of a head alone the seconds of the fit are known.
            mine = json_ready(
                own.metrics | own.tables.files | counts | {"seconds": {"total": member.seconds}}
            )
            target = folder / inner.folder
            target.mkdir(parents=True)
            member.write(target, own, mine)
            whole.append(replace(member.run, folder=run.folder / inner.folder, metrics=mine))
        table = [
            {
                "name": inner.name, "model": inner.model, "head": inner.head, "weight": inner.weight,
                "accuracy": inner.left_out_accuracy, "log_loss": inner.left_out_log_loss, "is_chosen": True,
            }
            for inner in run.fusion.members
        ]  # fmt: skip
        what = run.title
        write_decisions(folder, run.record, members[0].run.decisions)
        write_account(run, folder, manifest, of_run, what=what, table=table, folds=folds, forgotten=forgotten)
        if said is not None:
            said.write(folder)
        # All heads have the same classes, and a tree of these.
        tree = ClassTree.read(folder / run.fusion.members[0].folder, run.classes, advice="train again")
        if tree is not None:
            tree.write(folder)
    n_bytes = sum(member.feature_bytes for member in members)
    return replace(run, members=tuple(whole), size_note=size_note(run.folder, n_bytes))


def calibrated_logs(left_out: LeftOutScores, temperature: float | None) -> npt.NDArray[np.float64]:
    """Return the calibrated log-probabilities (n_kept, n_classes) of the rows that a head left out."""
    assert temperature is not None, "a head with left-out scores has a temperature"
    logs: npt.NDArray[np.float64] = log_softmax(left_out.scores.astype(np.float64) / temperature, axis=1)
    return logs


def _record(
    kept: Sequence[Member],
    dropped: Sequence[Member],
    pool: Pool,
    weighing: Weighing,
    *,
    thresholds: Mapping[str, float] | None = None,
) -> RunRecord:
    """Make the record of a fused run: what its members share, and how they are weighed."""
    base = kept[0].run.record
    members = []
    for number, (member, weight) in enumerate(zip(kept, pool.weights.tolist(), strict=True)):
        left_out = member.run.head.left_out
        members.append(
            MemberRecord(
                folder=f"{MEMBERS}/{number}-{_slug(member.name)}",
                name=member.name,
                model=member.run.record.model,
                head=member.run.head.name,
                weight=weight,
                left_out_accuracy=left_out.accuracy if left_out else None,
                left_out_log_loss=left_out.log_loss if left_out else None,
            )
        )
    return RunRecord(
        version=base.version if base.task is not None else VERSION,
        kind=LATE,
        task=base.task,
        store=base.store,
        dataset=base.dataset,
        dataset_version=base.dataset_version,
        model=" + ".join(dict.fromkeys(member.run.record.model for member in kept)),
        classes=base.classes,
        options=_options(kept, dropped),
        split=base.split,
        folds=base.folds,
        manifest=base.manifest,
        decisions=base.decisions,
        selected={
            "weights": {member.name: member.weight for member in members},
            "temperature": pool.temperature,
        },
        warnings=tuple(_notes(kept, dropped, pool, weighing)),
        report=json_ready(
            {
                "left_out": {
                    "accuracy": weighing.left_out.accuracy,
                    "log_loss": weighing.left_out.log_loss,
                    "n_rows": weighing.left_out.n_rows,
                }
            }
        ),
        versions=library_versions(LIBRARIES),
        created=provenance(),
        fusion=FusionRecord(
            members=tuple(members),
            temperature=pool.temperature,
            are_equal=pool.is_equal,
            gain=weighing.gain,
            standard_error=weighing.standard_error,
            dropped=tuple(member.name for member in dropped),
            thresholds=thresholds,
        ),
    )


def _options(kept: Sequence[Member], dropped: Sequence[Member]) -> dict[str, Any]:
    """Give the options that members share; of an option that differs, the value of each by its model."""
    given = {member.name: member.run.record.options for member in (*kept, *dropped)}
    names = dict.fromkeys(name for options in given.values() for name in options)
    options: dict[str, Any] = {}
    for name in names:
        values = {model: options_of.get(name) for model, options_of in given.items()}
        first, *others = values.values()
        options[name] = first if all(each == first for each in others) else values
    if isinstance(heads := options.get("head"), dict):
        options["head"] = " + ".join(dict.fromkeys(map(str, heads.values())))
    models = [member.run.record.model for member in (*kept, *dropped)]
    return options | {"models": models, "fusion": LATE}


def _notes(kept: Sequence[Member], dropped: Sequence[Member], pool: Pool, weighing: Weighing) -> list[str]:
    """Say how the heads were weighed, and give the warnings of their fits."""
    notes = []
    what = noun_of([member.run.record.model for member in (*kept, *dropped)])
    if len(kept) > 1 and pool.is_equal:
        change = "lower" if weighing.gain > 0 else "raise"
        by = f"{abs(weighing.gain):.4f} (standard error {weighing.standard_error:.4f})"
        small = ", which is no more than half a standard error" if weighing.gain > 0 else ""
        notes.append(
            f"all {what}s weigh the same: weights that were chosen on other folds {change} the left-out log "
            f"loss by {by}{small} [TT410]"
        )
    needed = {source.cache.digest for member in kept for source in member.run.sources}
    for member in dropped:
        # Another head of the run may read the same backbone.
        spared = {source.cache.digest for source in member.run.sources} - needed
        fewer = f" and need {counted(len(spared), 'backbone')} fewer" if spared else ""
        notes.append(
            f"{what} {member.name!r} weighs nothing beside the others and is no part of the run; predictions "
            f"are the same without it{fewer} [TT411]"
        )
    return notes + shared_notes(kept)


def shared_notes(members: Sequence[Member]) -> list[str]:
    """Give the warnings of all members once, and those of some with the name of the member."""
    told = [list(member.run.record.warnings) for member in members]
    shared = [note for note in told[0] if all(note in others for others in told[1:])]
    notes = list(shared)
    for member, own in zip(members, told, strict=True):
        notes += [f"{member.name}: {note}" for note in own if note not in shared]
    return notes


def _slug(name: str) -> str:
    """Make a part of a folder's name of the name of a member."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain_model_name(name))[:_SLUG_LENGTH].strip("-.") or "model"
