"""`RunRecord`: what ``run.json`` says of a run, read and written in this one place."""

import json
import os
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toptune.errors import CorruptError, FormatVersionError, InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.folder_kinds import no_run
from toptune.store.files.json_records import record_from_json, record_to_json
from toptune.store.files.json_values import json_ready, read_json, read_json_with_bytes
from toptune.store.files.provenance import provenance
from toptune.store.files.reading import linked_file_digest
from toptune.store.files.sealed import SEAL, folder_digests, seal_values, unseal_values
from toptune.store.files.system_errors import explained_reading
from toptune.store.files.writing import replace_file
from toptune.store.joined.joined_features import members_of
from toptune.train.rows.chosen_rows import rows_digest
from toptune.train.rows.decisions import DecisionFile
from toptune.train.rows.splits import Split
from toptune.train.runs.best_record import BestRecord
from toptune.train.runs.sources import CacheIdentity, JsonObject, RunArray, RunSource
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.tasks.task import Wanted

if TYPE_CHECKING:  # heads import torch and scikit-learn, which reading a record does not need
    from toptune.train.heads.heads import Head

FORMAT, VERSION = "toptune-run", 2
# Runs of several backbones have a version of their own, which a toptune that knows of one backbone refuses.
SEVERAL_VERSION = 3
# So have runs of another task than classification, whose answers an older toptune would misread.
TASK_VERSION = 4
_VERSIONS = (VERSION, SEVERAL_VERSION, TASK_VERSION)
# Kinds of runs; a head on the features of one cache has none.
FINETUNE, LATE, JOIN = "finetune", "late", "join"
CONFIG, METRICS, SELECTION, ROWS, PREDICTIONS, IMAGE, DECISIONS = (
    "run.json", "metrics.json", "selection.csv", "rows.parquet", "predictions.parquet",
    "confusion_matrix.png", "decisions.csv",
)  # fmt: skip
# The sums are written by a module that needs torch, which a reader of records does not.
SUMS = "sums.safetensors"
FILES = "files"
DEALT, HASHED, GROUPS = "dealt", "hash", "groups"
LIBRARIES = ("toptune", "numpy", "scipy", "scikit-learn", "torch")
# The next step if a file is damaged, and the keys without which a run cannot be used, by the kind of the run.
_ADVICE = {None: "train again", JOIN: "train again", LATE: "train again", FINETUNE: "fine-tune again"}
_OF_HEAD = ("dataset", "model", "arrays", "selected", "warnings", "saves")
_NEEDED = {
    None: (*_OF_HEAD, "recipe", "backbone"),
    JOIN: (*_OF_HEAD, "cache", "sources"),
    FINETUNE: ("classes", "request", "selected", "warnings", "options"),
    LATE: ("classes", "dataset", "fusion", "options", "selected", "warnings"),
}
# These keys of a run of features are written as null where the run has no value.
_NULLS = ("layer_search", "auto")


