"""The cells of a study: each one training, named by everything that decides its outcome."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toptune.store.files.json_values import canonical_json
from toptune.workflows.study.checks import SPLIT_OPTIONS, check_options
from toptune.workflows.study.file import Named, Study


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training.

    Attributes
    ----------
    kind : {"train", "finetune"}
    dataset, model, method : str
        Names in the study file.
    layers : str
        Empty for fine-tuning.
    size : str
        ``all``, a number of training images, or ``K a class``.
    seed : int
    options : mapping
        Of `toptune.train.train` or `toptune.workflows.finetune`, but for places.
    folder : Path
        Its RUN.
    """

    kind: str
    dataset: str
    model: str
    method: str
    layers: str
    size: str
    seed: int
    options: Mapping[str, Any]
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether its RUN is there: it takes its name when it is whole."""
        return (self.folder / "run.json").is_file() and (self.folder / "metrics.json").is_file()

    def to_dict(self) -> dict[str, Any]:
        """Give what tells it from the others."""
        return {
            name: getattr(self, name)
            for name in ("kind", "dataset", "model", "method", "layers", "size", "seed")
        }

    def __str__(self) -> str:
        parts = (self.dataset, self.model, self.method, self.layers, self.size, f"seed {self.seed}")
        return ", ".join(part for part in parts if part)


def cells_of(study: Study) -> list[Cell]:
    """List the cells, seeds outermost: a study that is stopped has some seeds of everything.

    Raises
    ------
    InputError
        See `check_options`.
    """
    check_options(study)
    return list(_cells(study))


def _cells(study: Study) -> Iterator[Cell]:
    for seed in study.seeds:
        for dataset, of_dataset in study.datasets.items():
            split = {name: of_dataset[name] for name in SPLIT_OPTIONS if name in of_dataset}
            for model in study.models:
                for size in study.sizes:
                    common = {**split, **size, "seed": seed}
                    for method, of_head in _wanted(study.heads, dataset, model, seed):
                        wanted = [of_head["layers"]] if "layers" in of_head else study.layers
                        for layers in wanted:
                            options = {**of_head, "layers": layers, **common}
                            yield _cell(study, "train", dataset, model, method, str(layers), size, options)
                    for method, of_tuning in _wanted(study.finetune, dataset, model, seed):
                        options = {**of_tuning, **common}
                        yield _cell(study, "finetune", dataset, model, method, "", size, options)


def _wanted(methods: Named, dataset: str, model: str, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the methods that are to be trained there."""
    for method, options in methods.items():
        only = options.get("only", {})
        here = {"datasets": dataset, "models": model, "seeds": seed}
        if all(here[kind] in limit for kind, limit in only.items()):
            yield method, {name: value for name, value in options.items() if name != "only"}


def _cell(
    study: Study,
    kind: str,
    dataset: str,
    model: str,
    method: str,
    layers: str,
    size: Mapping[str, int],
    options: Mapping[str, Any],
) -> Cell:
    spelt = f"{size['shots']} a class" if "shots" in size else str(size.get("train_size", "all"))
    extraction = study.extract if kind == "train" else {}
    identity = [kind, study.datasets[dataset]["data"], study.models[model], extraction, options]
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:10]
    words = [re.sub(r"[^\w.-]+", "-", word) for word in (method, layers, spelt) if word]
    folder = study.runs / _plain(dataset) / _plain(model)
    return Cell(
        kind=kind,
        dataset=dataset,
        model=model,
        method=method,
        layers=layers,
        size=spelt,
        seed=int(options["seed"]),
        options=options,
        folder=folder / f"{'-'.join(words)}-seed{options['seed']}-{digest}",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
