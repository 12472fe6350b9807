"""`ExtractOptions`: all options of an extraction, checked without loading torch."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toptune.costs.stages import PipelineProfile
from toptune.errors import InputError
from toptune.extract.backbone.spec import BackboneArguments, BackboneSpec, check_decode_device
from toptune.extract.images.decode import MAX_PIXELS
from toptune.machine.cores import MOST_THREADS, reading_threads
from toptune.machine.dask_cluster import check_address
from toptune.machine.devices import AUTO, check_device_names
from toptune.machine.watch import Clocks, Stop
from toptune.options import MOST_COUNT, check_choice, check_count
from toptune.store.arrays.spec import FORMATS
from toptune.store.arrays.units import shard_units

Progress = Callable[[int, int, int], None]

DTYPES = (AUTO, "float16", "float32")


class ExtractArguments(BackboneArguments, total=False):
    """The keywords of `ExtractOptions`, those of `BackboneSpec` included."""

    dataset: str | None
    split: str | None
    path_column: str | None
    label_column: str | None
    layers: str | int | Sequence[str | int] | None
    pooling: str | Sequence[str] | None
    batch_size: int | str | None
    workers: int | None
    device: str
    dtype: str
    format: str | None
    max_pixels: int | None
    shard: tuple[int, int] | None
    dry_run: bool
    overwrite: bool
    update: bool
    rehash: bool
    max_failures: int | None
    progress: Progress | bool | None
    stop: Stop | None
    time_limit: float | None
    clocks: Clocks | None
    profile: PipelineProfile | None
    dask: str | None
    dask_options: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Options of `toptune.extract.extract`.

    Attributes
    ----------
    backbone : BackboneSpec
        How the backbone is loaded. Precision ``auto`` and `fold` adopt what the same features were begun
        with; ``auto`` takes fp32 where bf16 or fp16 would move features of drawn images too far.
    dataset : str, optional
        Name of the data set in the store; the source's own name by default.
    split : str, optional
        Only this split of the data.
    path_column, label_column : str, optional
        Columns of a manifest or table that hold the paths of the images and their labels; by default told by
        their names.
    layers : str, int or sequence of them
        Which layers are stored: ``upper``, four blocks of the upper half and ``last``, with the poolings of
        `upper_arrays`; ``last``, the output of the network; ``all``, every block and ``last``; a number n for
        the last n blocks; a list of blocks such as ``-1,-2``; or module paths and globs. See `select_names`.
        By default those that the features of the data set were begun with, and ``upper`` for new features.
    pooling : str or sequence of str, optional
        ``mean``, ``max``, ``cls``, ``gridG``, ``targetT`` or ``flatten``; each family's own by default.
    batch_size : int or "auto", optional
        Images of a forward pass: 16 by default, on CUDA 128 or the power of two below that the device's
        memory holds, or what the cache was begun with. The size is part of the cache, because the last bits
        of features depend on it. ``auto`` measures which size is fastest, if the cache is new.
    workers : int, optional
        Threads that read and decode; by default one for each core that this process may use, at most 32.
    device : str
        ``auto`` (CUDA where there is a CUDA device, else MPS unless `precision` is bf16 or fp16, else the
        CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. Where several CUDA devices are visible, ``cuda`` is
        all of them, with a process each, or the first one with a warning if dask.distributed is not
        installed. Several names with commas between them need dask.distributed.
    dtype : {"auto", "float16", "float32"}
        Type of features on disk. ``auto`` is float16 except for layers that come near the range of float16
        in a sample of 16 images.
    format : {"zarr", "hdf5"}, optional
        How a new cache stores its arrays; Zarr by default. A cache that is there keeps its own format, and
        refuses another.
    max_pixels : int, optional
        Larger images count as unreadable; 178956970 pixels, Pillow's own limit, by default.
    shard : tuple of int, optional
        ``(i, n)``: only part i of n of the units, i from 0.
    dry_run : bool
        Return the plan and write nothing.
    overwrite : bool
        First remove what is stored of the requested arrays. Not together with `shard`, where each job would
        remove what the others computed.
    update : bool
        If the store has other images under that name, make the images the next version of the data set:
        known images keep their features, and only new and changed ones are extracted.
    rehash : bool
        Read every image and compare the bytes with what was extracted, whatever the modification time.
    max_failures : int, optional
        More images than this that could not be used make the summary say ``too_many_failed``; the
        extraction goes to its end all the same.
    progress : callable or bool, optional
        Called with ``(done_rows, rows, failed)`` after every batch; with `dask` after some units. True shows
        a bar, or a line a minute where there is neither a terminal nor a notebook. By default notebooks
        show it, and False keeps them silent.
    stop : callable, optional
        Called between batches: None to go on, or the seconds within which the current unit may still be
        finished; no other unit is begun. No signal handler is installed.
    time_limit : float, optional
        Seconds from now within which the work is to end; no unit is begun that would not be done by then.
    clocks : Clocks, optional
        Clocks that show, while the extraction runs, what its stages took.
    profile : PipelineProfile, optional
        Measures the stages (`toptune.extract.extraction_profile` makes one). On CUDA, events time what the
        device does, and nothing waits for them. Not together with `dask` or several devices, whose stages run
        in other processes.
    dask : str, optional
        Address of a dask.distributed scheduler whose workers compute the units, ``local:N`` for N processes
        on this machine, or ``slurm``, ``pbs``, ``lsf`` for jobs of a batch system (needs dask-jobqueue).
        Workers must see images, weights and store under the same paths.
    dask_options : mapping, optional
        For a batch system: arguments of dask-jobqueue's cluster, and ``jobs``, the number of jobs to submit.

    Raises
    ------
    InputError
        If a value is out of its range, or two options exclude each other.
    """

    backbone: BackboneSpec = dataclasses.field(default_factory=BackboneSpec)
    dataset: str | None = None
    split: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    layers: str | int | Sequence[str | int] | None = None
    pooling: str | Sequence[str] | None = None
    batch_size: int | str | None = None
    workers: int | None = None
    device: str = AUTO
    dtype: str = AUTO
    format: str | None = None
    max_pixels: int | None = None
    shard: tuple[int, int] | None = None
    dry_run: bool = False
    overwrite: bool = False
    update: bool = False
    rehash: bool = False
    max_failures: int | None = None
    progress: Progress | bool | None = None
    stop: Stop | None = None
    time_limit: float | None = None
    clocks: Clocks | None = None
    profile: PipelineProfile | None = None
    dask: str | None = None
    dask_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        limits = {"batch_size": MOST_COUNT, "workers": MOST_THREADS, "max_pixels": sys.maxsize}
        for name, most in limits.items():
            number = getattr(self, name)
            if number not in (None, AUTO):
                check_count(number, option=name, most=most)
        check_choice(self.dtype, DTYPES, option="dtype")
        check_device_names(self.device)
        if self.profile is not None and not isinstance(self.profile, PipelineProfile):
            raise InputError(
                f"profile is {self.profile!r}; give profile=extraction_profile(), which "
                "toptune.extract has, or leave it out",
                option="profile",
            )
        if self.format is not None:
            check_choice(self.format, FORMATS, option="format")
        if self.time_limit is not None and not self.time_limit > 0:
            raise InputError(f"time_limit is {self.time_limit} seconds; it must be above 0")
        check_decode_device(self.backbone.decode, self.device)
        shard_units(1, *self.share)
        # Jobs of an array start at different times: a late job would remove units that others have committed.
        if self.overwrite and self.share != (0, 1):
            raise InputError(
                "--overwrite with --shard would remove what other jobs computed; run it once without"
            )
        if self.dask is not None and self.profile is not None:
            raise InputError(
                "--profile with --dask: a profile measures the stages of one process; leave --dask out",
                option="profile",
            )
        if self.dask is not None:
            check_address(self.dask, self.dask_options)
        elif self.dask_options:
            raise InputError("dask options without dask; give --dask slurm, pbs or lsf with them")

    @property
    def report(self) -> Progress | None:
        """What is called after every batch, if anything is."""
        return None if isinstance(self.progress, bool) else self.progress

    @property
    def share(self) -> tuple[int, int]:
        """Number of this job, from 0, and the number of jobs that share the units; ``(0, 1)`` is one job."""
        return self.shard or (0, 1)

    @property
    def n_workers(self) -> int:
        """Number of threads that read and decode."""
        return self.workers or reading_threads()

    @property
    def pixel_limit(self) -> int:
        """Pixels above which an image counts as unreadable."""
        return self.max_pixels or MAX_PIXELS
