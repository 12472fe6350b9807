"""`Study`: what a study file asks for, read and checked."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from toptune.errors import InputError
from toptune.extract.backbone.libraries.named_code import refuse_unnamed_code
from toptune.extract.backbone.upper_half import UPPER
from toptune.extract.images.source import BUILTINS
from toptune.options import choices
from toptune.store.arrays.stored_layers import LAST
from toptune.store.datasets.outside_text import outside_text, read_outside_text
from toptune.store.files.names import is_path
from toptune.train.heads.options import HeadOptions
from toptune.train.rows.options import MOST_SEEDS, OF_DECISIONS
from toptune.train.runs.options import FUSIONS, LATE

KEYS = (
    "store", "out", "runs", "datasets", "models", "layers", "heads", "train_sizes", "shots", "seeds",
    "extract", "finetune",
)  # fmt: skip
ALL = "all"
RUNS = "runs"
# A study of a hundred backbones takes some kilobytes.
MAX_BYTES = 1 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")
# Keyword arguments of a call are kept as the file spells them; `check_options` decides whether the call takes
# them.
Keywords = Mapping[str, Any]
Named = Mapping[str, Keywords]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A cross product of trainings.

    Attributes
    ----------
    path : Path
        The study file.
    store, out, runs : Path
        Folders of the features, of the results and of the trainings. Two studies that share `runs` share the
        trainings that both ask for.
    datasets : mapping of name to mapping
        ``data``, the images; ``split``; and options of the split: ``group_by``, ``label_column``,
        ``resplit``, ``test_fraction``, ``val``, and files of decisions about its images: ``exclude``,
        ``relabel_with``, ``keep_together``.
    models : mapping of name to mapping
        ``model`` and other options of extraction that belong to the backbone, such as ``weights``. Or
        ``models``, names of two others or more that share each training, and ``fusion``, which says how.
    layers : tuple of str
        Layers for every head whose options name none; by default all that are stored.
    heads : mapping of name to mapping
        Options of `toptune.train.train`. ``head`` is by default the name. ``only`` limits the head to lists
        of ``datasets`` and ``models``, and to ``seeds``.
    sizes : tuple of mapping
        ``{}`` for all training images, ``{"train_size": N}`` or ``{"shots": K}``.
    seeds : tuple of int
    extract : mapping
        Options of `toptune.extract.extract` for all features. Of a study that names no layers, or ``last``
        alone, ``layers`` is by default ``upper``.
    finetune : mapping of name to mapping
        Options of `toptune.workflows.finetune`, and ``only``. Empty if nothing is fine-tuned.
    """

    path: Path
    store: Path
    out: Path
    runs: Path
    datasets: Named
    models: Named
    layers: tuple[str, ...]
    heads: Named
    sizes: tuple[Mapping[str, int], ...]
    seeds: tuple[int, ...]
    extract: Keywords = field(default_factory=dict)
    finetune: Named = field(default_factory=dict)

    def members(self, model: str) -> tuple[str, ...]:
        """Return the names of the backbones that share a training, or the one name of a single backbone."""
        return tuple(self.models[model].get("models", (model,)))

    @property
    def backbones(self) -> Named:
        """The models that have features of their own."""
        return {name: options for name, options in self.models.items() if "models" not in options}


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read a study file, whose paths are relative to the file's folder; ``$NAME`` is an environment variable.

    Raises
    ------
    InputError
        If the file cannot be read, a key is unknown, missing or of the wrong kind, or a variable is not set.
    """
    file = Path(path)
    text = read_outside_text(file, "study", max_bytes=MAX_BYTES)
    try:
        tree = yaml.compose(text, yaml.SafeLoader)
        # What a file that is no study holds is for nobody to see who may only see the messages.
        if not isinstance(tree, yaml.MappingNode) or not any(key.value in KEYS for key, _ in tree.value):
            raise InputError(f"study {file} is no mapping with any of the keys {', '.join(KEYS)}")
        _check_names(tree, file, set())
        # The safe loader makes plain values only: a study file must not run code.
        given = yaml.safe_load(text)
    except RecursionError as error:
        raise InputError(f"study {file} is nested too deep; a study has three levels") from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"study {file} cannot be read{_fault(error)}") from None
    if unknown := [key for key in given if key not in KEYS]:
        raise InputError(f"study {file} has a key {unknown[0]!r}; {choices(str(unknown[0]), KEYS)}")
    if missing := [key for key in ("datasets", "models", "heads") if not given.get(key)]:
        raise InputError(f"study {file} names no {missing[0]}")
    folder = file.absolute().parent

    def place(value: object, key: str) -> Path:
        return folder / _expanded(_kind(value, str, key, file), key, file)

    datasets = _named(given["datasets"], "data", "datasets", file)
    for name, options in datasets.items():
        for option in {"split", "group_by", "label_column", *OF_DECISIONS} & options.keys():
            _kind(options[option], str, f"datasets: {name}: {option}", file)
    models = _named(given["models"], "model", "models", file, several="models")
    seeds = _seeds(given.get("seeds", 1), "seeds", file)
    known: dict[str, list[object]] = {
        "datasets": [*datasets],
        "models": [*models],
        "seeds": [*seeds],
    }
    heads = _named(given["heads"], "head", "heads", file)
    # Results lie beside the study file by default, so that two studies in one folder do not mix.
    out = place(given.get("out", file.stem), "out")
    return Study(
        path=file,
        store=place(given.get("store", "features"), "store"),
        out=out,
        runs=place(given["runs"], "runs") if "runs" in given else out / RUNS,
        datasets={
            name: {**options, "data": _data(options, name, place), **_decided(options, name, place)}
            for name, options in datasets.items()
        },
        models={
            name: _fused(name, models, file)
            if "models" in options
            else {**options, **_backbone(options, name, folder, file)}
            for name, options in models.items()
        },
        layers=tuple(_strings(given.get("layers", [ALL]), "layers", file)),
        heads={
            # What chooses the head itself is named as anyone likes.
            name: {
                "head": HeadOptions.head if options.get("best") else name,
                **_limited(options, f"heads: {name}", known, file),
            }
            for name, options in heads.items()
        },
        sizes=_sizes(given, file),
        seeds=seeds,
        extract=_extraction(given, heads, file),
        finetune={
            name: _limited(options, f"finetune: {name}", known, file)
            for name, options in _named(given.get("finetune") or {}, "depth", "finetune", file).items()
        },
    )


def _fault(error: Exception) -> str:
    """Say where a file is no YAML and why, without its text."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ": it is no text that YAML can hold"
    # The parser quotes names of the file.
    said = re.sub(r"'[^'<]{3,}'|\"[^\"]{3,}\"", "a name", str(getattr(error, "problem", "")))
    return f": line {mark.line + 1}, column {mark.column + 1}: {said}"


