"""`AdviceReport` tells people and programs what `advise` found, with the commands that come next."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from toptune.costs.meter import describe_costs
from toptune.costs.values import Costs
from toptune.store.arrays.stored_layers import LAST
from toptune.store.files.json_values import json_ready
from toptune.text import counted, printed_table
from toptune.train.layers.choices import FIGURES
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION
from toptune.workflows.advice.evidence import Evidence, adjusted_standard_error
from toptune.workflows.advice.frozen_trials import FrozenTrial
from toptune.workflows.advice.rules import CERTAINTIES, Advice, duration
from toptune.workflows.finetuning.plan import FineTunePlan
from toptune.workflows.report.command_lines import FINETUNE_DEFAULTS, TRAIN_DEFAULTS, flags_of

# What a head learns of an image, by the task.
_NOUNS = {CLASSIFICATION: "class", MULTILABEL: "label", REGRESSION: "target"}


@dataclass(frozen=True, kw_only=True)
class AdviceReport:
    """Advice with its evidence.

    Attributes
    ----------
    data, store, dataset, model : str
        Place of the images, root folder of the store, name of the data set, and name of the backbone.
    stored_model : str
        Name by which `toptune.train.train` finds the features.
    measured : Evidence or None
        Figures that rules decide by; None of another task than classification, on which no rule rests.
    task : str
        What the heads learned.
    n_train, n_classes : int
        Training images, and their classes, labels or targets.
    advice : Advice
        Recommendation that follows from the evidence.
    best : FrozenTrial
        The frozen head of the highest left-out accuracy.
    trials : tuple of FrozenTrial
        Heads that were tried, and heads that were skipped with the reason.
    all_arrays : tuple of str
        Names of all arrays in the store of this backbone and data set.
    plan : FineTunePlan or None
        Cost of fine-tuning; None where fine-tuning was not timed.
    extract_seconds : float
        Seconds that extracting the layers of the best head took, now or in an earlier call.
    costs : dict
        Costs of this advice, by phase; see `toptune.costs.meter.CostMeter`.
    budget : float
        Seconds that were allowed for everything.
    not_tried : tuple of str
        Work that the budget did not reach, with the reason.
    notes : tuple of str
        What the user should know of the rows and their folds.
    n_skipped : int
        Number of training images that could not be read.
    split_rule : str
        Rule by which the rows were divided, in words.
    options, tuning_options : mapping
        Options of `toptune.train.train` and `toptune.workflows.finetune` for the commands that come next.
    """

    data: str
    store: str
    dataset: str
    model: str
    stored_model: str
    measured: Evidence | None
    task: str
    n_train: int
    n_classes: int
    advice: Advice
    best: FrozenTrial
    trials: tuple[FrozenTrial, ...]
    all_arrays: tuple[str, ...]
    plan: FineTunePlan | None
    extract_seconds: float
    costs: Costs
    budget: float
    not_tried: tuple[str, ...]
    notes: tuple[str, ...]
    n_skipped: int
    split_rule: str
    options: Mapping[str, object]
    tuning_options: Mapping[str, object]

    @property
    def evidence(self) -> Evidence:
        """Figures that rules decide by, which there are of classification alone."""
        assert self.measured is not None, f"no rule rests on figures of --task {self.task}"
        return self.measured

    @property
    def train_command(self) -> str:
        """The command that trains the best frozen head."""
        # The command names layers only where the defaults of `train` would take others, so that it stays
        # short enough to read.
        arrays = self.best.arrays
        layers: str | None = ",".join(arrays)
        if set(arrays) == set(self.all_arrays):
            layers = None
        elif [name for name in self.all_arrays if name.rpartition(".")[0] == LAST] == list(arrays):
            layers = LAST
        options = {"head": self.best.head, "layers": layers, **self.options}
        words = ["toptune", "train", "--store", self.store, "--dataset", self.dataset]
        words += ["--model", self.stored_model, *flags_of(options, TRAIN_DEFAULTS)]
        return shlex.join([*words, "--out", f"{self.dataset}-frozen"])

    @property
    def best_command(self) -> str:
        """The command that chooses among everything that is stored of the data set."""
        words = ["toptune", "train", "--store", self.store, "--dataset", self.dataset, "--best"]
        words += flags_of(self.options, TRAIN_DEFAULTS)
        return shlex.join([*words, "--out", f"{self.dataset}-best"])

    @property
    def finetune_command(self) -> str:
        """The command that fine-tunes on the same rows."""
        words = ["toptune", "finetune", self.data, "--model", self.model]
        words += flags_of(self.tuning_options, FINETUNE_DEFAULTS)
        return shlex.join([*words, "--out", f"{self.dataset}-tuned"])

    @property
    def commands(self) -> dict[str, str]:
        """The commands that come next; those that know classes alone are left out for another task."""
        if self.task != CLASSIFICATION:
            return {"train": self.train_command}
        return {"train": self.train_command, "best": self.best_command, "finetune": self.finetune_command}

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values."""
        values: dict[str, object] = json_ready(
            {
                **self.advice.to_dict(),
                "evidence": None if self.measured is None else _told(self.measured),
                "task": self.task,
                "best": self.best.to_dict(),
                "trials": [each.to_dict() for each in self.trials],
                "finetune": None if self.plan is None else self.plan.to_dict(),
                "extract_seconds": self.extract_seconds,
                "costs": self.costs,
                "budget_seconds": self.budget,
                "not_tried": list(self.not_tried),
                "notes": list(self.notes),
                "n_skipped": self.n_skipped,
                "split_rule": self.split_rule,
                "dataset": self.dataset,
                "model": self.model,
                "store": self.store,
                "commands": self.commands,
            }
        )
        return values

    def __str__(self) -> str:
        advice, figure = self.advice, FIGURES[self.task]
        verb = {"stay-frozen": "stay frozen", "fine-tune": "fine-tune"}[advice.recommendation]
        lines = [
            f"advice: {verb} (rule: {advice.rule})",
            *([f"certainty {sure}: {CERTAINTIES[sure]}"] if (sure := advice.certainty) else []),
            *(f"- {reason}" for reason in advice.reasons),
        ]
        rows = [
            (
                f"{each.head}{' *' if each is self.best else ''}",
                each.layers,
                str(len(each.arrays)),
                self._shown(each),
                "-" if each.log_loss is None else f"{each.log_loss:.4f}",
                duration(each.seconds or 0.0),
            )
            for each in self.trials
            if each.figure is not None
        ]
        title = (
            f"frozen {self.model}, left-out rows of {self.n_train} training images of "
            f"{counted(self.n_classes, _NOUNS[self.task])} ({self.options['cv']} folds; no test image was "
            "looked at)"
        )
        columns = ("head", "layers", "stored", figure, "log-loss", "time")
        phases = ", ".join(
            f"{name} {duration(each['wall_seconds'])}" for name, each in self.costs["phases"].items()
        )
        costs = [f"this advice, of a budget of {duration(self.budget)}: {phases}", describe_costs(self.costs)]
        costs += [f"features of the best head took {duration(self.extract_seconds)} once"]
        costs += [f"not tried: {each}" for each in self.not_tried]
        costs += [f"note: {each}" for each in self.notes]
        if self.n_skipped:
            costs.append(f"left out: {counted(self.n_skipped, 'training image')} that could not be read")
        if self.plan is not None:
            costs.append(f"fine-tuning {self.plan}")
        commands = [*self.commands.values()]
        # The advised command comes first.
        if advice.recommendation == "fine-tune":
            commands = [commands[-1], *commands[:-1]]
        table = printed_table(title, columns, rows)
        return "\n\n".join(
            ["\n".join(lines), table, "\n".join(costs), "\n".join(["next:", *(f"  {c}" for c in commands)])]
        )

    def _shown(self, trial: FrozenTrial) -> str:
        """Write the leading figure of a trial, with its standard error where it is a share of images."""
        if trial.accuracy is None or self.task != CLASSIFICATION:
            return f"{trial.figure:.4f}"
        return f"{trial.accuracy:.4f} +- {adjusted_standard_error(trial.accuracy, self.n_train):.4f}"


def _told(evidence: Evidence) -> dict[str, object]:
    return asdict(evidence) | {"error": evidence.error, "standard_error": evidence.standard_error}
