"""`TrainOptions`: everything that decides a training, checked before any work and without loading torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from toptune.errors import InputError
from toptune.machine.limits import LimitArguments, RunLimits
from toptune.machine.plans import plan_logger
from toptune.options import check_choice, choices, flat_options
from toptune.train.heads.options import HeadArguments, HeadOptions
from toptune.train.kernels.names import GAUSSIAN
from toptune.train.layers.options import SHORT_LIST_HEADS
from toptune.train.preprocessing.spec import WEIGHED_WIDTH, is_weighed, parse_preprocessing
from toptune.train.rows.options import RowArguments, RowOptions
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL, REGRESSION

if TYPE_CHECKING:  # it imports numpy, which the help of a command does not need
    from toptune.store.datasets.manifest import Manifest

# The keys of "options" in run.json, in the order in which they are written. A run does not record what
# changes no number of the head (`dask`, `keep_sums`); its data set's version stands beside the options.
_RECORDED = (
    "head", "layers", "pooling", "preprocess", "seed", "penalty", "sigma", "kernel", "n_centers", "solver",
    "memory_limit", "cv", "test_fraction", "resplit", "val", "group_by", "label_column", "shots",
    "train_size", "class_weight", "params", "budget", "allow_failed", "device", "exclude", "relabel_with",
    "keep_together", "task", "target", "threshold", "drop_missing", "ordinal", "answer_by", "answer_from",
    "class_tree",
)  # fmt: skip
# How several backbones share one run; the first is the default.
FUSIONS = LATE, JOIN = ("late", "join")
# In layers by model, this key stands for every model that is not named.
OTHER_MODELS = "*"
Layers: TypeAlias = str | Sequence[str] | None


class TrainArguments(RowArguments, HeadArguments, LimitArguments, total=False):
    """The keywords of `TrainOptions`."""

    dataset_version: int | None
    fusion: str | None
    layers: Layers | Mapping[str, Layers]
    pooling: str | None
    preprocess: str | None
    keep_sums: bool
    class_tree: str | None


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `train`.

    Attributes
    ----------
    rows : RowOptions
        Which rows train and which test.
    head : HeadOptions
        Which head is trained, with which hyperparameters.
    limits : RunLimits
        Device, memory limit and dask workers.
    dataset_version : int, optional
        Version of a data set that grew; by default the latest. The run records the version.
    fusion : {"late", "join"}, optional
        How several models share the run: each with a head of its own, whose probabilities are combined
        (``late``, the default), or with their columns side by side in one head (``join``).
    layers, pooling : optional
        Which stored arrays the head sees; see `toptune.train.choose_arrays`. By default all that are stored
        for all images. With ``auto``, cross-validation on the training rows chooses among these; see
        `toptune.train.search_layers`. Of
        several models, a mapping of their names gives each its own layers, where ``*`` stands for every
        model that is not named.
    preprocess : str, optional
        Steps between the stored features and the head, such as ``l2,standardise`` or ``pca:256``; see
        `toptune.train.fit_preprocessing`. By default the head's own: ``l2`` for ``head2toe``, ``standardise``
        for every other head.
    keep_sums : bool
        Write the sums of heads ``falkon`` (direct solver) and ``ridge`` beside the head, so that
        `toptune.train.update_run` can add and forget images. The sums take about ``4 (folds + 1) M^2`` bytes
        for M centers.
    class_tree : str, optional
        Column of the data set, or several with commas between them, or file, that names the parent of each
        class; see `toptune.train.answers.class_tree.ClassTree`.

    Raises
    ------
    InputError
        For a preprocessing step that does not exist; for dask workers with head ``auto`` or with `best`.
    """

    rows: RowOptions = field(default_factory=RowOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    limits: RunLimits = field(default_factory=RunLimits)
    dataset_version: int | None = None
    fusion: str | None = None
    layers: Layers | Mapping[str, Layers] = None
    pooling: str | None = None
    preprocess: str | None = None
    keep_sums: bool = True
    class_tree: str | None = None

    def __post_init__(self) -> None:
        # Parsing refuses a misspelled step before any feature is read.
        parse_preprocessing(self.preprocessing)
        self._check_weighed()
        if self.fusion is not None:
            check_choice(self.fusion, FUSIONS, option="fusion")
        check_task(self.rows, self.head)
        if (self.head.is_auto or self.head.best) and self.limits.dask is not None:
            what = "best" if self.head.best else "head 'auto'"
            raise InputError(f"dask is {self.limits.dask!r}, which {what} does not know; use falkon or ridge")

    @property
    def preprocessing(self) -> str:
        """The steps that were asked for, or the default steps of the head."""
        return self.head.preprocessing if self.preprocess is None else self.preprocess

    @property
    def fitted_head(self) -> HeadOptions:
        """The options of the head that is made: where layers are weighed, with the width of the weights.

        Weights of layers are learned with the kernel's width, which is then 1; the head's own search for a
        width would let go of it.
        """
        if is_weighed(self.preprocessing) and self.head.sigma is None:
            return replace(self.head, sigma=WEIGHED_WIDTH)
        return self.head

    def _check_weighed(self) -> None:
        """Refuse weights of layers where no Gaussian kernel uses them, or a search chooses the layers."""
        if not is_weighed(self.preprocessing):
            return
        from toptune.store.arrays.stored_layers import AUTO  # it imports numpy, which help does not need

        head = self.head
        if head.best or head.head not in SHORT_LIST_HEADS or head.kernel != GAUSSIAN:
            given = "best" if head.best else f"head {head.head!r} with kernel {head.kernel!r}"
            raise InputError(
                f"preprocessing {self.preprocessing!r} learns the widths of a Gaussian kernel, one a layer, "
                f"which {given} does not take; give --head {' or '.join(SHORT_LIST_HEADS)} with --kernel "
                f"{GAUSSIAN}, or --preprocess standardise",
                option="preprocess",
            )
        if self.layers == AUTO:
            raise InputError(
                f"layers is {AUTO!r} and preprocessing {self.preprocessing!r}; one chooses layers, the other "
                "weighs them: leave one of the two out",
                option="layers",
            )

    def for_task(self, manifest: "Manifest") -> "TrainOptions":
        """Return the options with the task that was asked for or, by ``auto``, that a data set's labels say.

        Raises
        ------
        InputError
            If the labels or the head do not fit the task.
        """
        from toptune.train.tasks.choice import told_task

        task = told_task(self.rows.task, self.rows.wanted, manifest)
        if self.rows.task == AUTO_TASK and task != CLASSIFICATION:
            plan_logger.info("task: %s, because of the data set's labels; --task names another", task)
        return replace(self, rows=replace(self.rows, task=task))

    def for_model(self, model: str) -> "TrainOptions":
        """Return the options of one model: with its own layers where `layers` has those of each."""
        if not isinstance(self.layers, Mapping):
            return self
        return replace(self, layers=self.layers.get(model, self.layers.get(OTHER_MODELS)))

    def check_models(self, model: str | None, models: Sequence[str] | None) -> tuple[str, ...]:
        """Return the models that were asked for, in their order, or refuse what cannot be meant.

        Parameters
        ----------
        model : str, optional
            The one model.
        models : sequence of str, optional
            Several, in place of `model`.

        Raises
        ------
        InputError
            If both or none are given, a model twice, a fusion of one model, late fusion without folds, or
            layers of a model that is not among them.
        """
        if (model is None) == (models is None):
            given = "both model and models" if model is not None else "neither model nor models"
            raise InputError(f"{given} are given; give model, or models with several names", option="model")
        if isinstance(models, str):
            raise InputError(f"models is {models!r}; give a list of names, or model", option="models")
        names = (model,) if model is not None else tuple(models or ())
        if not names:
            raise InputError("models names no model; give at least 1", option="models")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"model {twice!r} is given {names.count(twice)} times; give it once", option="model"
            )
        if self.fusion is not None and len(names) == 1:
            raise InputError(
                f"fusion is {self.fusion!r} with the one model {names[0]!r}; name at least 2 models, or "
                "leave fusion out",
                option="fusion",
            )
        if self.head.cv is None and len(names) > 1 and self.fusion != JOIN:
            raise InputError(
                f"cv is None with fusion {LATE!r}, which weighs heads by rows that they left out; give a "
                f"number of folds, --fusion {JOIN}, or one model",
                option="cv",
            )
        of_models = self.layers if isinstance(self.layers, Mapping) else {}
        for name in of_models:
            if name != OTHER_MODELS and name not in names:
                raise InputError(
                    f"layers names model {name!r}, which is none of the run; {choices(name, names)}",
                    option="layers",
                )
        return names

    def to_dict(self, models: Sequence[str] = ()) -> dict[str, object]:
        """Return the options that run.json records; a run of several models records these and the fusion."""
        flat = flat_options(self)
        several = {"models": list(models), "fusion": self.fusion or LATE} if len(models) > 1 else {}
        recorded = {name: flat[name] for name in _RECORDED}
        return recorded | {"params": dict(self.head.params or {})} | several


