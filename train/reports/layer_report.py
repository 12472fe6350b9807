"""`report_layers`: accuracy by layer and pooling of a data set, what to train on, and an image of it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from toptune.costs.meter import CostMeter, describe_costs
from toptune.costs.values import Costs
from toptune.errors import InputError
from toptune.machine.memory import bytes_of
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.json_values import json_ready
from toptune.store.files.provenance import provenance
from toptune.text import printed_table
from toptune.train.heads.heads import make_head
from toptune.train.heads.kinds import default_preprocessing
from toptune.train.layers.choices import LAYER_SEARCH, LayerChoice, LayerSearch
from toptune.train.layers.search import N_SHORT_LIST, SEARCH_ROWS, SHORT_LIST_HEADS, search_layers
from toptune.train.layers.stored_layers import AUTO, by_depth, choose_arrays
from toptune.train.reports.layer_plot import save_layer_image
from toptune.train.rows.chosen_rows import check_classes, leave_out, rows_digest
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.splits import group_keys, split_manifest
from toptune.train.runs.writing import check_out, new_run_folder, write_json

REPORT, IMAGE = "layers.json", "layers.png"
_TITLES = {
    "alone": "each layer alone",
    "first": "cumulative, from the first layer",
    "last": "cumulative, from the last layer",
    "forward": "greedy, forward",
    "backward": "greedy, backward",
}
_COLUMNS = ("accuracy", "log-loss", "squared error", "columns", "bytes an image", "ms to fit")


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """A layer search as written to a folder.

    Attributes
    ----------
    folder : Path
        With ``layers.json``, ``layer_search.csv`` and ``layers.png``.
    config : dict
        What was searched: data set, model, options, rows.
    search : LayerSearch
    costs : dict
        See `toptune.costs.meter.CostMeter`.
    """

    folder: Path
    config: dict[str, Any]
    search: LayerSearch
    costs: Costs

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON values."""
        fields: dict[str, Any] = json_ready(
            {"report": str(self.folder), **self.config, **self.search.to_dict(), "costs": self.costs}
        )
        return fields

    def __str__(self) -> str:
        search = self.search
        parts = [
            printed_table(_TITLES[path], ("layers", *_COLUMNS), _rows(found))
            for path in _TITLES
            if (found := list(search.path(path)))
        ]
        checked = {each.arrays: each for each in search.choices if each.head_accuracy is not None}
        if checked:
            rows = [
                (
                    each.layers,
                    _figure(each.head_accuracy),
                    _figure(each.head_log_loss),
                    _figure(each.accuracy),
                )
                for each in checked.values()
            ]
            columns = ("layers", "accuracy", "log-loss", "accuracy of ridge")
            parts.append(printed_table(f"short list, by head {search.decided_by}", columns, rows))
        chosen, cheapest = search.chosen, search.cheapest
        lines = [
            f"accuracies are those of left-out training rows ({search.n_rows} rows, {search.n_folds} folds), "
            "no test row was read; +- is one standard error",
            f"best by {search.decided_by}: --layers {chosen.layers} "
            f"({chosen.bytes_per_picture} bytes an image)",
        ]
        if cheapest.arrays != chosen.arrays:
            lines.append(
                f"fewest bytes within one standard error of the best ridge: --layers {cheapest.layers} "
                f"({cheapest.bytes_per_picture} bytes an image)"
            )
        lines += [f"note: {note}" for note in search.notes]
        lines.append(describe_costs(self.costs))
        lines.append(f"searched in {search.seconds:.1f} s; written to {self.folder}")
        return "\n\n".join([*parts, "\n".join(lines)])