def _check_names(node: Any, file: Path, seen: set[int]) -> None:
    """Refuse names that YAML reads as something else, and names that are there twice."""
    # What is named by `&` and repeated by `*` is looked at once: a few lines can repeat it a billion times.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(node.value):
        raise InputError(
            f"study {file}, line {node.start_mark.line + 1}: {node.value!a} holds half of a letter, which no "
            "file can be named by; write the letter itself"
        )
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            _check_names(inner, file, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    names: list[str | None] = []
    for key, value in node.value:
        where = f"study {file}, line {key.start_mark.line + 1}"
        # YAML makes the number 7 of a name 007, and the answer False of a name no.
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise InputError(
                f"{where}: the name {key.value} is no text to YAML; put it in quotes: '{key.value}'"
            )
        name = outside_text(key.value)
        if name in names:
            raise InputError(f"{where}: {name!r} is there twice; rename or remove one of them")
        names.append(name)
        _check_names(key, file, seen)
        _check_names(value, file, seen)


def _named(
    value: object, main: str, key: str, file: Path, *, several: str | None = None
) -> dict[str, Keywords]:
    """Read a mapping of names to options or to the value of the main option, or a list of names.

    A list in place of a value is the value of the option `several`, where there is such an option.
    """
    if isinstance(value, list):
        value = {name: {} for name in _strings(value, key, file)}
    items = _kind(value, dict, key, file).items()
    return {
        outside_text(name) or "": dict(options)
        if isinstance(options, Mapping)
        else {}
        if options is None
        else {several: options}
        if several is not None and isinstance(options, list)
        else {main: _kind(options, str, f"{key}: {name}", file)}
        for name, options in items
    }


def _limited(options: Keywords, key: str, known: Mapping[str, list[object]], file: Path) -> Keywords:
    """Check ``only``, which limits a method to some data sets, backbones and seeds."""
    if "only" not in options:
        return dict(options)
    only = _kind(options["only"], dict, f"{key}: only", file)
    if unknown := [name for name in only if name not in known]:
        hint = choices(str(unknown[0]), known)
        raise InputError(f"study {file}: {key}: only has {unknown[0]!r}; {hint}")
    limits: dict[str, Sequence[object]] = {}
    for kind, value in only.items():
        where = f"{key}: only: {kind}"
        limits[kind] = _seeds(value, where, file) if kind == "seeds" else _strings(value, where, file)
        if strange := [name for name in limits[kind] if name not in known[kind]]:
            raise InputError(
                f"study {file}: {key}: only names {strange[0]!r}, which is none of the {kind}; "
                f"{choices(str(strange[0]), map(str, known[kind]))}"
            )
    return {**options, "only": limits}


def _data(options: Keywords, name: str, place: Callable[[object, str], Path]) -> str:
    """Give the place of images: a path, whether it exists or not, or the name of a built-in data set."""
    value = options.get("data", name)
    path = place(value, f"datasets: {name}")
    return str(value) if value in BUILTINS and not path.exists() else str(path)


def _decided(options: Keywords, name: str, place: Callable[[object, str], Path]) -> dict[str, str]:
    """Give the places of the files of decisions about the images of a data set."""
    given = [option for option in OF_DECISIONS if option in options]
    return {option: str(place(options[option], f"datasets: {name}: {option}")) for option in given}


def _fused(name: str, models: Named, file: Path) -> Keywords:
    """Read a model that is several of the others; ``late`` is the default as for `toptune.train.train`."""
    where, options = f"models: {name}", models[name]
    members = _strings(options["models"], f"{where}: models", file)
    known = [each for each, of_model in models.items() if "models" not in of_model]
    if strange := [each for each in members if each not in known]:
        raise InputError(
            f"study {file}: {where}: models names {strange[0]!r}, which is no single model of the study; "
            f"{choices(strange[0], known)}"
        )
    if len(members) < 2:
        raise InputError(f"study {file}: {where}: models names 1 model; give at least 2")
    if unknown := [each for each in options if each not in ("models", "fusion")]:
        raise InputError(
            f"study {file}: {where} has an option {unknown[0]!r} beside models and fusion; give the option "
            f"to {', '.join(members)}"
        )
    fusion = options.get("fusion", LATE)
    if fusion not in FUSIONS:
        raise InputError(f"study {file}: {where}: fusion is {fusion!r}; {choices(str(fusion), FUSIONS)}")
    return {"models": tuple(members), "fusion": fusion}


def _extraction(given: Keywords, heads: Named, file: Path) -> Keywords:
    """Read the options of extraction.

    A study that says nothing of layers takes what the first `extract` and `train` of anybody take.
    """
    extract = _kind(given.get("extract") or {}, dict, "extract", file)
    says_nothing = "layers" not in given and all(each.get("layers", LAST) == LAST for each in heads.values())
    return {"layers": UPPER, **extract} if says_nothing else extract


def _backbone(options: Keywords, name: str, folder: Path, file: Path) -> dict[str, str]:
    if "fusion" in options:
        raise InputError(
            f"study {file}: models: {name} has fusion {options['fusion']!r} and is one model; give "
            "`models: [names]` of two others or more in place of `model`, or leave fusion out"
        )
    model = _kind(options.get("model", name), str, f"models: {name}", file)
    refuse_unnamed_code(model, where=f"study {file}: models: {name}", has_option=False)
    kind, _, path = model.partition(":")
    # Only paths hold variables. The name of a repository goes to a server, and must not carry a secret there.
    if kind == "local-dir" or is_path(model):
        model = _expanded(model, f"models: {name}", file)
        kind, _, path = model.partition(":")
    elif "$" in model:
        raise InputError(
            f"study {file}: models: {name} is {model!r}; variables of the environment stand in paths only"
        )
    is_beside = kind == "local-dir" or (kind == "transformers" and (folder / path).is_dir())
    found = {"model": f"{kind}:{folder / path}" if is_beside else model}
    if "weights" in options:
        found["weights"] = str(folder / _expanded(str(options["weights"]), f"models: {name}: weights", file))
    return found


def _sizes(given: Keywords, file: Path) -> tuple[Mapping[str, int], ...]:
    shots = _numbers(given.get("shots", []), "shots", file, least=1)
    wanted = given.get("train_sizes", [] if shots else [ALL])
    if not isinstance(wanted, list):
        raise InputError(f"study {file}: train_sizes is {wanted!r}; give a list of numbers and {ALL!r}")
    numbers = _numbers([each for each in wanted if each != ALL], "train_sizes", file, least=1)
    whole: list[Mapping[str, int]] = [{}] if ALL in wanted else []
    return (*whole, *({"train_size": size} for size in numbers), *({"shots": size} for size in shots))


def _seeds(value: object, key: str, file: Path) -> tuple[int, ...]:
    if type(value) is int and not 0 < value <= MOST_SEEDS:
        raise InputError(f"study {file}: {key} is {value}; give a number of seeds from 1 to {MOST_SEEDS}")
    return tuple(range(value)) if type(value) is int else tuple(_numbers(value, key, file, least=0))


def _strings(value: object, key: str, file: Path) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value) or not value:
        raise InputError(
            f"study {file}: {key} is {value!r}; give a list of texts, and what is none in quotes"
        )
    texts = [outside_text(each) or "" for each in value]
    _refuse_twice(texts, key, file)
    return texts