@dataclass(frozen=True, kw_only=True)
class ManifestIdentity:
    """Which images a data set held: their number, and the digest of their ids and sizes."""

    n_rows: int | None = None
    pictures_digest: str | None = None
    others: JsonObject = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> "ManifestIdentity":
        """Give the identity of the images of a manifest."""
        return cls(n_rows=manifest.n_rows, pictures_digest=manifest.pictures_digest)


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """Which rows trained and which tested, in numbers.

    Attributes
    ----------
    rule : str
        How the rows were divided, in words.
    n_train, n_test : int
        Rows that trained and that tested.
    n_validation : int, optional
        Rows that chose the epoch of a fine-tuning; they count among `n_train`.
    n_unlabelled, n_unused, n_not_drawn, n_skipped : int, optional
        Numbers of rows without a label, in no split that was asked for, left out of a sample, and of failed
        images. Older runs do not record samples.
    n_excluded : int, optional
        Rows that a person's decisions left out; of runs without such decisions None.
    rows_digest : str, optional
        Digest of the ids that trained and tested.
    validation_ids : tuple of str, optional
        Ids of the rows that chose the epoch.
    """

    rule: str = ""
    n_train: int | None = None
    n_validation: int | None = None
    n_test: int | None = None
    n_unlabelled: int | None = None
    n_unused: int | None = None
    n_not_drawn: int | None = None
    n_skipped: int | None = None
    n_excluded: int | None = None
    rows_digest: str | None = None
    validation_ids: tuple[str, ...] | None = None
    others: JsonObject = field(default_factory=dict)

    @classmethod
    def of(cls, split: Split, manifest: Manifest, *, n_skipped: int) -> "SplitRecord":
        """Give the numbers of a split of a manifest's rows."""
        return cls(
            rule=split.rule,
            n_train=len(split.train),
            n_test=len(split.test),
            n_unlabelled=split.n_unlabelled,
            n_unused=split.n_unused,
            n_not_drawn=split.n_not_drawn,
            n_skipped=n_skipped,
            n_excluded=split.n_excluded or None,
            rows_digest=rows_digest(split, manifest),
        )


