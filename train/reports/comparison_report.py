"""`Comparison`: what repeated runs of several heads or models amount to, as a table, CSV and JSON."""

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
from toptune.train.rows.options import RowOptions
from toptune.train.rows.splits import NAMED
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.runs.record import RunRecord

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
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
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
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
            **{name: getattr(metrics, name) for name in METRICS},
            seconds=metrics.total_seconds,
            fit_seconds=metrics.seconds["fit"],
            n_train=metrics.n_train,
            n_test=metrics.n_test,
            n_not_drawn=record.split.n_not_drawn or 0,
            is_fixed=record.split.rule.startswith(NAMED),
            arrays=" ".join(arrays),
            folder=folder,
        )


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
        fields: dict[str, Any] = json_ready(asdict(self) | {"folder": str(self.folder)})
        return fields

    def write(self, *, spreadsheet_safe: bool = False) -> None:
        """Write ``compare.csv`` and ``compare.json``; see `csv_text`."""
        table = csv_text([asdict(row) for row in self.rows], spreadsheet_safe=spreadsheet_safe)
        with explained_writing(self.folder, elsewhere="give another --out", kept="finished runs stay"):
            replace_file(self.folder / CSV, table.encode())
            replace_file(self.folder / REPORT, (json_text(self.to_dict(), indent=1) + "\n").encode())

    def __str__(self) -> str:
        first = self.rows[0]
        what = _what_differs(self.rows)
        columns = (what, "accuracy", "95 % interval", "balanced", "macro F1", "log-loss", "seconds")
        title = (
            f"{self.config['dataset']}, {self.config['model']}: mean +- deviation of "
            f"{counted(self.config['seeds'], 'run')}, {first.n_train} training and {first.n_test} "
            f"test images (seed {first.seed})"
        )
        parts = [printed_table(title, columns, [_row(name, each) for name, each in self.heads.items()])]
        tested = [pair for pair in self.pairs if pair["metric"] == "accuracy"]
        if tested:
            cells = [
                (f"{pair['first']} - {pair['second']}", f"{pair['difference']:+.4f}",
                 *(_figure(pair[name], ".4g") for name in ("t", "p", "p_holm")))
                for pair in tested
            ]  # fmt: skip
            parts.append(printed_table(
                "accuracy, corrected resampled t-test",
                (f"{what}s", "difference", "t", "p", "p (Holm)"), cells,
            ))  # fmt: skip
        if self.leak:
            cells = [
                (name, *(f"{each[metric].mean:+.4f} {_interval(each[metric])}" for metric in METRICS))
                for name, each in self.leak.items()
            ]
            parts.append(printed_table(
                "the leak: ungrouped splits less grouped ones, 95 % interval",
                (what, "accuracy", "balanced", "macro F1", "log-loss"), cells,
            ))  # fmt: skip
        last = [self.variance, *self.notes.lines(), describe_costs(self.costs), f"written to {self.folder}"]
        return "\n\n".join([*parts, "\n".join(last)])


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
        return [getattr(row, metric) for row in rows if name_of(row) == name]

    pairs: list[dict[str, Any]] = []
    for metric in METRICS:
        found = [
            {"metric": metric, "first": first, "second": second}
            | asdict(
                corrected_paired_test(values(kept, first, metric), values(kept, second, metric), ratio=ratio)
            )
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
            name: {metric: spread_of(values(kept, name, metric)) for metric in (*METRICS, *_SECONDS)}
            for name in names
        },
        pairs=pairs,
        leak={
            name: {
                metric: difference_of_means(values(others, name, metric), values(kept, name, metric))
                for metric in METRICS
            }
            for name in names
            if others
        },
        variance=variance,
    )


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
    accuracy = figures["accuracy"]
    return (
        name,
        _spread(accuracy),
        _interval(accuracy),
        *(_spread(figures[metric]) for metric in METRICS[1:]),
        _spread(figures["seconds"], ".2f"),
    )


def _spread(value: Spread, form: str = ".4f") -> str:
    return f"{value.mean:{form}}" + ("" if value.deviation is None else f" +- {value.deviation:{form}}")


def _interval(value: Spread) -> str:
    return "-" if value.low is None else f"{value.low:.4f} to {value.high:.4f}"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
