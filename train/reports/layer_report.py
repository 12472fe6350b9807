"""`report_layers`: accuracy by layer and pooling of a data set, what to train on, and an image of it."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from toptune.costs.meter import describe_costs
from toptune.costs.phases import Phases
from toptune.costs.values import Costs
from toptune.machine.devices import settle_head_device
from toptune.machine.memory import left_for_head
from toptune.options import flat_options, options_of
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.stored_layers import AUTO, by_depth, choose_arrays
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.json_values import json_ready
from toptune.store.files.provenance import provenance
from toptune.store.joined.joined_features import JoinedFeatures, joined_name, split_name
from toptune.text import printed_table
from toptune.train.fusion.members import check_complete, open_members, told_of
from toptune.train.heads.kinds import check_head, why_small
from toptune.train.layers.choices import FIGURES, LAYER_SEARCH, LayerChoice, LayerSearch
from toptune.train.reports.layer_plot import save_layer_image
from toptune.train.reports.options import LayerReportArguments, LayerReportOptions
from toptune.train.rows.chosen_rows import choose_rows, rows_digest
from toptune.train.runs.options import JOIN, TrainOptions
from toptune.train.runs.training import read_for_task
from toptune.train.runs.writing import check_out, new_run_folder, write_json

if TYPE_CHECKING:  # heads import torch and scikit-learn, which a report that is refused does not need
    from toptune.train.heads.heads import Head

REPORT, IMAGE = "layers.json", "layers.png"
_TITLES = {
    "alone": "each layer alone",
    "first": "cumulative, from the first layer",
    "last": "cumulative, from the last layer",
    "forward": "greedy, forward",
    "backward": "greedy, backward",
    "each": "the last layer of each model",
}
_COLUMNS = ("log-loss", "squared error", "columns", "bytes an image", "ms to fit")


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """A layer search as written to a folder.

    Attributes
    ----------
    folder : Path
        Folder with ``layers.json``, ``layer_search.csv`` and ``layers.png``.
    config : dict
        What was searched: data set, model, options, rows.
    search : LayerSearch
        What was found.
    costs : dict
        See `toptune.costs.meter.CostMeter`.
    """

    folder: Path
    config: dict[str, Any]
    search: LayerSearch
    costs: Costs

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        fields: dict[str, Any] = json_ready(
            {"report": str(self.folder), **self.config, **self.search.to_dict(), "costs": self.costs}
        )
        return fields

    def __str__(self) -> str:
        search = self.search
        figure = FIGURES[search.task]
        parts = [
            printed_table(_TITLES[path], ("layers", figure, *_COLUMNS), _rows(found))
            for path in _TITLES
            if (found := list(search.path(path)))
        ]
        checked = {each.arrays: each for each in search.choices if each.head_figure is not None}
        if checked:
            rows = [
                (
                    each.layers,
                    _figure(each.head_figure),
                    _figure(each.head_log_loss),
                    _figure(each.figure),
                )
                for each in checked.values()
            ]
            columns = ("layers", figure, "log-loss", f"{figure} of ridge")
            parts.append(printed_table(f"short list, by head {search.decided_by}", columns, rows))
        chosen, cheapest = search.chosen, search.cheapest
        lines = [
            f"figures are those of left-out training rows ({search.n_rows} rows, {search.n_folds} folds), "
            "no test row was read; +- is one standard error",
            f"best by {search.decided_by}: {train_words(chosen)} ({chosen.bytes_per_picture} bytes an image)",
        ]
        if cheapest.arrays != chosen.arrays:
            lines.append(
                f"fewest bytes within one standard error of the best ridge: {train_words(cheapest)} "
                f"({cheapest.bytes_per_picture} bytes an image)"
            )
        lines += [f"note: {note}" for note in [*self.config["rows"], *search.notes]]
        lines.append(describe_costs(self.costs))
        lines.append(f"searched in {search.seconds:.1f} s; written to {self.folder}")
        return "\n\n".join([*parts, "\n".join(lines)])


def report_layers(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str | None = None,
    models: Sequence[str] | None = None,
    out: str | os.PathLike[str],
    progress: Callable[[str], None] | None = None,
    spreadsheet_safe: bool = False,
    **arguments: Unpack[LayerReportArguments],
) -> LayerReport:
    """Compare the stored layers and poolings of a data set by cross-validation, and write what was found.

    Parameters
    ----------
    store : path or FeatureStore
        Root folder of the store, or the store.
    dataset : str
        Name of the data set.
    model : str, optional
        Name of the model whose features are in the store.
    models : sequence of str, optional
        In place of `model`, several models, whose layers stand side by side as with ``fusion="join"``.
    out : path
        Folder to make; a folder that exists and is not empty is refused.
    progress : callable, optional
        Called with the name of each phase as the phase begins.
    spreadsheet_safe : bool
        Put ``'`` before text in CSV that a spreadsheet would compute as a formula.
    **arguments
        The fields of `LayerReportOptions` and `RowOptions`.

    Raises
    ------
    InputError
        As `toptune.train.train` and `toptune.train.search_layers`; for a head that cannot check a short list.
    StoreError
        If the store lacks what is asked for, or is incomplete or damaged.
    """
    options, phases = options_of(LayerReportOptions, arguments, call="report_layers"), Phases(progress)
    path = check_out(out)
    check_head(
        options.head, options.params, cv=options.cv, class_weight=options.class_weight,
        task=options.of_features.rows.task,
    )  # fmt: skip
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    shared = options.of_features.check_models(model, models)
    reading = partial(_open, opened, shared, dataset)
    (features, arrays), told = read_for_task(reading, options.of_features, lambda found: found[0].manifest)
    check_head(
        options.head, options.params, cv=options.cv, class_weight=options.class_weight, task=told.rows.task
    )
    options = replace(options, rows=told.rows)
    features.mark_used()
    failed = features.failed_rows([array.name for array in arrays])
    rows = choose_rows(features.manifest, options.rows, cv=options.cv, failed=failed)
    # torch and scikit-learn are imported now that names and columns have been checked. The fit on all layers
    # is the largest one.
    n_columns = sum(array.dim for array in arrays)
    small = why_small(options.head, options.params, n_rows=len(rows.split.train), n_columns=n_columns)
    options = replace(options, device=settle_head_device(options.device, small_because=small))
    from toptune.train.layers.search import search_layers

    _new_head(options)  # This refuses values that the head does not take before any work is done.
    search = search_layers(
        features,
        arrays,
        rows.split,
        groups=rows.groups,
        short_list_head=partial(_new_head, options),
        progress=phases.notify,
        **flat_options(options.search),
    )
    config = {
        "dataset": dataset,
        "dataset_version": features.dataset_version,
        "model": " + ".join(shared),
        "cache": {"name": features.name, "digest": features.digest},
        "options": options.to_dict(),
        "split": {
            "rule": rows.split.rule,
            "n_train": len(rows.split.train),
            "n_skipped": rows.n_skipped,
            "rows_digest": rows_digest(rows.split, rows.manifest),
        },
        "rows": rows.notes,
        "created": provenance(),
    }
    report = LayerReport(folder=path, config=config, search=search, costs=phases.costs())
    with new_run_folder(path) as folder:
        write_json(folder / REPORT, report.to_dict())
        search.write_csv(folder / LAYER_SEARCH, spreadsheet_safe=spreadsheet_safe)
        title = f"{dataset}, {config['model']}: {search.n_rows} training images, {search.n_folds} folds"
        save_layer_image(folder / IMAGE, search, title=title)
    return report


def _open(
    store: FeatureStore, models: Sequence[str], dataset: str, options: TrainOptions
) -> tuple[StoredFeatures, list[ArraySpec]]:
    """Open the features of a model, or of several as one table, and choose the arrays to compare."""
    of_models = {model: options.for_model(model) for model in models}
    opened = open_members(store, dataset, of_models)
    chosen = {}
    for model, features in opened.items():
        layers = of_models[model].layers
        assert not isinstance(layers, Mapping), "TrainOptions.for_model gives the layers of one model"
        wanted = "all" if layers in (None, AUTO) else layers
        with told_of(model) if len(models) > 1 else nullcontext():
            chosen[model] = choose_arrays(by_depth(features.arrays()), wanted, options.pooling)
    check_complete(store, opened, {model: [each.name for each in arrays] for model, arrays in chosen.items()})
    if len(models) == 1:
        return opened[models[0]], chosen[models[0]]
    joined = JoinedFeatures.of([*opened.values()])
    return joined, [
        replace(spec, name=joined_name(member, spec.name))
        for member, model in zip(joined.members, models, strict=True)
        for spec in chosen[model]
    ]


def _new_head(options: LayerReportOptions) -> "Head":
    """Make the unfitted head that decides among the short list."""
    from toptune.train.heads.heads import make_head

    return make_head(
        options.head,
        params=options.params,
        seed=options.rows.seed,
        cv=options.cv,
        class_weight=options.class_weight,
        task=options.rows.task,
        device=options.device,
        memory_limit_bytes=left_for_head(options.search.memory_limit_bytes, options.device),
    )


def train_words(choice: LayerChoice) -> str:
    """Write the options of ``toptune train`` that mean a subset of layers, of one model or of several."""
    of_models: dict[str, list[str]] = {}
    for model, array in map(split_name, choice.arrays):
        of_models.setdefault(model, []).append(array)
    if "" in of_models:
        return f"--layers {choice.layers}"
    words = [word for model in of_models for word in ("--model", model)]
    if len(of_models) == 1:
        (arrays,) = of_models.values()
        return shlex.join([*words, "--layers", ",".join(arrays)])
    words += ["--fusion", JOIN]
    words += [w for model, arrays in of_models.items() for w in ("--layers", f"{model}={','.join(arrays)}")]
    return shlex.join(words)


def _rows(path: Sequence[LayerChoice]) -> list[tuple[str, ...]]:
    """Name each subset by the difference from the subset before on the path; a star marks the choice."""
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
        f"{choice.figure:.4f} +- {choice.standard_error:.4f}",
        _figure(choice.log_loss),
        _figure(choice.squared_error),
        str(choice.n_columns),
        str(choice.bytes_per_picture),
        f"{1000 * choice.fit_seconds:.1f}",
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
