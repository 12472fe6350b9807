"""`TrainOptions`: everything that decides a training, checked before any work and without loading torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from toptune.errors import InputError
from toptune.machine.limits import LimitArguments, RunLimits
from toptune.options import flat_options
from toptune.train.heads.options import HeadArguments, HeadOptions
from toptune.train.preprocessing.spec import parse_preprocessing
from toptune.train.rows.options import RowArguments, RowOptions

# The keys of "options" in run.json, in the order in which they are written. A run does not record what
# changes no number of the head (`dask`, `keep_sums`); its data set's version stands beside the options.
_RECORDED = (
    "head", "layers", "pooling", "preprocess", "seed", "penalty", "sigma", "kernel", "n_centers", "solver",
    "memory_limit", "cv", "test_fraction", "resplit", "val", "group_by", "label_column", "shots",
    "train_size", "class_weight", "params", "budget", "allow_failed", "device",
)  # fmt: skip


class TrainArguments(RowArguments, HeadArguments, LimitArguments, total=False):
    """The keywords of `TrainOptions`."""

    dataset_version: int | None
    layers: str | Sequence[str] | None
    pooling: str | None
    preprocess: str | None
    keep_sums: bool


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
    layers, pooling : optional
        Which stored arrays the head sees; see `toptune.train.choose_arrays`. By default ``last``. With
        ``auto``, cross-validation on the training rows chooses; see `toptune.train.search_layers`.
    preprocess : str, optional
        Steps between the stored features and the head, such as ``l2,standardise`` or ``pca:256``; see
        `toptune.train.fit_preprocessing`. By default the head's own: ``l2`` for ``head2toe``, ``standardise``
        for every other head.
    keep_sums : bool
        Write the sums of heads ``falkon`` (direct solver) and ``ridge`` beside the head, so that
        `toptune.train.update_run` can add and forget images. The sums take about ``4 (folds + 1) M^2`` bytes
        for M centers.

    Raises
    ------
    InputError
        For a preprocessing step that does not exist; for dask workers with head ``auto``.
    """

    rows: RowOptions = field(default_factory=RowOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    limits: RunLimits = field(default_factory=RunLimits)
    dataset_version: int | None = None
    layers: str | Sequence[str] | None = None
    pooling: str | None = None
    preprocess: str | None = None
    keep_sums: bool = True

    def __post_init__(self) -> None:
        # Parsing refuses a misspelled step before any feature is read.
        parse_preprocessing(self.preprocessing)
        if self.head.is_auto and self.limits.dask is not None:
            raise InputError(
                f"dask is {self.limits.dask!r}, which head 'auto' does not know; use falkon or ridge"
            )

    @property
    def preprocessing(self) -> str:
        """The steps that were asked for, or the default steps of the head."""
        return self.head.preprocessing if self.preprocess is None else self.preprocess

    def to_dict(self) -> dict[str, object]:
        """Return the options that run.json records."""
        flat = flat_options(self)
        return {name: flat[name] for name in _RECORDED} | {"params": dict(self.head.params or {})}
