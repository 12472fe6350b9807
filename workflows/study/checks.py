"""Checks of a study before any image is read: options, heads, and places that must exist."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from toptune.errors import InputError
from toptune.extract.backbone.model_name import parse_model_name
from toptune.extract.sources.opening import find_place
from toptune.options import choices, option_names, options_of
from toptune.store.arrays.stored_layers import refuse_words_of_extract
from toptune.store.files.writing import check_writable
from toptune.train.heads.kind import PREFIX, is_path
from toptune.train.heads.kinds import check_head
from toptune.train.heads.options import AUTO_HEAD, HeadOptions
from toptune.train.heads.skops_files import check_trusted
from toptune.train.rows.options import OF_DECISIONS, RowOptions
from toptune.train.runs.options import OTHER_MODELS, TrainOptions, check_task
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.study.file import Keywords, Study

SPLIT_OPTIONS = ("group_by", "label_column", "resplit", "test_fraction", "val", *OF_DECISIONS)
# A study decides these options of `train` by itself, because it crosses sizes, seeds and models.
_PLACES = {"dataset_version", "fusion", "seed", "shots", "train_size"}
_DATASET_OPTIONS = ("data", "split", *SPLIT_OPTIONS)
# These options of `train` decide whether a head can be made. A device is not among them, because another
# machine may train the cell.
_OF_HEADS = ("params", "cv", "class_weight")


def check_options(study: Study) -> None:
    """Refuse unknown options, unknown heads, and parameters with which a head cannot be made.

    Raises
    ------
    InputError
        For the first of them; the message names the key of the study file.
    """
    # Decisions concern images of one data set, so that they stand with it.
    of_training = set(option_names(TrainOptions)) - _PLACES - {*OF_DECISIONS}
    of_tuning = set(option_names(FineTuneOptions)) - {*OF_DECISIONS}
    for kind, named, known in (
        ("data set", study.datasets, set(_DATASET_OPTIONS)),
        ("head", study.heads, of_training | {"only"}),
        ("finetune", study.finetune, of_tuning | {"only"}),
        ("model", study.backbones if study.finetune else {}, of_tuning | {"model"}),
    ):
        for name, options in named.items():
            if unknown := sorted(options.keys() - known):
                hint = (
                    "say under models how several share a training: NAME: {models: [A, B], fusion: join}"
                    if (kind, unknown[0]) == ("head", "fusion")
                    else f"say it under datasets: NAME: {{data: PATH, {unknown[0]}: FILE}}"
                    if unknown[0] in OF_DECISIONS
                    else choices(str(unknown[0]), sorted(known), most=len(known))
                )
                raise InputError(f"study {study.path}: {kind} {name!r} has an option {unknown[0]!r}; {hint}")
    if study.finetune and (cut := [name for name, each in study.datasets.items() if "split" in each]):
        raise InputError(
            f"study {study.path}: data set {cut[0]!r} is only one split, which finetune does not take; leave "
            "out split, or finetune"
        )
    for name, options in study.heads.items():
        with _naming(study, f"heads: {name}"):
            _check_head(options, study.path)
            _check_layers(options.get("layers"), study)
    with _naming(study, "layers"):
        _check_layers(study.layers, study)
    for name, options in study.finetune.items():
        with _naming(study, f"finetune: {name}"):
            given = {key: value for key, value in options.items() if key != "only"}
            options_of(FineTuneOptions, given, call="finetune")
        wanted = options.get("only", {}).get("models", study.models)
        if fused := [model for model in wanted if model not in study.backbones]:
            single = ", ".join(model for model in wanted if model in study.backbones)
            raise InputError(
                f"study {study.path}: finetune {name!r} is asked for {', '.join(map(repr, fused))}, which "
                f"are several models; one network is fine-tuned at a time: give it only: "
                f"{{models: [{single}]}}"
            )


def check_places(study: Study) -> None:
    """Refuse data sets, backbones and checkpoints that do not exist, and places that cannot be written to.

    No file is opened.

    Raises
    ------
    InputError
        For the first of them; the message names the key of the study file.
    """
    check_writable(study.out, option="out")
    check_writable(study.runs, option="runs")
    for name, options in study.datasets.items():
        with _naming(study, f"datasets: {name}"):
            find_place(options["data"])
    for name, options in study.backbones.items():
        with _naming(study, f"models: {name}"):
            parse_model_name(options["model"])
            if "weights" in options and not Path(options["weights"]).is_file():
                raise InputError(f"weights {options['weights']} is no file; check the path")


def digests_of_decisions(study: Study, dataset: str) -> dict[str, str]:
    """Read the files of decisions about the images of a data set, and return their SHA-256 by option.

    Raises
    ------
    InputError
        If a file cannot be read, or contradicts itself.
    """
    given = study.datasets[dataset]
    with _naming(study, f"datasets: {dataset}"):
        files = RowOptions(**{name: given[name] for name in OF_DECISIONS if name in given}).decisions.files
    return {name: file.sha256 for name, file in files.items()}


def _check_head(options: Keywords, path: Path) -> None:
    head, params = options["head"], options.get("params") or {}
    if not isinstance(head, str):
        raise InputError(f"head is {head!r}; give its name")
    if not isinstance(params, Mapping):
        raise InputError(f"params is {params!r}; give a mapping of parameters to values")
    if is_path(head):
        # A study file is data: what it names is imported under the same rule as what a RUN folder names.
        check_trusted(head.removeprefix(PREFIX), path)
    task = _checked_task(options)
    if head != AUTO_HEAD:
        given = {name: options[name] for name in _OF_HEADS if name in options}
        check_head(head, given.pop("params", None), task=task, **given)
        if is_path(head):
            # Only an estimator shows whether its class is a classifier.
            from toptune.train.heads.heads import make_head

            make_head(head, params=params, **given)


def _checked_task(options: Keywords) -> str:
    """Return the task of a head, ``auto`` where only the data set says; refuse options that do not fit."""
    of_rows = {name: options[name] for name in ("task", "target", "drop_missing") if name in options}
    of_head = {name: options[name] for name in ("threshold", "ordinal") if name in options}
    rows = RowOptions(**of_rows)
    check_task(rows, HeadOptions(**of_head))
    return rows.task


def _check_layers(layers: object, study: Study) -> None:
    """Refuse words that say what to extract, and layers by model of a model that the study does not have."""
    for each in layers.values() if isinstance(layers, Mapping) else [layers]:
        words = each if isinstance(each, list | tuple) else [each]
        refuse_words_of_extract(",".join(word for word in words if isinstance(word, str)).split(","))
    for name in layers if isinstance(layers, Mapping) else ():
        if name != OTHER_MODELS and name not in study.backbones:
            raise InputError(
                f"layers names model {name!r}, which is no single model of the study; "
                f"{choices(name, study.backbones)}"
            )


@contextmanager
def _naming(study: Study, key: str) -> Iterator[None]:
    """Put the key of the study file before the message of an error."""
    try:
        yield
    # Python raises a TypeError if a value is of another kind, such as one number for a list.
    except (InputError, TypeError) as error:
        raise InputError(f"study {study.path}: {key}: {error}") from error
