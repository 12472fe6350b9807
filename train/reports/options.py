"""`LayerReportOptions` and `CompareOptions`: what is compared, on which rows; checked without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypedDict

from toptune.errors import InputError
from toptune.machine.devices import AUTO, check_device_name
from toptune.options import check_count, choices, flat_options
from toptune.train.heads.kinds import default_preprocessing
from toptune.train.heads.options import AUTO_HEAD, HeadOptions
from toptune.train.layers.options import SHORT_LIST_HEADS, SearchOptions
from toptune.train.rows.options import MOST_SEEDS, RowArguments, RowOptions
from toptune.train.runs.options import LATE, Layers, TrainOptions
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION

# The keys of "options" in layers.json and in compare.json, in the order in which they are written.
_RECORDED_OF_LAYERS = (
    "layers", "pooling", "preprocess", "head", "short_list", "search_rows", "seed", "cv", "test_fraction",
    "resplit", "val", "group_by", "label_column", "shots", "train_size", "class_weight", "device", "params",
    "exclude", "relabel_with", "keep_together", "task", "target", "drop_missing",
)  # fmt: skip
_RECORDED_OF_COMPARISON = (
    "layers", "pooling", "preprocess", "memory_limit", "cv", "test_fraction", "resplit", "val", "shots",
    "train_size", "class_weight", "allow_failed", "device", "group_by", "label_column", "params", "budget",
    "exclude", "relabel_with", "keep_together", "task", "target", "threshold", "drop_missing", "ordinal",
)  # fmt: skip


class LayerReportArguments(RowArguments, total=False):
    """The keywords of `LayerReportOptions`."""

    dataset_version: int | None
    layers: Layers | Mapping[str, Layers]
    pooling: str | None
    preprocess: str | None
    head: str
    params: Mapping[str, Any] | None
    short_list: int
    search_rows: int
    cv: int | str | None
    class_weight: str | None
    memory_limit: int | str | None
    device: str | None


@dataclass(frozen=True, kw_only=True)
class LayerReportOptions:
    """Options of `report_layers`.

    Attributes
    ----------
    rows : RowOptions
        Which rows train, as in `toptune.train.train` with the same options. Test rows are not read.
    dataset_version : int, optional
        Version of a data set that grew; by default the latest.
    layers, pooling : optional
        Which stored arrays are compared: by default all of them, by depth; else the named ones, in the order
        of the names. Of several models, a mapping gives each its own, as in `TrainOptions`.
    preprocess : str, optional
        Steps before the regression and the head; by default the head's own.
    head : {"falkon", "falkon-logistic"}
        The head that decides among the short list.
    params : mapping, optional
        Parameters of the head.
    short_list : int
        Subsets that the head checks besides the last layer alone; with 0, ridge regression decides.
    search_rows : int
        Training rows that are compared on, at most, where all layers together have too many columns to take
        all rows.
    cv : int or "leave-one-group-out"
        Folds of the cross-validation.
    class_weight : str, optional
        ``balanced`` weighs rows by the inverse frequency of their class.
    memory_limit : int or str, optional
        Bytes, or text such as ``2GiB``, that a fit may take; half of the machine's memory by default.
    device : str, optional
        torch device: ``auto`` (CUDA where there is a CUDA device, else the CPU), ``cpu``, ``cuda`` or
        ``cuda:N``. None is the CPU.

    Raises
    ------
    InputError
        For a head that cannot check a short list.
    """

    rows: RowOptions = field(default_factory=RowOptions)
    dataset_version: int | None = None
    layers: Layers | Mapping[str, Layers] = None
    pooling: str | None = None
    preprocess: str | None = None
    head: str = "falkon"
    params: Mapping[str, Any] | None = None
    short_list: int = SearchOptions.n_short_list
    search_rows: int = SearchOptions.search_rows
    cv: int | str | None = SearchOptions.cv
    class_weight: str | None = None
    memory_limit: int | str | None = None
    device: str | None = AUTO

    def __post_init__(self) -> None:
        if self.head not in SHORT_LIST_HEADS:
            raise InputError(
                f"head {self.head!r} cannot check a short list; {choices(self.head, SHORT_LIST_HEADS)}",
                option="head",
            )
        self.search  # noqa: B018 - making the value refuses what the search cannot do

    @property
    def of_features(self) -> TrainOptions:
        """The options that say which stored features are read."""
        return TrainOptions(
            rows=self.rows, dataset_version=self.dataset_version, layers=self.layers, pooling=self.pooling
        )

    @property
    def search(self) -> SearchOptions:
        """The options of the search itself."""
        return SearchOptions(
            seed=self.rows.seed,
            cv=self.cv,
            class_weight=self.class_weight,
            task=CLASSIFICATION if self.rows.task == AUTO_TASK else self.rows.task,
            preprocess=default_preprocessing(self.head) if self.preprocess is None else self.preprocess,
            n_short_list=self.short_list,
            search_rows=self.search_rows,
            memory_limit=self.memory_limit,
            device=self.device,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the options that layers.json records."""
        flat = flat_options(self) | {"preprocess": self.search.preprocess, "params": dict(self.params or {})}
        return {name: flat[name] for name in _RECORDED_OF_LAYERS}


