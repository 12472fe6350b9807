"""`InspectOptions` says how a data set is looked at, and is checked before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from toptune.errors import InputError
from toptune.machine.devices import AUTO, check_device_name
from toptune.machine.memory import bytes_of
from toptune.options import check_count
from toptune.train.preprocessing.spec import parse_preprocessing
from toptune.train.rows.options import RowOptions
from toptune.workflows.gallery.coordinates import PCA, check_map

# Neighbors of an image that are looked for. A group of more copies than this is found all the same, because
# copies of copies are joined.
DEFAULT_NEIGHBORS = 10
MOST_NEIGHBORS = 1000
# No search is exact for so many rows.
MOST_ROWS = 2**31 - 1


class InspectArguments(TypedDict, total=False):
    """The keywords of `InspectOptions`."""

    dataset_version: int | None
    layers: str | Sequence[str] | None
    pooling: str | None
    preprocess: str
    neighbors: int
    exact_up_to: int
    false_alarms: float
    outliers: float
    cv: int
    seed: int
    test_fraction: float
    resplit: bool
    val: str
    group_by: str | None
    label_column: str | None
    task: str
    target: str | None
    device: str | None
    memory_limit: int | str | None
    map: str
    spreadsheet_safe: bool


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of `inspect`.

    Attributes
    ----------
    dataset_version : int, optional
        Version of a data set that grew; by default the latest.
    layers, pooling : optional
        Which stored arrays are compared; see `toptune.train.choose_arrays`. By default ``last``, or the only
        layer of features that have one layer of another name.
    preprocess : str
        Steps before rows are compared; by default ``l2``, which gives every layer the same say.
    neighbors : int
        Nearest neighbors of each image that are looked for.
    exact_up_to : int
        Images up to which neighbors are exact. Of more, they are approximate on the CPU where faiss is
        installed (``toptune[faiss]``), with the recall measured on a sample.
    false_alarms : float
        Share of the images that may be taken for near-duplicates by chance; the threshold follows from the
        share and from how the data is spread.
    outliers : float
        Share of the images that are told as outliers: those that are farthest from their neighbors.
    cv : int
        Folds of the left-out probabilities by which labels are checked.
    seed, test_fraction, resplit, val, group_by, label_column, task, target
        As in `toptune.train.RowOptions`: they say which split the images are in, where the data set names
        none, which groups must not be split, and which columns hold the labels, or the numbers of ``target``.
        Images without a number are not checked.
    device : str, optional
        torch device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. None is the CPU.
    memory_limit : int or str, optional
        Bytes, or text such as ``2GiB``, of the whole process; by default half of the machine's memory.
    map : {"pca", "umap"}
        How images are put on the map: by two principal components, or by UMAP, which needs
        ``toptune[umap]``.
    spreadsheet_safe : bool
        Put ``'`` before text in CSV that a spreadsheet would compute as a formula.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    dataset_version: int | None = None
    layers: str | Sequence[str] | None = None
    pooling: str | None = None
    preprocess: str = "l2"
    neighbors: int = DEFAULT_NEIGHBORS
    exact_up_to: int = 500_000
    false_alarms: float = 0.001
    outliers: float = 0.01
    cv: int = 5
    seed: int = RowOptions.seed
    test_fraction: float = RowOptions.test_fraction
    resplit: bool = RowOptions.resplit
    val: str = RowOptions.val
    group_by: str | None = None
    label_column: str | None = None
    task: str = RowOptions.task
    target: str | None = None
    device: str | None = AUTO
    memory_limit: int | str | None = None
    map: str = PCA
    spreadsheet_safe: bool = False

    def __post_init__(self) -> None:
        parse_preprocessing(self.preprocess)
        check_count(self.neighbors, option="neighbors", least=2, most=MOST_NEIGHBORS)
        check_count(self.exact_up_to, option="exact_up_to", least=0, most=MOST_ROWS)
        check_count(self.cv, option="cv", least=2)
        for name in ("false_alarms", "outliers"):
            share = getattr(self, name)
            if not 0 < share < 0.5:
                raise InputError(
                    f"{name} is {share}; it is a share of the images and must lie between 0 and 0.5, such as "
                    f"{getattr(InspectOptions, name)}",
                    option=name,
                )
        if self.memory_limit is not None:
            bytes_of(self.memory_limit)
        if self.device is not None:
            check_device_name(str(self.device), is_for_head=True)
        check_map(self.map)
        # The value is made now, so that a seed or share out of range is refused now.
        _ = self.rows_of_training

    @property
    def rows_of_training(self) -> RowOptions:
        """The options that say which rows `toptune.train.train` would train and test on."""
        return RowOptions(
            seed=self.seed,
            test_fraction=self.test_fraction,
            resplit=self.resplit,
            val=self.val,
            group_by=self.group_by,
            label_column=self.label_column,
            task=self.task,
            target=self.target,
            drop_missing=self.target is not None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the options that decide what is found, as JSON values."""
        return {
            name: getattr(self, name)
            for name in InspectArguments.__annotations__
            if name not in ("spreadsheet_safe", "dataset_version")
        }