@dataclass(frozen=True, kw_only=True)
class FoldsRecord:
    """By which rule the training rows of a run have their folds.

    Attributes
    ----------
    rule : {"dealt", "groups", "hash"}
        Dealt out class by class (`toptune.train.rows.folds`), or each group a fold; ``rows.parquet`` then has
        the fold of each training row. Or by a hash of the id or group alone, as runs are that an older
        toptune trained. Such a run has no record of folds until it is updated.
    count : int
        Number of folds.
    n_left_aside : int, optional
        Training rows that take no part in cross-validation.
    digest : str, optional
        SHA-256 of the ids of the training rows and their folds.
    """

    rule: str
    count: int
    n_left_aside: int | None = None
    digest: str | None = None
    others: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Savings:
    """What a head that uses a part of its features saves: stored arrays, columns, bytes of an image."""

    n_arrays: int
    n_arrays_trained_on: int
    n_columns: int
    n_columns_trained_on: int
    bytes_per_picture: int
    bytes_per_picture_trained_on: int
    others: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UpdateRecord:
    """What an update changed: the run before, rows added and removed, and the reasons in images."""

    run: str
    n_added: int
    n_removed: int
    n_new: int
    n_changed: int
    n_forgotten: int
    others: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MemberRecord:
    """One head of a late fusion.

    Attributes
    ----------
    folder : str
        RUN folder of the head, within the folder of the fused run.
    name : str
        What the head is called in the run: its model, where no other member has the same.
    model : str
        The backbone.
    head : str
    weight : float
        Weight of the head's log-probabilities; the weights of all members sum to 1.
    left_out_accuracy, left_out_log_loss : float, optional
        Figures of the head alone, on its left-out rows.
    """

    folder: str
    name: str
    model: str
    head: str
    weight: float
    left_out_accuracy: float | None = None
    left_out_log_loss: float | None = None
    others: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FusionRecord:
    """How the probabilities of several heads become those of one run; see `toptune.train.fusion.weights`.

    Attributes
    ----------
    members : tuple of MemberRecord
        The heads that weigh something, in the order of the models.
    temperature : float
        Temperature of the weighted log-probabilities.
    are_equal : bool
        Whether all weights are equal because left-out rows do not tell the heads apart.
    gain, standard_error : float, optional
        By how much weights that were chosen on other folds lower the left-out log-loss below that of equal
        weights, and the standard error of the difference.
    dropped : tuple of str
        Models whose heads were trained, weigh nothing and are no part of the run.
    thresholds : mapping of str to float, optional
        Of several labels: from which probability each label applies.
    runs : tuple of str
        Of a run that `toptune.train.blend` made, the runs that it was made of.
    """

    members: tuple[MemberRecord, ...]
    temperature: float
    are_equal: bool
    gain: float | None = None
    standard_error: float | None = None
    dropped: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    thresholds: Mapping[str, float] | None = None
    others: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a RUN folder says of its run: of a head on features, of a fused run, of a fine-tuned network.

    Attributes
    ----------
    format, version : str, int
        Marks of the file.
    kind : str, optional
        ``finetune`` for a fine-tuned network, ``late`` for heads of several backbones whose probabilities
        are combined, ``join`` for a head on the features of several backbones.
    store, cache, arrays, dataset_version, layer_search, auto, report, preprocessing, saves : optional
        Of a head only: the store and the features that trained it, the searches of layers and of heads, the
        report of the fit, the fitted preprocessing, and what the head saves. A run that is older than
        versions of data sets has no `dataset_version`: it saw the first.
    fusion : FusionRecord, optional
        Of a late fusion only: the heads and their weights.
    thing_thresholds : mapping of str to float, optional
        Of a run that answers for things with several labels: from which probability of a thing each label is
        taken to apply.
    data, precision, device, request : optional
        Of a fine-tuned network only: the images that trained it, how it computed, and the options that
        decide its result.
    dataset, model : str
        Names of the data set and of the backbone.
    task : str, optional
        What the run has learned; None is classification, and so are all runs that are older than tasks.
    recipe, backbone : mapping
        How the features were computed, and the options that load the backbone again; empty in a run of
        several backbones.
    sources : tuple of RunSource, optional
        Of a run of several backbones only: the features of each. `all_sources` gives those of any run.
    classes : mapping of str to int
        Training rows of each class, in the order of the probabilities.
    options : mapping
        What was asked for, by the names of Python's keywords.
    split, manifest : SplitRecord, ManifestIdentity
    folds : FoldsRecord, optional
        Of a head only: by which rule its training rows have their folds. None where nothing was left out,
        and for runs that are older than the rule: their folds are hashes.
    decisions : mapping of str to DecisionFile, optional
        The files of decisions about images, by the option that named them. What they decided lies in
        ``decisions.csv`` of the RUN folder of a head.
    selected : mapping
        The hyperparameters that were chosen.
    warnings : tuple of str
    versions, created : mapping of str to str
        Versions of the libraries; who made the run, when and where.
    best : BestRecord, optional
        Of a run of ``train --best``: what its options were chosen among.
    update : UpdateRecord, optional
        What changed, for a run made from an earlier run.
    files : mapping of str to str, optional
        SHA-256 of each other file of the folder, by its name. Runs made before runs had checksums have none.
    relabelled : mapping, optional
        Of a run that an earlier toptune made for labels other than those of the data set.
    others : mapping
        Keys of ``run.json`` that this toptune does not know; they are written again as they were read.
    """

    format: str = FORMAT
    version: int = VERSION
    kind: str | None = None
    store: str | None = None
    data: str | None = None
    dataset: str
    dataset_version: int | None = None
    model: str
    task: str | None = None
    cache: CacheIdentity | None = None
    recipe: JsonObject = field(default_factory=dict)
    backbone: JsonObject = field(default_factory=dict)
    precision: str | None = None
    device: str | None = None
    sources: tuple[RunSource, ...] | None = None
    arrays: tuple[RunArray, ...] | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    options: JsonObject = field(default_factory=dict)
    request: JsonObject | None = None
    layer_search: JsonObject | None = None
    split: SplitRecord = field(default_factory=SplitRecord)
    folds: FoldsRecord | None = None
    manifest: ManifestIdentity = field(default_factory=ManifestIdentity)
    decisions: Mapping[str, DecisionFile] | None = None
    auto: JsonObject | None = None
    selected: JsonObject = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    report: JsonObject | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    created: Mapping[str, str] = field(default_factory=dict)
    preprocessing: JsonObject | None = None
    saves: Savings | None = None
    fusion: FusionRecord | None = None
    thing_thresholds: Mapping[str, float] | None = None
    best: BestRecord | None = None
    update: UpdateRecord | None = None
    files: Mapping[str, str] | None = None
    relabelled: JsonObject | None = None
    others: JsonObject = field(default_factory=dict)

    @property
    def task_name(self) -> str:
        """What the run has learned."""
        return CLASSIFICATION if self.task is None else self.task

    def wanted(self, label_column: str | None = None) -> Wanted:
        """Return the columns that say what the run has learned; `label_column` in place of its own."""
        own, target = self.options.get("label_column"), self.options.get("target")
        return Wanted(
            label_column=label_column or (None if own is None else str(own)),
            target=None if target is None else str(target),
            drop_missing=bool(self.options.get("drop_missing")),
        )

    @property
    def is_finetuned(self) -> bool:
        """Whether the backbone was trained too."""
        return self.kind == FINETUNE

    @property
    def is_fused(self) -> bool:
        """Whether the run combines the heads of several backbones."""
        return self.kind == LATE

    @property
    def models(self) -> tuple[str, ...]:
        """The backbones that were asked for, spelled as the caller did; one of a run of one backbone."""
        several = self.options.get("models")
        return tuple(map(str, several)) if isinstance(several, list | tuple) else (self.model,)

    @property
    def is_imported(self) -> bool:
        """Whether features of a backbone were imported, so that no extraction repeats them."""
        return any(source.is_imported for source in self.all_sources)

    @property
    def all_sources(self) -> tuple[RunSource, ...]:
        """The features of each backbone of a head; of a fine-tuned network there are none."""
        if self.sources is not None:
            return self.sources
        if self.cache is None:
            return ()
        return (
            RunSource(
                name="", model=self.model, cache=self.cache, recipe=self.recipe, backbone=self.backbone
            ),
        )

    @property
    def left_out_accuracy(self) -> float | None:
        """Cross-validated accuracy of the head, or of the choice that led to it; None if the run has none."""
        # The figure of the chosen head alone would flatter a head that was chosen by it.
        if self.best is not None:
            return self.best.accuracy
        return self.left_out("accuracy")

    def left_out(self, name: str) -> float | None:
        """Return a figure of the head on left-out training images by its name; None if there is none."""
        left_out = (self.report or {}).get("left_out")
        value = left_out.get(name) if isinstance(left_out, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    def to_json(self) -> dict[str, Any]:
        """Give the content of ``run.json`` but its checksums; numbers that JSON cannot hold become null."""
        # Checksums are those of the files that stand beside the record; `seal_run` adds them.
        record = replace(self, files=None)
        written: dict[str, Any] = json_ready(
            record_to_json(record, nulls=_NULLS if self.kind is None else ())
        )
        return written

    @property
    def file_names(self) -> frozenset[str]:
        """Names of the files that have a recorded checksum."""
        return frozenset(self.files or ())

    @property
    def is_shared(self) -> bool:
        """Whether the run came without the table of its images, sealed anew, as `toptune push` sends it."""
        return self.files is not None and ROWS not in self.file_names

    @property
    def table_names(self) -> frozenset[str]:
        """Names of the files that have a recorded checksum, without the files of weights and sums."""
        return frozenset(name for name in self.file_names if not name.endswith((".safetensors", ".skops")))

    def check_files(self, folder: Path, names: Iterable[str]) -> None:
        """Compare files of the RUN folder with the checksums that were recorded when they were written.

        Parameters
        ----------
        folder : Path
        names : iterable of str
            Names of the files that are read next; names that the run does not have are passed over.

        Raises
        ------
        CorruptError
            If a file is missing or is not the one that was written.
        """
        for name in sorted(self.file_names & {*names}):
            if reason := self.fault_of(folder, name):
                raise CorruptError(f"{folder / name} {reason}; {_advice(self.kind)}", folder / name)

    def fault_of(self, folder: Path, name: str) -> str | None:
        """Say how a file of the RUN folder differs from what was written; None if it does not."""
        try:
            digest = linked_file_digest(folder / name)
        except FileNotFoundError:
            return "is missing"
        is_whole = self.files is None or digest == self.files[name]
        return None if is_whole else "is not the file that was written: its SHA-256 differs"

    @classmethod
    def from_json(cls, content: Mapping[str, object], *, where: str = CONFIG) -> "RunRecord":
        """Make a record of the content of ``run.json``.

        Raises
        ------
        CorruptError
            If it names no data set and model, or a value is of another type than it should be.
        """
        return record_from_json(cls, content, where=where)

    @classmethod
    def read(cls, path: Path, *, advice: str, needed: Collection[str] | None = None) -> "RunRecord":
        """Read a ``run.json``.

        Parameters
        ----------
        path : Path
        advice : str
            The next step if the file is damaged.
        needed : collection of str, optional
            Keys that must be there, in a file of this version. By default a file of any version will do.

        Raises
        ------
        InputError
            If it is JSON of something other than a run.
        FormatVersionError
            If keys are needed and the file is of another version.
        CorruptError
            If the file cannot be read, lacks a key, or holds a value of another type.
        """
        return cls._checked(_read_content(path, advice=advice), path, advice=advice, needed=needed)

    @classmethod
    def of_folder(cls, folder: Path) -> "RunRecord":
        """Read the record of a RUN folder, of either kind, with all keys that using the run takes.

        Raises
        ------
        InputError
            If the folder is no RUN.
        FormatVersionError
            If the run is of another version.
        CorruptError
            If ``run.json`` cannot be read, lacks a key, or holds a value of another type.
        """
        path = folder / CONFIG
        with explained_reading(path):
            has_record = path.is_file()
        if not has_record:
            raise InputError(no_run(folder), option="run")
        content = _read_content(path, advice=_advice(None))
        # The kind decides which keys are needed, so that it is read before the record is checked.
        kind = next((each for each in _NEEDED if each == content.get("kind")), None)
        return cls._checked(content, path, advice=_advice(kind), needed=_NEEDED[kind])

    @classmethod
    def _checked(
        cls, content: JsonObject, path: Path, *, advice: str, needed: Collection[str] | None
    ) -> "RunRecord":
        if content.get("format") != FORMAT:
            raise InputError(f"{path} is not of a toptune run; give what train --out wrote")
        found = content.get("version")
        # A reader of a few keys takes any version; whoever uses the head needs all of them as this version
        # means them.
        if needed is not None and found not in _VERSIONS:
            raise FormatVersionError(
                f"{path.parent} is of version {found}, this toptune reads {VERSION} to {TASK_VERSION}; "
                f"{advice}"
            )
        if missing := set(needed or ()) - content.keys():
            raise CorruptError(f"{path} lacks {', '.join(sorted(missing))}; {advice}")
        try:
            return cls.from_json(content, where=str(path))
        except CorruptError as error:
            raise CorruptError(f"{error}; {advice}") from error


def seal_run(folder: Path) -> None:
    """Enter the checksums of all other files of a new RUN folder into its ``run.json``, and seal that."""
    path = folder / CONFIG
    content = read_json(path, advice="")
    replace_file(path, seal_values(content | {FILES: folder_digests(folder, leave_out=CONFIG)}))


def _read_content(path: Path, *, advice: str) -> dict[str, Any]:
    """Read a ``run.json`` and compare it with its own digest, if it has one."""
    content, data = read_json_with_bytes(path, advice=advice)
    # Runs have had a seal and checksums since they have had either. The version is compared later and before
    # any digest: a newer toptune may seal its runs otherwise, and its file is not damaged.
    if content.get("version") in _VERSIONS and (SEAL in content or FILES in content):
        return unseal_values(content, data, path, advice=advice)
    return content


def _advice(kind: str | None) -> str:
    """Give the next step if a file of a run is damaged."""
    return f"copy the run again from where it was made, or {_ADVICE.get(kind, _ADVICE[None])}"


def is_finetuned(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is the RUN folder of a fine-tuned network."""
    try:
        content = read_json(Path(folder) / CONFIG, advice="")
    except CorruptError:
        return False
    return content.get("kind") == FINETUNE