def report_layers(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    dataset_version: int | None = None,
    layers: str | Sequence[str] | None = None,
    pooling: str | None = None,
    preprocess: str | None = None,
    head: str = "falkon",
    short_list: int = N_SHORT_LIST,
    search_rows: int = SEARCH_ROWS,
    seed: int = 0,
    cv: int | str | None = 5,
    test_fraction: float = 0.2,
    resplit: bool = False,
    val: str = "train",
    group_by: str | None = None,
    shots: int | None = None,
    train_size: int | None = None,
    class_weight: str | None = None,
    params: Mapping[str, Any] | None = None,
    memory_limit: int | str | None = None,
    allow_failed: bool = False,
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> LayerReport:
    """Compare the stored layers and poolings of a data set by cross-validation, and write what was found.

    The training rows are those that `train` takes with the same options; test rows are not read.

    Parameters
    ----------
    out : path
        Folder to make; one that exists and is not empty is refused.
    layers, pooling : optional
        Which arrays to compare, by depth where it is all of them (the default), else in the order given.
    head : {"falkon", "falkon-logistic"}
        What decides among the short list.
    short_list : int
        Subsets that the head checks besides the last layer alone; with 0 ridge regression decides.
    search_rows : int
        See `toptune.train.search_layers`.
    params : mapping, optional
        The head's parameters.
    **others
        As in `toptune.train.train`.

    Raises
    ------
    InputError
        As `toptune.train.train` and `toptune.train.search_layers`; for another head.
    StoreError
        If the store lacks what is asked for, or it is incomplete or damaged.
    """
    if head not in SHORT_LIST_HEADS:
        raise InputError(f"head {head!r} cannot check a short list; use one of {', '.join(SHORT_LIST_HEADS)}")
    meter, path = CostMeter(), check_out(out)
    limit_bytes = None if memory_limit is None else bytes_of(memory_limit)
    new_head = partial(
        make_head, head, params=params, seed=seed, cv=cv, class_weight=class_weight, device=device,
        memory_limit_bytes=limit_bytes,
    )  # fmt: skip
    spec = default_preprocessing(head) if preprocess is None else preprocess
    new_head()  # refuses parameters that it does not take before any work
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    cache = opened.features(model, dataset, version=dataset_version)
    cache.mark_used()
    manifest = cache.manifest
    arrays = choose_arrays(by_depth(cache.arrays()), "all" if layers in (None, AUTO) else layers, pooling)
    split = split_manifest(
        manifest, seed=seed, test_fraction=test_fraction, val=val, group_by=group_by, resplit=resplit
    )
    failed = cache.failed_rows([array.name for array in arrays])
    split, n_skipped = leave_out(
        split, np.array(sorted(failed), dtype=np.int64), manifest, allow=allow_failed, reasons=failed
    )
    split = draw_training_rows(split, manifest, shots=shots, train_size=train_size, seed=seed)
    check_classes(manifest, split, cv=cv, is_cross_validated=True)
    search = search_layers(
        cache,
        arrays,
        split,
        groups=manifest.ids if group_by is None else group_keys(manifest, group_by),
        seed=seed,
        cv=cv,
        class_weight=class_weight,
        preprocess=spec,
        short_list_head=new_head,
        n_short_list=short_list,
        search_rows=search_rows,
        memory_limit=limit_bytes,
        device=device,
        progress=progress,
    )
    config = {
        "dataset": dataset,
        "dataset_version": cache.dataset_version,
        "model": model,
        "cache": {"name": cache.name, "digest": cache.digest},
        "options": {
            "layers": layers, "pooling": pooling, "preprocess": spec, "head": head,
            "short_list": short_list,
            "search_rows": search_rows, "seed": seed, "cv": cv, "test_fraction": test_fraction,
            "resplit": resplit, "val": val, "group_by": group_by, "shots": shots, "train_size": train_size,
            "class_weight": class_weight, "params": dict(params or {}),
        },
        "split": {
            "rule": split.rule,
            "n_train": len(split.train),
            "n_skipped": n_skipped,
            "rows_digest": rows_digest(split, manifest),
        },
        "created": provenance(),
    }  # fmt: skip
    report = LayerReport(folder=path, config=config, search=search, costs=meter.to_dict())
    with new_run_folder(path) as folder:
        write_json(folder / REPORT, report.to_dict())
        search.write_csv(folder / LAYER_SEARCH)
        title = f"{dataset}, {model}: {search.n_rows} training images, {search.n_folds} folds"
        save_layer_image(folder / IMAGE, search, title=title)
    return report


def _rows(path: Sequence[LayerChoice]) -> list[tuple[str, ...]]:
    """Name a subset by its difference from the one before it on the path; a star marks the choice."""
    rows = []
    for before, choice in zip((None, *path), path, strict=False):
        if before is None or path[0].path == "alone":
            name = choice.layers if len(choice.arrays) == 1 else f"all {len(choice.arrays)}"
        else:
            came = [f"+ {name}" for name in choice.arrays if name not in before.arrays]
            name = ", ".join([*came, *(f"- {name}" for name in before.arrays if name not in choice.arrays)])
        rows.append((f"{name}{' *' if choice.is_chosen else ''}", *_figures(choice)))
    return rows


def _figures(choice: LayerChoice) -> tuple[str, ...]:
    return (
        f"{choice.accuracy:.4f} +- {choice.standard_error:.4f}",
        _figure(choice.log_loss),
        _figure(choice.squared_error),
        str(choice.n_columns),
        str(choice.bytes_per_picture),
        f"{1000 * choice.fit_seconds:.1f}",
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
