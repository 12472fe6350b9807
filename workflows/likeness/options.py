"""`SimilarOptions` says how similar images are looked for, and is checked before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from toptune.machine.devices import AUTO, check_device_name
from toptune.machine.memory import bytes_of
from toptune.options import check_count
from toptune.train.preprocessing.spec import parse_preprocessing

DEFAULT_K = 10


class SimilarArguments(TypedDict, total=False):
    """The keywords of `SimilarOptions`."""

    k: int
    dataset_version: int | None
    layers: str | Sequence[str] | None
    pooling: str | None
    preprocess: str
    batch_size: int
    device: str
    memory_limit: int | str | None


@dataclass(frozen=True, kw_only=True)
class SimilarOptions:
    """Options of `similar`.

    Attributes
    ----------
    k : int
        Images that are told of each given one.
    dataset_version : int, optional
        Version of a data set that grew; by default the latest.
    layers, pooling : optional
        Which stored arrays are compared, as for `inspect`; a run says them itself.
    preprocess : str
        Steps before rows are compared; by default ``l2``, which gives every layer the same say.
    batch_size : int
        Given images in a forward pass.
    device : str
        torch device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    memory_limit : int or str, optional
        Bytes, or text such as ``2GiB``, of the whole process; by default half of the machine's memory.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    k: int = DEFAULT_K
    dataset_version: int | None = None
    layers: str | Sequence[str] | None = None
    pooling: str | None = None
    preprocess: str = "l2"
    batch_size: int = 32
    device: str = AUTO
    memory_limit: int | str | None = None

    def __post_init__(self) -> None:
        check_count(self.k, option="k")
        check_count(self.batch_size, option="batch_size")
        parse_preprocessing(self.preprocess)
        check_device_name(self.device, is_for_head=True)
        if self.memory_limit is not None:
            bytes_of(self.memory_limit)