def _refuse_twice(values: Sequence[object], key: str, file: Path) -> None:
    """Raise an `InputError` if one value stands twice in a list: it would make one training, not two."""
    if twice := [value for number, value in enumerate(values) if value in values[:number]]:
        raise InputError(f"study {file}: {key} has {twice[0]!r} twice; give each once")


def _numbers(value: object, key: str, file: Path, *, least: int) -> list[int]:
    listed = value if isinstance(value, list) else [value]
    # YAML's true and false are numbers to Python; here they are mistakes.
    numbers = [each for each in listed if type(each) is int and each >= least]
    if len(numbers) < len(listed):
        raise InputError(f"study {file}: {key} is {value!r}; give whole numbers from {least}")
    _refuse_twice(numbers, key, file)
    return numbers


def _kind(value: object, kind: type[T], key: str, file: Path) -> T:
    if not isinstance(value, kind):
        quotes = "; put it in quotes" if kind is str else ""
        raise InputError(f"study {file}: {key} is {value!r}; it must be a {kind.__name__}{quotes}")
    return value


def _expanded(text: str, key: str, file: Path) -> str:
    found = os.path.expandvars(text)
    # `expandvars` leaves unknown variables as they are, and a folder named $DATA would be made.
    if "$" in found:
        raise InputError(f"study {file}: {key} is {text!r}, whose variable is not set in the environment")
    return found