def check_task(rows: RowOptions, head: HeadOptions) -> None:
    """Refuse options that do not go with the task, as far as the task is named.

    Raises
    ------
    InputError
    """
    if rows.target is not None and rows.task not in (AUTO_TASK, REGRESSION):
        raise InputError(
            f"target is {rows.target!r}, and numbers are the targets of --task {REGRESSION}; leave "
            "--target or --task out",
            option="target",
        )
    if rows.task == REGRESSION and rows.target is None:
        raise InputError(
            f"--task {REGRESSION} needs --target COLUMN, a numeric column of the data set", option="target"
        )
    if rows.target is not None and rows.label_column is not None:
        raise InputError(
            f"target is {rows.target!r} and label_column {rows.label_column!r}; numbers are targets, "
            "classes are labels: leave one of them out",
            option="label_column",
        )
    for name, value in (("drop_missing", rows.drop_missing), ("ordinal", head.ordinal)):
        if value and rows.task != REGRESSION:
            raise InputError(
                f"{name} has a meaning for --task {REGRESSION} only, which --target COLUMN asks for; "
                "leave it out, or name a target",
                option=name,
            )
    if head.threshold != HeadOptions.threshold and rows.task not in (AUTO_TASK, MULTILABEL):
        raise InputError(
            f"threshold is {head.threshold!r}, and only --task {MULTILABEL} has thresholds; leave it out",
            option="threshold",
        )
