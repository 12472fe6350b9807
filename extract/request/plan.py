"""`ExtractPlan` and `ExtractSummary`: values that say what an extraction will do and what it did."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from toptune.costs.meter import describe_costs
from toptune.costs.values import Costs
from toptune.extract.images.remarks import Remark
from toptune.machine.memory import shown_bytes
from toptune.store.datasets.contents import ManifestContents
from toptune.store.datasets.registration import Difference
from toptune.text import counted, named, repr_line


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """One array of an extraction.

    Attributes
    ----------
    name : str
        ``<tap>.<pooling>``.
    dim : int
        Values stored for an image.
    dtype : str
        Type of the values on disk.
    units_missing : int
        Units of this job that are still to be computed.
    """

    name: str
    dim: int
    dtype: str
    units_missing: int

    @property
    def bytes_per_image(self) -> int:
        """Bytes on disk of one image."""
        return self.dim * (2 if self.dtype == "float16" else 4)


@dataclass(frozen=True, kw_only=True)
class ExtractPlan:
    """What an extraction is going to read, compute and write.

    Attributes
    ----------
    dataset, model : str
        Names in the store; the name of the model ends in the short digest of the recipe.
    store : str
        The store's folder.
    device, precision : str
        Where and in which arithmetic the model runs.
    rows, rows_missing : int
        Images of the data set, and the images that this job has to read.
    unit_rows, batch_size, units, units_missing : int
        Rows of a unit and of a batch, how many units belong to this job, and how many of them are to be
        computed.
    arrays : tuple of ArrayPlan
        Arrays that are stored.
    bytes_read, bytes_written : int
        Bytes of image files and of features.
    memory_bytes : int
        Estimate of the most that buffers hold, beside the model and its activations.
    pixel_bytes_per_image : int
        Bytes of pixels of one image that move to the device; only features come back.
    files_written : int
        Files of features and of the images' digests, each with a ledger entry until all are there.
    parts : int
        Parts of a data set that grew. The other numbers are totals over the parts; the sizes of units and
        batches are those of the first part.
    """

    dataset: str
    model: str
    store: str
    device: str
    precision: str
    rows: int
    rows_missing: int
    unit_rows: int
    batch_size: int
    units: int
    units_missing: int
    arrays: tuple[ArrayPlan, ...]
    bytes_read: int
    bytes_written: int
    memory_bytes: int
    pixel_bytes_per_image: int
    files_written: int
    parts: int = 1

    @property
    def bytes_per_image(self) -> int:
        """Bytes on disk of one image over all arrays."""
        return sum(array.bytes_per_image for array in self.arrays)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        arrays = [asdict(array) | {"bytes_per_image": array.bytes_per_image} for array in self.arrays]
        return asdict(self) | {
            "arrays": arrays,
            "bytes_per_image": self.bytes_per_image,
        }

    def __str__(self) -> str:
        lines = [
            f"{self.model} over {self.dataset} into {self.store}"
            + (f", in {self.parts} parts" if self.parts > 1 else ""),
            f"  read     {self.rows_missing} of {self.rows} images, {shown_bytes(self.bytes_read)}",
            f"  compute  {self.units_missing} of {self.units} units of {self.unit_rows} rows, batches of "
            f"{self.batch_size}, {self.precision} on {self.device}",
            f"  move     {self.pixel_bytes_per_image} bytes of pixels an image to the device, "
            f"{self.bytes_per_image} of pooled features back",
            f"  write    {self.bytes_per_image} bytes an image, {shown_bytes(self.bytes_written)} in all, in "
            f"{self.files_written} files, each with a ledger entry until all are there",
            f"  buffers  {shown_bytes(self.memory_bytes)} of memory",
        ]
        lines += [
            f"    {array.name}: {array.dim} x {array.dtype}, {array.bytes_per_image} bytes an image"
            + ("" if array.units_missing else ", already stored")
            for array in self.arrays
        ]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """What an extraction did, or with ``dry_run`` would do.

    Attributes
    ----------
    dataset, model, digest, cache : str
        Names in the store, the digest of the recipe and the folder of the cache.
    rows : int
        Images of the data set.
    units_total, units_done, units_already : int
        Units of this job: all units, the units computed now, the units that were there.
    units_of_others : int
        Units that the other jobs of a shard's job array compute.
    failed : mapping of str to str
        Id to reason of images that could not be used, whenever they were read; with a shard only the images
        of the shard.
    images_per_second : float
        Rate over the time from the first read to the last commit; 0 if nothing was computed.
    seconds_read, seconds_compute, seconds_write : float
        Time that reading and decoding took (shared by its threads), that the forward passes took (on a CUDA
        device: that they were launched and waited for), and that committing took. The stages overlap: the
        largest says what to fix. Over several workers they are added up.
    seconds_device : float
        Time that a CUDA device took for the forward passes, by its own clock; 0 without one.
    seconds_total : float
        Seconds of the whole call, loading the model included.
    bytes_written : int
        Bytes of features, without bookkeeping.
    arrays : tuple of ArrayPlan
        Arrays of this request as the store now holds them.
    nothing_to_do : bool
        Whether everything was there already.
    plan : ExtractPlan, optional
        The plan that was carried out, or with ``dry_run`` would be.
    dry_run : bool
        Whether nothing was written.
    too_many_failed : bool
        Whether more images failed than ``max_failures`` allows.
    version : int
        Version of the data set that the images are.
    difference : Difference, optional
        With ``update``: how many images differ from the version before.
    changed : tuple of str
        With ``update``: ids of images that stand for other bytes than before.
    rehashed : int, optional
        With ``rehash``: number of images that were compared with the digest of what was extracted.
    contents : ManifestContents, optional
        Classes, splits and images without a label, of the data that was asked for.
    remarks : tuple of Remark
        What of DATA was left out, or looks like something else than it was taken for.
    costs : Costs, optional
        Costs of the whole call, all its models and parts together; see `toptune.costs.meter.CostMeter`. Dask
        workers elsewhere are not in it, only in the ledgers.
    """

    dataset: str
    model: str
    digest: str
    cache: str
    rows: int
    units_total: int
    units_done: int
    units_already: int
    units_of_others: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    images_per_second: float = 0.0
    seconds_read: float = 0.0
    seconds_compute: float = 0.0
    seconds_write: float = 0.0
    seconds_device: float = 0.0
    seconds_total: float = 0.0
    bytes_written: int = 0
    arrays: tuple[ArrayPlan, ...] = ()
    nothing_to_do: bool = False
    plan: ExtractPlan | None = None
    dry_run: bool = False
    too_many_failed: bool = False
    version: int = 1
    difference: Difference | None = None
    changed: tuple[str, ...] = ()
    rehashed: int | None = None
    contents: ManifestContents | None = None
    remarks: tuple[Remark, ...] = ()
    costs: Costs | None = None

    def __repr__(self) -> str:
        return repr_line(
            self,
            self.dataset,
            model=self.model,
            rows=self.rows,
            failed=len(self.failed),
            arrays=[array.name for array in self.arrays],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        values = {key: value for key, value in vars(self).items() if key not in ("arrays", "plan", "failed")}
        return values | {
            "difference": None if self.difference is None else self.difference.to_dict(),
            "changed": list(self.changed),
            "failed": dict(self.failed),
            "contents": None if self.contents is None else asdict(self.contents),
            "remarks": [remark.to_dict() for remark in self.remarks],
            "costs": {} if self.costs is None else dict(self.costs),
            "arrays": [asdict(array) | {"bytes_per_image": array.bytes_per_image} for array in self.arrays],
            "plan": None if self.plan is None else self.plan.to_dict(),
        }

    def __str__(self) -> str:
        return "\n".join([*self._growth(), self._extraction()])

    def _growth(self) -> Iterator[str]:
        """Say what became of the images that were there before."""
        if self.rehashed is not None:
            yield f"{counted(self.rehashed, 'image')} read and compared with what was extracted of them"
        if self.difference is not None:
            would_be = "would be " if self.dry_run else ""
            before = self.difference.shared + self.difference.changed + self.difference.removed
            yield (
                f"{would_be}version {self.version} of {self.dataset}: {self.difference}; "
                f"{self.difference.shared} of the {before} before stay as they were"
            )

    def _contents(self) -> list[str]:
        return [] if self.contents is None else [f"{self.dataset}: {self.contents}"]

    def _extraction(self) -> str:
        if self.dry_run:
            return "\n".join(["dry run, nothing is written", *self._contents(), str(self.plan)])
        if self.nothing_to_do:
            # A share of a job array knows of its own units only; those of the others may be missing.
            what = (
                f"the {counted(self.units_total, 'unit')} of this share" if self.units_of_others
                else counted(self.rows, "image")
            )  # fmt: skip
            layers = [array.name for array in self.arrays]
            told = [f"layers: {named(layers, most=4)}"] if layers else []
            return "\n".join([f"nothing to do: {what} stored in {self.cache}", *told, *self._failed()])
        lines = [
            f"{counted(self.rows, 'image')}, {self.units_done} of "
            f"{counted(self.units_total, 'unit')} computed"
            + (f", {self.units_already} there before" if self.units_already else "")
            + f": {self.images_per_second:.1f} images/s, {shown_bytes(self.bytes_written)} written",
            f"read {self.seconds_read:.1f} s, compute {self.seconds_compute:.1f} s"
            + (f" (device {self.seconds_device:.1f} s)" if self.seconds_device else "")
            + f", write {self.seconds_write:.1f} s, total {self.seconds_total:.1f} s",
            *self._contents(),
            *([describe_costs(self.costs)] if self.costs is not None else []),
            f"stored in {self.cache}",
        ]
        lines[1:1] = self._failed()
        return "\n".join(lines)

    def _failed(self) -> list[str]:
        if not self.failed:
            return []
        return [f"{counted(len(self.failed), 'image')} could not be used; failed rows are kept, as NaN"]


def describe_summaries(summaries: Sequence[ExtractSummary]) -> str:
    """Write one block for each model, under its name, and once what all models share: contents and costs."""
    first = summaries[0]
    if len(summaries) == 1:
        return str(first)
    blocks = [f"{each.model}:\n{replace(each, contents=None, costs=None)}" for each in summaries]
    if all(each.nothing_to_do for each in summaries):
        return "\n".join(blocks)
    costs = [describe_costs(first.costs)] if first.costs is not None and not first.dry_run else []
    return "\n".join([*blocks, f"{first.dataset}: {first.contents}", *costs])
