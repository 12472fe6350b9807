"""`SearchOptions`: how layers are searched, checked without loading torch."""

from dataclasses import dataclass
from typing import TypedDict

from toptune.errors import InputError
from toptune.machine.devices import AUTO, check_device_name
from toptune.machine.memory import bytes_of
from toptune.train.preprocessing.spec import MIXING, is_weighed, parse_preprocessing
from toptune.train.tasks.names import CLASSIFICATION

# Heads that tell subsets of layers apart better than ridge regression does, and that can check a short list.
SHORT_LIST_HEADS = ("falkon", "falkon-logistic")


class SearchArguments(TypedDict, total=False):
    """The keywords of `SearchOptions`."""

    seed: int
    cv: int | str | None
    class_weight: str | None
    task: str
    preprocess: str
    n_short_list: int
    max_layers: int
    search_rows: int
    memory_limit: int | str | None
    device: str | None


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of `search_layers`.

    Attributes
    ----------
    seed : int
        Seed of the folds and of the sample of rows.
    cv : int or "leave-one-group-out"
        Folds of the cross-validation.
    class_weight : None or "balanced"
        ``balanced`` weighs rows by the inverse frequency of their class.
    task : {"classification", "multilabel", "regression"}
        What the labels of the manifest mean; see `toptune.train.tasks.task.Task`.
    preprocess : str
        Steps before the regression, as in `toptune.train.train`. Steps that mix layers, ``pca`` and
        ``whiten``, are refused, because the columns of a layer could no longer be told apart.
    n_short_list : int
        Subsets that the head checks besides the last layer alone; with 0, ridge regression decides.
    max_layers : int
        Layers of the forward path, at most.
    search_rows : int
        Training rows that are compared on, at most, where all layers together have too many columns to take
        all rows. The work of that form grows with the cube of the rows.
    memory_limit : int or str, optional
        Bytes, or text such as ``2GiB``. A search whose projected peak is above the limit is refused before
        any work. Half of the machine's memory by default.
    device : str, optional
        torch device of the sums: ``auto`` (CUDA where there is a CUDA device, else the CPU), ``cpu``,
        ``cuda`` or ``cuda:N``. None is the CPU.

    Raises
    ------
    InputError
        Without folds, or for a preprocessing that mixes layers.
    """

    seed: int = 0
    cv: int | str | None = 5
    class_weight: str | None = None
    task: str = CLASSIFICATION
    preprocess: str = "standardise"
    n_short_list: int = 3
    max_layers: int = 8
    search_rows: int = 2000
    memory_limit: int | str | None = None
    device: str | None = AUTO

    def __post_init__(self) -> None:
        if self.cv is None:
            raise InputError(
                "layers are chosen by cross-validation, but cv is None; give a number of folds (--cv)"
            )
        if self.device is not None:
            check_device_name(self.device, is_for_head=True)
        if is_weighed(self.preprocess):
            raise InputError(
                f"preprocessing {self.preprocess!r} weighs layers, and a search chooses among them; leave "
                f"one of the two out",
                option="preprocess",
            )
        mixing = [step.name for step in parse_preprocessing(self.preprocess) if step.name in MIXING]
        if mixing:
            raise InputError(
                f"preprocessing {self.preprocess!r}: {mixing[0]} mixes the layers that a search is to tell "
                "apart; choose --layers by another preprocessing first"
            )

    @property
    def memory_limit_bytes(self) -> int | None:
        """The limit in bytes, or None for the machine's own."""
        return None if self.memory_limit is None else bytes_of(self.memory_limit)
