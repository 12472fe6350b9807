"""Command lines that repeat a run, rebuilt from the options that it recorded."""

import shlex
from collections.abc import Iterator, Mapping

from toptune.extract.images.decode import NEW_FEATURES
from toptune.options import flat_options
from toptune.store.arrays.stored_layers import LAST
from toptune.store.files.json_values import json_text
from toptune.train.runs.options import OTHER_MODELS, TrainOptions
from toptune.train.runs.record import CONFIG, RunRecord
from toptune.train.runs.sources import RunSource
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.report.runs import ReportedRun

# The flags of these options have other names on the command line.
_FLAGS = {"n_centers": "centers", "allow_failed": "skip-failed", "learning_rates": "learning-rate"}
# These options change no result. The command line takes the first in other units; the second belongs to the
# machine that repeats a run.
_NOT_SPELT = ("cache_memory_bytes", "device")


def command_of(run: ReportedRun) -> str:
    """Return the command that made a run."""
    record = run.record
    store = ["toptune", "train", "--store", record.store or "STORE"]
    out = ["--out", run.folder.name]
    if (update := record.update) is not None:
        forget = ["--forget", "@FILE"] if update.n_forgotten else []
        note = f"  # FILE has the ids of {update.n_forgotten} images, one a line" if forget else ""
        return shlex.join([*store, "--update", update.run, *forget, *out]) + note
    if record.relabelled is not None:
        return "# an earlier toptune made this run by train --relabel; no command repeats it"
    if record.fusion is not None and record.fusion.runs:
        return shlex.join(["toptune", "blend", *record.fusion.runs, *out])
    about = ["--dataset", run.dataset, *(word for model in record.models for word in ("--model", model))]
    if run.is_finetuned:
        words = ["toptune", "finetune", record.data or "DATA", *about[2:]]
        return shlex.join([*words, *flags_of(run.options, FINETUNE_DEFAULTS), *out])
    if (dataset_version := record.dataset_version or 1) != 1:
        about += ["--dataset-version", str(dataset_version)]
    options = {name: value for name, value in run.options.items() if name != "models"}
    if isinstance(layers := options.get("layers"), Mapping):
        # The layers of each model are given one by one; a star stands for the other models.
        del options["layers"]
        for model, of_model in layers.items():
            names = ",".join(of_model) if isinstance(of_model, list) else str(of_model or "all")
            about += ["--layers", names if model == OTHER_MODELS else f"{model}={names}"]
    elif not layers and _is_of_last_layer(run):
        about += ["--layers", LAST]
    return shlex.join([*store, *about, *flags_of(options, TRAIN_DEFAULTS), *out])


def _is_of_last_layer(run: ReportedRun) -> bool:
    """Whether a run was trained on the last layer alone, as older runs are that name no layers."""
    saves, arrays = run.record.saves, run.record.arrays or ()
    is_one = saves is None or saves.n_arrays_trained_on == 1
    return is_one and [array.name.rpartition(".")[0] for array in arrays] == [LAST]


def extraction_of(run: ReportedRun, data: str | None) -> str | None:
    """Return the command that stores the features of a run, one for each of several backbones.

    None if the features of all were imported, or none are needed.

    Parameters
    ----------
    run : ReportedRun
    data : str, optional
        Place of the images; by default the command says ``DATA``.
    """
    sources = [each for each in _sources(run) if each.backbone and not each.is_imported]
    commands = [_extraction_of(run, each.model, each.backbone, data) for each in sources]
    return " && ".join(commands) or None


def _sources(run: ReportedRun) -> list[RunSource]:
    """Return the features of each backbone; of a late fusion, those that the records of its heads name."""
    records = [run.record]
    if run.record.fusion is not None:
        paths = [run.folder / member.folder / CONFIG for member in run.record.fusion.members]
        records = [RunRecord.read(path, advice="train again") for path in paths]
    return [source for record in records for source in record.all_sources]


def _extraction_of(run: ReportedRun, model: str, backbone: Mapping[str, object], data: str | None) -> str:
    options = {name: value for name, value in backbone.items() if name not in ("name", "compiled", "fold")}
    layers = run.options.get("layers")
    if isinstance(layers, Mapping):
        layers = layers.get(model, layers.get(OTHER_MODELS))
    words = ["toptune", "extract", data or "DATA", "--model", str(backbone["name"])]
    words += ["--store", run.record.store or "STORE", "--dataset", run.dataset]
    words += [*_layers_of(run, layers), *flags_of(options, {"decode": NEW_FEATURES})]
    words += ["--no-fold"] if backbone.get("fold") is False else []
    words += ["--compile"] if backbone.get("compiled") else []
    return shlex.join(words)


def _layers_of(run: ReportedRun, layers: object) -> list[str]:
    """Return the options of `extract` that store what a run was trained on."""
    if layers:
        return ["--layers", LAST if layers == LAST else "all"]
    # The run took all that was stored, and only its arrays tell what that was. Those of several models are
    # what `extract` stores by default.
    arrays = run.record.arrays or ()
    if not arrays or len(run.record.all_sources) > 1:
        return []
    names = [each.name.rpartition(".") for each in arrays]
    taps, poolings = (list(dict.fromkeys(name[part] for name in names)) for part in (0, 2))
    pooled = [each for each in poolings if each != "none"]
    return ["--layers", ",".join(taps), *(["--pooling", ",".join(pooled)] if pooled else [])]


def flags_of(options: Mapping[str, object], defaults: Mapping[str, object]) -> Iterator[str]:
    """Yield the words of the command line for options whose value is not the default."""
    for name, value in options.items():
        if (
            value == defaults.get(name)
            or name in _NOT_SPELT
            or value in ({}, [])
            or (value is None and name != "cv")
        ):
            continue
        flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
        if value is True:
            yield flag
        elif value is not False:
            yield from (flag, _spelt(value))


def _spelt(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return json_text(value, is_sorted=True)
    return "none" if value is None else str(value)


FINETUNE_DEFAULTS = flat_options(FineTuneOptions())
TRAIN_DEFAULTS = flat_options(TrainOptions())