class CompareArguments(TypedDict, total=False):
    """The keywords of `CompareOptions`."""

    seeds: int
    leak: bool
    dataset_version: int | None
    fusion: str | None
    layers: Layers | Mapping[str, Layers]
    pooling: str | None
    preprocess: str | None
    params: Mapping[str, Mapping[str, Any]] | None
    cv: int | str | None
    class_weight: str | None
    budget: float | None
    test_fraction: float
    resplit: bool
    val: str
    group_by: str | None
    label_column: str | None
    task: str
    target: str | None
    drop_missing: bool
    ordinal: bool
    threshold: str | float
    shots: int | None
    train_size: int | None
    allow_failed: bool
    exclude: str | None
    relabel_with: str | None
    keep_together: str | None
    memory_limit: int | str | None
    device: str | None


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `compare_heads`.

    There is no `seed` here: the seeds are 0 to ``seeds - 1``.

    Attributes
    ----------
    seeds : int
        Runs of each head.
    leak : bool
        Run everything without `group_by` too, and say by how much such splits overstate the figures.
    params : mapping, optional
        Parameters of each head, by the name of the head.
    budget : float, optional
        Seconds of each run of head ``auto``.
    dataset_version : int, optional
        Version of a data set that grew; by default the latest.
    fusion : {"late", "join"}, optional
        Let several models share each run, as `TrainOptions` describes it; by default each has its own.
    layers, pooling, preprocess : optional
        Stored arrays that the heads use, and the steps before each head, as `TrainOptions` describes them.
    cv, class_weight, threshold, ordinal : optional
        Folds, weights of the classes, thresholds of labels, and steps of a scale, as `HeadOptions` describes
        them.
    task : {"auto", "classification", "multilabel", "regression"}
        What the heads learn; with ``auto`` the data set says. The task decides the figures.
    test_fraction, resplit, val, group_by, label_column, target, drop_missing, shots, train_size, \
    allow_failed, exclude, relabel_with, keep_together
        Which rows train and which test, as `RowOptions` describes them.
    memory_limit : int or str, optional
        Bytes, or text such as ``2GiB``, that a fit may take; half of the machine's memory by default.
    device : str, optional
        torch device: ``auto`` (CUDA where there is a CUDA device, else the CPU), ``cpu``, ``cuda`` or
        ``cuda:N``. None is the CPU.

    Raises
    ------
    InputError
        For `seeds` below 1; for `leak` without `group_by`; for options that do not go with the task.
    """

    seeds: int = 5
    leak: bool = False
    dataset_version: int | None = None
    fusion: str | None = None
    layers: Layers | Mapping[str, Layers] = None
    pooling: str | None = None
    preprocess: str | None = None
    params: Mapping[str, Mapping[str, Any]] | None = None
    cv: int | str | None = 5
    class_weight: str | None = None
    budget: float | None = None
    test_fraction: float = RowOptions.test_fraction
    resplit: bool = False
    val: str = RowOptions.val
    group_by: str | None = None
    label_column: str | None = None
    task: str = RowOptions.task
    target: str | None = None
    drop_missing: bool = False
    ordinal: bool = False
    threshold: str | float = HeadOptions.threshold
    shots: int | None = None
    train_size: int | None = None
    allow_failed: bool = False
    exclude: str | None = None
    relabel_with: str | None = None
    keep_together: str | None = None
    memory_limit: int | str | None = None
    device: str | None = AUTO

    def __post_init__(self) -> None:
        check_count(self.seeds, option="seeds", most=MOST_SEEDS)
        if self.device is not None:
            check_device_name(self.device, is_for_head=True)
        if self.leak and self.group_by is None:
            raise InputError(
                "leak compares splits with and without group_by, and none is given; give --group-by"
            )
        self.of_features  # noqa: B018 - making the value refuses what does not go with the task

    @cached_property
    def of_features(self) -> TrainOptions:
        """The options that say which stored features are read, and how several models share a run."""
        return TrainOptions(
            rows=RowOptions(
                label_column=self.label_column,
                task=self.task,
                target=self.target,
                drop_missing=self.drop_missing,
                exclude=self.exclude,
                relabel_with=self.relabel_with,
                keep_together=self.keep_together,
            ),
            head=HeadOptions(cv=self.cv, threshold=self.threshold, ordinal=self.ordinal),
            dataset_version=self.dataset_version,
            fusion=self.fusion,
            layers=self.layers,
        )

    def contests(self, model: str | None, models: Sequence[str] | None) -> list[tuple[str, ...]]:
        """Return the models of the runs that are compared: each for itself, or all in one with a fusion.

        Raises
        ------
        InputError
            As `TrainOptions.check_models`.
        """
        # Models that are compared share no run, so that nothing is asked of a fusion.
        found = self.of_features
        alone = replace(found, head=replace(found.head, cv=HeadOptions.cv)) if self.fusion is None else found
        names = alone.check_models(model, models)
        return [names] if self.fusion is not None else [(name,) for name in names]

    def heads_of(self, heads: Sequence[str] | None, contests: Sequence[Sequence[str]]) -> list[str]:
        """Return the heads that were asked for; of several models that are compared, the default head.

        Raises
        ------
        InputError
            For no head, or one twice; for a budget without head ``auto``; for parameters of another head.
        """
        if heads is None and len(contests) > 1:
            heads = [HeadOptions.head]
        if heads is None:
            raise InputError(
                "there is nothing to compare; give --heads with several names, such as falkon,ridge,knn, or "
                "--model several times",
                option="heads",
            )
        names = [str(head) for head in heads]
        self._check_heads(names)
        return names

    def _check_heads(self, heads: Sequence[str]) -> None:
        if not heads or len(set(heads)) < len(heads):
            raise InputError(f"heads are {', '.join(heads) or 'none'}; name each once, and at least one")
        if self.budget is not None and AUTO_HEAD not in heads:
            raise InputError(
                f"budget is that of head {AUTO_HEAD!r}, which is not among the heads; leave it out"
            )
        if strange := sorted((self.params or {}).keys() - set(heads)):
            raise InputError(
                f"params are given for {strange[0]!r}, which is not among the heads; "
                f"{choices(strange[0], heads)}",
                option="params",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options that compare.json records."""
        given = {head: dict(values) for head, values in (self.params or {}).items()}
        flat = flat_options(self) | {"params": given}
        return {name: flat[name] for name in _RECORDED_OF_COMPARISON}

    def training(self, head: str, models: Sequence[str], *, seed: int, is_grouped: bool) -> dict[str, Any]:
        """Return the options of one run, as its run.json records them; several models are among them."""
        layers = {model: self.of_features.for_model(model).layers for model in models}
        first, *others = layers.values()
        several = {"models": list(models), "fusion": self.fusion or LATE} if len(models) > 1 else {}
        return (
            self.to_dict()
            | several
            | {
                "head": head,
                "layers": first if all(each == first for each in others) else layers,
                "seed": seed,
                "group_by": self.group_by if is_grouped else None,
                "params": dict((self.params or {}).get(head, {})),
                "budget": self.budget if head == AUTO_HEAD else None,
            }
        )