def trained_record(
    cache: StoredFeatures,
    *,
    store: Path | str,
    models: Sequence[str],
    arrays: Sequence[RunArray],
    classes: Mapping[str, int],
    options: JsonObject,
    split: SplitRecord,
    folds: FoldsRecord | None,
    head: "Head",
    warnings: Sequence[str],
    layer_search: JsonObject | None = None,
    auto: JsonObject | None = None,
) -> RunRecord:
    """Make the record of a head that was trained on stored features.

    Parameters
    ----------
    cache : StoredFeatures
        The features.
    store : path
        Root folder of their store.
    models : sequence of str
        The backbones in the order of their features, spelled as the caller did.
    arrays : sequence of RunArray
        Stored arrays that the head was trained on, side by side.
    classes : mapping of str to int
        Training rows of each class, in the order of the probabilities.
    options : mapping
        Keywords of the call.
    split : SplitRecord
    folds : FoldsRecord, optional
    head : Head
        Fitted.
    warnings : sequence of str
        Notes about the rows, the layers and the preprocessing; the warnings of the head are added.
    layer_search, auto : mapping, optional
        Summary of the search for layers, and table of the heads that ``auto`` tried.
    """
    warned = head.report.get("warnings", [])
    sources = _sources(cache, models)
    several = len(sources) > 1
    return RunRecord(
        version=version_of(head.task, several=several),
        kind=JOIN if several else None,
        store=str(store),
        dataset=cache.dataset,
        dataset_version=cache.dataset_version,
        model=" + ".join(models),
        task=None if head.task == CLASSIFICATION else head.task,
        cache=CacheIdentity(name=cache.name, digest=cache.digest),
        recipe={} if several else sources[0].recipe,
        backbone={} if several else sources[0].backbone,
        sources=tuple(sources) if several else None,
        arrays=tuple(arrays),
        classes=dict(classes),
        options=json_ready(options),
        layer_search=json_ready(layer_search),
        split=split,
        folds=folds,
        manifest=ManifestIdentity.of(cache.manifest),
        auto=json_ready(auto),
        selected=json_ready(_selected(head)),
        # A search for layers and the head tell the same of the folds that they share.
        warnings=tuple(dict.fromkeys([*warnings, *warned])),
        report=json_ready(head.report),
        versions=library_versions(LIBRARIES),
        created=provenance(),
    )


def version_of(task: str, *, several: bool) -> int:
    """Return the version of the format of a run of a task, of one backbone or several."""
    if task != CLASSIFICATION:
        return TASK_VERSION
    return SEVERAL_VERSION if several else VERSION


def _sources(cache: StoredFeatures, models: Sequence[str]) -> list[RunSource]:
    """Describe the features of each backbone."""
    return [
        RunSource(
            name=name,
            model=model,
            cache=CacheIdentity(name=features.name, digest=features.digest),
            recipe=json.loads(features.recipe.to_json()),
            backbone=json_ready(features.backbone),
        )
        for model, (name, features) in zip(models, members_of(cache).items(), strict=True)
    ]


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Give the versions of installed libraries, and of Python."""
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def _selected(head: "Head") -> dict[str, object]:
    """Give the hyperparameters that a fit chose, by the names that its kind of head reports."""
    report = head.report
    # Heads with a search of their own report what it chose; the others name a few hyperparameters.
    if "chosen" in report:
        return dict(report["chosen"])
    names = ("sigma", "penalty", "temperature", "rank")
    return {name: report[name] for name in names if report.get(name) is not None}
