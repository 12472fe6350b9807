"""`Comparison`: what repeated runs of several heads or models amount to, as a table, CSV and JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from toptune.costs.meter import describe_costs
from toptune.costs.values import Costs
from toptune.store.files.json_records import record_from_json
from toptune.store.files.json_values import json_ready, json_text
from toptune.store.files.system_errors import explained_writing
from toptune.store.files.writing import csv_text, replace_file
from toptune.text import counted, printed_table
from toptune.train.reports.notes import Notes
from toptune.train.reports.statistics import (
    Spread,
    corrected_paired_test,
    difference_of_means,
    holm,
    spread_of,
)
from toptune.train.reports.task_figures import LEFT_OUT, heading, shown, task_figures
from toptune.train.rows.options import RowOptions
from toptune.train.rows.splits import NAMED
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import RunRecord
from toptune.train.tasks.names import CLASSIFICATION

_SECONDS = ("seconds", "fit_seconds")
UNGROUPED = "ungrouped"
CSV, REPORT = "compare.csv", "compare.json"


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run: a row of ``compare.csv``.

    Attributes
    ----------
    head, model : str
        Name of the head; name of the model, or names of several that share the run, with ``+`` between them.
    split : str
        ``grouped`` or ``ungrouped``; empty where no groups were named.
    is_fixed : bool
        Whether the manifest names the test rows.
    figures : mapping of str to float or None
        Figures of the run's task, the leading one first, each a column of ``compare.csv``; see
        `task_figures`.
    n_not_drawn : int
        Training rows left out of a sample.
    seconds, fit_seconds : float
        Time of the whole run, and of the fit with cross-validation.
    folder : str
        Folder of the run, relative to the folder of the comparison.
    """

    head: str
    model: str
    split: str
    seed: int
    figures: Mapping[str, float | None]
    seconds: float
    fit_seconds: float
    n_train: int
    n_test: int
    n_not_drawn: int
    is_fixed: bool
    arrays: str
    folder: str

    @classmethod
    def of(
        cls,
        record: RunRecord,
        metrics: RunMetrics,
        *,
        models: Sequence[str],
        arrays: Sequence[str],
        split: str,
        folder: str,
    ) -> "RunRow":
        """Take a row from the record and the metrics of a run, its models, and the arrays of its heads."""
        return cls(
            head=str(record.options["head"]),
            model=" + ".join(models),
            split=split,
            seed=record_from_json(RowOptions, record.options, where=folder).seed,
            figures=task_figures(record, metrics),
            seconds=metrics.total_seconds,
            fit_seconds=metrics.seconds["fit"],
            n_train=metrics.n_train,
            n_test=metrics.n_test,
            n_not_drawn=record.split.n_not_drawn or 0,
            is_fixed=record.split.rule.startswith(NAMED),
            arrays=" ".join(arrays),
            folder=folder,
        )

    def value(self, name: str) -> float:
        """Return a figure, or a time, as a number; NaN where the run has none."""
        value = getattr(self, name) if name in _SECONDS else self.figures.get(name)
        return math.nan if value is None else float(value)

    @property
    def accuracy(self) -> float:
        """Accuracy of a classifier; NaN for another task."""
        return self.value("accuracy")

    @property
    def log_loss(self) -> float:
        """Log-loss of a classifier; NaN for another task."""
        return self.value("log_loss")

    def to_row(self) -> dict[str, Any]:
        """Return the row with the figures among the other columns."""
        row: dict[str, Any] = {}
        for name, value in asdict(self).items():
            row |= value if name == "figures" else {name: value}
        return row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Repeated runs of several heads.

    Attributes
    ----------
    folder : Path
    config : dict
        What was compared.
    rows : tuple of RunRow
        One row for each run.
    heads : dict
        `Spread` of each figure of each head; where several models are compared, of each model, or of each
        head on each model, ``model · head``.
    pairs : list of dict
        Paired tests: ``metric``, ``first``, ``second``, ``difference``, ``t``, ``p``, and ``p_holm`` over all
        pairs of that metric.
    leak : dict
        For each figure of each head, by how much ungrouped splits exceed grouped splits; empty unless asked
        for.
    variance : str
        What the deviations are taken over, in words.
    notes : Notes
        What the runs warn of.
    costs : dict
        Costs of the call that made the comparison, in which runs that were there already have no share; see
        `toptune.costs.meter.CostMeter`.
    """

    folder: Path
    config: dict[str, Any]
    rows: tuple[RunRow, ...]
    heads: dict[str, dict[str, Spread]]
    pairs: list[dict[str, Any]]
    leak: dict[str, dict[str, Spread]]
    variance: str
    notes: Notes
    costs: Costs

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        rows = [row.to_row() for row in self.rows]
        fields: dict[str, Any] = json_ready(asdict(self) | {"folder": str(self.folder), "rows": rows})
        return fields

    def write(self, *, spreadsheet_safe: bool = False) -> None:
        """Write ``compare.csv`` and ``compare.json``; see `csv_text`."""
        table = csv_text([row.to_row() for row in self.rows], spreadsheet_safe=spreadsheet_safe)
        with explained_writing(self.folder, elsewhere="give another --out", kept="finished runs stay"):
            replace_file(self.folder / CSV, table.encode())
            replace_file(self.folder / REPORT, (json_text(self.to_dict(), indent=1) + "\n").encode())

    def __str__(self) -> str:
        first = self.rows[0]
        what = _what_differs(self.rows)
        leading, *others = _metrics(self.rows)
        columns = (what, heading(leading), "95 % interval", *map(heading, others), "seconds")
        title = (
            f"{self.config['dataset']}, {self.config['model']}{_task_words(self.config)}: mean +- deviation "
            f"of {counted(self.config['seeds'], 'run')}, {first.n_train} training and {first.n_test} "
            f"test images (seed {first.seed})"
        )
        parts = [printed_table(title, columns, [_row(name, each) for name, each in self.heads.items()])]
        tested = [pair for pair in self.pairs if pair["metric"] == leading]
        if tested:
            cells = [
                (f"{pair['first']} - {pair['second']}", f"{pair['difference']:+.4f}",
                 *(_figure(pair[name], ".4g") for name in ("t", "p", "p_holm")))
                for pair in tested
            ]  # fmt: skip
            parts.append(printed_table(
                f"{heading(leading)}, corrected resampled t-test",
                (f"{what}s", "difference", "t", "p", "p (Holm)"), cells,
            ))  # fmt: skip
        if self.leak:
            tested_figures = _of_tests(self.rows)
            cells = [
                (name, *(f"{each[metric].mean:+.4f} {_interval(each[metric])}" for metric in tested_figures))
                for name, each in self.leak.items()
            ]
            parts.append(printed_table(
                "the leak: ungrouped splits less grouped ones, 95 % interval",
                (what, *map(heading, tested_figures)), cells,
            ))  # fmt: skip
        last = [self.variance, *self.notes.lines(), describe_costs(self.costs), f"written to {self.folder}"]
        return "\n\n".join([*parts, "\n".join(last)])


def _metrics(rows: Sequence[RunRow]) -> list[str]:
    """Return the names of the figures that any run has, the leading one of the task first."""
    leading, *others = rows[0].figures
    return [leading, *(name for name in others if any(row.figures[name] is not None for row in rows))]


def _of_tests(rows: Sequence[RunRow]) -> list[str]:
    """Return the names of the figures of test images."""
    return [name for name in _metrics(rows) if not name.startswith(LEFT_OUT)]


def _task_words(config: Mapping[str, Any]) -> str:
    """Say the task and its targets, unless the runs classify."""
    options = config["options"]
    if options["task"] == CLASSIFICATION:
        return ""
    return f", {options['task']}" + (f" of {options['target']}" if options["target"] else "")


def _what_differs(rows: Sequence[RunRow]) -> str:
    """Return the heading of the names that `namer_of` gives."""
    is_one_model = len({row.model for row in rows}) == 1
    is_one_head = len({row.head for row in rows}) == 1
    return "head" if is_one_model else "model" if is_one_head else "setting"


def namer_of(rows: Sequence[RunRow]) -> Callable[[RunRow], str]:
    """Return how rows are called: by the head, by the model, or by both, as what differs among them."""
    n_heads, n_models = len({row.head for row in rows}), len({row.model for row in rows})
    if n_models == 1:
        return lambda row: row.head
    if n_heads == 1:
        return lambda row: row.model
    return lambda row: f"{row.model} · {row.head}"


def compare_rows(
    rows: Sequence[RunRow], *, folder: Path, config: dict[str, Any], notes: Notes, costs: Costs
) -> Comparison:
    """Work out spreads, paired tests and the leak of finished runs."""
    kept = [row for row in rows if row.split != UNGROUPED]
    others = [row for row in rows if row.split == UNGROUPED]
    # Ungrouped runs only measure the leak. They take no part in the comparison of heads.
    ratio, variance = _correlation(kept)
    name_of = namer_of(rows)
    names = list(dict.fromkeys(map(name_of, kept)))

    def values(rows: Sequence[RunRow], name: str, metric: str) -> list[float]:
        return [row.value(metric) for row in rows if name_of(row) == name]

    def known(rows: Sequence[RunRow], name: str, metric: str) -> list[float]:
        return [value for value in values(rows, name, metric) if not math.isnan(value)]

    pairs: list[dict[str, Any]] = []
    # Runs share left-out images in another way than test images, and no test is made of their figures.
    for metric in _of_tests(rows):
        found = [
            {"metric": metric, "first": first, "second": second}
            | _paired(values(kept, first, metric), values(kept, second, metric), ratio)
            for first, second in combinations(names, 2)
        ]
        # Several pairs are tested at once, so that some would differ by chance; p-values are adjusted
        # within each metric.
        adjusted = holm([pair["p"] for pair in found])
        pairs += [pair | {"p_holm": p} for pair, p in zip(found, adjusted, strict=True)]
    return Comparison(
        folder=folder,
        config=config,
        notes=notes,
        costs=costs,
        rows=tuple(rows),
        heads={
            name: {metric: spread_of(known(kept, name, metric)) for metric in (*_metrics(rows), *_SECONDS)}
            for name in names
        },
        pairs=pairs,
        leak={
            name: {
                metric: difference_of_means(known(others, name, metric), known(kept, name, metric))
                for metric in _of_tests(rows)
            }
            for name in names
            if others
        },
        variance=variance,
    )


def _paired(first: Sequence[float], second: Sequence[float], ratio: float | None) -> dict[str, Any]:
    """Test two heads over the runs in which both have the figure."""
    both = [pair for pair in zip(first, second, strict=True) if not any(map(math.isnan, pair))]
    return asdict(corrected_paired_test([a for a, _ in both], [b for _, b in both], ratio=ratio))


def _correlation(rows: Sequence[RunRow]) -> tuple[float | None, str]:
    """Return ``r / (1 - r)`` for the correlation r of the runs, and what the deviations are taken over.

    For random splits this is the number of test rows over the number of all other rows, as Nadeau & Bengio
    propose. For samples that are tested on the same rows, r is the share of a sample that another sample is
    expected to contain too.
    """
    n_train, n_test, n_not_drawn = (
        float(np.mean([getattr(row, name) for row in rows])) for name in ("n_train", "n_test", "n_not_drawn")
    )
    # What varies from run to run decides the correlation: the split, the sample or only random numbers.
    if not rows[0].is_fixed:
        sampled = " and samples of the training rows" if n_not_drawn else ""
        return n_test / (n_train + n_not_drawn), f"deviations are over random splits{sampled}"
    if n_not_drawn:
        return n_train / n_not_drawn, (
            "the manifest names the test rows: deviations are over samples of the training rows, not over "
            "test images"
        )
    return None, (
        "the manifest names training and test rows: deviations are over the heads' own random numbers only, "
        "and no test is made; draw samples (--shots, --train-size) or new splits (--resplit)"
    )


def _row(name: str, figures: Mapping[str, Spread]) -> tuple[str, ...]:
    leading, *others = (metric for metric in figures if metric not in _SECONDS)
    return (
        name,
        _spread(figures[leading], leading),
        _interval(figures[leading]),
        *(_spread(figures[metric], metric) for metric in others),
        _spread(figures["seconds"], "seconds"),
    )


def _spread(value: Spread, name: str) -> str:
    return shown(value.mean, name) + (
        "" if value.deviation is None else f" +- {shown(value.deviation, name)}"
    )


def _interval(value: Spread) -> str:
    return "-" if value.low is None else f"{value.low:.4f} to {value.high:.4f}"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
