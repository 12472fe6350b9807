"""Candidates are fitted for their left-out answers alone; nothing of a fit is kept."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from toptune.costs.phases import Phases
from toptune.errors import DeviceMemoryError, InputError, NumericalError
from toptune.machine.memory import left_bytes
from toptune.machine.plans import plan_logger
from toptune.store.features.feature_view import ModelFeatures, StoredFeatures
from toptune.store.joined.joined_features import JoinedFeatures, joined_name, split_name
from toptune.train.best.candidates import Candidate, tried_together
from toptune.train.best.choice import LeftOutAnswers
from toptune.train.fusion.fusing import Training, calibrated_logs
from toptune.train.fusion.members import check_together, told_of
from toptune.train.fusion.weights import MOST_VALUES, LeftOutRows, weigh
from toptune.train.heads.budget import estimated_seconds
from toptune.train.heads.heads import Head, new_head
from toptune.train.heads.problem_size import ProblemSize
from toptune.train.passes.training_rows import even_sample
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing
from toptune.train.rows.chosen_rows import ChosenRows
from toptune.train.runs.best_record import TriedRecord
from toptune.train.runs.options import JOIN, LATE, TrainOptions

Logs = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """A candidate with its answers of left-out rows, or with the reason why there are none."""

    candidate: Candidate
    seconds: float | None = None
    answers: LeftOutAnswers | None = None
    skipped: str | None = None

    def record(self, *, accuracy: float | None = None, log_loss: float | None = None) -> TriedRecord:
        """Return what the run says of the candidate."""
        return self.candidate.record(
            accuracy=accuracy, log_loss=log_loss, seconds=self.seconds, skipped=self.skipped
        )


@dataclass(kw_only=True, eq=False)
class TrialBench:
    """The rows and features that all candidates are tried on.

    Attributes
    ----------
    features : mapping of str to ModelFeatures
        Of each model.
    rows : ChosenRows
        Rows that all models have.
    options : TrainOptions
        As given, with a settled device.
    phases : Phases
    left_out : LeftOutRows or None
        Classes, weights and folds of the left-out rows, known from the first fit on.
    """

    features: Mapping[str, ModelFeatures]
    rows: ChosenRows
    options: TrainOptions
    phases: Phases
    left_out: LeftOutRows | None = None
    _kept: npt.NDArray[np.int64] | None = None
    _fitted: dict[tuple[str, ...], Preprocessing] = field(default_factory=dict)

    def expected_seconds(self, candidate: Candidate) -> float:
        """Estimate the seconds of a candidate, with the heads alone of a late fusion."""
        dims = [sum(array.dim for array in own) for own in candidate.arrays.values()]
        n, cv = len(self.rows.split.train), self.rows.folds.count
        sizes = [sum(dims)] if candidate.fusion == JOIN else dims
        return sum(
            estimated_seconds(
                candidate.head, ProblemSize(n=n, d=d, n_classes=len(self.rows.classes), n_folds=cv)
            )
            for d in sizes
        )

    def attempt(self, candidate: Candidate, *, must_fit: bool = False) -> list[Tried]:
        """Fit a candidate and what is tried together with it.

        Parameters
        ----------
        candidate : Candidate
        must_fit : bool
            Raise the error of a fit. By default a head that cannot be fitted is told as skipped, and a late
            fusion goes without it.
        """
        errors = () if must_fit else (InputError, NumericalError, DeviceMemoryError)
        if candidate.fusion != LATE:
            clock = time.perf_counter()
            try:
                logs = self._logs(candidate)
            except errors as error:
                return [Tried(candidate=candidate, skipped=str(error))]
            answers = self._answers(logs)
            return [self._told(candidate, answers, seconds=time.perf_counter() - clock)]
        own: list[Tried] = []
        of_models: dict[str, Logs] = {}
        for alone in candidate.alone():
            (model,), clock = alone.models, time.perf_counter()
            try:
                with told_of(model):
                    of_models[model] = self._logs(alone)
            except errors as error:
                own.append(Tried(candidate=alone, skipped=str(error)))
                continue
            own.append(
                Tried(
                    candidate=alone,
                    seconds=time.perf_counter() - clock,
                    answers=self._answers(of_models[model]),
                )
            )
        together = self._weighed(candidate, of_models, own, errors)
        wanted = tried_together(candidate, self.options)
        return [together, *(own if len(wanted) > 1 else ())]

    def _weighed(
        self,
        candidate: Candidate,
        of_models: Mapping[str, Logs],
        own: list[Tried],
        errors: tuple[type[Exception], ...],
    ) -> Tried:
        """Weigh the heads of the models that could be fitted."""
        kept = replace(candidate, arrays={model: candidate.arrays[model] for model in of_models})
        if len(of_models) < 2:
            why = "fewer than two of its models could be fitted: "
            why += "; ".join(each.skipped for each in own if each.skipped)
            return Tried(candidate=candidate, skipped=why)
        clock = time.perf_counter()
        try:
            # The heads will be held together when the run is trained, and were not here.
            check_together(
                kept.options(self.options),
                [sum(array.dim for array in arrays) for arrays in kept.arrays.values()],
                n=len(self.rows.split.train),
                n_classes=len(self.rows.classes),
            )
        except errors as error:
            return Tried(candidate=kept, skipped=str(error))
        assert self.left_out is not None
        weighing = weigh(replace(self.left_out, logs=np.stack(list(of_models.values()))))
        answers = LeftOutAnswers(losses=weighing.losses, is_right=weighing.is_right)
        seconds = sum(each.seconds or 0.0 for each in own) + time.perf_counter() - clock
        return self._told(kept, answers, seconds=seconds)

    def _told(self, candidate: Candidate, answers: LeftOutAnswers, *, seconds: float) -> Tried:
        tried = Tried(candidate=candidate, seconds=seconds, answers=answers)
        assert self.left_out is not None
        plan_logger.info(
            "%s: left-out log loss %.4f, accuracy %.4f in %.1f s",
            tried.record(), self.left_out.mean(answers.losses), self.left_out.mean(answers.is_right), seconds,
        )  # fmt: skip
        return tried

    def _answers(self, logs: Logs) -> LeftOutAnswers:
        assert self.left_out is not None
        codes = self.left_out.codes
        return LeftOutAnswers(
            losses=-logs[np.arange(len(codes)), codes], is_right=logs.argmax(axis=1) == codes
        )

    def fit(self, candidate: Candidate) -> Head:
        """Fit the head of one model, or of several joined, to the training rows."""
        self.phases.notify(str(candidate.record()))
        options = candidate.options(self.options)
        blocks = self.blocks(candidate, self.rows.split.train)
        head = new_head(options.head, seed=options.rows.seed, limits=options.limits, is_compared=True)
        return head.fit(blocks, self.rows.train_labels, groups=self.rows.train_groups)

    def blocks(self, candidate: Candidate, rows: npt.NDArray[np.int64]) -> PreprocessedBlocks:
        """Return some rows as the head of a candidate takes them."""
        features, names, dims = self._columns(candidate)
        preprocessing = self._preprocessing(features, names, dims, candidate.options(self.options))
        return PreprocessedBlocks(features.blocks(names, rows), preprocessing, names)

    def _logs(self, candidate: Candidate) -> Logs:
        """Fit one head; return the calibrated log-probabilities (n, n_classes) of rows that it left out."""
        head = self.fit(candidate)
        found = head.left_out_scores
        assert found is not None, f"head {candidate.head} leaves out rows"
        if self._kept is None:
            # As many rows as may be weighed at once, so that all candidates answer for the same ones.
            most = MOST_VALUES // (len(self.features) * found.scores.shape[1])
            self._kept = even_sample(len(found.rows), max(1, most))
            training = Training.of(self.rows, class_weight=self.options.head.class_weight)
            at = found.rows[self._kept]
            self.left_out = LeftOutRows(
                logs=np.empty((0, len(at), found.scores.shape[1])),
                codes=training.codes[at],
                weights=training.weights[at],
                folds=training.folds[at],
            )
        return calibrated_logs(found, head.temperature)[self._kept]

    def _columns(self, candidate: Candidate) -> tuple[StoredFeatures, list[str], tuple[int, ...]]:
        """Return the features of a candidate, one model's or several side by side, and their arrays."""
        arrays = [array for own in candidate.arrays.values() for array in own]
        dims = tuple(array.dim for array in arrays)
        if len(candidate.models) == 1:
            return self.features[candidate.models[0]], [array.name for array in arrays], dims
        joined = JoinedFeatures.of([self.features[model] for model in candidate.models])
        members = zip(joined.members, candidate.arrays.values(), strict=True)
        return joined, [joined_name(member, each.name) for member, own in members for each in own], dims

    def _preprocessing(
        self, features: StoredFeatures, names: list[str], dims: tuple[int, ...], options: TrainOptions
    ) -> Preprocessing:
        """Fit the preprocessing of a set of columns once for all heads."""
        key = (features.name, options.preprocessing, *names)
        if key not in self._fitted:
            self._fitted[key], _ = fit_preprocessing(
                options.preprocessing,
                features.blocks(names, self.rows.split.train),
                dims,
                members=[split_name(name)[0] for name in names],
                memory_limit_bytes=left_bytes(options.limits.memory_limit_bytes),
            )
        return self._fitted[key]
