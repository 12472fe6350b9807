"""`tune` trains a network from the last finished epoch of the session before, and writes its RUN folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toptune.costs.phase_costs import PhaseCosts
from toptune.errors import InterruptedRunError, NumericalError
from toptune.machine.heap import keep_freed_memory
from toptune.machine.watch import Watch
from toptune.text import counted
from toptune.train.runs.record import is_finetuned
from toptune.workflows.finetuning.checkpoint import Checkpoint, Standing
from toptune.workflows.finetuning.learner import Learner, n_batches
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.finetuning.progress import Progress, ProgressReport
from toptune.workflows.finetuning.rate_search import Epoch, best_epoch, is_over
from toptune.workflows.finetuning.rows import TuningRows
from toptune.workflows.finetuning.run import FineTunedRun, Outcome, write_finetuned
from toptune.workflows.finetuning.task import FineTuneTask, make_task

Rows = npt.NDArray[np.int64]


class _StoppedError(Exception):
    """Raised between batches when the user or the time limit ends the work; the epoch is given up."""


def tune(
    rows: TuningRows, *, model: str, folder: Path, options: FineTuneOptions, watch: Watch, progress: Progress
) -> FineTunedRun:
    """Train on rows and write the RUN folder, or return the run if the folder holds it; see `finetune`."""
    task = make_task(rows, model=model, options=options)
    if is_finetuned(folder):
        done = FineTunedRun.load(folder).check_same(task.request)
        # A process that was killed after writing the run may have left the checkpoint.
        Checkpoint(folder, task.request).remove()
        return replace(done, was_there=True)
    keep_freed_memory()
    return _Work(task, folder, watch, progress).run()


@dataclass(eq=False)
class _Work:
    """One session of a fine-tuning, from the last finished epoch of the session before."""

    task: FineTuneTask
    folder: Path
    watch: Watch
    progress: Progress
    checkpoint: Checkpoint = field(init=False)
    standing: Standing = field(init=False)
    costs: PhaseCosts = field(init=False)

    def run(self) -> FineTunedRun:
        """Train, test and write the run."""
        self.checkpoint = Checkpoint(self.folder, self.task.request)
        self.standing = self.checkpoint.read()
        self.costs = PhaseCosts(self.standing.costs)
        # An epoch is the unit of work here. Reading and computing are in its pace; only writing the
        # checkpoint comes on top.
        self.watch.begin_job(lambda: (0.0, 0.0, self.costs.seconds("write")))
        try:
            with self.task.open_loader() as loader:
                return self._run(self.task.make_learner(loader))
        except _StoppedError:
            done = counted(len(self.standing.epochs), "epoch")
            raise InterruptedRunError(
                f"{self.watch.reason} with {done} done; the same command resumes"
            ) from None

    def _run(self, learner: Learner) -> FineTunedRun:
        task, options = self.task, self.task.options
        # All training and validation images are read first, so that a broken image shows now and not hours
        # later.
        fitted, validation, n_failed = self._look_at(learner)
        for trial, rate in enumerate(options.rates):
            self._train(learner, trial, rate, fitted, validation)
        best = best_epoch(self._search(self.standing.epochs))
        if best is None:
            rates = ", ".join(f"{rate:g}" for rate in options.rates)
            raise NumericalError(
                f"the loss is NaN or infinite with learning rate {rates}; give smaller ones and another --out"
            )
        if options.refit:
            # A refit has no validation rows left, so the number of epochs that was chosen ends it.
            both = np.union1d(fitted, validation)
            self._train(learner, len(options.rates), best.learning_rate, both, both[:0], until=best.epoch)
            if self.standing.epochs[-1].is_diverged:
                raise NumericalError(
                    f"the refit with learning rate {best.learning_rate:g} diverged; give smaller rates"
                )
        learner.network.restore(self._chosen())
        # Test images are read only now, when nothing can be chosen by them any more.
        test, logits, n_failed = self._test(learner, n_failed)
        outcome = Outcome(
            epochs=self.standing.epochs,
            best=best,
            network=learner.network,
            fitted=fitted,
            validation=validation,
            test=test,
            logits=logits,
            n_skipped=n_failed,
        )
        with self.costs.phase("write"):
            run = write_finetuned(self.folder, task, outcome, self.costs)
        # The run is complete by now. A process that is killed between these lines leaves both, and the next
        # call removes the checkpoint.
        self.checkpoint.remove()
        return run

    def _look_at(self, learner: Learner) -> tuple[Rows, Rows, int]:
        """Read training and validation images once; leave failed images out, or refuse them."""
        task, n_failed, kept = self.task, 0, []
        for part, is_training in ((task.fitted, True), (task.rows.validation, False)):
            seen = self._begin(ProgressReport(doing="reading", total=len(part)))
            with self.costs.phase("read"):
                failed = learner.loader.look_at(part.tolist(), is_training=is_training, seen=seen)
            self.costs.count("read", len(part))
            rows, n_failed = task.without(part, failed, seen_failed=n_failed)
            kept.append(rows)
        learner.loader.narrow.warn()
        task.check_kept(*kept)
        return kept[0], kept[1], n_failed

    def _train(
        self,
        learner: Learner,
        trial: int,
        rate: float,
        fitted: Rows,
        validation: Rows,
        until: int | None = None,
    ) -> None:
        """Train with one rate, from the last finished epoch to the end or to epoch `until`."""
        options = self.task.options
        mine = [each for each in self.standing.epochs if each.trial == trial]
        if is_over(mine, options) or (until and len(mine) >= until):
            return
        learner.begin(rate, n_steps_per_epoch=n_batches(len(fitted), options.batch_size))
        if mine:
            assert self.standing.last is not None
            learner.restore(self.checkpoint.load(self.standing.last))
        while not (is_over(mine, options) or (until and len(mine) >= until)):
            report = ProgressReport(
                doing="refitting" if until else "training",
                total=len(fitted) + len(validation),
                trial=trial + 1,
                learning_rate=rate,
                epoch=len(mine) + 1,
            )
            seen = self._begin(report)
            mine.append(self._epoch(learner, trial, rate, len(mine), fitted, validation, seen))
            self._write(learner, mine[-1])

    def _epoch(
        self,
        learner: Learner,
        trial: int,
        rate: float,
        number: int,
        fitted: Rows,
        validation: Rows,
        seen: Callable[[int], None],
    ) -> Epoch:
        """Train for one epoch and validate; a loss that is not finite ends both."""
        with self.costs.phase("train"):
            loss = learner.train_epoch(fitted, number, seen=seen)
        self.costs.count("train", len(fitted))
        is_sound, scores = np.isfinite(loss), None
        if is_sound and len(validation):
            with self.costs.phase("validate"):
                scores = learner.score(validation, seen=seen)
            self.costs.count("validate", len(validation))
            is_sound = np.isfinite(scores.loss)
        return Epoch(
            trial=trial,
            learning_rate=rate,
            epoch=number + 1,
            train_loss=loss if is_sound else None,
            validation_loss=scores.loss if scores and is_sound else None,
            validation_accuracy=scores.accuracy if scores and is_sound else None,
        )

    def _write(self, learner: Learner, epoch: Epoch) -> None:
        """Write the state after an epoch, from which an interrupted call goes on."""
        epochs = (*self.standing.epochs, epoch)
        # The refit is no candidate: its network is the last one, and the best one stays that of the search.
        is_best = epoch.trial < len(self.task.options.rates) and best_epoch(self._search(epochs)) is epoch
        with self.costs.phase("write"):
            self.standing = self.checkpoint.write(
                epochs,
                costs=self.costs.to_dict(),
                last=learner.state(),
                best=learner.network.state() if is_best else self.standing.best,
            )

    def _search(self, epochs: Sequence[Epoch]) -> list[Epoch]:
        """Keep the epochs of the learning-rate search; a refit's epochs do not take part in the choice."""
        return [each for each in epochs if each.trial < len(self.task.options.rates)]

    def _chosen(self) -> dict[str, torch.Tensor]:
        """Read the tensors of the network that is to be tested."""
        standing = self.standing
        if not self.task.options.refit:
            assert standing.best is not None
            return self.checkpoint.load(standing.best)
        assert standing.last is not None
        state = self.checkpoint.load(standing.last)
        return {name.removeprefix("network."): state[name] for name in state if name.startswith("network.")}

    def _test(self, learner: Learner, n_failed: int) -> tuple[Rows, npt.NDArray[np.float32], int]:
        """Read and score the test images, for the first time."""
        test = self.task.rows.split.test
        with self.costs.phase("test"):
            seen = self._begin(ProgressReport(doing="reading the test images", total=len(test)))
            failed = learner.loader.look_at(test.tolist(), is_training=False, seen=seen)
            test, n_failed = self.task.without(test, failed, seen_failed=n_failed)
            seen = self._begin(ProgressReport(doing="testing", total=len(test)))
            logits = (
                learner.score(test, seen=seen).logits
                if len(test)
                else np.zeros((0, len(self.task.rows.classes)), np.float32)
            )
        self.costs.count("test", len(test))
        return test, logits, n_failed

    def _begin(self, beginning: ProgressReport) -> Callable[[int], None]:
        """Begin work on images; return a function that counts them, and raises where the work must stop."""
        total = beginning.total
        if total and not self.watch.may_begin(total):
            raise _StoppedError
        best = best_epoch(self._search(self.standing.epochs))
        report = replace(
            beginning,
            epochs=self.task.options.epochs,
            trials=len(self.task.options.rates),
            best_accuracy=None if best is None else best.validation_accuracy,
        )
        done = 0

        def seen(n_images: int) -> None:
            nonlocal done
            done += n_images
            self.progress(replace(report, done=done))
            # The last batch always counts as done; whether other work may begin is asked before it begins.
            if done < total and not self.watch.may_go_on(total - done):
                raise _StoppedError

        return seen
