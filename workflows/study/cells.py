"""The cells of a study: each one training, named by everything that decides its outcome."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toptune.store.arrays.stored_layers import ALL
from toptune.store.files.json_values import canonical_json
from toptune.text import counted
from toptune.train.runs.options import OTHER_MODELS
from toptune.train.runs.record import CONFIG, METRICS
from toptune.workflows.study.checks import SPLIT_OPTIONS, check_options, digests_of_decisions
from toptune.workflows.study.file import Keywords, Named, Study

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training.

    Attributes
    ----------
    kind : {"train", "finetune"}
        Whether a head is trained or a network is fine-tuned.
    dataset, model, method : str
        Names in the study file.
    layers : str
        Layers that the head sees; empty for fine-tuning.
    size : str
        ``all``, a number of training images, or ``K a class``.
    seed : int
    options : mapping
        Keywords of `toptune.train.train` or `toptune.workflows.finetune`, without data and folders.
    folder : Path
        RUN folder of the training.
    """

    kind: str
    dataset: str
    model: str
    method: str
    layers: str
    size: str
    seed: int
    options: Keywords
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether the RUN folder is there; an unfinished run has another name."""
        return (self.folder / CONFIG).is_file() and (self.folder / METRICS).is_file()

    def to_dict(self) -> dict[str, object]:
        """Give the names that tell the cell from all other cells of the study."""
        return {
            name: getattr(self, name)
            for name in ("kind", "dataset", "model", "method", "layers", "size", "seed")
        }

    def __str__(self) -> str:
        parts = (self.dataset, self.model, self.method, self.layers, self.size, f"seed {self.seed}")
        return ", ".join(part for part in parts if part)


def cells_of(study: Study) -> list[Cell]:
    """List the cells, with the seeds outermost, so that a study that is stopped has some seeds of everything.

    Raises
    ------
    InputError
        See `check_options`.
    """
    check_options(study)
    cells = list(_cells(study))
    for kind, names, used in (
        ("data set", study.datasets, {cell.dataset for cell in cells}),
        (
            "model",
            study.models,
            {name for cell in cells for name in (cell.model, *study.members(cell.model))},
        ),
        ("method", [*study.heads, *study.finetune], {cell.method for cell in cells}),
    ):
        if idle := [name for name in names if name not in used]:
            logger.warning(
                "study %s: %s not used, because `only` leaves no training for %s: %s [TT507]",
                *(study.path, counted(len(idle), kind), "it" if len(idle) == 1 else "them", ", ".join(idle)),
            )
    return cells


def _cells(study: Study) -> Iterator[Cell]:
    decided = {name: digests_of_decisions(study, name) for name in study.datasets}
    # Seeds are outermost: a study that is stopped early has one seed of everything instead of all seeds of
    # some.
    for seed in study.seeds:
        for dataset, of_dataset in study.datasets.items():
            split = {name: of_dataset[name] for name in SPLIT_OPTIONS if name in of_dataset}
            for model in study.models:
                for size in study.sizes:
                    common = {**split, **size, "seed": seed}
                    for method, of_head in _wanted(study.heads, dataset, model, seed):
                        wanted = [of_head["layers"]] if "layers" in of_head else study.layers
                        for each in wanted:
                            layers, spelt = _layers_of(each, study.members(model))
                            options = {
                                **of_head,
                                "layers": layers,
                                **_fusion(study, model, of_head),
                                **common,
                            }
                            yield _cell(
                                study, "train", dataset, model, method, spelt, size, options, decided[dataset]
                            )
                    for method, of_tuning in _wanted(study.finetune, dataset, model, seed):
                        options = {**of_tuning, **common}
                        yield _cell(
                            study, "finetune", dataset, model, method, "", size, options, decided[dataset]
                        )


def _layers_of(layers: Any, members: Sequence[str]) -> tuple[Any, str]:
    """Give the layers that concern some backbones, and how they are spelt in tables."""
    if not isinstance(layers, Mapping):
        return layers, str(layers)
    of_members = {name: layers.get(name, layers.get(OTHER_MODELS, ALL)) for name in members}
    # What is the same for all is the same training as with one value.
    first, *others = of_members.values()
    if all(each == first for each in others):
        return first, str(first)
    return of_members, " ".join(f"{name}={each}" for name, each in of_members.items())


def _fusion(study: Study, model: str, of_head: Keywords) -> Keywords:
    # What chooses the fusion itself sees the backbones alone.
    names = () if of_head.get("best") else ("fusion",)
    return {name: value for name, value in study.models[model].items() if name in names}


def _wanted(methods: Named, dataset: str, model: str, seed: int) -> Iterator[tuple[str, Keywords]]:
    """Give the methods that are trained for a data set, a backbone and a seed, with their options."""
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
    options: Keywords,
    decisions: Mapping[str, str],
) -> Cell:
    """Make a cell; its folder is named by a digest of everything that decides the outcome of the training."""
    spelt = f"{size['shots']} a class" if "shots" in size else str(size.get("train_size", "all"))
    # Fine-tuning reads images, so that options of extraction do not decide its outcome.
    extraction = study.extract if kind == "train" else {}
    backbones = [study.models[name] for name in study.members(model)]
    of_model = backbones if "models" in study.models[model] else backbones[0]
    identity = [kind, study.datasets[dataset]["data"], of_model, extraction, options]
    # The digest makes a changed option a new training, and lets studies that share a folder share
    # trainings.
    # A file of decisions that has other content since makes another training.
    identity += [decisions] if decisions else []
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
